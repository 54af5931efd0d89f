"""What `mad gc` finds, lists and removes."""
