"""A limit on the memory of this process and its children, page cache included: a cgroup, version 1 or 2, as root."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterator
from pathlib import Path

ROOT = Path("/sys/fs/cgroup")


class NoMemoryLimitError(Exception):
    """The memory cannot be limited; the text says why."""


def _find_own_group(controller: str) -> str:
    """Return the cgroup of this process: that of a controller of version 1, or with '' that of version 2."""
    for line in Path("/proc/self/cgroup").read_text().splitlines():
        _, names, path = line.split(":", 2)
        if controller in names.split(",") if controller else not names:
            return path
    raise NoMemoryLimitError(f"this process has no cgroup of {controller or 'version 2'}")


def _choose_groups() -> tuple[Path, Path, str]:
    """Return the cgroup above the new one, that of this process, and the name of the file of the limit."""
    if (ROOT / "memory/memory.limit_in_bytes").exists():
        # Below its own cgroup, so that the limits of that one stay.
        own = ROOT / "memory" / _find_own_group("memory").lstrip("/")
        return own, own, "memory.limit_in_bytes"
    controllers = ROOT / "cgroup.controllers"
    if controllers.exists() and "memory" in controllers.read_text().split():
        # Below the root, since a cgroup of version 2 with processes cannot have a child with a limit (cgroups(7)).
        return ROOT, ROOT / _find_own_group("").lstrip("/"), "memory.max"
    raise NoMemoryLimitError(f"there is no cgroup for memory in {ROOT}")


@contextlib.contextmanager
def memory_limit(size: float | None) -> Iterator[None]:
    """Limit the memory of this process, and of what it starts, to `size` bytes; None is no limit.

    Raises NoMemoryLimitError where that is not possible.
    """
    if size is None:
        yield
        return
    above, own, name = _choose_groups()
    group = above / f"demo-backups-bench-{os.getpid()}"
    try:
        if name == "memory.max":
            (above / "cgroup.subtree_control").write_text("+memory")
        group.mkdir()
    except OSError as error:
        raise NoMemoryLimitError(f"no cgroup can be created: {error}") from error
    try:
        try:
            (group / name).write_text(f"{size:.0f}")
            (group / "cgroup.procs").write_text(str(os.getpid()))
        except OSError as error:
            raise NoMemoryLimitError(f"the limit cannot be set: {error}") from error
        yield
    finally:
        (own / "cgroup.procs").write_text(str(os.getpid()))
        group.rmdir()
