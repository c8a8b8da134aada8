"""Deploying a script: what would change, what is refused, and what is in place afterwards."""

from __future__ import annotations

import os
import shutil
import subprocess
from collections.abc import Callable
from dataclasses import replace
from datetime import datetime, timezone
from pathlib import Path, PurePosixPath

import pytest

from demo_backups.backup.deploy import (
    REQUIRED_TOOLS,
    Deployment,
    check_deployment,
    deploy_script,
    missing_tools_command,
    parse_installed,
    plan_deployment,
    read_installed_sha256,
)
from demo_backups.backup.script import InstalledScript, Script
from demo_backups.errors import CouldNotLookError, StepError
from demo_backups.remote.files import FileWrite
from demo_backups.remote.host import Host, Result
from demo_backups.remote.shell import quote
from demo_backups.settings.model import Database, Settings

from ..helpers.constants import ODD_NAMES, SCRIPT, root_only
from ..helpers.shell import run_sh

NEW = b"#!/bin/sh\necho new\n"
OLD = b"#!/bin/sh\necho old\n"
TIME = datetime(2026, 11, 24, 20, tzinfo=timezone.utc)
ODD_FOLDERS = pytest.mark.parametrize("name", ["bin", *ODD_NAMES.values()], ids=["usual", *ODD_NAMES])
TARGET = PurePosixPath("/srv/it's/x.sh")


@pytest.fixture
def script(tmp_path: Path) -> Script:
    """The script to deploy."""
    return Script(tmp_path / "index-db-backup.sh", NEW)


@pytest.fixture
def target(tmp_path: Path) -> Path:
    """The path of the script on the host, in an empty folder."""
    folder = tmp_path / 'it\'s a "folder" with 100% \\t'
    folder.mkdir()
    return folder / "index-db-backup.sh"


@pytest.fixture
def deploy(local_host: Host, project_settings: Settings, script: Script) -> Callable[[Path], Deployment]:
    """Deploy the script to a path on this machine."""

    def deploy_to(target: Path) -> Deployment:
        deployment = plan_deployment(local_host, with_script(project_settings, target), script)
        deploy_script(local_host, deployment)
        return deployment

    return deploy_to


def with_script(settings: Settings, target: Path) -> Database:
    """Return a database whose script belongs at a path."""
    return replace(settings.database("index"), script=PurePosixPath(target))


def install(target: Path, content: bytes = OLD, mode: int = 0o755) -> Path:
    """Install a script as it was before."""
    target.write_bytes(content)
    target.chmod(mode)
    return target


def names(target: Path) -> set[str]:
    """Return the names in the folder of a script."""
    return {path.name for path in target.parent.iterdir()}


def previous(target: Path) -> Path:
    """Return the path of the copy of the old script."""
    return target.with_name(f"{target.name}.previous")


# --- the plan -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("content", "is_needed"), [(None, True), (OLD, True), (b"", True), (NEW + b"\n", True), (NEW, False)]
)
def test_deployment_is_needed_for_other_content(script: Script, content: bytes | None, is_needed: bool) -> None:
    installed = None if content is None else InstalledScript("755", content, TIME)
    assert Deployment(script, TARGET, installed).is_needed is is_needed


def test_diff_has_removed_and_added_lines(script: Script) -> None:
    lines = Deployment(script, TARGET, InstalledScript("755", OLD, TIME)).diff().splitlines()
    assert lines[2:] == ["@@ -1,2 +1,2 @@", " #!/bin/sh", "-echo old", "+echo new"]
    assert str(TARGET) in lines[0]
    assert script.path.name in lines[1]


def test_diff_without_script_or_change(script: Script) -> None:
    assert Deployment(script, TARGET, None).diff().splitlines()[0] == "--- /dev/null"
    assert Deployment(script, TARGET, InstalledScript("755", NEW, TIME)).diff() == ""


def test_diff_accepts_binary_content(script: Script) -> None:
    assert "-\ufffd" in Deployment(script, TARGET, InstalledScript("755", b"\xff\n", TIME)).diff()


@pytest.mark.parametrize(
    ("mode", "is_refused"), [("644", True), ("4600", True), ("755", False), ("100", False), ("2710", False)]
)
def test_mode_without_execution_is_refused(local_host: Host, script: Script, mode: str, is_refused: bool) -> None:
    deployment = Deployment(script, TARGET, InstalledScript(mode, OLD, TIME))
    if not is_refused:
        check_deployment(local_host, deployment)
        return
    with pytest.raises(StepError, match=mode) as caught:
        check_deployment(local_host, deployment)
    assert caught.value.advice.endswith("chmod 755 '/srv/it'\"'\"'s/x.sh'")


# --- the installed script -------------------------------------------------------------------------------------------


@ODD_FOLDERS
def test_installed_script_is_read(
    local_host: Host, project_settings: Settings, tmp_path: Path, script: Script, name: str
) -> None:
    target = tmp_path / name / "x.sh"
    target.parent.mkdir()
    database = with_script(project_settings, target)
    assert plan_deployment(local_host, database, script).installed is None
    install(target, b"\x00\xff\r\n" * 30, 0o4750)
    installed = plan_deployment(local_host, database, script).installed
    assert installed is not None
    assert (installed.mode, installed.content) == ("4750", b"\x00\xff\r\n" * 30)
    assert installed.changed.timestamp() == pytest.approx(target.stat().st_ctime, abs=1e-5)


def test_empty_script_is_not_missing(
    local_host: Host, project_settings: Settings, target: Path, script: Script
) -> None:
    install(target, b"")
    installed = plan_deployment(local_host, with_script(project_settings, target), script).installed
    assert installed is not None
    assert installed.content == b""


def test_unreadable_script_is_not_missing(
    local_host: Host, project_settings: Settings, target: Path, script: Script
) -> None:
    database = with_script(project_settings, target)
    target.mkdir()
    with pytest.raises(CouldNotLookError):
        plan_deployment(local_host, database, script)
    target.rmdir()
    target.parent.rmdir()
    with pytest.raises(CouldNotLookError):
        plan_deployment(local_host, database, script)


def test_parse_installed_output() -> None:
    installed = parse_installed("755 1.5 +0100\na\udcff")
    assert installed == InstalledScript("755", b"a\xff", datetime.fromtimestamp(1.5, timezone.utc))
    assert parse_installed("755 1.5 +0100\n") == replace(installed, content=b"")
    assert parse_installed("missing\n") is None


@pytest.mark.parametrize(
    "output", ["", "welcome\n", "rwx 1 +0000\n", "755 9e99 +0000\n", "755 1\n", "755 1 east\n", "missing"]
)
def test_parse_installed_rejects_other_output(output: str) -> None:
    with pytest.raises(ValueError, match=r"."):
        parse_installed(output)


@ODD_FOLDERS
def test_installed_sha256_is_read(local_host: Host, tmp_path: Path, script: Script, name: str) -> None:
    target = tmp_path / name
    assert read_installed_sha256(local_host, PurePosixPath(target)) is None
    target.write_bytes(NEW)
    assert read_installed_sha256(local_host, PurePosixPath(target)) == script.sha256


# --- deployed -------------------------------------------------------------------------------------------------------


@ODD_FOLDERS
def test_first_deployment_adds_script_only(deploy: Callable[[Path], Deployment], tmp_path: Path, name: str) -> None:
    target = tmp_path / name / f"{name}.sh"
    target.parent.mkdir()
    deploy(target)
    assert target.read_bytes() == NEW
    assert target.stat().st_mode & 0o7777 == 0o755
    assert names(target) == {target.name}


@ODD_FOLDERS
def test_replaced_script_is_kept(deploy: Callable[[Path], Deployment], tmp_path: Path, name: str) -> None:
    target = tmp_path / name / f"{name}.sh"
    target.parent.mkdir()
    before = install(target, OLD, 0o710).stat()
    deploy(target)
    assert (target.read_bytes(), previous(target).read_bytes()) == (NEW, OLD)
    assert target.stat().st_mode == before.st_mode
    assert previous(target).stat().st_ino == before.st_ino  # the same file: a run that reads it is not disturbed
    assert names(target) == {target.name, previous(target).name}


def test_next_deployment_replaces_kept_script(
    local_host: Host, project_settings: Settings, target: Path, script: Script
) -> None:
    for content in (b"1", b"2", b"3"):
        newer = replace(script, content=content)
        deploy_script(local_host, plan_deployment(local_host, with_script(project_settings, target), newer))
    assert (target.read_bytes(), previous(target).read_bytes()) == (b"3", b"2")
    assert names(target) == {target.name, previous(target).name}


@root_only
def test_owner_and_mode_are_kept(deploy: Callable[[Path], Deployment], target: Path) -> None:
    install(target)
    os.chown(target, 12345, 23456)
    target.chmod(0o4750)
    deploy(target)
    status = target.stat()
    assert (status.st_uid, status.st_gid, status.st_mode & 0o7777) == (12345, 23456, 0o4750)


@root_only
def test_first_deployment_has_owner_of_folder(deploy: Callable[[Path], Deployment], target: Path) -> None:
    os.chown(target.parent, 12345, 23456)
    deploy(target)
    status = target.stat()
    assert (status.st_uid, status.st_gid, status.st_mode & 0o7777) == (12345, 23456, 0o755)


def test_link_is_replaced_and_its_target_kept(
    deploy: Callable[[Path], Deployment], tmp_path: Path, target: Path
) -> None:
    elsewhere = install(tmp_path / "elsewhere.sh", OLD, 0o700)
    target.symlink_to(elsewhere)
    installed = deploy(target).installed
    assert installed is not None
    assert (installed.content, installed.mode) == (OLD, "700")
    assert not target.is_symlink()
    assert (target.read_bytes(), target.stat().st_mode & 0o777) == (NEW, 0o700)
    assert elsewhere.read_bytes() == previous(target).read_bytes() == OLD


def test_missing_folder_is_an_error(local_host: Host, tmp_path: Path, script: Script) -> None:
    with pytest.raises(StepError) as caught:
        deploy_script(local_host, Deployment(script, PurePosixPath(tmp_path / "missing/x.sh"), None))
    assert "No such file" in caught.value.output


def test_other_script_in_place_is_an_error(local_host: Host, target: Path, script: Script) -> None:
    class OverwrittenFile(FileWrite):
        """Somebody else deploys at the same moment."""

        def command(self) -> str:
            return f"{super().command()}\necho other > {quote(self.target)}"

    class OverwrittenDeployment(Deployment):
        @property
        def write(self) -> FileWrite:
            return OverwrittenFile(**vars(super().write))

    with pytest.raises(StepError, match=str(target.name)) as caught:
        deploy_script(local_host, OverwrittenDeployment(script, PurePosixPath(target), None))
    assert f"{target}.previous" in caught.value.advice


def test_script_is_in_no_command(local_host: Host, target: Path, script: Script) -> None:
    deploy_script(local_host, Deployment(script, PurePosixPath(target), None))
    assert local_host.commands
    assert not [command for command in local_host.commands if "echo new" in command]


# --- the programs that the script calls -----------------------------------------------------------------------------


def test_missing_tools_by_path_of_cron(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "of-the-login-shell").touch(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}:{os.environ['PATH']}")
    result = run_sh(missing_tools_command(["cat", "no-such-tool", "of-the-login-shell"]))
    assert result == Result(0, f"no-such-tool \nof-the-login-shell {tmp_path}/of-the-login-shell\nend\n", "")
    assert run_sh(missing_tools_command(["cat", "sh"])) == Result(0, "end\n", "")


def test_required_tools_suffice_for_script(tmp_path: Path, index_file: Path) -> None:
    programs = tmp_path / "bin"
    backups = tmp_path / "backups"
    for folder in (programs, backups):
        folder.mkdir()
    for tool in REQUIRED_TOOLS:
        path = shutil.which(tool)
        assert path is not None, tool
        (programs / tool).symlink_to(path)
    environment = {"DATABASE_FILE": str(index_file), "BACKUP_DIR": str(backups), "PATH": str(programs)}
    done = subprocess.run([SCRIPT], env=environment, capture_output=True, text=True, check=False)
    assert (done.returncode, done.stderr) == (0, "")
    assert len(list(backups.glob("backup_*.db"))) == 1
