"""What a plan refuses before the first task: data that do not fit a model, limits that a run could not keep."""
