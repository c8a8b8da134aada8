"""Accept or refuse the key of a host, as OpenSSH does with `StrictHostKeyChecking yes`.

Fabric accepts every host key, so its policy is replaced. The decision follows `check_host_key` of OpenSSH's
sshconnect.c, and is stricter in three ways: a key that is revoked for the bare host name is refused on every port, keys
in DNS are not trusted (VerifyHostKeyDNS), and the keys of this machine are checked too
(NoHostAuthenticationForLocalhost).
"""

from __future__ import annotations

import base64
import ipaddress
import os
import shlex
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import paramiko

from ..errors import HostKeyError, SettingsError
from .auth import CERTIFICATE
from .known_hosts import KeyStatus, KnownKey, Marker, evaluate, find_keys, fingerprint, is_krl, is_revoked, read_error
from .ssh_config import USE_OPENSSH, Hop, split_paths

# Host key algorithms that Paramiko supports: OpenSSH's short name of the key type, and the curve.
ALGORITHMS = {
    "ssh-ed25519": ("ED25519", ""),
    "ecdsa-sha2-nistp256": ("ECDSA", "nistp256"),
    "ecdsa-sha2-nistp384": ("ECDSA", "nistp384"),
    "ecdsa-sha2-nistp521": ("ECDSA", "nistp521"),
    "rsa-sha2-512": ("RSA", ""),
    "rsa-sha2-256": ("RSA", ""),
}


class HostKeyPolicy(paramiko.MissingHostKeyPolicy):
    """Accept a host key that is known, and nothing else.

    `name` is what known_hosts calls the host: its HostKeyAlias, or host, or [host]:port.
    """

    def __init__(self, hop: Hop, ssh_config: Path | None, options: Mapping[str, Any]) -> None:
        """Look the host up; `options` are those of `ssh -G`.

        Raises SettingsError for an option that is not supported, and CouldNotLookError if `ssh-keygen` fails.
        """
        _check_supported(options, hop.alias)
        self.hop, self.ssh_config, self.options = hop, ssh_config, options
        self.files = [
            *split_paths(options.get("userknownhostsfile", "none")),
            *split_paths(options.get("globalknownhostsfile", "none")),
        ]
        self.unreadable: list[str] = []
        alias = options.get("hostkeyalias")
        host = options["hostname"].lower()
        self.name = alias or self._with_port(host)
        self.keys = self._find(self.name)
        self.keys_without_port = [] if self.name in (alias, host) else self._find(host)

    def _with_port(self, host: str) -> str:
        port = str(self.options["port"])
        return host if port == "22" else f"[{host}]:{port}"

    def _find(self, name: str) -> list[KnownKey]:
        """Find the keys of a name in all files; like OpenSSH, skip a file that cannot be read."""
        keys = []
        self.unreadable = []
        for file in self.files:
            if not os.path.lexists(file):
                continue
            if error := read_error(file):
                self.unreadable.append(f"not read: {error}")
            else:
                keys += find_keys(name, file, self.hop.alias)
        return keys

    def algorithms(self) -> list[str]:
        """Return the host key algorithms to offer, in OpenSSH's order: those of known keys first.

        The order of HostKeyAlgorithms stays if its first one is known. (OpenSSH also keeps it if the user wrote a
        plain list; `ssh -G` does not tell such a list from its default.)
        """
        offered = str(self.options.get("hostkeyalgorithms") or ",".join(ALGORITHMS)).split(",")
        supported = [algorithm for algorithm in offered if algorithm in ALGORITHMS]
        known = {(key.kind, key.curve) for key in self.keys if key.marker is Marker.NONE}
        if ALGORITHMS.get(offered[0].removesuffix(CERTIFICATE)) in known:
            return supported
        return sorted(supported, key=lambda algorithm: ALGORITHMS[algorithm] not in known)

    def missing_host_key(self, client: Any, hostname: str, key: Any) -> None:
        """Decide on the key that a host has just proved to hold; raises CouldNotLookError to refuse it."""
        blob = key.asbytes()
        self._check_revoked(blob)
        status = evaluate(self.keys, fingerprint(blob))
        if status is KeyStatus.CHANGED:
            raise self._changed(blob, "has CHANGED", self.name, self.keys)
        # A key that is known without the port is accepted. Another one is no sign of a change.
        if KeyStatus.KNOWN not in (status, evaluate(self.keys_without_port, fingerprint(blob))):
            raise self._unknown(blob)
        self._check_address(client, blob)

    def _check_revoked(self, blob: bytes) -> None:
        offered = fingerprint(blob)
        for file in split_paths(self.options.get("revokedhostkeys", "none")):
            if is_revoked(file, _public_key(blob), offered, self.hop.alias):
                raise self._revoked(blob, f"in RevokedHostKeys {file}", _list_revoked(file))
        for key in [*self.keys, *self.keys_without_port]:
            if evaluate([key], offered) is KeyStatus.REVOKED:
                raise self._revoked(blob, f"by a @revoked line, {key.file}:{key.line}", _show(key))

    def _check_address(self, client: Any, blob: bytes) -> None:
        """Check the key of the host's address as well, if CheckHostIP is set."""
        direct = all(self.options.get(keyword, "none") == "none" for keyword in ("proxyjump", "proxycommand"))
        if self.options.get("checkhostip") != "yes" or not direct:
            return
        address = client.get_transport().getpeername()[0]
        if address == self.options["hostname"] or ipaddress.ip_address(address).is_loopback:
            return
        name = self._with_port(address)
        keys = self._find(name)
        if evaluate(keys, fingerprint(blob)) is KeyStatus.CHANGED:
            raise self._changed(blob, f"is not the one of its address {name} (CheckHostIP)", name, keys)

    def _changed(self, blob: bytes, problem: str, name: str, keys: Sequence[KnownKey]) -> HostKeyError:
        plain = [key for key in keys if key.marker is Marker.NONE]
        commands = [_forget(name, file) for file in dict.fromkeys(key.file for key in plain)]
        return self._refused(
            f"the host key of {self.name} {problem}: refused. "
            "Someone may be intercepting the connection, or the server has a new key",
            [_offered(blob), *(f"known: {key}" for key in plain)],
            f"if the server's administrator confirms the new key: {' && '.join([*commands, self._accept()])}",
        )

    def _unknown(self, blob: bytes) -> HostKeyError:
        if any(key.marker is Marker.AUTHORITY for key in [*self.keys, *self.keys_without_port]):
            kind = _short_name(blob)
            plain = ",".join(algorithm for algorithm, (name, _) in ALGORITHMS.items() if name == kind)
            command = self._accept("-o", f"HostKeyAlgorithms={plain}")
            problem = "is known through a @cert-authority only, and host certificates need ssh_transport: openssh"
        else:
            command = self._accept()
            problem = "is unknown"
        return self._refused(
            f"the host key of {self.name} {problem}: refused",
            [_offered(blob)],
            f"compare the fingerprint with the one from the server's administrator, then accept it: {command}",
        )

    def _revoked(self, blob: bytes, source: str, command: str) -> HostKeyError:
        return self._refused(
            f"the host key of {self.name} is revoked {source}: refused",
            [_offered(blob)],
            "do not connect: someone may be using a stolen key. Ask the server's administrator for a new host key. "
            f"To see the entry: {command}",
        )

    def _refused(self, reason: str, output: Sequence[str], advice: str) -> HostKeyError:
        output = "\n".join([*output, *dict.fromkeys(self.unreadable)])
        return HostKeyError(reason, host=self.hop.alias, output=output, advice=advice)

    def _accept(self, *options: str) -> str:
        return shlex.join([*self.hop.ssh_command(self.ssh_config, "-o", "StrictHostKeyChecking=ask", *options), "true"])


def _check_supported(options: Mapping[str, Any], alias: str) -> None:
    """Raise SettingsError for options whose neglect would accept what OpenSSH refuses, or the reverse."""
    command = options.get("knownhostscommand", "none")
    if command.lower() != "none":
        raise SettingsError(
            f"KnownHostsCommand {command} is not supported",
            host=alias,
            advice=f"{USE_OPENSSH}. Or write its keys to a file named by UserKnownHostsFile, and set "
            "'KnownHostsCommand none' for this host in your SSH configuration",
        )
    algorithms = options.get("hostkeyalgorithms")
    if algorithms and not ALGORITHMS.keys() & set(algorithms.split(",")):
        raise SettingsError(
            f"HostKeyAlgorithms {algorithms} has no algorithm that is supported",
            host=alias,
            advice=f"{USE_OPENSSH}. Or add one of {', '.join(ALGORITHMS)}",
        )


def _offered(blob: bytes) -> str:
    return f"offered: {_short_name(blob)} {fingerprint(blob)}"


def _short_name(blob: bytes) -> str:
    name = str(paramiko.Message(blob).get_text())
    return "RSA" if name == "ssh-rsa" else ALGORITHMS.get(name, (name, ""))[0]


def _public_key(blob: bytes) -> str:
    return f"{paramiko.Message(blob).get_text()} {base64.b64encode(blob).decode()}"


def _show(key: KnownKey) -> str:
    return shlex.join(["sed", "-n", f"{key.line}p", str(key.file)])


def _list_revoked(file: Path) -> str:
    return shlex.join(["ssh-keygen", *(["-Q"] if is_krl(file) else []), "-l", "-f", str(file)])


def _forget(name: str, file: Path) -> str:
    """Build the command that removes the keys of a name; `ssh-keygen -R` replaces the file, in its folder."""
    sudo = [] if os.access(file.parent, os.W_OK) else ["sudo"]
    return shlex.join([*sudo, "ssh-keygen", "-R", name, "-f", str(file)])
