"""What a run leaves for people: its record, tables, summaries, pages and notifications."""
