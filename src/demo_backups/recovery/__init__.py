"""What comes after a backup: fetch it, restore it, drill that, and keep copies of it."""
