"""From a model and a batch to the samples' rows, by hooks in one forward and one backward pass."""
