"""The reporting stage: scores in, decisions, verdict, table and the facts of the page out."""
