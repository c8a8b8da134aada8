"""Constants that several tests use."""

from __future__ import annotations

import os

import pytest

from demo_backups.project import ROOT

SCRIPT = ROOT / "share/bin/index-db-backup.sh"
# File names that a careless quotation breaks. In settings all but the newline are allowed.
ODD_NAMES = {
    "blanks": " two  words ",
    "single quote": "it's",
    "double quote": 'say "no"',
    "backslashes": r"a\tb\\c\0",
    "percent": "100%25 %s",
    "question mark": "what?mode=rw",
    "hash": "a#b",
    "dash": "-x",
    "shell": "$HOME `id` $(id) ; & | > !x *",
    "accents": "ünï…",
    "newline": "two\nlines",
}
NOBODY = 65534
root_only = pytest.mark.skipif(os.geteuid() != 0, reason="only root can be another user, and give files to one")
EVERY_ODD_NAME = pytest.mark.parametrize("name", ODD_NAMES.values(), ids=ODD_NAMES)
