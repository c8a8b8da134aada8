"""Backups: deploy the script, run it, verify the result, schedule it."""
