"""The documentation: pages, the scripts that they show, and what makes pages from code."""
