"""Safe backups of live SQLite databases on a server, step by step and verified."""
