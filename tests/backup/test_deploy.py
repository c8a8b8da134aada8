"""Deployments: which scripts are refused, and how a script is put in place."""

from __future__ import annotations

import os
import shutil
import subprocess
from dataclasses import dataclass, replace
from datetime import datetime, timezone
from pathlib import Path, PurePosixPath

import pytest

from demo_backups.backup.deploy import (
    REQUIRED_TOOLS,
    Deployment,
    check_deployment,
    deploy_script,
    installed_sha256,
    parse_installed,
    plan_deployment,
    probe_sqlite,
    require_tools,
)
from demo_backups.backup.script import InstalledScript, Script, read_script
from demo_backups.errors import CouldNotLookError, StepError
from demo_backups.rehearsal.database import make_index
from demo_backups.remote.host import LARGEST_ARGUMENT, Host
from demo_backups.remote.shell import quote
from demo_backups.settings import Database, Settings

from ..helpers.constants import ODD_NAMES, SCRIPT

NEW = b"#!/bin/sh\necho new\n"
OLD = b"#!/bin/sh\necho old\n"
SINCE = datetime(2026, 11, 24, 20, tzinfo=timezone.utc)

as_root = pytest.mark.skipif(os.geteuid() != 0, reason="only root gives files away")
ODD_FOLDERS = pytest.mark.parametrize("name", ["bin", *ODD_NAMES.values()], ids=["usual", *ODD_NAMES])


def script_of(path: Path, content: bytes = NEW, mode: int = 0o755) -> Path:
    path.write_bytes(content)
    path.chmod(mode)
    return path


@dataclass(frozen=True)
class Place:
    """The target of a deployment, and the files in its directory."""

    target: Path

    @property
    def previous(self) -> Path:
        return self.target.with_name(f"{self.target.name}.previous")

    @property
    def names(self) -> set[str]:
        return {path.name for path in self.target.parent.iterdir()}


@pytest.fixture
def place(tmp_path: Path) -> Place:
    folder = tmp_path / 'it\'s a "folder" with 100% \\t'
    folder.mkdir()
    return Place(folder / "index-db-backup.sh")


@pytest.fixture
def database(project_settings: Settings, place: Place) -> Database:
    """A database whose script belongs in that place."""
    return replace(project_settings.database("index"), script=PurePosixPath(place.target))


@pytest.fixture
def script(tmp_path: Path) -> Script:
    return read_script(script_of(tmp_path / "index-db-backup.sh"))


# --- the local script ------------------------------------------------------------------------------------------------


def test_shipped_scripts_can_be_read() -> None:
    for path in SCRIPT.parent.glob("*.sh"):
        assert read_script(path).content == path.read_bytes()


@pytest.mark.parametrize(
    ("content", "mode", "message", "advice"),
    [
        (b"#!/bin/bash\r\nls\r\n", 0o755, "has Windows line endings (CRLF)", "sed -i 's/\\r$//' "),
        (b"#!/bin/bash\nls\nls\r\n", 0o755, "has Windows line endings (CRLF)", "sed -i"),
        (b"#!/bin/bash\nls\n", 0o644, "is not executable", "chmod +x "),
        (b"#!/bin/bash\nif true; then\n", 0o755, "has a syntax error", "correct the script"),
        (b"#!/bin/bash\necho 'no end\n", 0o755, "has a syntax error", "correct the script"),
    ],
    ids=["CRLF", "one CR", "mode", "if", "quote"],
)
def test_script_that_cannot_run_is_refused(
    tmp_path: Path, content: bytes, mode: int, message: str, advice: str
) -> None:
    path = script_of(tmp_path / "it's a script.sh", content, mode)
    with pytest.raises(StepError) as caught:
        read_script(path)
    assert message in caught.value.action
    assert str(path) in caught.value.action
    assert caught.value.advice.startswith(advice)


def test_advice_repairs_refused_script(tmp_path: Path) -> None:
    path = script_of(tmp_path / "it's a script.sh", b"#!/bin/sh\r\nls\r\n", 0o644)
    for _ in range(2):
        with pytest.raises(StepError) as caught:
            read_script(path)
        subprocess.run(caught.value.advice, shell=True, check=True)
    assert read_script(path).content == b"#!/bin/sh\nls\n"


def test_bash_syntax_error_is_shown(tmp_path: Path) -> None:
    path = script_of(tmp_path / "x.sh", b"if true; then\n")
    with pytest.raises(StepError) as caught:
        read_script(path)
    assert "syntax error: unexpected end of file" in caught.value.output


@pytest.mark.parametrize("folder", [False, True])
def test_missing_script_is_refused(tmp_path: Path, folder: bool) -> None:
    if folder:
        (tmp_path / "x.sh").mkdir()
    with pytest.raises(StepError, match="does not exist"):
        read_script(tmp_path / "x.sh")


def test_reading_script_does_not_run_it(tmp_path: Path) -> None:
    read_script(script_of(tmp_path / "x.sh", f"touch '{tmp_path}/ran'\n".encode()))
    assert not (tmp_path / "ran").exists()


@pytest.mark.parametrize(
    ("content", "value"),
    [
        ('BACKUP_DIR="${BACKUP_DIR:-/home/x/back ups}"', "/home/x/back ups"),
        ('a=1\nBACKUP_DIR="${BACKUP_DIR:-/b}"\nBACKUP_DIR="$(realpath "$BACKUP_DIR")"', "/b"),
        ('BACKUP_DIR="${BACKUP_DIR:-}"', ""),
        ("", None),
        ('# BACKUP_DIR="${BACKUP_DIR:-/b}"', None),
        ('OLD_BACKUP_DIR="${BACKUP_DIR:-/b}"', None),
        ('BACKUP_DIR="/b"', None),
        ('BACKUP_DIR="${BACKUP_DIR:-$HOME/${X}}"', None),
        ('BACKUP_DIR="${DATABASE_FILE:-/b}"', None),
    ],
)
def test_default_of_variable(content: str, value: str | None) -> None:
    assert Script(Path("x"), content.encode()).default("BACKUP_DIR") == value


def test_index_script_has_default_paths(project_settings: Settings) -> None:
    script, database = read_script(SCRIPT), project_settings.database("index")
    assert script.default("DATABASE_FILE") == str(database.source)
    assert script.default("BACKUP_DIR") == str(database.backup_dir)


# --- the planned deployment ------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("content", "needed"), [(None, True), (OLD, True), (b"", True), (NEW + b"\n", True), (NEW, False)]
)
def test_deployment_is_needed_if_content_differs(script: Script, content: bytes | None, needed: bool) -> None:
    deployed = None if content is None else InstalledScript("755", content, SINCE)
    assert Deployment(script, PurePosixPath("/x"), deployed).is_needed is needed


def test_diff_has_unified_format(script: Script) -> None:
    target = PurePosixPath("/srv/x.sh")
    assert Deployment(script, target, InstalledScript("755", OLD, SINCE)).diff().splitlines() == [
        "--- /srv/x.sh (installed)",
        "+++ index-db-backup.sh (this checkout)",
        "@@ -1,2 +1,2 @@",
        " #!/bin/sh",
        "-echo old",
        "+echo new",
    ]
    assert Deployment(script, target, None).diff().splitlines()[0] == "--- /dev/null"
    assert Deployment(script, target, InstalledScript("755", NEW, SINCE)).diff() == ""


def test_diff_shows_invalid_utf8(script: Script) -> None:
    assert "-\ufffd" in Deployment(script, PurePosixPath("/x"), InstalledScript("755", b"\xff\n", SINCE)).diff()


@ODD_FOLDERS
def test_installed_script_is_read_exactly(here: Host, tmp_path: Path, script: Script, name: str) -> None:
    target = tmp_path / name / "x.sh"
    target.parent.mkdir()
    database = _with_script(target)
    assert plan_deployment(here, database, script).installed is None
    script_of(target, b"\x00\xff\r\n" * 30, 0o4750)
    installed = plan_deployment(here, database, script).installed
    assert installed is not None
    assert (installed.mode, installed.content) == ("4750", b"\x00\xff\r\n" * 30)
    assert installed.changed.timestamp() == pytest.approx(target.stat().st_ctime, abs=1e-5)


def _with_script(target: Path) -> Database:
    path = PurePosixPath(target)
    return Database("index", path, path, SCRIPT, path.parent, "backup_", "SELECT 1")


def test_empty_installed_script_is_not_missing(here: Host, place: Place, database: Database, script: Script) -> None:
    script_of(place.target, b"")
    installed = plan_deployment(here, database, script).installed
    assert installed is not None
    assert installed.content == b""


def test_unreadable_installed_script_is_not_missing(
    here: Host, place: Place, database: Database, script: Script
) -> None:
    place.target.mkdir()
    with pytest.raises(CouldNotLookError, match="could not read"):
        plan_deployment(here, database, script)
    place.target.rmdir()
    place.target.parent.rmdir()
    with pytest.raises(CouldNotLookError, match="could not read"):
        plan_deployment(here, database, script)


@pytest.mark.parametrize(
    ("mode", "refused"), [("644", True), ("4600", True), ("755", False), ("100", False), ("2710", False)]
)
def test_mode_without_execute_is_refused(here: Host, script: Script, mode: str, refused: bool) -> None:
    change = Deployment(script, PurePosixPath("/it's/x.sh"), InstalledScript(mode, OLD, SINCE))
    if not refused:
        check_deployment(here, change)
        return
    with pytest.raises(StepError, match="is not executable") as caught:
        check_deployment(here, change)
    assert caught.value.advice == "on the host: chmod 755 '/it'\"'\"'s/x.sh'"


# --- the deployment -----------------------------------------------------------------------------------------------


@ODD_FOLDERS
def test_first_deployment_creates_only_script(here: Host, tmp_path: Path, script: Script, name: str) -> None:
    destination = Place(tmp_path / name / f"{name}.sh")
    destination.target.parent.mkdir()
    deploy_script(here, plan_deployment(here, _with_script(destination.target), script))
    assert destination.target.read_bytes() == NEW
    assert destination.target.stat().st_mode & 0o7777 == 0o755
    assert destination.names == {destination.target.name}


@ODD_FOLDERS
def test_replaced_script_is_kept(here: Host, tmp_path: Path, script: Script, name: str) -> None:
    destination = Place(tmp_path / name / f"{name}.sh")
    destination.target.parent.mkdir()
    script_of(destination.target, OLD, 0o710)
    before = destination.target.stat()
    deploy_script(here, plan_deployment(here, _with_script(destination.target), script))
    assert (destination.target.read_bytes(), destination.previous.read_bytes()) == (NEW, OLD)
    assert destination.target.stat().st_mode == before.st_mode
    assert destination.previous.stat().st_ino == before.st_ino  # the same file: a run that reads it is not disturbed
    assert destination.names == {destination.target.name, destination.previous.name}


def test_next_deployment_replaces_previous(here: Host, place: Place, database: Database, script: Script) -> None:
    for content in (b"1", b"2", b"3"):
        deploy_script(here, plan_deployment(here, database, Script(script.path, content)))
    assert (place.target.read_bytes(), place.previous.read_bytes()) == (b"3", b"2")
    assert place.names == {place.target.name, place.previous.name}


@as_root
def test_owner_and_mode_are_kept(here: Host, place: Place, database: Database, script: Script) -> None:
    script_of(place.target, OLD)
    os.chown(place.target, 12345, 23456)
    place.target.chmod(0o4750)
    deploy_script(here, plan_deployment(here, database, script))
    after = place.target.stat()
    assert (after.st_uid, after.st_gid, after.st_mode & 0o7777) == (12345, 23456, 0o4750)


@as_root
def test_first_deployment_has_owner_of_directory(here: Host, place: Place, database: Database, script: Script) -> None:
    os.chown(place.target.parent, 12345, 23456)
    deploy_script(here, plan_deployment(here, database, script))
    after = place.target.stat()
    assert (after.st_uid, after.st_gid, after.st_mode & 0o7777) == (12345, 23456, 0o755)


def test_directory_at_target_is_refused(here: Host, place: Place, script: Script) -> None:
    place.target.mkdir()
    for installed in (None, InstalledScript("755", OLD, SINCE)):
        with pytest.raises(StepError):
            deploy_script(here, Deployment(script, PurePosixPath(place.target), installed))
        assert list(place.target.iterdir()) == []
        assert place.names == {place.target.name}


def test_symlink_at_target_is_replaced(
    here: Host, tmp_path: Path, place: Place, database: Database, script: Script
) -> None:
    elsewhere = script_of(tmp_path / "elsewhere.sh", OLD, 0o700)
    place.target.symlink_to(elsewhere)
    change = plan_deployment(here, database, script)
    assert change.installed is not None
    assert (change.installed.content, change.installed.mode) == (OLD, "700")
    deploy_script(here, change)
    assert not place.target.is_symlink()
    assert (place.target.read_bytes(), place.target.stat().st_mode & 0o777) == (NEW, 0o700)
    assert elsewhere.read_bytes() == place.previous.read_bytes() == OLD


def test_missing_directory_is_reported(here: Host, tmp_path: Path, script: Script) -> None:
    with pytest.raises(StepError, match=r"could not deploy index-db-backup.sh") as caught:
        deploy_script(here, Deployment(script, PurePosixPath(tmp_path / "missing/x.sh"), None))
    assert "No such file or directory" in caught.value.output


def test_installed_script_is_checked_afterwards(here: Host, place: Place, script: Script) -> None:
    class Overwritten(Deployment):
        """Somebody else deploys at the same moment."""

        def command(self) -> str:
            return f"{super().command()}\necho other > {quote(self.target)}"

    with pytest.raises(StepError, match="differs"):
        deploy_script(here, Overwritten(script, PurePosixPath(place.target), None))


def test_script_may_exceed_argument_limit(here: Host, place: Place, script: Script) -> None:
    content = os.urandom(2 * LARGEST_ARGUMENT)
    deploy_script(here, Deployment(Script(script.path, content), PurePosixPath(place.target), None))
    assert place.target.read_bytes() == content


def test_command_contains_no_content(script: Script) -> None:
    assert "echo new" not in Deployment(script, PurePosixPath("/x"), None).command()


@ODD_FOLDERS
def test_installed_sha256_is_read(here: Host, tmp_path: Path, script: Script, name: str) -> None:
    target = tmp_path / name
    assert installed_sha256(here, PurePosixPath(target)) is None
    target.write_bytes(NEW)
    assert installed_sha256(here, PurePosixPath(target)) == script.sha256


# --- what the host must have ----------------------------------------------------------------------------------------


def test_sqlite_version_is_returned(here: Host) -> None:
    assert probe_sqlite(here).count(".") == 2


def test_every_missing_program_is_named(here: Host, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("demo_backups.backup.deploy.REQUIRED_TOOLS", (*REQUIRED_TOOLS, "no-such-tool", "nor-this"))
    with pytest.raises(CouldNotLookError, match="not on cron's PATH: no-such-tool, nor-this") as caught:
        require_tools(here)
    assert "install" in caught.value.advice


def test_unsupported_sqlite_is_refused(here: Host, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    script_of(tmp_path / "sqlite3", b"#!/bin/sh\necho 'Error: unknown option: -readonly' >&2; exit 1\n")
    monkeypatch.setattr("demo_backups.sqlite.command.CRON_PATH", f"{tmp_path}:/usr/bin:/bin")
    with pytest.raises(CouldNotLookError, match="sqlite3") as caught:
        probe_sqlite(here)
    assert caught.value.output == "Error: unknown option: -readonly"


def test_required_tools_are_sufficient(tmp_path: Path) -> None:
    folders = {name: tmp_path / name for name in ("bin", "backups")}
    for folder in folders.values():
        folder.mkdir()
    for tool in REQUIRED_TOOLS:
        found = shutil.which(tool)
        assert found is not None, tool
        (folders["bin"] / tool).symlink_to(found)
    make_index(tmp_path / "x.db", torrents=1)
    environment = {"DATABASE_FILE": str(tmp_path / "x.db"), "BACKUP_DIR": str(folders["backups"])}
    environment["PATH"] = str(folders["bin"])
    done = subprocess.run([SCRIPT], env=environment, capture_output=True, text=True, check=False)
    assert (done.returncode, done.stderr) == (0, "")
    assert len(list(folders["backups"].glob("backup_*.db"))) == 1


@pytest.mark.parametrize(
    "printed",
    [
        "",
        "welcome\n",
        "rwx 1 +0000\n",
        "755 9e99 +0000\n",
        "755 1\n",
        "755 1 east\n",
    ],
)
def test_invalid_answer_is_an_error(printed: str) -> None:
    with pytest.raises(ValueError, match=r"."):
        parse_installed(printed)


def test_installed_script_is_parsed() -> None:
    script = parse_installed("755 1.5 +0100\na")
    assert script == InstalledScript("755", b"a", datetime.fromtimestamp(1.5, timezone.utc))
    assert parse_installed("755 1.5 +0100\n") == replace(script, content=b"")
    assert parse_installed("missing\n") is None
