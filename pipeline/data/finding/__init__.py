"""The sources of a model: files and folders that its config names, and whether each has what a source needs."""
