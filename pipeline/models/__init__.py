"""Models as files: the architecture's source, the weights, and the module that they make."""
