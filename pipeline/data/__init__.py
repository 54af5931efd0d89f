"""What an audit reads: models and data sets. Nothing here writes."""
