"""The archives of the configuration on a host: what the script packs, refuses, leaves and unpacks."""

from __future__ import annotations

import contextlib
import fcntl
import os
import pwd
import shutil
import socket
import stat
import subprocess
import tarfile
import threading
from collections.abc import Callable, Iterator
from pathlib import Path, PurePosixPath

import pytest

from demo_backups.backup import config_archive
from demo_backups.backup.archive import MOST_BYTES, MOST_FILES, check_archive
from demo_backups.backup.config_archive import (
    SHORT_WRITE,
    Packed,
    PathState,
    pack,
    parse_packed,
    parse_scan,
    parse_unpacked,
    require_config_paths,
    scan_paths,
    script_command,
    unpack,
)
from demo_backups.errors import ConfigArchiveError, CouldNotLookError, JobRunningError, SettingsError
from demo_backups.records.check import Outcome
from demo_backups.remote.host import Host
from demo_backups.remote.shell import quote
from demo_backups.settings.model import ConfigArchives, Settings

from ..helpers.archives import add, make_archive, make_archive_of_link, replace_sums
from ..helpers.programs import shadow_program

SECRET = "root's secret"
is_root = os.geteuid() == 0
needs_root = pytest.mark.skipif(not is_root, reason="needs root: owners, and files that only root can read")
needs_user = pytest.mark.skipif(is_root, reason="root can read everything")


@pytest.fixture
def archives(tmp_path: Path) -> ConfigArchives:
    """An application with some configuration, and the directory of its archives; the paths need quotes."""
    app, backups = tmp_path / "it's an app", tmp_path / "back ups"
    (app / "storage/etc/-odd").mkdir(parents=True)
    backups.mkdir()
    (app / ".env.production").write_text("PASSWORD=x\n")
    (app / ".env.production").chmod(0o600)
    (app / "storage/etc/index.toml").write_text("[index]\n")
    (app / "storage/etc/-odd/new\nline\\ ").write_text("odd")
    (app / "storage/etc/current").symlink_to("index.toml")
    (app / "storage").chmod(0o711)
    paths = (".env.production", "storage/etc")
    return ConfigArchives("config", PurePosixPath(backups), "config_", PurePosixPath(app), paths)


@pytest.fixture
def app(archives: ConfigArchives) -> Path:
    return Path(archives.app_dir)


@pytest.fixture
def backups(archives: ConfigArchives) -> Path:
    return Path(archives.backup_dir)


@pytest.fixture
def messages() -> list[str]:
    return []


Pack = Callable[..., Packed]


@pytest.fixture
def make(local_host: Host, archives: ConfigArchives, messages: list[str]) -> Pack:
    """Scan and pack, as the task does."""

    def scan_and_pack(*paths: str, floor: int = 0) -> Packed:
        selected = ConfigArchives("config", archives.backup_dir, "config_", archives.app_dir, paths or archives.paths)
        scan = scan_paths(local_host, selected, messages.append)
        return pack(local_host, selected, scan, floor, messages.append)

    return scan_and_pack


def names(folder: Path) -> list[str]:
    """The names in the backup directory, apart from the lock."""
    return sorted(path.name for path in folder.iterdir() if path.name != ".config.tar.lock")


def members(packed: Packed) -> dict[str, tarfile.TarInfo]:
    with tarfile.open(packed.archive) as tar:
        return {member.name: member for member in tar}


def assert_good(packed: Packed) -> None:
    checks = check_archive(Path(packed.archive))
    assert [check.outcome for check in checks] == [Outcome.PASSED] * 3, checks


def snapshot(folder: Path) -> dict[str, tuple[int, int, int, str]]:
    """Everything in a directory: mode, owner, group, and content or target."""
    found = {}
    for path in (folder, *folder.rglob("*")):
        status = path.lstat()
        content = str(path.readlink()) if path.is_symlink() else path.read_text() if path.is_file() else ""
        found[str(path.relative_to(folder))] = (status.st_mode, status.st_uid, status.st_gid, content)
    return found


# --- packing ----------------------------------------------------------------------------------------------------------


def test_archive_has_files_with_modes(make: Pack, backups: Path) -> None:
    packed = make()
    assert packed.is_new
    assert_good(packed)
    found = members(packed)
    assert list(found)[:3] == ["SHA256SUMS", "LIST", "files"]
    assert {name: stat.S_IMODE(member.mode) for name, member in found.items() if name.startswith("files/")} == {
        "files/.env.production": 0o600,
        "files/storage": 0o711,
        "files/storage/etc": 0o755,
        "files/storage/etc/-odd": 0o755,
        "files/storage/etc/-odd/new\nline\\ ": 0o644,
        "files/storage/etc/current": 0o777,
        "files/storage/etc/index.toml": 0o644,
    }
    assert names(backups) == [packed.archive.name]
    assert stat.S_IMODE(Path(packed.archive).stat().st_mode) == 0o600


def test_archive_is_made_only_after_change(make: Pack, app: Path, backups: Path) -> None:
    first = make()
    os.utime(app / ".env.production", (1, 1))
    assert make() == Packed(first.archive, is_new=False)
    (app / ".env.production").chmod(0o640)
    second = make()
    assert second.is_new
    (app / "storage/etc/index.toml").write_text("[other]\n")
    third = make()
    assert len({first.archive, second.archive, third.archive}) == 3
    assert names(backups) == sorted(packed.archive.name for packed in (first, second, third))


def test_archive_of_fast_clock_does_not_count(make: Pack, app: Path, backups: Path) -> None:
    """Otherwise each run would make one, and the thirty that stay would soon be all alike."""
    future = Path(make().archive).rename(backups / "config_2099-01-01_00-00-00.tar")
    os.utime(future, (4_070_908_800, 4_070_908_800))
    (app / ".env.production").write_text("PASSWORD=y\n")
    assert [make().is_new for _ in range(2)] == [True, False]


def test_damaged_newest_archive_is_replaced(make: Pack, backups: Path) -> None:
    first = make()
    content = bytearray(Path(first.archive).read_bytes())
    content[content.index(b"PASSWORD")] ^= 1
    Path(first.archive).write_bytes(content)
    second = make()
    assert (second.is_new, second.damaged) == (True, first.archive.name)
    assert_good(second)
    assert len(names(backups)) == 2


def test_missing_path_is_in_list(make: Pack, archives: ConfigArchives) -> None:
    packed = make(*archives.paths, "certificates/key.pem")
    assert_good(packed)
    with tarfile.open(packed.archive) as tar:
        file = tar.extractfile("LIST")
        assert file
        assert b"x:0:::0:0:files/certificates/key.pem//\0" in file.read()


@pytest.mark.parametrize(
    ("path", "state"),
    [
        ("nothing", PathState.MISSING),
        ("nothing/below", PathState.MISSING),
        (".env.production/below", PathState.MISSING),
        ("link", PathState.LINK),
        ("link/shadow", PathState.LINK),
        ("storage/up/.env.production", PathState.LINK),
        ("fifo", PathState.SPECIAL),
        ("fifo/below", PathState.MISSING),
        ("-dash", PathState.OK),
        ("new dir/with 'quotes' $(x)", PathState.OK),
    ],
)
def test_state_of_path_is_found(
    local_host: Host, archives: ConfigArchives, app: Path, path: str, state: PathState
) -> None:
    (app / "link").symlink_to("/etc")
    (app / "storage/up").symlink_to("..")
    os.mkfifo(app / "fifo")
    (app / "-dash").touch()
    (app / "new dir/with 'quotes' $(x)").mkdir(parents=True)
    selected = ConfigArchives("config", archives.backup_dir, "config_", archives.app_dir, (path,))
    (scan,) = scan_paths(local_host, selected, lambda text: None).paths
    assert (scan.path, scan.state) == (path, state)


def test_special_files_are_left_out(make: Pack, local_host: Host, archives: ConfigArchives, app: Path) -> None:
    os.mkfifo(app / "storage/etc/pipe")
    folder = os.open(app / "storage/etc", os.O_RDONLY)
    with socket.socket(socket.AF_UNIX) as server:
        server.bind(f"/proc/self/fd/{folder}/socket")  # the whole path is too long for one
    os.close(folder)
    scan = scan_paths(local_host, archives, lambda text: None)
    assert sorted(scan.special) == ["storage/etc/pipe", "storage/etc/socket"]
    packed = make()
    assert_good(packed)
    assert not {"files/storage/etc/pipe", "files/storage/etc/socket"} & members(packed).keys()


def test_hard_links_are_packed_as_files(make: Pack, app: Path) -> None:
    os.link(app / ".env.production", app / "storage/etc/same")
    packed = make()
    assert_good(packed)
    assert members(packed)["files/storage/etc/same"].isreg()


@contextlib.contextmanager
def exchanging(path: Path, decoy: Path) -> Iterator[None]:
    """Exchange a path for a decoy and back, as fast as possible, as its owner could."""
    end = threading.Event()

    def exchange() -> None:
        aside = path.with_name("aside")
        while not end.is_set():
            path.rename(aside)
            decoy.rename(path)
            path.rename(decoy)
            aside.rename(path)

    thread = threading.Thread(target=exchange)
    thread.start()
    try:
        yield
    finally:
        end.set()
        thread.join()


@pytest.mark.parametrize(
    ("victim", "kind"),
    [(".env.production", "pipe"), ("storage/etc", "link"), ("storage", "link"), ("storage/etc/index.toml", "link")],
)
def test_exchanged_file_is_not_followed(
    make: Pack, tmp_path: Path, app: Path, backups: Path, victim: str, kind: str
) -> None:
    secrets = tmp_path / "secrets"
    (secrets / "etc").mkdir(parents=True)
    for path in (secrets / "index.toml", secrets / "etc/index.toml", secrets / "file"):
        path.write_text(SECRET)
    decoy = app / "decoy"
    if kind == "link":
        decoy.symlink_to(secrets / "file" if (app / victim).is_file() else secrets)
    else:
        os.mkfifo(decoy)
    with exchanging(app / victim, decoy):
        for _ in range(2):
            with contextlib.suppress(ConfigArchiveError, CouldNotLookError):
                make()
    for name in names(backups):
        assert SECRET.encode() not in (backups / name).read_bytes()
        assert [check.outcome for check in check_archive(backups / name)] == [Outcome.PASSED] * 3


def test_directory_exchanged_after_look_is_not_entered(
    local_host: Host,
    archives: ConfigArchives,
    app: Path,
    backups: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    scan = scan_paths(local_host, archives, lambda text: None)
    (tmp_path / "secrets/etc").mkdir(parents=True)
    (tmp_path / "secrets/etc/index.toml").write_text(SECRET)
    exchange = f"mv storage aside && ln -s '{tmp_path}/secrets' storage"
    body = f'/usr/bin/find "$@"; code=$?; case "$*" in "./storage -maxdepth"*) {exchange} ;; esac; exit $code'
    shadow_program(tmp_path / "programs", "find", body, monkeypatch)
    with pytest.raises(ConfigArchiveError):
        pack(local_host, archives, scan, 0, lambda text: None)
    assert (app / "aside").exists()
    assert names(backups) == []


def test_link_of_other_user_is_refused(local_host: Host, archives: ConfigArchives, app: Path, tmp_path: Path) -> None:
    if not is_root:
        pytest.skip("needs root: a link of another user")
    link = tmp_path / "link"
    link.symlink_to(app)
    os.chown(link, 12345, 12345, follow_symlinks=False)
    selected = ConfigArchives("config", archives.backup_dir, "config_", PurePosixPath(link), archives.paths)
    with pytest.raises(CouldNotLookError):
        scan_paths(local_host, selected, lambda text: None)
    os.chown(link, 0, 0, follow_symlinks=False)
    assert all(path.state is PathState.OK for path in scan_paths(local_host, selected, lambda text: None).paths)


def test_growing_file_is_an_error(make: Pack, app: Path, backups: Path, messages: list[str]) -> None:
    end = threading.Event()

    def grow() -> None:
        with (app / "storage/etc/log").open("ab", buffering=0) as file:
            while not end.is_set():
                file.write(b"x" * 1000)

    (app / "storage/etc/log").write_bytes(b"x" * 20_000_000)
    thread = threading.Thread(target=grow)
    thread.start()
    try:
        with pytest.raises(ConfigArchiveError) as caught:
            make()
    finally:
        end.set()
        thread.join()
    assert "log" not in str(caught.value)
    assert "log" in messages[0]
    assert names(backups) == []


def test_error_has_no_names_of_files(
    make: Pack, app: Path, backups: Path, messages: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(config_archive, "MOST_BYTES", -(2**26) + 1000)
    with pytest.raises(ConfigArchiveError) as caught:
        make()
    assert "env.production" not in str(caught.value)
    assert "env.production" in "".join(messages)
    assert names(backups) == []


@needs_user
@pytest.mark.parametrize("path", [".env.production", "storage/etc"])
def test_unreadable_file_is_an_error(make: Pack, app: Path, backups: Path, path: str) -> None:
    (app / path).chmod(0)
    with pytest.raises((ConfigArchiveError, CouldNotLookError)):
        make()
    (app / path).chmod(0o700)
    assert names(backups) == []


def test_too_little_space_is_an_error(make: Pack, backups: Path) -> None:
    with pytest.raises(ConfigArchiveError):
        make(floor=2**60)
    assert names(backups) == []


@pytest.mark.parametrize("size", [2, 5, 8])
def test_full_disk_leaves_nothing(
    archives: ConfigArchives, app: Path, backups: Path, private_mounts: list[str], size: int
) -> None:
    (app / "storage/etc/large").write_bytes(os.urandom(3 * 2**20))
    command = script_command("pack", app, backups, 0, MOST_BYTES, MOST_FILES, len(archives.paths), *archives.paths)
    mount = f"mount -t tmpfs -o size={size}m,mode=755 tmpfs {quote(str(backups))}"
    script = f"{mount} && ( {command} ); echo $?; ls -A {quote(str(backups))}"
    done = subprocess.run([*private_mounts, "sh", "-c", script], capture_output=True, text=True, check=False)
    assert SHORT_WRITE in done.stderr
    status, *listed = done.stdout.splitlines()
    assert int(status) in (1, 2)
    assert listed == [".config.tar.lock"]


def test_leftovers_of_killed_run_are_cleared(make: Pack, backups: Path, app: Path) -> None:
    part = backups / ".config.tar.part"
    shutil.copytree(app, part, symlinks=True)
    (part / "storage/etc").chmod(0o500)
    packed = make()
    assert names(backups) == [packed.archive.name]


def test_second_run_at_once_is_refused(make: Pack, backups: Path) -> None:
    with (backups / ".config.tar.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        with pytest.raises(JobRunningError):
            make()
    assert make().is_new


def test_newest_thirty_archives_stay(make: Pack, backups: Path) -> None:
    for day in range(1, 32):
        path = backups / f"config_2026-01-{day:02}_00-00-00.tar"
        path.write_bytes(b"old")
        os.utime(path, (day, day))
    (backups / "config_notes.tar").touch()
    packed = make()
    kept = [f"config_2026-01-{day:02}_00-00-00.tar" for day in range(3, 32)]
    assert names(backups) == sorted([*kept, packed.archive.name, "config_notes.tar"])


# --- unpacking --------------------------------------------------------------------------------------------------------


def test_unpacked_files_are_those_packed(
    make: Pack, local_host: Host, app: Path, tmp_path: Path, messages: list[str]
) -> None:
    (app / "storage/etc").chmod(0o2750)
    (app / ".env.production").chmod(0o4600)
    if is_root:
        user = pwd.getpwnam("nobody")
        os.chown(app / "storage/etc/index.toml", user.pw_uid, user.pw_gid)
        os.chown(app / "storage/etc/current", user.pw_uid, user.pw_gid, follow_symlinks=False)
        os.chown(app, user.pw_uid, user.pw_gid)
    packed = make()
    target = tmp_path / "new"
    unpacked = unpack(local_host, packed.archive, PurePosixPath(target), 0, messages.append)
    assert snapshot(target) == snapshot(app)
    assert (unpacked.files, unpacked.unknown) == (3, [])
    assert [path.name for path in tmp_path.iterdir() if path.name.startswith(".")] == []


@needs_root
def test_unknown_owner_becomes_root(make: Pack, local_host: Host, app: Path, tmp_path: Path) -> None:
    os.chown(app / ".env.production", 54321, 54321)
    packed = make()
    target = tmp_path / "new"
    unpacked = unpack(local_host, packed.archive, PurePosixPath(target), 0, lambda text: None)
    assert unpacked.unknown == ["user 54321", "group 54321"]
    assert ((target / ".env.production").stat().st_uid, (target / ".env.production").stat().st_gid) == (0, 0)


def test_empty_directory_keeps_its_mode(make: Pack, local_host: Host, tmp_path: Path) -> None:
    target = tmp_path / "new"
    target.mkdir(mode=0o705)
    target.chmod(0o705)
    unpack(local_host, make().archive, PurePosixPath(target), 0, lambda text: None)
    assert stat.S_IMODE(target.stat().st_mode) == 0o705
    assert (target / "storage/etc/index.toml").exists()


@pytest.mark.parametrize("kind", ["file", "full", "link", "dangling"])
def test_existing_target_is_never_changed(make: Pack, local_host: Host, tmp_path: Path, kind: str) -> None:
    target, other = tmp_path / "new", tmp_path / "other"
    other.mkdir()
    match kind:
        case "file":
            target.write_text("content")
        case "full":
            target.mkdir()
            (target / "file").write_text("content")
        case "link":
            target.symlink_to(other)
        case "dangling":
            target.symlink_to("nothing")
    before = snapshot(tmp_path)
    packed = make()
    with pytest.raises(ConfigArchiveError):
        unpack(local_host, packed.archive, PurePosixPath(target), 0, lambda text: None)
    after = snapshot(tmp_path)
    assert {name: value for name, value in after.items() if not name.startswith("back ups")} == {
        name: value for name, value in before.items() if not name.startswith("back ups")
    }


@pytest.mark.parametrize("offset", ["PASSWORD", "files/.env", "f:600:", "  LIST"])
def test_damaged_archive_is_not_unpacked(make: Pack, local_host: Host, tmp_path: Path, offset: str) -> None:
    packed = make()
    content = bytearray(Path(packed.archive).read_bytes())
    content[content.index(offset.encode()) + 3] ^= 1
    Path(packed.archive).write_bytes(content)
    with pytest.raises(ConfigArchiveError):
        unpack(local_host, packed.archive, PurePosixPath(tmp_path / "new"), 0, lambda text: None)
    assert not any("new" in path.name for path in tmp_path.iterdir())


@pytest.mark.parametrize("name", ["files/etc/passwd", "files/../../escaped", "LIST"])
def test_hostile_archive_is_not_unpacked(local_host: Host, tmp_path: Path, name: str) -> None:
    outside = tmp_path / "outside"
    outside.mkdir()
    archive = make_archive(tmp_path / "config.tar", {"x": b"x"}, links={"etc": str(outside)})
    with tarfile.open(archive, "a") as tar:
        add(tar, name, b"hostile")
    with pytest.raises(ConfigArchiveError):
        unpack(local_host, PurePosixPath(archive), PurePosixPath(tmp_path / "new"), 0, lambda text: None)
    assert list(outside.iterdir()) == []
    assert sorted(path.name for path in tmp_path.iterdir() if "home" not in path.name) == ["config.tar", "outside"]


def test_link_in_place_of_directory_changes_nothing(local_host: Host, tmp_path: Path) -> None:
    outside, target = tmp_path / "outside", tmp_path / "new"
    outside.mkdir(mode=0o700)
    target.mkdir(mode=0o755)
    archive = make_archive_of_link(tmp_path / "config.tar", outside)
    with pytest.raises(ConfigArchiveError):
        unpack(local_host, PurePosixPath(archive), PurePosixPath(target), 0, lambda text: None)
    assert stat.S_IMODE(outside.stat().st_mode) == 0o700
    assert list(target.iterdir()) == []


def test_only_unpacked_files_are_read(local_host: Host, tmp_path: Path) -> None:
    """No device that a list of checksums names: this one has no end."""
    archive = make_archive(tmp_path / "config.tar", {"x": b"x"})
    replace_sums(archive, f"{'0' * 64}  /dev/zero\n{'0' * 64}  LIST\n".encode())
    with pytest.raises(ConfigArchiveError):
        unpack(local_host, PurePosixPath(archive), PurePosixPath(tmp_path / "new"), 0, lambda text: None)


def test_sparse_archive_is_not_unpacked(local_host: Host, tmp_path: Path, messages: list[str]) -> None:
    archive, source = make_archive(tmp_path / "config.tar", {"x": b"x"}), tmp_path / "source/files"
    source.mkdir(parents=True)
    with (source / "large").open("wb") as file:
        file.truncate(2**40)
    subprocess.run(["tar", "-rSf", archive, "-C", source.parent, "files/large"], check=True)
    with pytest.raises(ConfigArchiveError):
        unpack(local_host, PurePosixPath(archive), PurePosixPath(tmp_path / "new"), 0, messages.append)
    assert "larger" in messages[0]


def test_leftovers_of_killed_restore_are_cleared(make: Pack, local_host: Host, tmp_path: Path, app: Path) -> None:
    shutil.copytree(app, tmp_path / ".new.part", symlinks=True)
    unpack(local_host, make().archive, PurePosixPath(tmp_path / "new"), 0, lambda text: None)
    assert snapshot(tmp_path / "new") == snapshot(app)
    assert not (tmp_path / ".new.part").exists()


# --- settings and answers ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize("paths", [(), ("storage",), ("storage/index/lib/database/sqlite3.db",), (".env", "backups")])
def test_wrong_config_paths_are_refused(project_settings: Settings, paths: tuple[str, ...]) -> None:
    changes = {"config_paths": paths, "backup_dir": project_settings.app_dir / "backups/daily"}
    with pytest.raises(SettingsError):
        require_config_paths(project_settings.model_copy(update=changes))


def test_config_paths_are_normalized(project_settings: Settings) -> None:
    settings = project_settings.model_copy(update={"config_paths": ("./a", "a", "b//c/", "d/./e")})
    assert require_config_paths(settings).paths == ("a", "b/c", "d/e")


@pytest.mark.parametrize(
    ("parse", "output"),
    [
        (parse_scan, ""),
        (parse_scan, "ok\x001\x00end"),
        (parse_scan, "ok\x00-1\x001\x00x\x00end"),
        (parse_scan, "good\x001\x001\x00x\x00end"),
        (parse_unpacked, ""),
        (parse_unpacked, "result: files x\nresult: bytes 1\n"),
        (parse_unpacked, "other: files 1\nresult: bytes 1\n"),
    ],
)
def test_unexpected_answer_is_refused(parse: Callable[[str], object], output: str) -> None:
    with pytest.raises((ValueError, LookupError)):
        parse(output)


@pytest.mark.parametrize("name", ["../../etc/passwd", "config_x.tar", "/etc/config_2026-01-01_00-00-00.tar", ""])
def test_other_name_of_archive_is_refused(archives: ConfigArchives, name: str) -> None:
    with pytest.raises(ValueError, match=r"."):
        parse_packed(archives, f"result: created {name}\n")
