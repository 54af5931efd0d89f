"""Texts: what a row of tokens means, and reading those of a source."""
