"""Sampling of parameters around the trained ones, and the loss traces that the draws give."""
