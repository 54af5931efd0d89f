"""WebDataset: tar files, their members, and the samples that these make."""
