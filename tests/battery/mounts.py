"""Small disks of their own, mounted over directories of the machine, in a mount namespace that nothing else sees."""

from __future__ import annotations

import contextlib
import errno
import functools
import itertools
import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from ..helpers.processes import wait_until

MARK = "BATTERY_PRIVATE_MOUNTS"  # the namespace of the battery, as /proc names it
SIZE = 96  # MiB
INODES = 2000
IMAGES = Path("/dev/shm") if os.access("/dev/shm", os.W_OK) else None  # so that flushing takes no time
BLOCK = 4096

# sshd of root needs its directory: in a namespace of its own, it would not see what is mounted later. libfaketime
# leaves files in /dev/shm, and a later process with the same ID ends because of them.
ENTER = f"""\
[ -e /run/sshd ] || {{ mount -t tmpfs -o mode=755 tmpfs /run && mkdir -m 755 /run/sshd; }}
mount -t tmpfs -o mode=1777 tmpfs /dev/shm
export {MARK}="$(readlink /proc/self/ns/mnt)"
exec "$@"
"""


def enter_private_mounts() -> None:
    """Start this program again in a mount namespace of its own, if that is possible; call it first of all."""
    if os.environ.get(MARK) == _namespace() or missing_for_mounts():
        return
    start = ["unshare", "--mount", "--", "sh", "-euc", ENTER, "sh"]
    os.execvp("unshare", [*start, sys.executable, *sys.orig_argv[1:]])


def has_private_mounts() -> bool:
    """Tell whether what is mounted is not seen by other programs of this machine."""
    return os.environ.get(MARK) == _namespace()


@functools.cache
def missing_for_mounts() -> str | None:
    """Say why nothing can be mounted; None if that is possible."""
    if os.geteuid() != 0:
        return "needs root, to mount small disks"
    missing = [
        program for program in ("unshare", "mount", "umount", "mkfs.ext4", "e2fsck") if not shutil.which(program)
    ]
    return f"not installed: {', '.join(missing)}" if missing else _try_mount()


def _try_mount() -> str | None:
    script = "mount -t tmpfs tmpfs /mnt && truncate -s 4M /mnt/image && mkfs.ext4 -q /mnt/image && mkdir /mnt/disk && "
    script += "mount -o loop /mnt/image /mnt/disk"
    tried = subprocess.run(["unshare", "--mount", "sh", "-c", script], capture_output=True, text=True, check=False)
    return f"no small disk can be mounted: {tried.stderr.strip()}" if tried.returncode else None


def _namespace() -> str:
    return str(Path("/proc/self/ns/mnt").readlink())


class FilledDisk:
    """A file system in memory that can be filled to its last byte, or its last inode."""

    def __init__(self, directory: Path) -> None:
        self.directory = directory
        self.no_space_errors = 0

    @property
    def _fill(self) -> Path:
        return self.directory / ".fill"

    @property
    def _files(self) -> Path:
        return self.directory / ".files"

    def fill_inodes(self) -> None:
        """Take all inodes; counts an error."""
        try:
            self._files.mkdir(exist_ok=True)
            for number in itertools.count(sum(1 for _ in self._files.iterdir())):
                (self._files / str(number)).touch()
        except OSError as error:
            self._count(error)

    def fill(self, leave: int = 0) -> None:
        """Take all space but some bytes; counts an error if that leaves none."""
        with self._fill.open("ab") as file, contextlib.suppress(OSError):
            status = os.statvfs(file.fileno())
            missing = status.f_bavail * status.f_frsize - leave
            if missing > 0:
                os.posix_fallocate(file.fileno(), os.fstat(file.fileno()).st_size, missing)
        while not leave and not self.probe():  # the service writes too
            pass

    def probe(self) -> bool:
        """Try to write one more block, and count an error; tell whether the disk is full."""
        try:
            with self._fill.open("ab") as file:
                file.write(bytes(BLOCK))
        except OSError as error:
            self._count(error)
            return True
        return False

    def _count(self, error: OSError) -> None:
        if error.errno != errno.ENOSPC:
            raise error
        self.no_space_errors += 1

    def free(self) -> None:
        """Give all space back."""
        self._fill.unlink(missing_ok=True)
        shutil.rmtree(self._files, ignore_errors=True)


@dataclass
class FailingDisk:
    """A file system on a device of its own, which can be made to fail as after an error of the disk.

    What was not flushed is then lost, and nothing can be written until it was checked and mounted again.
    """

    directory: Path
    image: Path

    def fail(self) -> None:
        """Let the file system be read-only from now on, also for the files that are open."""
        _run("mount", "-o", "remount,abort", self.directory)

    def is_read_only(self) -> bool:
        """Tell whether a write fails because of that."""
        try:
            (self.directory / ".probe").touch()
        except OSError as error:
            return error.errno == errno.EROFS
        (self.directory / ".probe").unlink()
        return False

    def _unmount(self) -> bool:
        return subprocess.run(["umount", self.directory], capture_output=True, check=False).returncode == 0

    def repair(self) -> None:
        """Check it, and mount it again; no process may have a file open on it."""
        wait_until(self._unmount, f"{self.directory} to be unmounted")  # the kernel may still be ending a process
        checked = subprocess.run(["e2fsck", "-fp", self.image], capture_output=True, text=True, check=False)
        if checked.returncode > 1:
            raise OSError(f"e2fsck: {checked.stdout}{checked.stderr}")
        _run("mount", "-o", "loop", self.image, self.directory)
        _remove_lost_and_found(self.directory)


@contextlib.contextmanager
def filled_disk(directory: Path) -> Iterator[FilledDisk]:
    """Have a directory on a disk of its own, in memory."""
    with _mounted(directory, "-t", "tmpfs", "-o", f"size={SIZE}m,nr_inodes={INODES}", "tmpfs"):
        yield FilledDisk(directory)


@contextlib.contextmanager
def failing_disk(directory: Path) -> Iterator[FailingDisk]:
    """Have a directory on a disk of its own, an image of ext4."""
    with tempfile.TemporaryDirectory(prefix="battery-", dir=IMAGES) as folder:
        image = Path(folder) / "image"
        with image.open("wb") as file:
            file.truncate(SIZE << 20)
        _run("mkfs.ext4", "-q", "-m", "0", "-E", "nodiscard,root_owner=0:0", image)
        with _mounted(directory, "-o", "loop", image):
            _remove_lost_and_found(directory)
            yield FailingDisk(directory, image)


@contextlib.contextmanager
def _mounted(directory: Path, *device: str | Path) -> Iterator[None]:
    """Mount a file system over a directory, with all that is in it; in the end the directory has what it had before."""
    if not has_private_mounts():
        raise OSError("this process has no mounts of its own")
    with tempfile.TemporaryDirectory(prefix="battery-") as folder:
        _run("mount", *device, folder)
        _run("cp", "-a", "--", f"{directory}/.", f"{folder}/")
        _run("sync", "--file-system", folder)
        _run("mount", "--move", folder, directory)
    try:
        yield
    finally:
        _run("umount", "--lazy", directory)


def _remove_lost_and_found(directory: Path) -> None:
    with contextlib.suppress(OSError):
        (directory / "lost+found").rmdir()


def _run(*command: str | Path) -> None:
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode:
        raise OSError(f"{' '.join(map(str, command))}: {done.stderr.strip()}")
