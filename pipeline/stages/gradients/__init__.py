"""The gradients stage: samples in, committed rows out."""
