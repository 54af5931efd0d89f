"""Images: the column that holds them, what their bytes are, their pixels, and reading those of a source."""
