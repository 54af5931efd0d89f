"""Libraries whose models are known by name, one file each; `library` has what all of them tell."""
