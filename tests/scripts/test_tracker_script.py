"""share/bin/tracker-db-backup.sh: the index script but for names, and a good neighbour of it in one folder."""

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
from demo_backups.settings import Settings

from ..helpers.databases import is_consistent
from ..helpers.tasks import clean_environment

SCRIPTS = {name: ROOT / f"share/bin/{name}-db-backup.sh" for name in ("index", "tracker")}
NAMES = ("index", "tracker")


def code(name: str) -> list[str]:
    """The lines of a script under neutral names, without the comments of its own at the top."""
    text = SCRIPTS[name].read_text()
    assert text.startswith("#!/usr/bin/env bash\n")
    lines = text.splitlines()
    body = "\n".join(
        lines[lines.index("# Stop at the first failure: a backup that failed must never reach the rotation.") :]
    )
    prefix = {"index": "backup", "tracker": "tracker_backup"}[name]
    body = re.sub(rf"(?<![a-z_-]){prefix}(?=[_.])", "PREFIX", body)
    return re.sub(rf"\b{name}\b", "NAME", body).splitlines()


def test_the_two_scripts_are_the_same_but_for_names() -> None:
    assert code("index") == code("tracker")
    assert len(code("index")) > 25
    modes = {SCRIPTS[name].stat().st_mode & 0o777 for name in NAMES}
    assert modes == {0o755}


def test_every_name_is_its_own() -> None:
    """What is normalised away above does differ: nothing of the one is named in the other."""
    words = [
        set(re.findall(r"\.?\w*backup[_.*]\w*\*?|\w+-db-backup|storage/\w+", SCRIPTS[name].read_text()))
        for name in NAMES
    ]
    assert not words[0] & words[1]
    assert min(map(len, words)) >= 5


def test_it_says_why_it_is_not_in_cron() -> None:
    top = SCRIPTS["tracker"].read_text().split("set -euo pipefail")[0]
    assert "Not in cron: " in top
    assert "by hand" in top
    published = (ROOT / "share/container/default/config/crontab.conf").read_text()
    assert "index-db-backup.sh" in published
    assert "tracker-db-backup.sh" not in published


@pytest.mark.parametrize("name", NAMES)
def test_the_settings_name_the_very_files_of_the_script(project_settings: Settings, name: str) -> None:
    database = project_settings.database(name)
    text = SCRIPTS[name].read_text()
    assert database.local_script == SCRIPTS[name]
    assert f'PART="{database.part.name}"\n' in text
    assert f'exec 9> "$PWD/{database.lock.name}"\n' in text
    assert f'BACKUP_FILE="{database.backup_prefix}$(date ' in text
    assert f"-name '{database.backup_prefix}*.db'" in text
    assert f'DATABASE_FILE="${{DATABASE_FILE:-{database.source}}}"' in text
    assert f'BACKUP_DIR="${{BACKUP_DIR:-{database.backup_dir}}}"' in text
    assert {database.part.parent, database.lock.parent} == {database.backup_dir}


# --- side by side in one folder -------------------------------------------------------------------------------------


@dataclass
class Both:
    """The two databases, and the one folder for their backups."""

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
        """Run a script to its good end, and without a word."""
        with self.start(name) as script:
            _, errors = script.communicate(timeout=60)
        assert (script.returncode, errors) == (0, "")

    def backups(self, name: str) -> list[str]:
        """The names of a database's backups."""
        ours = {"index": "backup_", "tracker": "tracker_backup_"}[name]
        return sorted(path.name for path in self.folder.glob("*.db") if path.name.startswith(ours))


@pytest.fixture
def both(tmp_path: Path, home: Path) -> Both:
    """Both databases in WAL mode, as small as they may be."""
    sources = {name: tmp_path / f"{name}.db" for name in NAMES}
    make_index(sources["index"], "wal", torrents=50)
    make_tracker(sources["tracker"], "wal", rows=5_000)
    folder = tmp_path / "backups"
    folder.mkdir()
    return Both(folder, sources, clean_environment(home))


def tables(path: Path) -> set[str]:
    """The tables of a finished copy."""
    with contextlib.closing(sqlite3.connect(f"file:{path}?immutable=1", uri=True)) as database:
        return {row[0] for row in database.execute("SELECT name FROM sqlite_master")}


def test_both_at_once_under_writers_make_a_whole_copy_each(both: Both) -> None:
    with live_writer(both.sources["index"]) as first, live_writer(both.sources["tracker"]) as second:
        scripts = [both.start(name) for name in NAMES]
        for script in scripts:
            _, errors = script.communicate(timeout=60)
            assert (script.returncode, errors) == (0, "")
    assert (first.failed, second.failed) == (0, 0)
    for name, table in (("index", "torrust_torrents"), ("tracker", "torrents")):
        (made,) = both.backups(name)
        assert is_consistent(both.folder / made)
        assert table in tables(both.folder / made)
    assert sorted(path.name for path in both.folder.glob(".*")) == [".backup.lock", ".tracker_backup.lock"]


@pytest.mark.parametrize(("holder", "runner"), [("index", "tracker"), ("tracker", "index")])
def test_the_lock_and_the_part_of_the_one_are_nothing_to_the_other(
    both: Both, project_settings: Settings, holder: str, runner: str
) -> None:
    theirs = project_settings.database(holder)
    lock, part = both.folder / theirs.lock.name, both.folder / theirs.part.name
    part.write_text("half a copy")
    with subprocess.Popen(
        ["flock", lock, "sh", "-c", "echo held; exec cat"], stdin=subprocess.PIPE, stdout=subprocess.PIPE
    ) as held:
        assert held.stdout
        held.stdout.readline()
        both.run(runner)
        with both.start(holder) as refused:  # the same lock does hold its own script off
            _, errors = refused.communicate(timeout=60)
        assert refused.returncode == 1
        assert f"another run is at work in {both.folder}" in errors
        assert held.stdin
        held.stdin.close()
    assert part.read_text() == "half a copy"
    assert len(both.backups(runner)) == 1
    assert both.backups(holder) == []


@pytest.mark.parametrize(("runner", "other"), [("index", "tracker"), ("tracker", "index")])
def test_each_rotates_its_own_backups_only(both: Both, runner: str, other: str) -> None:
    old = {"index": "backup_2020-01-01_00-00-00.db", "tracker": "tracker_backup_2020-01-01_00-00-00.db"}
    then = time.time() - 10 * 24 * 3600
    for name in old.values():
        (both.folder / name).write_text("old")
        os.utime(both.folder / name, (then, then))
    both.run(runner)
    assert both.backups(other) == [old[other]]
    assert len(both.backups(runner)) == 1
    assert old[runner] not in both.backups(runner)
