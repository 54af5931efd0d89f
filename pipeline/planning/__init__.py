"""What a run would do, before it does it: tasks, keys, coverage and memory, from models or from stored rows."""
