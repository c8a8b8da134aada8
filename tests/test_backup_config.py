"""`inv backup-config`, and its archives in the tasks that list, fetch, restore and delete backups."""

from __future__ import annotations

import os
import stat
from pathlib import Path

import pytest

from demo_backups.backup.archive import check_archive
from demo_backups.errors import FAILED, WRONG_INPUT

from .helpers.archives import make_archive
from .helpers.copies import hash_of
from .helpers.tasks import DemoServer, InvRunner, assert_exit, assert_success, read_json

SECRET = "hunter2-in-a-file"
NAME = "config_2026-01-02_00-00-00.tar"
CONFIG = ("--database", "config")


@pytest.fixture
def app(demo_server: DemoServer) -> Path:
    """The directory of the application, with some configuration."""
    app = Path(demo_server.settings.app_dir)
    (app / "proxy").mkdir(parents=True)
    (app / ".env.production").write_text(SECRET)
    (app / ".env.production").chmod(0o600)
    (app / "proxy/site.conf").write_text(f"# {SECRET}\n")
    return app


def configured(demo_server: DemoServer, paths: str = ".env.production proxy") -> DemoServer:
    demo_server.environment = {**demo_server.environment, "INVOKE_CONFIG_PATHS": paths}
    return demo_server


def test_archive_is_made_listed_fetched_and_restored(demo_server: DemoServer, app: Path, home: Path) -> None:
    server = configured(demo_server)
    printed = assert_success(server.inv("backup-config", "--dry-run"))
    assert (server.names(), server.records()) == ([], [])
    printed += assert_success(server.inv("backup-config"))
    printed += assert_success(server.inv("backup-config"))
    (name,) = server.names()
    listed = read_json(server.inv("list-backups", *CONFIG, "--json"))
    assert [Path(backup["path"]).name for backup in listed["backups"]] == [name]

    fetched = read_json(server.inv("fetch", *CONFIG, "--json"))
    copy = home / "copies/rehearsal" / name
    assert (fetched["file"], fetched["sha256"]) == (str(copy), hash_of(server.backups / name))
    assert (fetched["verified"], stat.S_IMODE(copy.stat().st_mode)) == (True, 0o600)
    assert copy.stat().st_mtime_ns == (server.backups / name).stat().st_mtime_ns
    printed += assert_success(server.inv("fetch", *CONFIG, "--delta"))

    printed += assert_success(server.inv("restore", *CONFIG, "--to", str(app.parent / "one"), "--yes"))
    (server.backups / name).unlink()
    target = str(app.parent / "two")
    printed += assert_success(server.inv("restore", *CONFIG, "--to", target, "--from", "here", "--yes"))
    for restored in (app.parent / "one", app.parent / "two"):
        assert (restored / ".env.production").read_text() == SECRET
        assert stat.S_IMODE((restored / ".env.production").stat().st_mode) == 0o600
        assert (restored / "proxy/site.conf").exists()
    assert (server.backups / name).exists()  # uploaded

    records = server.records()
    kinds = ["backup-config", "backup-config", "fetch", "fetch", "restore", "restore"]
    assert [(record["kind"], record["database"], record["exit_status"]) for record in records] == [
        (kind, "config", 0) for kind in kinds
    ]
    assert {record["backup"] for record in records} == {str(server.backups / name)}
    assert records[2]["details"]["verified"] is True
    assert [record["details"]["identical"] for record in records[-2:]] == [True, True]
    history = read_json(server.inv("history", *CONFIG, "--json"))
    assert len(history["records"]) == len(kinds)
    for text in (printed, repr(records)):
        assert SECRET not in text
    assert "env.production" not in repr(records)
    assert "env.production" in printed


def test_missing_path_is_named_and_others_packed(demo_server: DemoServer, app: Path) -> None:
    (app / "link").symlink_to("/etc/shadow")
    done = configured(demo_server, ".env.production certificates/key.pem link").inv("backup-config")
    assert_exit(done, FAILED)
    assert "certificates/key.pem" in done.stdout
    (name,) = demo_server.names()
    assert b"shadow" not in (demo_server.backups / name).read_bytes()
    (record,) = demo_server.records()
    assert (record["exit_status"], record["backup"]) == (FAILED, str(demo_server.backups / name))
    assert "key.pem" not in repr(record)


@pytest.mark.usefixtures("app")
def test_nothing_to_pack_is_an_error(demo_server: DemoServer) -> None:
    assert_exit(configured(demo_server, "certificates nothing").inv("backup-config"), FAILED)
    assert demo_server.names() == []


def test_unset_paths_exit_with_2(run_inv: InvRunner) -> None:
    assert_exit(run_inv("backup-config", "--host", "nowhere"), WRONG_INPUT, "INVOKE_CONFIG_PATHS")


@pytest.mark.parametrize(
    "task",
    [
        ("restore", "--yes"),
        ("restore", "--yes", "--to", "/x", "--swap"),
        ("restore", "--undo"),
        ("run",),
        ("verify",),
        ("restore-drill",),
        ("stop-backup",),
        ("preflight",),
    ],
    ids=" ".join,
)
def test_other_tasks_refuse_configuration(run_inv: InvRunner, task: tuple[str, ...]) -> None:
    assert_exit(run_inv(task[0], "--host", "nowhere", *CONFIG, *task[1:]), WRONG_INPUT)


def test_damaged_archive_is_not_fetched(demo_server: DemoServer, home: Path) -> None:
    archive = make_archive(demo_server.backups / NAME, {"env": b"x" * 2000})
    content = bytearray(archive.read_bytes())
    content[content.index(b"xxx")] ^= 1
    archive.write_bytes(content)
    assert_exit(demo_server.inv("fetch", *CONFIG), FAILED, "checksums")
    assert not (home / "copies/rehearsal" / NAME).exists()


def test_changed_copy_is_not_restored(demo_server: DemoServer, tmp_path: Path) -> None:
    copy = make_archive(tmp_path / NAME, {"env": b"x" * 2000})
    copy.write_bytes(copy.read_bytes().replace(b"xxx", b"yyy"))
    target = tmp_path / "target"
    flags = ("--from", "here", "--backup", str(copy), "--to", str(target), "--yes")
    assert_exit(demo_server.inv("restore", *CONFIG, *flags), FAILED)
    assert not target.exists()
    assert demo_server.names() == []


def test_file_with_other_name_is_not_uploaded(demo_server: DemoServer, tmp_path: Path) -> None:
    copy = make_archive(tmp_path / "backup_2026-01-02_00-00-00.db", {"env": b"x"})
    flags = ("--from", "here", "--backup", str(copy), "--to", str(tmp_path / "target"), "--yes")
    assert_exit(demo_server.inv("restore", *CONFIG, *flags), FAILED)
    assert demo_server.names() == []


def test_directory_of_other_users_is_refused(demo_server: DemoServer, tmp_path: Path) -> None:
    make_archive(demo_server.backups / NAME, {"env": b"x"})
    folder = tmp_path / "shared"
    folder.mkdir()
    folder.chmod(0o777)
    assert_exit(demo_server.inv("restore", *CONFIG, "--to", str(folder / "new"), "--yes"), FAILED, "chmod go-w")
    assert list(folder.iterdir()) == []


def test_expired_archives_are_deleted(demo_server: DemoServer, home: Path) -> None:
    folder = home / "copies/rehearsal"
    folder.mkdir(parents=True, mode=0o700)
    for day in (1, 2, 3):
        archive = make_archive(folder / f"config_2026-01-0{day}_00-00-00.tar", {"env": b"x"})
        time = 1_767_225_600 + (day - 1) * 86400
        os.utime(archive, (time, time))
    policy = {"INVOKE_COPIES_DAILY": "2", "INVOKE_COPIES_WEEKLY": "0", "INVOKE_COPIES_MONTHLY": "0"}
    found = read_json(demo_server.inv("prune-copies", *CONFIG, "--json", **policy))
    assert [Path(copy["file"]).name for copy in found["copies"] if copy["deleted"]] == [
        "config_2026-01-01_00-00-00.tar"
    ]
    assert found["others"] == []
    assert all(check.outcome.value for path in folder.iterdir() for check in check_archive(path))
