"""The archives of the configuration on a host: what is packed, and the script that packs and unpacks.

`config_archive.sh` does the work. Its messages may have names of files, and a record must not: so they are printed, and
no error contains them.
"""

from __future__ import annotations

import enum
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

from ..errors import ConfigArchiveError, CouldNotLookError, JobRunningError, RotationFailedError, SettingsError
from ..remote.answers import END, parse_count, parse_list
from ..remote.host import LONG_TIMEOUT, Host, Result
from ..remote.notify import Notify
from ..remote.shell import quote
from ..settings.model import CONFIG, ConfigArchives, Settings
from .archive import MOST_BYTES, MOST_FILES
from .names import is_backup_name

SCRIPT = Path(__file__).with_name("config_archive.sh")
SHORT_WRITE = ": Wrote only "  # of tar, on a full disk
OTHER = "other"  # the state of what is found below a path and is not packed
UNCLEAN, BUSY = 4, 75  # exit statuses of the script
COPIES = 3  # that the disk has while an archive is made: the files, the archive, and the unpacked archive


class PathState(enum.Enum):
    """What a path of `config_paths` is."""

    OK = "ok"
    MISSING = "missing"
    LINK = "link"
    SPECIAL = "special"


PROBLEMS = {
    PathState.MISSING: "it does not exist",
    PathState.LINK: "it is or leads through a symbolic link, which is not followed: name the path without a link",
    PathState.SPECIAL: "it is neither a file nor a directory",
}


@dataclass(frozen=True)
class PathScan:
    """A path of `config_paths`: how many files and directories there are, and their bytes."""

    path: str
    state: PathState
    files: int = 0
    bytes: int = 0


@dataclass(frozen=True)
class ConfigScan:
    """All paths of `config_paths`, and the sockets, pipes and devices in them, which are not packed."""

    paths: Sequence[PathScan]
    special: Sequence[str] = ()

    @property
    def packed(self) -> list[PathScan]:
        """The paths that can be packed."""
        return [path for path in self.paths if path.state is PathState.OK]

    @property
    def missing(self) -> list[PathScan]:
        """The paths that cannot be packed."""
        return [path for path in self.paths if path.state is not PathState.OK]

    @property
    def bytes(self) -> int:
        """The bytes of all files."""
        return sum(path.bytes for path in self.packed)

    @property
    def is_too_large(self) -> bool:
        """Tell whether this is more than the configuration of an application."""
        return self.bytes > MOST_BYTES or sum(path.files for path in self.packed) > MOST_FILES


@dataclass(frozen=True)
class Packed:
    """The result of packing: the newest archive, whether it is new, and one that was found damaged."""

    archive: PurePosixPath
    is_new: bool
    damaged: str = ""


@dataclass(frozen=True)
class Unpacked:
    """The result of unpacking: how many files and bytes, and the users and groups that the host does not know."""

    files: int
    bytes: int
    unknown: Sequence[str]


def require_config_paths(settings: Settings) -> ConfigArchives:
    """Return what is to be packed; raises SettingsError if that is nothing, or includes a database or the backups."""
    archives = settings.series(CONFIG)
    assert isinstance(archives, ConfigArchives)
    if not archives.paths:
        raise SettingsError(
            "config_paths is empty: it names what inv backup-config packs",
            advice="set it to files and directories below app_dir, separated by spaces: INVOKE_CONFIG_PATHS, or "
            "config_paths in invoke.yaml",
        )
    for path in archives.paths:
        place = archives.app_dir / path
        for name in settings.databases:
            if settings.database(name).source.is_relative_to(place):
                raise SettingsError(
                    f"config_paths: {path!r} includes the live {name} database, and a copy of its file is no backup",
                    advice="name the other files and directories one by one",
                )
        if settings.backup_dir.is_relative_to(place):
            raise SettingsError(
                f"config_paths: {path!r} includes backup_dir", advice="name the other files and directories one by one"
            )
    return archives


# --- scan -----------------------------------------------------------------------------------------------------------


def script_command(action: str, *arguments: object) -> str:
    """Build the command that runs the script."""
    command = ["exec", "bash", "-c", SCRIPT.read_text(), SCRIPT.name, action, *map(str, arguments)]
    return " ".join(map(quote, command))


def scan_paths(host: Host, archives: ConfigArchives, notify: Notify) -> ConfigScan:
    """Look at what is to be packed; raises CouldNotLookError. `notify` gets the message of a failure."""
    action = f"look at the configuration in {archives.app_dir}"
    command = script_command("scan", archives.app_dir, MOST_FILES, *archives.paths)
    display = f"{SCRIPT.name} scan {archives.app_dir}"
    result = host.run(action, command, root=True, timeout=LONG_TIMEOUT, display=display, reads_only=True)
    if not result.ok:
        notify(result.output)
        raise CouldNotLookError(f"could not {action}", host=host.name, advice=host.advise(result))
    scan = host.parse(action, result.stdout, parse_scan)
    if [path.path for path in scan.paths] != list(archives.paths):
        raise CouldNotLookError(f"could not {action}: the answer is about other paths", host=host.name)
    return scan


def parse_scan(output: str) -> ConfigScan:
    """Parse what the script printed for `scan`; raises ValueError."""
    fields = parse_list(output, "\0")
    if len(fields) % 4:
        raise ValueError("the list of paths is not complete")
    paths, special = [], []
    for state, files, size, path in zip(fields[::4], fields[1::4], fields[2::4], fields[3::4], strict=True):
        if state == OTHER:
            special.append(path)
        else:
            paths.append(PathScan(path, PathState(state), parse_count(files), parse_count(size)))
    return ConfigScan(paths, special)


# --- pack -----------------------------------------------------------------------------------------------------------


def pack(host: Host, archives: ConfigArchives, scan: ConfigScan, floor: int, notify: Notify) -> Packed:
    """Make an archive of what can be packed, unless the newest one has the same content.

    `floor` bytes stay free. Raises ConfigArchiveError, JobRunningError, and RotationFailedError if an old archive could
    not be deleted. `notify` gets the message of a failure.
    """
    action = "pack the configuration"
    paths = [path.path for path in (*scan.packed, *scan.missing)]
    numbers = (floor, MOST_BYTES, MOST_FILES, len(scan.packed))
    command = script_command("pack", archives.app_dir, archives.backup_dir, *numbers, *paths)
    display = f"{SCRIPT.name} pack {archives.app_dir} {archives.backup_dir}"
    result = host.run(action, command, root=True, timeout=LONG_TIMEOUT, display=display)
    if not (result.ok or result.status == UNCLEAN):
        raise _explain(host, action, result, notify)
    packed = host.parse(action, result.stdout, lambda output: parse_packed(archives, output))
    if result.status == UNCLEAN:
        notify(result.stderr)
        raise RotationFailedError(
            f"{packed.archive} was made, but an old archive could not be deleted",
            host=host.name,
            advice="delete it on the host",
        )
    return packed


def parse_packed(archives: ConfigArchives, output: str) -> Packed:
    """Parse what the script printed for `pack`; raises ValueError."""
    values = _parse_results(output)
    key, name = values[-1]
    damaged = next((value for key, value in values if key == "damaged"), "")
    if key not in ("created", "unchanged") or not is_backup_name(archives, name):
        raise ValueError("it does not name an archive")
    return Packed(archives.backup_dir / name, key == "created", damaged)


# --- unpack ---------------------------------------------------------------------------------------------------------


def unpack(host: Host, archive: PurePosixPath, target: PurePosixPath, floor: int, notify: Notify) -> Unpacked:
    """Unpack an archive into a directory that is new or empty, and compare what is there with its list and checksums.

    Raises ConfigArchiveError, and then leaves nothing there, and JobRunningError.
    """
    action = f"restore the configuration to {target}"
    command = script_command("unpack", archive, target, floor)
    display = f"{SCRIPT.name} unpack {archive} {target}"
    result = host.run(action, command, root=True, timeout=LONG_TIMEOUT, display=display)
    if not result.ok:
        raise _explain(host, action, result, notify)
    return host.parse(action, result.stdout, parse_unpacked)


def parse_unpacked(output: str) -> Unpacked:
    """Parse what the script printed for `unpack`; raises ValueError."""
    values = _parse_results(output)
    counts = {"files": "", "bytes": ""} | dict(values)
    unknown = [f"{key.removeprefix('unknown_')} {value}" for key, value in values if key.startswith("unknown_")]
    return Unpacked(parse_count(counts["files"]), parse_count(counts["bytes"]), unknown)


def _parse_results(output: str) -> list[tuple[str, str]]:
    values = []
    for line in parse_list(f"{output}{END}"):
        label, key, value = line.split(" ", 2)
        if label != "result:":
            raise ValueError("not a result")
        values.append((key, value))
    return values


def _explain(host: Host, action: str, result: Result, notify: Notify) -> ConfigArchiveError | JobRunningError:
    if result.status == BUSY:
        return JobRunningError(
            f"could not {action}: the same task is running", host=host.name, advice="wait for its end"
        )
    notify(result.output)
    advice = host.advise(result) or "see the message above"
    if SHORT_WRITE in result.stderr:
        advice = "the disk is full: free space on the host (df)"
    return ConfigArchiveError(f"could not {action}: nothing was changed", host=host.name, advice=advice)
