"""The scoring stage: rows and a curvature in, score parts out."""
