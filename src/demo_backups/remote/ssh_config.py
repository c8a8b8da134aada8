"""Read the user's SSH configuration for a host, as `ssh -G` resolves it (ssh_config(5))."""

from __future__ import annotations

import os
import pwd
import re
import shlex
import socket
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import unquote

from ..errors import CouldNotLookError, SettingsError
from .openssh import run_openssh

# Keywords that `ssh -G` prints once for every value.
LISTS = frozenset(
    {
        "certificatefile",
        "dynamicforward",
        "identityfile",
        "localforward",
        "remoteforward",
        "sendenv",
        "setenv",
    }
)

USE_OPENSSH = "let the OpenSSH client connect: INVOKE_SSH_TRANSPORT=openssh"  # the advice where Paramiko cannot
DESTINATIONS = "use HOST, USER@HOST or ssh://[USER@]HOST[:PORT]"
# As valid_hostname() and valid_ruser() in ssh.c: no option, and nothing that the shell of a ProxyCommand interprets.
_HOST = re.compile(r"""(?!-)[^\s'`"$\\;&<>|(){},\x00-\x1f\x7f]+""")
_USER = re.compile(r"""(?!-)(?!.*\s-)(?!.*\\$)[^'`";&<>|(){}\x00-\x1f\x7f]+""")
_HOST_AND_PORT = r"(?P<host>\[[^][]+\]|[^][:/@]+)(?::(?P<port>\d+))?"


@dataclass(frozen=True)
class Hop:
    """A host on the way to the server: its alias, and what a destination or ProxyJump adds to its configuration.

    `jumps` is the part of a ProxyJump before this host. Raises SettingsError for an alias or user that OpenSSH refuses.
    """

    alias: str
    user: str | None = None
    port: str | None = None
    jumps: str | None = None

    def __post_init__(self) -> None:
        if not _HOST.fullmatch(self.alias):
            raise SettingsError(f"{self.alias!r} is not a valid SSH host", advice=DESTINATIONS)
        if self.user is not None and not _USER.fullmatch(self.user):
            raise SettingsError(f"{self.user!r} is not a valid SSH user", advice=DESTINATIONS)

    def ssh_command(self, ssh_config: Path | None, *options: str) -> list[str]:
        """Build the command with which OpenSSH's client connects to this host."""
        values = {"-F": ssh_config, "-J": self.jumps, "-l": self.user, "-p": self.port}
        arguments = [argument for option, value in values.items() if value for argument in (option, str(value))]
        return ["ssh", *options, *arguments, self.alias]


def parse_destination(text: str) -> Hop:
    """Split a destination as `ssh` does: HOST, USER@HOST or ssh://[USER@]HOST[:PORT]; raises SettingsError."""
    if text.startswith("ssh://"):
        return _parse_uri(text)
    user, separator, host = text.rpartition("@")
    return Hop(host, user if separator else None)


def parse_jumps(value: str) -> list[Hop]:
    """Split a ProxyJump at its commas into [USER@]HOST[:PORT] or ssh:// destinations; `none` is an empty list."""
    if value.lower() == "none":
        return []
    jumps = [jump.strip() for jump in value.split(",")]
    try:
        return [_parse_jump(jump, ",".join(jumps[:number]) or None) for number, jump in enumerate(jumps)]
    except SettingsError as error:
        raise SettingsError(
            f"ProxyJump {value!r} is not valid", output=str(error), advice="see ssh_config(5), ProxyJump"
        ) from error


def _parse_jump(jump: str, before: str | None) -> Hop:
    if jump.startswith("ssh://"):
        return _parse_uri(jump, before)
    match = re.fullmatch(rf"(?:(?P<user>.*)@)?{_HOST_AND_PORT}", jump)
    if not match:
        raise SettingsError(f"{jump!r} is not [USER@]HOST[:PORT]")
    return Hop(match["host"].strip("[]"), match["user"], match["port"], before)


def _parse_uri(uri: str, before: str | None = None) -> Hop:
    match = re.fullmatch(rf"ssh://(?:(?P<user>[^@;]*)(?:;[^@]*)?@)?{_HOST_AND_PORT}/?", uri)
    if not match:
        raise SettingsError(f"{uri!r} is not ssh://[USER@]HOST[:PORT]", advice=DESTINATIONS)
    user = None if match["user"] is None else unquote(match["user"])
    return Hop(match["host"].strip("[]"), user, match["port"], before)


def resolve(hop: Hop, ssh_config: Path | None) -> dict[str, Any]:
    """Return all options of OpenSSH for a host, by keyword in lower case; those in LISTS are lists of str, others str.

    `ssh_config` replaces the user's and the system's configuration files. Percent tokens that `ssh -G` leaves in
    ProxyCommand, IdentityFile and CertificateFile are expanded; `~` is not. Raises SettingsError for a configuration
    that OpenSSH refuses, and CouldNotLookError for output of `ssh -G` that is not understood.
    """
    if ssh_config is not None and not ssh_config.is_file():
        raise SettingsError(f"ssh_config: no such file: {ssh_config}", advice="set ssh_config to a file, or to null")
    command = hop.ssh_command(ssh_config, "-G")
    result = run_openssh(*command, host=hop.alias)
    if result.returncode:
        raise SettingsError(
            f"{shlex.join(command)} refused the SSH configuration",
            host=hop.alias,
            output=result.stderr,
            advice="correct what it names",
        )
    options = parse_options(result.stdout)
    if not {"hostname", "user"} <= options.keys() or not re.fullmatch(r"[1-9]\d{0,4}", options.get("port", "")):
        raise CouldNotLookError(
            f"{shlex.join(command)} printed no hostname, user or port", host=hop.alias, output=result.stdout[:500]
        )
    return _expand_options(options, hop.alias)


def parse_options(output: str) -> dict[str, Any]:
    """Parse the output of `ssh -G`: a keyword and its value a line, without any quoting."""
    options: dict[str, Any] = {}
    for line in output.split("\n"):
        keyword, _, value = line.partition(" ")
        if keyword in LISTS:
            options.setdefault(keyword, []).append(value)
        elif keyword:
            options.setdefault(keyword, value)
    return options


def _expand_options(options: dict[str, Any], alias: str) -> dict[str, Any]:
    """Expand the tokens of the options in which OpenSSH does that only when it connects."""
    expanded = dict(options)
    for keyword in ("identityfile", "certificatefile"):
        if keyword in options:
            expanded[keyword] = [_expand(keyword, value, options, alias, variables=True) for value in options[keyword]]
    if "proxycommand" in options:
        expanded["proxycommand"] = _expand("proxycommand", options["proxycommand"], options, alias, variables=False)
    return expanded


def _expand(keyword: str, value: str, options: Mapping[str, Any], alias: str, *, variables: bool) -> str:
    """Expand percent tokens, and ${VARIABLE} if `variables` (ssh_config(5), TOKENS)."""
    tokens: dict[str, Callable[[], str]] = {
        "%": lambda: "%",
        "d": lambda: str(Path.home()),
        "h": lambda: str(options["hostname"]),
        "i": lambda: str(os.getuid()),
        "k": lambda: str(options.get("hostkeyalias", alias)),
        "L": lambda: socket.gethostname().partition(".")[0],
        "l": socket.gethostname,
        "n": lambda: alias,
        "p": lambda: str(options["port"]),
        "r": lambda: str(options["user"]),
        "u": lambda: pwd.getpwuid(os.getuid()).pw_name,
    }

    def replace(match: re.Match[str]) -> str:
        try:
            return tokens[match["token"]]() if match["token"] is not None else os.environ[match["variable"]]
        except KeyError:
            raise SettingsError(
                f"{keyword} {value}: {match[0]} cannot be expanded",
                host=alias,
                advice=f"replace it by its value in the SSH configuration, or {USE_OPENSSH}",
            ) from None

    pattern = r"%(?P<token>.?)|\$\{(?P<variable>[^}]*)\}" if variables else r"%(?P<token>.?)"
    return re.sub(pattern, replace, value)


def split_paths(value: str) -> list[Path]:
    """Split a list of files as `ssh -G` prints it, blanks in their names unquoted; `none` is an empty list."""
    if value.lower() == "none":
        return []
    try:
        return [Path(path).expanduser() for path in re.split(r" (?=[/~])", value)]
    except RuntimeError as error:
        raise SettingsError(f"{value}: {error}", advice="correct the path in the SSH configuration") from error
