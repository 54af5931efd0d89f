"""The demo: an audit of a backdoored digit classifier, with its data and its model."""
