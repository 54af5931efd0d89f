"""Weights: reading files of them without trusting what they hold, and fitting their tensors to an architecture."""
