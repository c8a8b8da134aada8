"""What the flags of `inv offsite` select."""

from __future__ import annotations

from dataclasses import dataclass

from ..errors import SettingsError
from ..offsite.result import Result
from ..settings.model import Settings
from ..ui.console import Console
from .offsite import check_repository, initialize, list_stored, restore_stored
from .offsite_store import store


@dataclass(frozen=True)
class OffsiteOptions:
    """The flags of the task; `host` is that of --host. Without one of the four actions, backups are stored."""

    host: str | None = None
    database: str | None = None
    init: bool = False
    check: bool = False
    list: bool = False
    restore: str | None = None
    dry_run: bool = False


def run_offsite(settings: Settings, options: OffsiteOptions, out: Console) -> Result:
    """Do what the flags say; raises SettingsError if they contradict each other."""
    names = None if options.database is None else [settings.series(options.database).name]
    actions = [options.init, options.check, options.list, options.restore is not None]
    if sum(actions) > 1:
        raise SettingsError("--init, --check, --list and --restore exclude each other", advice="use one of them")
    if names and any(actions) and not options.list:
        raise SettingsError("--database selects what is stored or listed", advice="leave it out")
    if options.init:
        return initialize(settings, out, options.dry_run)
    if options.check:
        return check_repository(settings, out, options.dry_run)
    if options.list:
        return list_stored(settings, options.host, names, out.say)
    if options.restore is not None:
        return restore_stored(settings, options.restore, out, options.dry_run)
    return store(settings, names, out, options.dry_run)
