"""What a root holds of earlier runs, and what it means for a plan: rows, the order of models, the work left."""
