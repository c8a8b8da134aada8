"""The records of what was run and what it showed."""
