"""Curvature in the space of the rows: sums over samples that can be merged, and the damped inverse computed from them."""
