"""The curvature stage: rows of the reference part in, a damped inverse per layer, class means and calibration scores out."""
