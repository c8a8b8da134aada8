"""What a host says about the archives of the configuration, observed in one round trip. Nothing is changed there."""

from __future__ import annotations

import time
from dataclasses import dataclass

from ..backup.catalog import list_backups
from ..remote.answers import parse_seconds
from ..remote.fact import Fact
from ..remote.files import files_command
from ..remote.host import Host
from ..remote.prefetch import prefetch
from ..settings.model import ConfigArchives
from .freshness import Backups, sort_backups
from .host_queries import CLOCK, compare_clocks, try_query


@dataclass(frozen=True)
class ArchiveFacts:
    """The archives on a host; `now` is its clock, in seconds since 1970. See HostFacts for `clock_difference`."""

    now: float
    clock_difference: float
    backups: Fact[Backups]


def observe_archives(host: Host, archives: ConfigArchives) -> ArchiveFacts:
    """Observe a host; raises CouldNotLookError if it answers nothing at all."""
    before = time.time()
    commands = [CLOCK, files_command(archives.backup_dir, f"{archives.backup_prefix}*{archives.suffix}")]
    answers = prefetch(host, "look at the archives of the configuration", commands)
    now = answers.query_parsed("read the clock", CLOCK, parse_seconds)
    difference = compare_clocks(before, now, time.time())
    backups = try_query(lambda: sort_backups(list_backups(answers, archives), now))
    return ArchiveFacts(now, difference, backups)
