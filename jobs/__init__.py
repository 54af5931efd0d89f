"""Command lines: arguments to one pipeline call to an exit code. The only place that prints or sets up logging."""
