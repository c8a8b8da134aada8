"""What a user sees: console, tables, progress, and how an outcome is described."""
