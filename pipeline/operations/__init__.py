"""What can be done to a root besides running an audit in it."""
