"""Kinds of models that a config can name, one file each; `pipeline.models.interface` has what all of them tell."""
