"""Models from files: the architecture's code or a Hugging Face folder, the weights, and the module that they make."""
