"""Curvature in the space of the rows: mergeable sums over samples, and the damped inverse computed from them."""
