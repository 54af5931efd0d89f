"""Sampling of weights around the trained ones, and the loss traces over those draws."""
