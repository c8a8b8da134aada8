"""What the user's own SSH configuration says about a host, as OpenSSH reads it (ssh_config(5))."""

from __future__ import annotations

import re
import shlex
import shutil
import subprocess
from dataclasses import dataclass
from pathlib import Path

import paramiko

from ..errors import CouldNotLookError, SettingsError

CONFIG_FILES = ("~/.ssh/config", "/etc/ssh/ssh_config")


@dataclass(frozen=True)
class Hop:
    """A host on the way: an alias, and what a ProxyJump says against its configuration.

    That is `user@` and `:port`, and the jump hosts that stand before it there.
    """

    alias: str
    user: str | None = None
    port: str | None = None
    jumps: str | None = None

    def ssh(self, ssh_config: Path | None, *options: str) -> list[str]:
        """The command with which OpenSSH's client goes the same way."""
        own = {"-F": ssh_config, "-J": self.jumps, "-l": self.user, "-p": self.port}
        words = [word for option, value in own.items() if value for word in (option, str(value))]
        return ["ssh", *options, *words, self.alias]


def parse_jumps(value: str) -> list[Hop]:
    """Split ssh_config's ProxyJump: `[user@]host[:port]` or `ssh://...`, by commas; `none` is none."""
    if value.lower() == "none":
        return []
    hops = []
    jumps = [jump.strip() for jump in value.split(",")]
    for number, jump in enumerate(jumps):
        match = re.fullmatch(r"(?:ssh://)?(?:([^@]+)@)?(\[[^]]+\]|[^-:/@[][^:/@]*)(?::(\d+))?/?", jump)
        if not match:
            raise SettingsError(f"ProxyJump {value!r} cannot be read", advice="see ssh_config(5), ProxyJump")
        hops.append(Hop(match[2].strip("[]"), match[1], match[3], ",".join(jumps[:number]) or None))
    return hops


def resolve(hop: Hop, ssh_config: Path | None) -> paramiko.SSHConfig:
    """Ask OpenSSH what it would do for a host; without an `ssh` here, let Paramiko read the same files."""
    if ssh_config is not None and not ssh_config.is_file():
        raise SettingsError(f"ssh_config: there is no file {ssh_config}", advice="set ssh_config to a file, or to null")
    if shutil.which("ssh") is None:
        return _resolve_without_ssh(hop, ssh_config)
    command = hop.ssh(ssh_config, "-G")
    try:
        asked = subprocess.run(
            command,
            capture_output=True,
            text=True,
            stdin=subprocess.DEVNULL,
            timeout=60,
            check=False,
        )
    except subprocess.TimeoutExpired as error:
        raise CouldNotLookError(f"{shlex.join(command)} gave no answer within 60 s", host=hop.alias) from error
    if asked.returncode:
        raise SettingsError(
            f"{shlex.join(command)} refused the SSH configuration",
            host=hop.alias,
            output=asked.stderr,
            advice="correct the file it names",
        )
    # It is all about this one host, whatever Fabric takes its name to be.
    return paramiko.SSHConfig.from_text(f"Host *\n{_without_host(asked.stdout)}")


def _without_host(printed: str) -> str:
    """Drop the `host` line with which some versions of `ssh -G` start: one Host section is wanted."""
    return "".join(line for line in printed.splitlines(keepends=True) if not line.startswith("host "))


# What Paramiko leaves out, or takes for true unread.
_ONLY_OPENSSH = re.compile(
    r"^\s*(?:Include\b|CanonicalizeHostname\W+(?!no\b)\b"
    r"|Match\b(?!(?:\s+(?:all|canonical|final|!?(?:host|originalhost|user|localuser)\s+\S+))+\s*$)).*$",
    re.IGNORECASE | re.MULTILINE,
)


def _resolve_without_ssh(hop: Hop, ssh_config: Path | None) -> paramiko.SSHConfig:
    files = [ssh_config] if ssh_config else [Path(each).expanduser() for each in CONFIG_FILES]
    texts = ["Host *\n" + (f"User {hop.user}\n" if hop.user else "") + (f"Port {hop.port}\n" if hop.port else "")]
    for file in files:
        if not file.is_file():
            continue
        text = file.read_text(errors="surrogateescape")
        if unsupported := _ONLY_OPENSSH.search(text):
            raise SettingsError(
                f"{file}: '{unsupported[0].strip()}' cannot be honoured without OpenSSH's client on this machine",
                advice="install it (Debian: openssh-client), or set ssh_config to a file without that line",
            )
        texts.append("Host *\n" + text)
    try:
        config = paramiko.SSHConfig.from_text("\n".join(texts))
        int(config.lookup(hop.alias).get("port", 22))
    except (paramiko.ConfigParseError, ValueError) as error:
        raise SettingsError(
            "the SSH configuration cannot be read", host=hop.alias, output=str(error), advice="correct it"
        ) from error
    return config


def paths(value: str) -> list[Path]:
    """Split a list of files as `ssh -G` prints it: full paths, with their own blanks unquoted."""
    return [Path(each.strip('"')).expanduser() for each in re.split(r'\s+(?=["/~])', value)]
