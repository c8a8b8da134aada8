"""Tests of the copies in a restic repository."""
