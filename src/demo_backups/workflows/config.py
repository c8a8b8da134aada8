"""Archive the configuration of the application: look at it, show it, pack it."""

from __future__ import annotations

from ..backup.archive import MOST_BYTES, MOST_FILES
from ..backup.config_archive import COPIES, PROBLEMS, ConfigScan, pack, scan_paths
from ..backup.deploy import CONFIG_TOOLS, require_tools
from ..backup.disk_space import read_disks
from ..backup.permissions import require_safe_paths
from ..errors import ConfigArchiveError, CouldNotLookError, MissingConfigError
from ..remote.files import stat_file
from ..settings.model import ConfigArchives
from ..ui.outcome import Tone
from ..units import format_short_size, format_size
from .backups import record_backup
from .session import Session


def backup_config(work: Session) -> None:
    """Pack the paths of `config_paths` into an archive on the host, unless nothing has changed since the last one.

    Paths that cannot be packed are named; MissingConfigError is then raised in the end. Raises ConfigArchiveError if
    there is no archive.
    """
    archives = work.series
    assert isinstance(archives, ConfigArchives)
    require_tools(work.host, CONFIG_TOOLS)
    require_safe_paths(work.host, archives)
    scan = scan_paths(work.host, archives, work.out.say)
    _show_scan(work, scan)
    _require_possible(work, archives, scan)
    if work.dry_run:
        work.out.say(f"would pack them into {archives.backup_dir}, if something has changed; nothing was changed")
    else:
        _pack(work, archives, scan)
    _require_all(work, scan)


def _show_scan(work: Session, scan: ConfigScan) -> None:
    for path in scan.packed:
        work.out.say(f"{path.path}: {format_size(path.bytes)}")
    for path in scan.missing:
        work.out.say(f"NOT PACKED: {path.path}: {PROBLEMS[path.state]}", Tone.BAD)
    for name in scan.special:
        work.out.say(f"left out: {name}: it is neither a file nor a directory nor a link", Tone.WARNING)


def _require_possible(work: Session, archives: ConfigArchives, scan: ConfigScan) -> None:
    """Raise ConfigArchiveError if there is nothing to pack, or more than the disk or an archive takes."""
    if not scan.packed:
        raise ConfigArchiveError(
            f"there is nothing to pack: none of config_paths is in {archives.app_dir}",
            host=work.host.name,
            advice="are app_dir and config_paths correct?",
        )
    if scan.is_too_large:
        raise ConfigArchiveError(
            f"this is more than the configuration of an application: at most {format_short_size(MOST_BYTES)} and "
            f"{MOST_FILES:,} files and directories are packed",
            host=work.host.name,
            advice="name only the configuration in config_paths",
        )
    disk = read_disks(work.host, archives.backup_dir)[0]
    needed = COPIES * scan.bytes + work.settings.free_space_floor
    if disk.free < needed:
        raise ConfigArchiveError(
            f"there is too little space on {disk.mount}: {format_size(disk.free)} are free, and {format_size(needed)} "
            f"are needed, with free_space_floor",
            host=work.host.name,
            advice=f"free space on the host: df {disk.mount}",
        )


def _pack(work: Session, archives: ConfigArchives, scan: ConfigScan) -> None:
    packed = pack(work.host, archives, scan, work.settings.free_space_floor, work.out.say)
    file = stat_file(work.host, packed.archive)
    if file is None:
        raise CouldNotLookError(f"{packed.archive} was removed since it was made", host=work.host.name)
    record_backup(work.record, packed.archive, file)
    if packed.damaged:
        work.out.say(f"{packed.damaged} is damaged: it does not have the checksums of its files", Tone.WARNING)
    if packed.is_new:
        work.out.say(f"created {packed.archive} ({format_size(file.bytes)})")
    else:
        work.out.say(f"nothing has changed since {packed.archive}")


def _require_all(work: Session, scan: ConfigScan) -> None:
    if scan.missing:
        raise MissingConfigError(
            f"{len(scan.missing)} of {len(scan.paths)} paths of config_paths cannot be packed",
            host=work.host.name,
            advice="correct config_paths, or put back what is missing: see NOT PACKED in the output",
        )
