"""The commands that read a root, one module each. None imports torch, and none what only another one needs."""
