"""What is wrong with a config: complaints that name the place, the value and what would be right."""
