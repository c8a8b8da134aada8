"""Whether processes share the files next to a database: the parsers, and real mounts, links and services."""

from __future__ import annotations

import subprocess
from pathlib import Path, PurePosixPath

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from demo_backups.errors import CouldNotLookError
from demo_backups.remote.host import Host
from demo_backups.remote.processes import LockHolder
from demo_backups.sqlite.sharing import FileMount, Sharing, find_hidden, mounts_command, parse_mounts, read_sharing

from ..helpers.constants import EVERY_ODD_NAME, NOBODY, root_only
from ..helpers.databases import execute
from ..helpers.services import service_in_process, with_mount

INSERT = "INSERT INTO t VALUES (1)"


@pytest.fixture
def source(public_folder: Path) -> Path:
    """A database in WAL mode that every user may write."""
    folder = public_folder / "data"
    folder.mkdir()
    folder.chmod(0o777)
    path = folder / "sqlite3.db"
    execute(path, "PRAGMA journal_mode = wal", "CREATE TABLE t (x)")
    path.chmod(0o666)
    return path


def read(host: Host, source: Path, wal: bool = True) -> Sharing:
    """Read how the processes of this machine see a database."""
    return read_sharing(host, PurePosixPath(source), wal)


def is_clean(sharing: Sharing) -> bool:
    """Tell whether nothing is wrong or unknown."""
    return not sharing.problems and not sharing.unknown


# --- services -------------------------------------------------------------------------------------------------------


def test_usual_service_shares_its_files(local_host: Host, source: Path) -> None:
    assert is_clean(read(local_host, source))
    with service_in_process(source, INSERT), service_in_process(source):
        assert is_clean(read(local_host, source))
        assert is_clean(read(local_host, source, wal=False))


@EVERY_ODD_NAME
def test_mount_of_single_file_is_found(local_host: Host, tmp_path: Path, private_mounts: list[str], name: str) -> None:
    source, inside = tmp_path / name, tmp_path / f"{name} in the container"
    inside.touch()
    execute(source, "PRAGMA journal_mode = wal", "CREATE TABLE t (x)")
    with service_in_process(inside, INSERT, start=with_mount(private_mounts, source, inside)) as service:
        sharing = read(local_host, source)
        without_wal = read(local_host, source, wal=False)
    ((mount, processes),) = sharing.mounts
    assert (mount.path, mount.deleted) == (str(inside), False)
    assert [process.pid for process in processes] == [service.pid]
    assert [process.pid for process in sharing.other_wal] == [service.pid]
    assert [mount for mount, _ in without_wal.mounts] == [mount]
    assert is_clean(read(local_host, source))


def test_mount_is_found_before_service_opens_database(
    local_host: Host, source: Path, tmp_path: Path, private_mounts: list[str]
) -> None:
    inside, other = tmp_path / "inside.db", tmp_path / "other.db"
    inside.touch()
    with service_in_process(other, start=with_mount(private_mounts, source, inside)):
        sharing = read(local_host, source)
    assert len(sharing.mounts) == 1
    assert not sharing.other_wal


def test_replaced_file_of_mount_is_found(
    local_host: Host, source: Path, tmp_path: Path, private_mounts: list[str]
) -> None:
    inside = tmp_path / "inside.db"
    inside.touch()
    with service_in_process(inside, start=with_mount(private_mounts, source, inside)):
        execute(source.with_name("new"), "CREATE TABLE t (x)")
        source.with_name("new").rename(source)
        ((mount, _),) = read(local_host, source).mounts
    assert mount.deleted


def test_mount_of_directory_shares_files(
    local_host: Host, source: Path, tmp_path: Path, private_mounts: list[str]
) -> None:
    inside = tmp_path / "inside"
    inside.mkdir()
    start = with_mount(private_mounts, source.parent, inside)
    with service_in_process(inside / source.name, INSERT, start=start):
        assert is_clean(read(local_host, source))


@root_only
def test_directory_in_overlay_shares_files(
    local_host: Host, source: Path, public_folder: Path, private_mounts: list[str]
) -> None:
    """As in a container: its root is an overlay, with the directory of the database mounted in it."""
    for name in ("lower", "upper", "work", "root"):
        (public_folder / name).mkdir()
    (public_folder / "lower/data").mkdir()
    overlay = 'cd "$0"; mount -t overlay -o lowerdir=lower,upperdir=upper,workdir=work overlay root'
    script = f'{overlay}; mount --bind data root/data; exec "$@"'
    start = [*private_mounts, "sh", "-euc", script, str(public_folder)]
    with service_in_process(public_folder / "root/data" / source.name, INSERT, start=start):
        assert is_clean(read(local_host, source))


def test_hard_link_is_a_problem(local_host: Host, source: Path) -> None:
    source.with_name("other.db").hardlink_to(source)
    with service_in_process(source.with_name("other.db"), INSERT) as service:
        sharing = read(local_host, source)
    assert sharing.links == 2
    assert [process.pid for process in sharing.other_wal] == [service.pid]
    assert len(sharing.problems) == 2


@pytest.mark.parametrize("suffixes", [["-wal"], ["-wal", "-shm"]])
def test_deleted_wal_is_a_problem(local_host: Host, source: Path, suffixes: list[str]) -> None:
    with service_in_process(source, INSERT) as service:
        for suffix in suffixes:
            Path(f"{source}{suffix}").unlink()
        sharing = read(local_host, source)
    assert [process.pid for process in sharing.other_wal] == [service.pid]


@EVERY_ODD_NAME
def test_service_with_replaced_database_is_found(local_host: Host, tmp_path: Path, name: str) -> None:
    """As after a restore by `mv`, without a restart of the service."""
    source = tmp_path / name
    execute(source, "CREATE TABLE t (x)")
    execute(tmp_path / "new", "CREATE TABLE t (x)")
    with service_in_process(source, INSERT) as service:
        (tmp_path / "new").rename(source)
        for wal in (False, True):
            sharing = read(local_host, source, wal)
            assert [process.pid for process in sharing.deleted] == [service.pid]
            assert sharing.problems
    assert is_clean(read(local_host, source))


def test_replaced_database_in_container_is_found(
    local_host: Host, source: Path, tmp_path: Path, private_mounts: list[str]
) -> None:
    inside = tmp_path / "inside"
    inside.mkdir()
    start = with_mount(private_mounts, source.parent, inside)
    with service_in_process(inside / source.name, INSERT, start=start) as service:
        execute(source.with_name("new"), "CREATE TABLE t (x)")
        source.with_name("new").rename(source)
        assert [process.pid for process in read(local_host, source).deleted] == [service.pid]


def test_deleted_file_elsewhere_is_no_problem(local_host: Host, source: Path, tmp_path: Path) -> None:
    other = tmp_path / source.name
    execute(other, "CREATE TABLE t (x)")
    with service_in_process(other, INSERT):
        other.unlink()
        assert is_clean(read(local_host, source))


def test_wal_of_other_database_is_no_problem(local_host: Host, source: Path) -> None:
    other = source.with_name("other.db")
    execute(other, "PRAGMA journal_mode = wal", "CREATE TABLE t (x)")
    attach = f"ATTACH '{other}' AS other"
    with service_in_process(source, attach, INSERT, "INSERT INTO other.t VALUES (1)"):
        assert is_clean(read(local_host, source))


# --- other users ----------------------------------------------------------------------------------------------------


@root_only
def test_locks_tell_of_processes_of_other_users(local_host: Host, source: Path, as_nobody: None) -> None:
    with service_in_process(source, INSERT) as service:
        assert is_clean(read(local_host, source))
        for suffix in ("-wal", "-shm"):
            Path(f"{source}{suffix}").unlink()
        sharing = read(local_host, source)
    assert (sharing.problems, list(sharing.hidden)) == ([], [service.pid])
    assert str(service.pid) in sharing.unknown


@root_only
def test_mount_of_other_user_is_found(
    local_host: Host, source: Path, public_folder: Path, private_mounts: list[str], as_nobody: None
) -> None:
    inside = public_folder / "inside.db"
    inside.touch()
    with service_in_process(inside, INSERT, start=with_mount(private_mounts, source, inside)):
        assert len(read(local_host, source).mounts) == 1


@root_only
def test_hidden_processes_are_not_nothing(source: Path, private_mounts: list[str]) -> None:
    """With the option hidepid of /proc, as a user who is not root."""
    command = mounts_command(PurePosixPath(source))
    as_nobody = f"setpriv --reuid={NOBODY} --regid={NOBODY} --clear-groups"
    hide = f'mount -t proc -o hidepid=2 proc /proc; exec {as_nobody} sh -c "$0"'
    done = subprocess.run([*private_mounts, "sh", "-euc", hide, command], capture_output=True, text=True, check=True)
    assert parse_mounts(done.stdout, PurePosixPath(source)) == (1, False, [])


# --- the parsers ----------------------------------------------------------------------------------------------------

NAMES = st.text(st.characters(exclude_characters="/\0", exclude_categories=["Cs"]), min_size=1).filter(
    lambda name: name not in (".", "..")
)
PATHS = st.lists(NAMES, max_size=3).map(lambda names: "/" + "/".join(names))


def escape(path: str) -> str:
    """Escape a path as the kernel does (fs/proc_namespace.c)."""
    return "".join(f"\\{ord(letter):03o}" if letter in " \t\n\\" else letter for letter in path)


def mounts(*lines: str, links: str = "1", extent: str = "all", own: int = 1) -> str:
    """Make the output of the command."""
    return "\n".join([links, extent, "pos:\t0", "flags:\t0100000", f"mnt_id:\t{own}", "ino:\t9", *lines, "end"]) + "\n"


@settings(derandomize=True, deadline=None, max_examples=200)
@given(PATHS, PATHS, NAMES, PATHS, st.booleans())
def test_mounts_with_any_names_are_found(root: str, point: str, name: str, target: str, deleted: bool) -> None:
    path = f"{root.rstrip('/')}/{name}"
    output = mounts(
        f"1 0 8:1 {escape(root)} {escape(point)}",
        f"2 0 8:1 {escape(path)}{'//deleted' if deleted else ''} {escape(target)}",
        f"3 0 8:2 {escape(path)} {escape(target)}",
        f"4 0 8:1 {escape(path)}x {escape(target)}",
    )
    source = PurePosixPath(point) / name
    assert parse_mounts(output, source) == (1, True, [FileMount(2, target, deleted)])


@settings(derandomize=True, deadline=None, max_examples=200)
@given(st.text())
def test_other_text_is_no_list_of_mounts(output: str) -> None:
    with pytest.raises(ValueError, match=r"^|."):
        parse_mounts(output, PurePosixPath("/data/x.db"))


@pytest.mark.parametrize(
    "output",
    [
        mounts("1 0 8:1 / /", links="0"),
        mounts("1 0 8:1 / /", links="x"),
        mounts("1 0 8:1 / /", extent=""),
        mounts("1 0 8:1 / /", own=7),
        mounts("1 0 8:1 / /elsewhere"),
        mounts(),
    ],
)
def test_incomplete_mounts_are_an_error(output: str) -> None:
    with pytest.raises(ValueError, match=r"."):
        parse_mounts(output, PurePosixPath("/data/x.db"))


def test_source_that_is_a_mount_is_found() -> None:
    output = mounts("1 0 8:1 /data/x.db /app/x.db", "2 0 8:1 / /")
    assert parse_mounts(output, PurePosixPath("/app/x.db")) == (1, True, [FileMount(1, "/app/x.db")])


def test_invalid_answer_is_not_a_fact(local_host: Host, source: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("demo_backups.sqlite.sharing.mounts_command", lambda source: "echo")
    with pytest.raises(CouldNotLookError):
        read(local_host, source)


@pytest.mark.parametrize(
    ("holders", "hidden"),
    [
        ([], []),
        ([LockHolder(7, 0, True)], []),
        ([LockHolder(7, 0, False)], [7]),
        ([LockHolder(7, 0, False), LockHolder(7, 1, False)], []),
        ([LockHolder(7, 0, False), LockHolder(8, 1, False), LockHolder(-1, 0, False)], [-1, 7]),
    ],
)
def test_hidden_processes_by_their_locks(holders: list[LockHolder], hidden: list[int]) -> None:
    assert find_hidden(holders, database=0, shm=1) == hidden
