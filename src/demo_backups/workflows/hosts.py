"""Tasks that only read, on several hosts at the same time: `--host A,B`."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from typing import TypeVar

from ..errors import COULD_NOT_LOOK, FAILED, INCOMPLETE, INTERRUPTED, WRONG_INPUT, BackupsError, SettingsError
from ..settings.load import check_host, select_host
from ..settings.model import Settings
from ..ui.console import Console, make_console

T = TypeVar("T")
SEPARATOR = ","
EXIT_CODES = (
    INTERRUPTED,
    WRONG_INPUT,
    FAILED,
    INCOMPLETE,
    COULD_NOT_LOOK,
    0,
)  # of several hosts: the first that occurs


def split_hosts(text: str) -> list[str]:
    """Split the names of --host; raises SettingsError for a name that is empty, wrong or listed twice."""
    names = text.split(SEPARATOR)
    if "" in names:
        raise SettingsError(f"--host {text!r} has an empty name", advice="separate the names by single commas: A,B")
    if len(set(names)) < len(names):
        raise SettingsError(f"--host {text!r} names a host twice", advice="name each host once")
    return [check_host(name) for name in names]


def combine_exit_codes(codes: Iterable[int]) -> int:
    """Return the exit code of several hosts: the first of EXIT_CODES that one of them has."""
    return min(codes, key=EXIT_CODES.index, default=0)


def run_on_hosts(
    settings: Settings, names: Sequence[str], work: Callable[[Settings, Console], T]
) -> dict[str, T | BackupsError]:
    """Call a function for each host, in threads, and return its result or its error by host, in the order of `names`.

    The function gets the settings with this host, and a console of its own: what it prints there is printed on standard
    error when it has ended, one host after the other. It must open hosts by `open_host` or `open_session` only.

    After Ctrl-C, KeyboardInterrupt is raised in each function, and when they have ended, here.
    """
    results: dict[str, T | BackupsError] = {}
    for name in names:
        try:
            results[name] = work(select_host(settings, name), make_console())
        except BackupsError as error:
            results[name] = error
    return results
