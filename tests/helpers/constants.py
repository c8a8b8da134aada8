"""Constants that several tests use."""

from __future__ import annotations

import os
import shutil

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
IS_CI = os.environ.get("CI") == "true"  # where nothing is skipped
needs_rsync = pytest.mark.skipif(not shutil.which("rsync") and not IS_CI, reason="rsync is not installed")
needs_zstd = pytest.mark.skipif(not shutil.which("zstd") and not IS_CI, reason="zstd is not installed")
PLAIN_AND_ZSTD = pytest.mark.parametrize(
    "compress", [False, pytest.param(True, marks=needs_zstd)], ids=["plain", "zstd"]
)
EVERY_ODD_NAME = pytest.mark.parametrize("name", ODD_NAMES.values(), ids=ODD_NAMES)
