"""Who can write to the paths of a backup: nobody but root and the login account may."""

from __future__ import annotations

import os
import struct
import subprocess
from dataclasses import replace
from pathlib import Path, PurePosixPath

import pytest

from demo_backups.backup.permissions import (
    Access,
    Accounts,
    Entry,
    Users,
    describe_script_owner,
    find_backup_dir_problems,
    find_script_problems,
    observe_access,
    parse_accounts,
    parse_entries,
    parse_users,
    require_safe_paths,
)
from demo_backups.errors import CouldNotLookError, UnsafePathError
from demo_backups.remote.host import Host
from demo_backups.settings.model import Database

from ..helpers.constants import NOBODY, root_only

TORRUST, BOB = 1000, 1001
NAMES = {0: "root", TORRUST: "torrust", BOB: "bob"}
ACCOUNTS = Accounts(
    {uid: frozenset([name]) for uid, name in NAMES.items()},
    {0: frozenset(["root"]), TORRUST: frozenset(["torrust"]), BOB: frozenset(["bob"]), 50: frozenset()},
)


def entry(path: str, uid: int, mode: int, kind: str = "d", gid: int | None = None, links: int = 1) -> Entry:
    """Make an entry; the group is the user's own unless it is given."""
    gid = uid if gid is None else gid
    return Entry(PurePosixPath(path), kind, uid, NAMES[uid], gid, NAMES.get(gid, "staff"), mode, links)


ROOT_DIR = entry("/", 0, 0o755)
ACCESS = Access(
    users=Users(effective=0, login=TORRUST),
    accounts=ACCOUNTS,
    script=[
        ROOT_DIR,
        entry("/app", TORRUST, 0o755),
        entry("/app/bin", TORRUST, 0o775),
        entry("/app/bin/script.sh", TORRUST, 0o775, "f"),
    ],
    backup_dir=[ROOT_DIR, entry("/backups", 0, 0o750)],
    lock=entry("/backups/.backup.lock", 0, 0o600, "f"),
)


def change(index: int, **changes: object) -> Access:
    """Change one entry of the path of the script."""
    script = list(ACCESS.script)
    script[index] = replace(script[index], **changes)  # type: ignore[arg-type]
    return replace(ACCESS, script=script)


# --- decisions ------------------------------------------------------------------------------------------------------


def test_demo_server_is_accepted_with_note() -> None:
    assert find_script_problems(ACCESS) == []
    assert find_backup_dir_problems(ACCESS, strict=True) == []
    assert "torrust can change it" in (describe_script_owner(ACCESS) or "")
    as_torrust = replace(ACCESS, users=Users(TORRUST, TORRUST))
    assert describe_script_owner(as_torrust) is None


@pytest.mark.parametrize("index", range(4))
@pytest.mark.parametrize(
    "changes",
    [
        {"uid": BOB, "user": "bob"},
        {"mode": 0o757},
        {"mode": 0o775, "gid": BOB, "group": "bob"},
        {"mode": 0o775, "gid": 50, "group": "staff"},  # empty, but not the group of one user
        {"mode": 0o775, "gid": 77, "group": "77"},
    ],
    ids=["owner", "every user", "other group", "shared group", "unknown group"],
)
def test_script_that_others_can_replace(index: int, changes: dict[str, object]) -> None:
    access = change(index, **changes)
    (problem,) = find_script_problems(access)
    assert str(access.script[index].path) in problem.text
    assert problem.advice.startswith(("chown -h root -- ", "chmod go-w -- "))
    subprocess.run(["bash", "-n", "-c", problem.advice], check=True)


def test_group_with_other_member_is_not_private() -> None:
    members = {**ACCOUNTS.members, TORRUST: frozenset(["torrust", "bob"])}
    access = replace(ACCESS, accounts=replace(ACCOUNTS, members=members))
    assert [problem.text for problem in find_script_problems(access)] == [
        "the group torrust can write to /app/bin (mode 775)",
        "the group torrust can write to /app/bin/script.sh (mode 775)",
    ]


@pytest.mark.parametrize(("index", "accepted"), [(0, True), (1, True), (2, False), (3, False)])
def test_sticky_parent_is_accepted(index: int, accepted: bool) -> None:
    assert (find_script_problems(change(index, mode=0o1777)) == []) is accepted


def test_owner_of_link_decides() -> None:
    assert find_script_problems(change(1, type="l", mode=0o777)) == []
    assert find_script_problems(change(1, type="l", mode=0o777, uid=BOB, user="bob"))


@pytest.mark.parametrize(
    ("directory", "accepted", "accepted_by_script"),
    [
        (entry("/backups", 0, 0o755), True, True),
        (entry("/backups", 0, 0o2750, gid=50), True, True),
        (entry("/backups", TORRUST, 0o750), True, False),
        (entry("/backups", 0, 0o770), True, False),
        (entry("/backups", BOB, 0o700), False, False),
        (entry("/backups", 0, 0o1777), False, False),
        (entry("/backups", 0, 0o770, gid=50), False, False),
    ],
)
def test_owner_and_mode_of_backup_dir(directory: Entry, accepted: bool, accepted_by_script: bool) -> None:
    access = replace(ACCESS, backup_dir=[ROOT_DIR, directory])
    assert (find_backup_dir_problems(access) == []) is accepted
    assert (find_backup_dir_problems(access, strict=True) == []) is accepted_by_script


@pytest.mark.parametrize(
    ("lock", "accepted"),
    [
        (None, True),
        (entry("/backups/.backup.lock", 0, 0o600, "f"), True),
        (entry("/backups/.backup.lock", TORRUST, 0o600, "f"), True),
        (entry("/backups/.backup.lock", BOB, 0o600, "f"), False),
        (entry("/backups/.backup.lock", 0, 0o600, "f", links=2), False),
        (entry("/backups/.backup.lock", 0, 0o777, "l"), False),
        (entry("/backups/.backup.lock", 0, 0o600, "p"), False),
    ],
)
def test_lock_must_be_regular_file(lock: Entry | None, accepted: bool) -> None:
    assert (find_backup_dir_problems(replace(ACCESS, lock=lock)) == []) is accepted


# --- facts ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("output", ["", "0\n", "0 x\n", "-1 0\n", "0 0 0\n"])
def test_parse_users_rejects_other_output(output: str) -> None:
    with pytest.raises(ValueError, match=r"."):
        parse_users(output)


@pytest.mark.parametrize("output", ["/", "/\0", "/\0d 0\0", "/\0d x root 0 root 755 1 \0", "/\0d 0 root 0 root 9 1 \0"])
def test_parse_entries_rejects_other_output(output: str) -> None:
    with pytest.raises(ValueError, match=r"."):
        parse_entries(output)


def test_parse_accounts_with_primary_groups() -> None:
    accounts = parse_accounts("root:0:0\nbob:1001:1001\neve:1002:1001\n\nbob:1001:tom,ann\nend\n")
    assert accounts.names == {0: {"root"}, 1001: {"bob"}, 1002: {"eve"}}
    assert accounts.members == {1001: {"bob", "eve", "tom", "ann"}}


@pytest.mark.parametrize("output", ["", "\nend\n", "root:0:0\n", "\n\n", "root:0\n\nend\n", "a:0:0\n\nb:\nend\n"])
def test_parse_accounts_rejects_other_output(output: str) -> None:
    with pytest.raises(ValueError, match=r"."):
        parse_accounts(output)


def test_links_on_the_way_are_followed(local_host: Host, database: Database, tmp_path: Path) -> None:
    """A link leads to a directory below another link, and its directory is part of the way."""
    (tmp_path / "real/bin").mkdir(parents=True)
    (tmp_path / "links").mkdir()
    (tmp_path / "links/first").symlink_to("../second")
    (tmp_path / "second").symlink_to(tmp_path / "real")
    script = tmp_path / "real/bin/script.sh"
    script.touch()
    linked = replace(database, script=PurePosixPath(tmp_path / "links/first/bin/script.sh"))
    paths = [str(entry.path) for entry in observe_access(local_host, linked).script]
    names = ("links", "links/first", "second", "real", "real/bin", "real/bin/script.sh")
    assert paths[-len(names) :] == [str(tmp_path / name) for name in names]
    require_safe_paths(local_host, linked, with_script=True)
    (tmp_path / "links").chmod(0o777)
    with pytest.raises(UnsafePathError, match="links"):
        require_safe_paths(local_host, linked, with_script=True)


def test_endless_links_are_an_error(local_host: Host, database: Database, tmp_path: Path) -> None:
    (tmp_path / "loop").symlink_to("loop")
    linked = replace(database, script=PurePosixPath(tmp_path / "loop/script.sh"))
    with pytest.raises(CouldNotLookError):
        require_safe_paths(local_host, linked, with_script=True)


def test_private_group_may_write(local_host: Host, database: Database) -> None:
    """The group of the test's own user, as most systems create it, has no other members."""
    Path(database.script.parent).mkdir(parents=True)
    Path(database.script.parent).chmod(0o775)
    require_safe_paths(local_host, database, with_script=True)
    Path(database.backup_dir).chmod(0o770)
    with pytest.raises(UnsafePathError, match="mode 770"):
        require_safe_paths(local_host, database, strict=True)


def grant_write(path: Path, uid: int) -> None:
    """Let a user write to a directory by an ACL, as setfacl does, which need not be installed (acl(5))."""
    entries = [(0x01, 7, -1), (0x02, 7, uid), (0x04, 5, -1), (0x10, 7, -1), (0x20, 5, -1)]
    value = struct.pack("<I", 2) + b"".join(struct.pack("<HHi", *entry) for entry in entries)
    try:
        os.setxattr(path, "system.posix_acl_access", value)
    except OSError as error:
        pytest.skip(f"this file system has no ACLs: {error}")


@root_only  # whose group is private everywhere
@pytest.mark.parametrize("script", [True, False])
def test_directory_with_acl_is_refused(local_host: Host, database: Database, script: bool) -> None:
    folder = Path((database.script if script else database.lock).parent)
    folder.mkdir(parents=True, exist_ok=True)
    folder.chmod(0o775)
    require_safe_paths(local_host, database, with_script=True)
    grant_write(folder, NOBODY)
    with pytest.raises(UnsafePathError) as caught:
        require_safe_paths(local_host, database, with_script=True)
    assert f"an ACL lets others write to {folder}" in caught.value.output


def test_missing_paths_are_no_problem(local_host: Host, database: Database) -> None:
    Path(database.backup_dir).rmdir()
    access = observe_access(local_host, database)
    assert (access.backup_dir, access.lock) == ([], None)
    require_safe_paths(local_host, database, with_script=True, strict=True)


@root_only
def test_directory_of_sudo_user_is_accepted(
    local_host: Host, database: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    Path(database.script.parent).mkdir(parents=True)
    os.chown(database.script.parent, NOBODY, -1)
    with pytest.raises(UnsafePathError, match="nobody"):
        require_safe_paths(local_host, database, with_script=True)
    monkeypatch.setenv("SUDO_UID", str(NOBODY))
    require_safe_paths(local_host, database, with_script=True)
    assert "nobody can change it" in (describe_script_owner(observe_access(local_host, database)) or "")
