"""What makes parts of pages from the code, so that they cannot differ from it."""
