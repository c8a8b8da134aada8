"""Whether the backups of a database are in order."""
