"""A model's inputs: from the rows of a source to batches, in one module for each kind of sample."""
