"""Where the repository is: its address, how it is printed without secrets, and the SSH command that reaches it."""

from __future__ import annotations

import re
import shlex
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import urlsplit

from ..errors import SettingsError
from ..project import ROOT
from ..settings.model import Settings

SFTP = "sftp:"
MASK = "***"
# It never asks for a password or about a host key, and notices that the server does not answer any more.
SSH_OPTIONS = ("BatchMode=yes", "ConnectTimeout=30", "ServerAliveInterval=15", "ServerAliveCountMax=4")
_USER_INFO = re.compile(r"(https?://)\S*@|(://)[^/\s:@]*:[^/\s]*@", re.IGNORECASE)
_WHOLE_USER_INFO = re.compile(r"https?://(.*)@", re.IGNORECASE | re.DOTALL)  # of an address, also of an invalid one


@dataclass(frozen=True)
class Location:
    """The address of a repository, and the options with which restic reaches it."""

    address: str
    options: tuple[str, ...] = ()

    @property
    def display(self) -> str:
        """The address to print: the user and the password in it are masked."""
        return self._mask_user(self.address)

    @property
    def directory(self) -> Path | None:
        """The directory of a repository on this machine; None if it is elsewhere."""
        return _local_directory(self.address)

    def mask(self, text: str) -> str:
        """Return a text in which no password of an address is left."""
        return self._mask_user(text.replace(self.address, self.display))

    def _mask_user(self, text: str) -> str:
        found = _WHOLE_USER_INFO.search(self.address)
        return mask_addresses(text.replace(f"{found[1]}@", f"{MASK}@") if found else text)


def mask_addresses(text: str) -> str:
    """Mask what is before the `@` of each URL in a text, if it can be a secret."""
    return _USER_INFO.sub(lambda match: f"{match[1] or match[2]}{MASK}@", text)


def find_location(settings: Settings) -> Location:
    """Return where the repository of the settings is; raises SettingsError if there is none."""
    address = settings.offsite.repository
    if address is None:
        raise SettingsError(
            "offsite.repository is not set: there is no repository for off-site copies",
            advice="set it in invoke.yaml (INVOKE_OFFSITE_REPOSITORY), as docs/how-to/offsite.md describes",
        )
    if address.startswith("-"):
        raise SettingsError("offsite.repository starts with '-': it is not a repository", advice="correct it")
    if address.startswith("~"):
        address = str(Path(address).expanduser())
    return Location(address, _sftp_options(settings, address) if address.startswith(SFTP) else ())


def _local_directory(address: str) -> Path | None:
    """Return the directory that an address of restic means; None for a backend such as `sftp:` or `s3:`."""
    path = address.removeprefix("local:")
    is_backend = path == address and not path.startswith(("/", ".")) and re.match(r"[a-z0-9]+:", path)
    return None if is_backend else ROOT / path


def _sftp_options(settings: Settings, address: str) -> tuple[str, ...]:
    """Return the option with the SSH command: restic's own, with the SSH_OPTIONS and the ssh_config of the settings."""
    user, host, port = _parse_sftp(address)
    if not host or host.startswith("-") or user.startswith("-"):
        raise SettingsError(
            f"offsite.repository {mask_addresses(address)!r} names no host of SFTP",
            advice="write it as sftp:HOST:DIRECTORY or sftp://USER@HOST:PORT/DIRECTORY",
        )
    if address.startswith("sftp://") and ":" in user:
        raise SettingsError(
            f"offsite.repository {mask_addresses(address)!r} has a password, which ssh does not take",
            advice="remove it, and use a key: ssh-copy-id",
        )
    command = ["ssh"]
    if settings.ssh_config is not None:
        command += ["-F", str(ROOT / Path(settings.ssh_config).expanduser())]
    for option in SSH_OPTIONS:
        command += ["-o", option]
    command += [*(["-p", port] if port else []), *(["-l", user] if user else []), host, "-s", "sftp"]
    return ("-o", _csv_field("sftp.command=" + " ".join(map(_quote, command))))


def _quote(word: str) -> str:
    """Quote a word as restic splits a command: a quotation is a whole word, and nothing is escaped in it."""
    if shlex.quote(word) == word:
        return word
    for mark in "'\"":
        if mark not in word and not word.endswith("\\"):
            return f"{mark}{word}{mark}"
    raise SettingsError(f"{word!r} cannot be passed to restic", advice="use a path without quotation marks")


def _csv_field(text: str) -> str:
    """Quote a value of `-o`, which restic reads as a line of comma-separated values."""
    escaped = text.replace('"', '""')
    return f'"{escaped}"' if '"' in text or "," in text else text


def _parse_sftp(address: str) -> tuple[str, str, str]:
    """Return the user, the host and the port of an SFTP address, each empty if it has none."""
    try:
        if address.startswith("sftp://"):
            url = urlsplit(address)
            user, _, _ = url.netloc.rpartition("@")
            return user, url.hostname or "", str(url.port or "")
        user, _, host = address.removeprefix(SFTP).partition(":")[0].rpartition("@")
    except ValueError:  # a port that is not a number
        return "", "", ""
    else:
        return user, host, ""
