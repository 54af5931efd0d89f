"""Curvature in the space of the rows: sums over samples that merge, and the damped inverse that they become."""
