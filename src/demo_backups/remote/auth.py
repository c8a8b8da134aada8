"""Log in as OpenSSH does: keys of the agent, key files, then a password typed once on the terminal."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import paramiko
from paramiko.auth_strategy import (
    AuthFailure,
    AuthResult,
    AuthSource,
    AuthStrategy,
    Password,
    PrivateKey,
)

from .private_api import SocketAgent, Transport
from .terminal import ask_secret, has_terminal

DEFAULT_KEYS = ("~/.ssh/id_ed25519", "~/.ssh/id_ecdsa", "~/.ssh/id_rsa")
PASSPHRASE_ERRORS = (TypeError, ValueError, paramiko.SSHException)
CERTIFICATE = "-cert-v01@openssh.com"  # the end of the type of a certificate
MOST_FACTORS = 5  # methods that a server may require one after the other; a limit if the server never stops asking


def make_transport(sock: Any, host_key_algorithms: Sequence[str], **options: Any) -> Transport:
    """Make a transport that offers these host key algorithms, in their order.

    It prefers AES-GCM, which needs no MAC: a download takes a fifth less of the CPU than with Paramiko's own order.
    """
    transport = Transport(sock, **options)
    security = transport.get_security_options()
    security.ciphers = sorted(security.ciphers, key=lambda cipher: "-gcm@" not in cipher)  # keeps the order otherwise
    security.key_types = [algorithm for algorithm in host_key_algorithms if algorithm in security.key_types]
    return transport


class _CertifiedKey(PrivateKey):
    """A key, offered with each of its certificates and then alone, as OpenSSH does."""

    def __init__(self, username: str, certificates: Sequence[paramiko.PublicBlob]) -> None:
        super().__init__(username)
        self.certificates = certificates
        self.pkey: Any = None

    def authenticate(self, transport: Any) -> Any:
        """Offer the key; raises Paramiko's exceptions."""
        plain = self.pkey.public_blob if isinstance(self.pkey, paramiko.AgentKey) else None
        for certificate in self.certificates:
            if is_certificate_of(certificate.key_blob, self.pkey.asbytes()):
                self.pkey.public_blob = certificate
                with contextlib.suppress(paramiko.AuthenticationException):
                    return super().authenticate(transport)
        self.pkey.public_blob = plain  # PKey.from_path has set the certificate next to a key file
        return super().authenticate(transport)


class AgentKey(_CertifiedKey):
    """A private key in the agent."""

    def __init__(self, username: str, key: paramiko.AgentKey, certificates: Sequence[paramiko.PublicBlob]) -> None:
        super().__init__(username, certificates)
        self.pkey = key


class KeyFile(_CertifiedKey):
    """A private key in a file. It is read when its turn comes; its passphrase is asked for on the terminal."""

    def __init__(self, username: str, path: Path, certificates: Sequence[paramiko.PublicBlob] = ()) -> None:
        super().__init__(username, certificates)
        self.path = path

    def authenticate(self, transport: Any) -> Any:
        """Offer the key; raises Paramiko's exceptions."""
        try:
            self.pkey = paramiko.PKey.from_path(self.path)
        except (TypeError, paramiko.PasswordRequiredException):  # from_path lets the first one through
            self.pkey = self._read_with_passphrase()
        return super().authenticate(transport)

    def _read_with_passphrase(self) -> paramiko.PKey:
        passphrase = ask_secret(f"Passphrase for {self.path}: ", self._is_passphrase)
        if passphrase is None:
            raise paramiko.AuthenticationException(
                "has a passphrase, and there is no terminal to ask for it: ssh-add it first"
            )
        try:
            return paramiko.PKey.from_path(self.path, passphrase.encode())
        except PASSPHRASE_ERRORS as error:
            raise paramiko.AuthenticationException("the passphrase is wrong, or the file is damaged") from error

    def _is_passphrase(self, answer: str) -> bool:
        with contextlib.suppress(*PASSPHRASE_ERRORS):
            paramiko.PKey.from_path(self.path, answer.encode())
            return True
        return False


class Login(AuthStrategy):
    """Try to log in as OpenSSH does: agent keys, key files, then a password typed once on the terminal."""

    def __init__(self, ssh_config: Mapping[str, Any], fabric_config: Any, username: str) -> None:
        super().__init__(ssh_config)
        self.username = username
        self.host = ssh_config.get("hostname", "")  # named in the question for a password: a jump host has another
        self.allowed: list[str] = []

    def authenticate(self, transport: Any) -> Any:
        """Ask the server what it allows, then try it; raises AuthFailure with everything that was tried."""
        attempts = AuthResult(self)
        try:
            self.allowed = transport.auth_none(self.username)
        except paramiko.BadAuthenticationType as refused:
            self.allowed = refused.allowed_types
        for _ in range(MOST_FACTORS):
            if not self.allowed:
                return attempts
            try:
                attempts += super().authenticate(transport)
            except AuthFailure as failure:
                raise AuthFailure(AuthResult(self, [*attempts, *failure.result])) from failure
            # What the server requires in addition. Paramiko's own strategy takes one accepted method for success.
            self.allowed = attempts[-1].result
        raise AuthFailure(attempts)

    def get_sources(self) -> Iterator[AuthSource]:
        """Yield what to try, in OpenSSH's order (ssh_config(5), PreferredAuthentications and IdentitiesOnly)."""
        if "publickey" in self.allowed:
            yield from self._keys()
        if {"password", "keyboard-interactive"} & set(self.allowed) and has_terminal():
            yield Password(self.username, lambda: ask_secret(f"{self.username}@{self.host}'s password: "))

    def _keys(self) -> Iterator[AuthSource]:
        files = [Path(name).expanduser() for name in self.ssh_config.get("identityfile", DEFAULT_KEYS)]
        configured = {_public_blob(file): file for file in files}
        certificates = self._certificates(files)
        agent = SocketAgent(find_agent(self.ssh_config.get("identityagent"))).get_keys()
        only_configured = self.ssh_config.get("identitiesonly", "no") == "yes"
        for key in sorted(agent, key=lambda key: key.asbytes() not in configured):
            if not only_configured or key.asbytes() in configured:
                yield AgentKey(self.username, key, certificates)
        in_agent = {key.asbytes() for key in agent}
        for blob, file in configured.items():
            # For a key in the agent, the configuration may name the public half: this machine need not have the other.
            if blob not in in_agent and file.suffix != ".pub" and file.is_file():
                yield KeyFile(self.username, file, certificates)

    def _certificates(self, files: Sequence[Path]) -> list[paramiko.PublicBlob]:
        """Read the certificates of CertificateFile, and those next to the key files."""
        configured = [Path(name).expanduser() for name in self.ssh_config.get("certificatefile", ())]
        found = []
        for path in [*configured, *(file.with_name(f"{file.name}-cert.pub") for file in files)]:
            with contextlib.suppress(OSError, ValueError, IndexError):  # OpenSSH skips what it cannot read too
                found.append(paramiko.PublicBlob.from_file(path))
        return found


def is_certificate_of(certificate: bytes, public: bytes) -> bool:
    """Tell whether a certificate is one of a public key, both in SSH's wire format (PROTOCOL.certkeys)."""
    kind, fields = _split_string(public)
    certificate_kind, rest = _split_string(certificate)
    _nonce, rest = _split_string(rest)
    return certificate_kind == kind + CERTIFICATE.encode() and rest.startswith(fields)


def _split_string(data: bytes) -> tuple[bytes, bytes]:
    """Split off the first string: its length in four bytes, and its bytes."""
    end = 4 + int.from_bytes(data[:4], "big")
    return data[4:end], data[end:]


def _public_blob(file: Path) -> bytes:
    """Read the public half of a key file, in SSH's wire format; the path itself if there is none."""
    public = file if file.suffix == ".pub" else file.with_name(file.name + ".pub")
    try:
        return bytes(paramiko.PublicBlob.from_file(public).key_blob)
    except (OSError, ValueError):
        return os.fsencode(file)


def find_agent(value: str | None) -> str | None:
    """Return the socket of a host's IdentityAgent, None if it has none; `value` is that of ssh_config.

    Paramiko finds its agent through the environment only, which belongs to all threads.
    """
    if value is None or value == "SSH_AUTH_SOCK":
        return os.environ.get("SSH_AUTH_SOCK")
    if value.startswith("$"):
        return os.environ.get(value[1:].strip("{}"))
    return None if value.lower() == "none" else str(Path(value).expanduser())
