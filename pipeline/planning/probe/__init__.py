"""What a plan learns from a model and a few trusted samples: its layers, its classes, and the memory of a sample."""
