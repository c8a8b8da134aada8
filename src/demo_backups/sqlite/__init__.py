"""SQLite databases on a host, queried through the sqlite3 shell."""
