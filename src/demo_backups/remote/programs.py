"""The programs that a host has, of those that only some tasks need."""

from __future__ import annotations

from .answers import parse_yes_no
from .host import Host
from .shell import quote


def has_program(host: Host, name: str) -> bool:
    """Tell whether a program is installed on a host; raises CouldNotLookError."""
    command = f"if command -v {quote(name)} >/dev/null; then echo yes; else echo no; fi"
    return host.query_parsed(f"look for {name}", command, parse_yes_no)
