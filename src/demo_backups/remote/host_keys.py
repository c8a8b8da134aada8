"""Whether the key of a host is known, as OpenSSH decides it (sshd(8), "SSH_KNOWN_HOSTS FILE FORMAT").

Fabric accepts every host key, so its policy is replaced by one that accepts known keys and nothing else.
"""

from __future__ import annotations

import base64
import contextlib
import hashlib
import re
import shlex
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import paramiko

from ..errors import CouldNotLookError, SettingsError
from .ssh_config import Hop, paths


def known_keys(hop: Hop, ssh_config: Path | None, options: Mapping[str, str]) -> HostKeys:
    """Read what the known_hosts files of a host say about it; `options` are OpenSSH's, resolved.

    Raises SettingsError for what cannot be honoured, and CouldNotLookError for a file that cannot be read.
    """
    import asyncssh

    if (options.get("revokedhostkeys") or "none").lower() != "none":
        raise SettingsError(
            f"RevokedHostKeys {options['revokedhostkeys']} cannot be honoured here",
            host=hop.alias,
            advice="mark those keys @revoked in known_hosts, or set ssh_config to a file without that line",
        )
    host, port = options["hostname"], int(options.get("port", 22))
    alias = options.get("hostkeyalias")
    name = alias or (host if port == 22 else f"[{host}]:{port}")
    files = [
        *paths(options.get("userknownhostsfile", "~/.ssh/known_hosts ~/.ssh/known_hosts2")),
        *paths(options.get("globalknownhostsfile", "/etc/ssh/ssh_known_hosts /etc/ssh/ssh_known_hosts2")),
    ]
    keys = HostKeys(hop.alias, name, shlex.join([*hop.ssh(ssh_config, "-o", "StrictHostKeyChecking=ask"), "true"]))
    for file, line in _lines(files, hop.alias):
        # One line at a time, since one that cannot be read says nothing about the others (sshd(8)).
        with contextlib.suppress(ValueError):
            entry = asyncssh.import_known_hosts(_lower(line))
            for of, into in ((name, keys.trusted), (host, keys.without_port)):
                trusted, authorities, revoked = asyncssh.match_known_hosts(entry, of.lower(), "", None)[:3]
                if alias is None or of == name:
                    into.update({key.public_data: file for key in trusted})
                    keys.revoked.update(key.public_data for key in revoked)
                    keys.by_authority |= bool(authorities)
    return keys


def _lower(line: str) -> str:
    """Write the hosts of a line in small letters: OpenSSH matches them so, asyncssh does not. Hashes stay."""
    hosts = re.match(r"\s*(?:@\S+\s+)?[^|\s@]\S*", line)
    return hosts[0].lower() + line[hosts.end() :] if hosts else line


def _lines(files: Sequence[Path], host: str) -> Iterator[tuple[Path, str]]:
    """Read the lines of those files that are there."""
    for file in files:
        try:
            text = file.read_text(errors="replace") if file.is_file() else ""
        except OSError as error:
            raise CouldNotLookError("known host keys cannot be read", host=host, output=str(error)) from error
        yield from ((file, line) for line in text.splitlines())


class HostKeys(paramiko.MissingHostKeyPolicy):
    """Accept a host key that is known, and nothing else.

    Keys are in SSH's wire format, the trusted ones with the file that holds them. `name` is what known_hosts calls the
    host. Those it knows without its port serve where none is known with it, as they do for OpenSSH.
    """

    def __init__(self, alias: str, name: str, accept: str) -> None:
        self.alias = alias
        self.name = name
        self.accept = accept
        self.trusted: dict[bytes, Path] = {}
        self.without_port: dict[bytes, Path] = {}
        self.revoked: set[bytes] = set()
        self.by_authority = False

    def algorithms(self) -> list[str]:
        """Name the signature algorithms of the trusted keys; one RSA key serves several (RFC 8332)."""
        kinds = [_kind(blob) for blob in self.trusted or self.without_port]
        return [
            name for kind in kinds for name in (["rsa-sha2-512", "rsa-sha2-256", kind] if kind == "ssh-rsa" else [kind])
        ]

    def missing_host_key(self, client: Any, hostname: str, key: Any) -> None:
        """Decide on the key that a host has just proved to hold; raises CouldNotLookError to refuse it."""
        blob = key.asbytes()
        offered = f"it offered {_describe(blob)}"
        if blob in self.revoked:
            raise CouldNotLookError(
                f"the host key of {self.name} is marked @revoked in known_hosts: refused",
                host=self.alias,
                output=offered,
                advice="do not connect until you know from its owner why",
            )
        if blob in (self.trusted or self.without_port):
            return
        if self.trusted:
            known = [f"known is {_describe(blob)}, in {file}" for blob, file in self.trusted.items()]
            forget = [shlex.join(["ssh-keygen", "-R", self.name, "-f", str(file)]) for file in self.trusted.values()]
            steps = " && ".join([*dict.fromkeys(forget), self.accept])
            raise CouldNotLookError(
                f"the host key of {self.name} has CHANGED: refused. "
                "Somebody may be listening in, or the server was set up anew",
                host=self.alias,
                output="\n".join([offered, *known]),
                advice=f"if its owner confirms the new key: {steps}",
            )
        if self.by_authority:
            raise CouldNotLookError(
                f"{self.name} is known through a @cert-authority only, which cannot be checked here: refused",
                host=self.alias,
                output=offered,
                advice="compare the fingerprint with its owner's, then add a line to known_hosts: "
                f"{self.name} {_kind(blob)} {base64.b64encode(blob).decode()}",
            )
        raise CouldNotLookError(
            f"the host key of {self.name} is unknown: refused",
            host=self.alias,
            output=offered,
            advice=f"compare the fingerprint with its owner's, then accept it: {self.accept}",
        )


def _describe(blob: bytes) -> str:
    return f"{_kind(blob)} {fingerprint(blob)}"


def _kind(blob: bytes) -> str:
    return str(paramiko.Message(blob).get_text())


def fingerprint(blob: bytes) -> str:
    """Write the fingerprint of a public key in SSH's wire format as `ssh-keygen -l` does."""
    return "SHA256:" + base64.b64encode(hashlib.sha256(blob).digest()).decode().rstrip("=")
