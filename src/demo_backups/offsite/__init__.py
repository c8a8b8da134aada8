"""Copies of backups in a restic repository: restic as a program, what it answers, and how it fails."""
