"""The curvature stage: rows in, a damped inverse per layer, reference rows and calibration scores out."""
