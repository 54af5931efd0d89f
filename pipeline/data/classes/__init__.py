"""Classes: what a data set says of its own, and how names and integers become those of a model."""
