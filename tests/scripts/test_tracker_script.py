"""The tracker script: the index script with other names, and safe next to it in one folder."""

from __future__ import annotations

import contextlib
import os
import re
import sqlite3
import subprocess
import time
from dataclasses import dataclass
from pathlib import Path

import pytest

from demo_backups.project import ROOT
from demo_backups.rehearsal.database import make_index, make_tracker
from demo_backups.rehearsal.writer import live_writer
from demo_backups.settings.model import Settings

from ..helpers.databases import is_consistent
from ..helpers.tasks import clean_environment

NAMES = ("index", "tracker")
SCRIPTS = {name: ROOT / f"share/bin/{name}-db-backup.sh" for name in NAMES}
PREFIXES = {"index": "backup_", "tracker": "tracker_backup_"}


# --- the text -------------------------------------------------------------------------------------------------------


def normalize(name: str) -> list[str]:
    """Return the lines of a script with neutral names, without the comments at its top."""
    lines = SCRIPTS[name].read_text().splitlines()
    assert lines[0] == "#!/usr/bin/env bash"
    body = "\n".join(lines[lines.index("set -euo pipefail") :])
    prefix = PREFIXES[name].rstrip("_")
    body = re.sub(rf"(?<![a-z_-]){prefix}(?=[_.])", "PREFIX", body)
    return re.sub(rf"\b{name}\b", "NAME", body).splitlines()


def test_scripts_differ_in_names_only() -> None:
    assert normalize("index") == normalize("tracker")
    assert len(normalize("index")) > 25
    modes = {SCRIPTS[name].stat().st_mode & 0o777 for name in NAMES}
    assert modes == {0o755}


def test_scripts_share_no_name() -> None:
    """What `normalize` makes equal does differ: no name of one script occurs in the other."""
    pattern = r"\.?\w*backup[_.*]\w*\*?|\w+-db-backup|storage/\w+"
    names = [set(re.findall(pattern, script.read_text())) for script in SCRIPTS.values()]
    assert not names[0] & names[1]
    assert min(map(len, names)) >= 5


def test_only_index_is_in_published_crontab() -> None:
    published = (ROOT / "share/container/default/config/crontab.conf").read_text()
    assert SCRIPTS["index"].name in published
    assert SCRIPTS["tracker"].name not in published


@pytest.mark.parametrize("name", NAMES)
def test_settings_match_script(project_settings: Settings, name: str) -> None:
    database = project_settings.database(name)
    text = SCRIPTS[name].read_text()
    assert database.local_script == SCRIPTS[name]
    assert f'PART="{database.part.name}"\n' in text
    assert f'LOCK="{database.lock.name}"\n' in text
    assert f'BACKUP_FILE="{database.backup_prefix}$(date ' in text
    assert f"-name '{database.backup_prefix}*.db'" in text
    assert f'DATABASE_FILE="${{DATABASE_FILE:-{database.source}}}"' in text
    assert f'BACKUP_DIR="${{BACKUP_DIR:-{database.backup_dir}}}"' in text
    assert {database.part.parent, database.lock.parent} == {database.backup_dir}


# --- both in one folder ---------------------------------------------------------------------------------------------


@dataclass
class Both:
    """The two databases, and one folder for the backups of both."""

    folder: Path
    sources: dict[str, Path]
    environment: dict[str, str]

    def start(self, name: str) -> subprocess.Popen[str]:
        """Start a script."""
        paths = {"DATABASE_FILE": str(self.sources[name]), "BACKUP_DIR": str(self.folder)}
        return subprocess.Popen(
            ["bash", SCRIPTS[name]],
            env=self.environment | paths,
            stderr=subprocess.PIPE,
            stdin=subprocess.DEVNULL,
            text=True,
        )

    def run(self, name: str) -> None:
        """Run a script, and check that it succeeds without output."""
        with self.start(name) as script:
            _, errors = script.communicate(timeout=60)
        assert (script.returncode, errors) == (0, "")

    def backups(self, name: str) -> list[str]:
        """Return the names of a database's backups."""
        return sorted(path.name for path in self.folder.glob("*.db") if path.name.startswith(PREFIXES[name]))


@pytest.fixture
def both(tmp_path: Path, home: Path) -> Both:
    """Both databases, small and in WAL mode."""
    sources = {name: tmp_path / f"{name}.db" for name in NAMES}
    make_index(sources["index"], "wal", torrents=50)
    make_tracker(sources["tracker"], "wal", rows=5_000)
    folder = tmp_path / "backups"
    folder.mkdir()
    return Both(folder, sources, clean_environment(home))


def read_tables(path: Path) -> set[str]:
    """Return the names of the tables of a finished copy."""
    with contextlib.closing(sqlite3.connect(f"file:{path}?immutable=1", uri=True)) as database:
        return {row[0] for row in database.execute("SELECT name FROM sqlite_master")}


def test_both_at_once_are_consistent(both: Both) -> None:
    with live_writer(both.sources["index"]) as index_writes, live_writer(both.sources["tracker"]) as tracker_writes:
        scripts = [both.start(name) for name in NAMES]
        for script in scripts:
            _, errors = script.communicate(timeout=60)
            assert (script.returncode, errors) == (0, "")
    assert (index_writes.failed, tracker_writes.failed) == (0, 0)
    for name, table in (("index", "torrust_torrents"), ("tracker", "torrents")):
        (backup,) = both.backups(name)
        assert is_consistent(both.folder / backup)
        assert table in read_tables(both.folder / backup)
    assert sorted(path.name for path in both.folder.glob(".*")) == [".backup.lock", ".tracker_backup.lock"]


@pytest.mark.parametrize(("locked", "other"), [("index", "tracker"), ("tracker", "index")])
def test_lock_and_part_do_not_affect_other(both: Both, project_settings: Settings, locked: str, other: str) -> None:
    database = project_settings.database(locked)
    lock = both.folder / database.lock.name
    part = both.folder / database.part.name
    part.write_text("half a copy")
    with subprocess.Popen(
        ["flock", lock, "sh", "-c", "echo locked; exec cat"], stdin=subprocess.PIPE, stdout=subprocess.PIPE
    ) as process:
        assert process.stdout
        process.stdout.readline()
        both.run(other)
        with both.start(locked) as refused:  # the lock does stop its own script
            _, errors = refused.communicate(timeout=60)
        assert refused.returncode == 1
        assert f"another run is in progress in {both.folder}" in errors
        assert process.stdin
        process.stdin.close()
    assert part.read_text() == "half a copy"
    assert len(both.backups(other)) == 1
    assert both.backups(locked) == []


@pytest.mark.parametrize(("name", "other"), [("index", "tracker"), ("tracker", "index")])
def test_rotation_does_not_affect_other(both: Both, name: str, other: str) -> None:
    old = {script: f"{prefix}2020-01-01_00-00-00.db" for script, prefix in PREFIXES.items()}
    ten_days_ago = time.time() - 10 * 24 * 3600
    for file_name in old.values():
        (both.folder / file_name).write_text("old")
        os.utime(both.folder / file_name, (ten_days_ago, ten_days_ago))
    both.run(name)
    assert both.backups(other) == [old[other]]
    assert len(both.backups(name)) == 1
    assert old[name] not in both.backups(name)
