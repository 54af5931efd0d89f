"""What lies where under a root; the only place that joins paths."""
