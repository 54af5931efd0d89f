"""Moved from elsewhere."""
