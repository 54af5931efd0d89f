"""Formats of lines, CSV and JSON lines: where rows end, marks to begin at, and the types of all rows."""
