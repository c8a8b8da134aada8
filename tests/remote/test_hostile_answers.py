"""Answers that no host should give: nothing, garbage, huge numbers, half lines. Each is an error, and none a fact."""

from __future__ import annotations

import contextlib
import functools
import importlib
import inspect as inspect_module
from collections.abc import Callable
from pathlib import PurePosixPath
from typing import Any

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from demo_backups.backup import catalog, deploy, directory_access, run
from demo_backups.errors import COULD_NOT_LOOK, BackupsError, CouldNotLookError
from demo_backups.health.archive_facts import observe_archives
from demo_backups.health.facts import observe_host
from demo_backups.project import ROOT
from demo_backups.recovery import drill_directories, restore_facts, restore_journal
from demo_backups.remote import files, job_state, jobs, processes
from demo_backups.remote.host import LONGEST_ANSWER, Host, Result, Transfer
from demo_backups.settings.model import CONFIG, ConfigArchives, Settings
from demo_backups.sqlite import inspect, journal_mode, sharing, sidecars

SEED = settings(derandomize=True, max_examples=100, deadline=None)
PATH = PurePosixPath("/srv/x.db")
LOGIN = drill_directories.Login(1000, 1000, "torrust", PurePosixPath("/home/torrust"), "/usr/bin")
JOB = job_state.Job(job_state.BACKUP, "index", "true", "/srv/x.db", 1, started=1.0)
FILE_LINE = "1700000000.5 +0130 4096 f /srv/backup_2026-01-31_12-00-00.db\0"
DD = "1+0 records in\n1+0 records out\n4096 bytes (4.1 kB, 4.0 KiB) copied, 0.5 s, 8.2 kB/s\n"

# For the parsers whose answers have a form of their own, an answer that is accepted; parts of it are then damaged.
GOOD = {
    "parse_yes_no": "yes\n",
    "parse_seconds": "1700000000.5\n",
    "parse_list": "a\nb\nend\n",
    "parse_files": f"{FILE_LINE}{FILE_LINE}end",
    "parse_file": f"{FILE_LINE}end",
    "parse_sha256": f"{'0' * 64}  -\n",
    "parse_processes": "12 root sqlite3 x\n13 o'x \nend\n",
    "parse_user_id": "1000\n",
    "parse_sidecars": "-wal\n-shm\nend\n",
    "parse_header": " 53" * 100,
    "parse_summary": "3\n4096\na\nb\n",
    "parse_owners": "root:root\n",
    "parse_journal_mode": "wal\n",
    "parse_missing_tools": "sqlite3 /opt/sqlite3\nflock \nend\n",
    "parse_sqlite_version": "3.40.1\n",
    "parse_installed": "755 1700000000.5 +0000\n#!/bin/sh\n",
    "parse_disks": "Avail Inodes IFree Mounted on\n10 20 5 /\n20 - - /srv/a b\n",
    "parse_directory_access": "rmdir: failed to remove '.l': Not a directory\nwritable\n",
    "parse_tables": "me\0root\0/root\0home\0root\0/root\0system\0/etc/crontab\0A=1\n\0end",
    "parse_programs": "inode\x001:2\0/srv/x\0text\0#!/bin/sh\0/srv/y\0end",
    "parse_executable": "no: it is not a regular file\n",
    "parse_real_path": "/srv/x.db\n",
    "parse_mounts": "1\nall\nmnt_id:\t36\n36 1 8:1 / /srv\nend\n",
    "parse_lock_holders": "12 0 yes\n-1 1 no\nend\n",
    "parse_table_checks": "Error: no such module: x\n== 74 count 0\n3\n",
    "parse_read_speed": DD,
    "parse_write_rate": "1.0\n5\n2.0\n6\n",
    "parse_names": "backup.db\0end",
    "parse_job": f"1\n1700000000.5\n{job_state.describe_job(JOB)}",
    "parse_batch": "a\n\nsep 0\n\nsep\n\nsep 1\nno such file\nsep\n",
    "parse_log": "1700000000.500 20\nindex-db-backup.sh: x\n",
    "parse_run_files": "12 4096 .backup.part\nend\nno\n12 4096 .backup.part\nend\n13 1 .fetch.x.db\nend\n",
    "parse_status": "ended\n0 2.0 \n\n3.0\n1.0\n2\nok",
}
# Values of further parameters of parsers, by their names.
PARAMETERS = {
    "file_bytes": 100,
    "count": 2,
    "page_size": 4096,
    "source": PATH,
    "offset": "+0000",
    "own": None,
    "database": None,
    "separator": "sep",
}
PACKAGES = ("remote", "sqlite", "backup", "recovery", "health")
NO_ANSWERS = (
    *("parse_destination", "parse_jumps", "parse_options", "parse_keys", "parse_curves", "parse_script"),
    *("parse_setting", "parse_schedule", "parse_crontab", "parse_private"),
)


def find_parsers() -> dict[str, Callable[[str], Any]]:
    """Find the functions that parse what a host printed: everything named parse_... in the packages that ask hosts."""
    parsers: dict[str, Callable[[str], Any]] = {}
    for package in PACKAGES:
        folder = ROOT / "src/demo_backups" / package
        for path in sorted(folder.glob("*.py")):
            module = importlib.import_module(f"demo_backups.{package}.{path.stem}")
            for name, function in vars(module).items():
                if not name.startswith("parse_") or name in NO_ANSWERS or function.__module__ != module.__name__:
                    continue
                if next(iter(inspect_module.signature(function).parameters)) in ("output", "text"):
                    parsers[name if name not in parsers else f"{path.stem}.{name}"] = bind(function)
    return parsers


def bind(function: Callable[..., Any]) -> Callable[[str], Any]:
    """Give a parser its further parameters."""
    _, *others = inspect_module.signature(function).parameters.values()
    values = {other.name: PARAMETERS[other.name] for other in others if other.default is other.empty}
    return functools.partial(function, **values)


PARSERS = find_parsers()


def test_all_known_parsers_are_found() -> None:
    assert PARSERS.keys() >= GOOD.keys()


@pytest.mark.parametrize("name", GOOD)
def test_parser_accepts_its_own_answer(name: str) -> None:
    PARSERS[name](GOOD[name])


@st.composite
def damaged(draw: st.DrawFn, answer: str) -> str:
    """An answer of which a part was replaced by something else."""
    start = draw(st.integers(0, len(answer)))
    end = draw(st.integers(start, len(answer)))
    odd = st.sampled_from(
        ["\0", "\n", " ", "-1", "9" * 30, "1e999", "nan", "inf", "٣", "\udcff", "9" * 5000, "[" * 5000]
    )
    return answer[:start] + draw(st.one_of(odd, st.text(max_size=20))) + answer[end:]


@pytest.mark.parametrize("name", PARSERS)
def test_parser_raises_nothing_but_valueerror(name: str) -> None:
    parse = PARSERS[name]

    @SEED
    @given(st.one_of(st.text(max_size=200), damaged(GOOD.get(name, "1\nx y z\nend\n"))))
    @example("")
    @example("\0")
    @example("9" * 5000)
    @example("1\n1.0\n" + "[" * 20_000)
    def check(output: str) -> None:
        with contextlib.suppress(ValueError):
            repr(parse(output))

    check()


# --- facts ----------------------------------------------------------------------------------------------------------

ANSWERS = {
    "nothing": "",
    "an empty line": "\n",
    "words": "Welcome! today\nreally\n",
    "NUL": "\0",
    "a huge number": "9" * 5000,
    "a negative number": "-1\n",
    "not UTF-8": "\udcff\udcfe\n",
    "half of a line": "1700000000.5 +01",
    "escape sequences": "\x1b]0;title\x07\x1b[2J\n",
    "too much": "yes\n" * 100_000,
}


def facts(project_settings: Settings) -> dict[str, Callable[[Host], Any]]:
    """Everything that is read from a host by one command, but for the text of a crontab."""
    database = project_settings.database("index")
    header = inspect.Header(4096, False, 4096)
    archives = project_settings.series(CONFIG)
    assert isinstance(archives, ConfigArchives)
    return {
        "backups": lambda host: catalog.list_backups(host, database),
        "verified backup": lambda host: catalog.find_verified(host, database),
        "hidden backup": lambda host: catalog.has_hidden_backup(host, database),
        "file": lambda host: files.stat_file(host, PATH),
        "processes": lambda host: processes.processes_with_open(host, PATH),
        "sidecars": lambda host: sidecars.list_sidecars(host, PATH),
        "writable": lambda host: sidecars.sidecars_writable(host, PATH),
        "summary": lambda host: inspect.read_summary(host, PATH, header, []),
        "tools": deploy.require_tools,
        "version": deploy.probe_sqlite,
        "installed": lambda host: deploy.read_installed(host, database),
        "installed SHA-256": lambda host: deploy.read_installed_sha256(host, PATH),
        "lock wait": lambda host: run.lock_wait(host, JOB, PATH),
        "last job": lambda host: jobs.find_job(host, database, job_state.CHECK),
        "running job": lambda host: jobs.is_job_running(host, database, job_state.CHECK),
        "job status": lambda host: jobs.read_status(host, database, JOB),
        "names before a job": lambda host: jobs.read_before(host, database, JOB, catalog.parse_names),
        "started job": lambda host: jobs.start_job(host, database, JOB, "true"),
        "journal mode": lambda host: journal_mode.change_journal_mode(host, database, True),
        "real path": lambda host: inspect.resolve_source(host, database),
        "sharing": lambda host: sharing.read_sharing(host, PATH, wal=True),
        "users": lambda host: processes.processes_using(host, PATH),
        "directory access": lambda host: directory_access.read_directory_access(host, PATH),
        "directory of drills": lambda host: drill_directories.prepare_directory(host, PATH),
        "places of a drill": lambda host: drill_directories.prepare_scratch(host, database, LOGIN, PATH, PATH),
        "pending restore": lambda host: restore_journal.read_pending(host, database),
        "saved states": lambda host: restore_facts.list_saved_states(host, database),
        "target of a restore": lambda host: restore_facts.resolve_target(host, PATH, ""),
        "facts of a check": lambda host: observe_host(host, database, project_settings),
        "archives of a check": lambda host: observe_archives(host, archives),
        "root": lambda host: host._find_root_access(),
    }


@pytest.mark.parametrize("answer", ANSWERS.values(), ids=ANSWERS)
def test_hostile_answer_is_no_fact(
    local_host: Host, project_settings: Settings, monkeypatch: pytest.MonkeyPatch, answer: str
) -> None:
    def stream(self: Host, action: str, command: str, **options: Any) -> Transfer:
        return Transfer(Result(0, answer, ""), 0, "", True)

    monkeypatch.setattr(Host, "stream", stream)
    local_host.use_sudo = True
    for name, read in facts(project_settings).items():
        with pytest.raises(CouldNotLookError) as caught:
            print(name, read(local_host))
        assert caught.value.exit_code == COULD_NOT_LOOK
        assert len(str(caught.value)) < 3 * LONGEST_ANSWER + 1000, name


@pytest.mark.parametrize("path", ["/srv/.bashrc", "/srv/x.db/..", "/", "x.db"])
def test_another_file_is_no_answer(local_host: Host, monkeypatch: pytest.MonkeyPatch, path: str) -> None:
    def stream(self: Host, action: str, command: str, **options: Any) -> Transfer:
        return Transfer(Result(0, f"1700000000.5 +0130 4096 f {path}\0end", ""), 0, "", True)

    monkeypatch.setattr(Host, "stream", stream)
    with pytest.raises(CouldNotLookError):
        files.stat_file(local_host, PATH)


def test_any_error_of_a_parser_is_translated(local_host: Host) -> None:
    def overflow(answer: str) -> float:
        return float(int(answer))

    for parse in (overflow, lambda answer: answer[10_000], lambda answer: 1 / 0, lambda answer: answer + 1):
        with pytest.raises(BackupsError) as caught:
            local_host.parse("count", "9" * 4000, parse)
        assert caught.value.exit_code == COULD_NOT_LOOK
