"""Tasks: what a model's outputs are, how they are measured and scored, and what they predict; a module for each."""
