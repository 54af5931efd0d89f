"""The config: YAML in, frozen and checked sections out."""
