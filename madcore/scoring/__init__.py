"""From whitened rows to anomaly scores and calibrated p-values."""
