"""Backups made by the script of this checkout."""

from __future__ import annotations

import os
import subprocess
from pathlib import Path

from .constants import SCRIPT


def make_backup(source: Path, folder: Path) -> Path:
    """Make a backup of an index database; return its path."""
    environment = os.environ | {"DATABASE_FILE": str(source), "BACKUP_DIR": str(folder)}
    subprocess.run([SCRIPT], env=environment, check=True, timeout=60)
    return max(folder.glob("backup_*.db"))
