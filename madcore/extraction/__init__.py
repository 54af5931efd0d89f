"""A model and a batch in, the samples' rows out: one forward and one backward pass, by hooks."""
