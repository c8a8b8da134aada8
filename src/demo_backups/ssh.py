"""Connections over the user's own SSH set-up, with host keys checked as OpenSSH checks them.

Fabric accepts every host key and Paramiko reads only a part of OpenSSH's configuration, so every connection, jump
hosts included, is made here: `ssh -G` resolves the alias, known_hosts decides on the host key, and the keys are tried
in OpenSSH's order. Sources: ssh_config(5), sshd(8) "SSH_KNOWN_HOSTS FILE FORMAT".
"""

from __future__ import annotations

import base64
import getpass
import hashlib
import logging
import os
import re
import shlex
import shutil
import socket
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import fabric
import paramiko
from paramiko.auth_handler import AuthOnlyHandler
from paramiko.auth_strategy import AuthSource, AuthStrategy, InMemoryPrivateKey, Password, PrivateKey
from paramiko.common import cMSG_USERAUTH_REQUEST

from .errors import CouldNotLookError, SettingsError

CONNECT_TIMEOUT = BANNER_TIMEOUT = 10  # seconds
AUTH_TIMEOUT = 30
CHANNEL_TIMEOUT = 30
KEEPALIVE = 30  # seconds between two signs of life, so that no firewall forgets a quiet connection

# Its warnings come back as exceptions too, and those are the ones that reach the user.
logging.getLogger("paramiko").addHandler(logging.NullHandler())
logging.getLogger("paramiko").propagate = False


def connect(alias: str, ssh_config: Path | None = None, runner: type[fabric.runners.Remote] | None = None) -> Any:
    """Open a Fabric connection to an SSH alias, through its jump hosts.

    `ssh_config` takes the place of the user's and the system's files. Raises SettingsError for a configuration that
    cannot be read or honoured, and CouldNotLookError where the host cannot be reached, proved or logged in to.
    """
    connection = _connection(_Hop(alias), ssh_config, runner or fabric.runners.Remote, seen=())
    connection.transport.set_keepalive(KEEPALIVE)
    return connection


@dataclass(frozen=True)
class _Hop:
    """A host on the way: an alias, and what `user@` and `:port` of a ProxyJump say against its configuration."""

    alias: str
    user: str | None = None
    port: str | None = None


def parse_jumps(value: str) -> list[_Hop]:
    """Split ssh_config's ProxyJump: `[user@]host[:port]` or `ssh://...`, by commas; `none` is none."""
    if value.lower() == "none":
        return []
    hops = []
    for jump in value.split(","):
        match = re.fullmatch(r"(?:ssh://)?(?:([^@]*)@)?(\[[^]]*\]|[^:]*)(?::(\d+))?/?", jump.strip())
        if not match or not match[2]:
            raise SettingsError(f"ProxyJump {value!r} cannot be read", advice="see ssh_config(5), ProxyJump")
        hops.append(_Hop(match[2].strip("[]"), match[1], match[3]))
    return hops


def _connection(hop: _Hop, ssh_config: Path | None, runner: Any, seen: Sequence[str], gateway: Any = None) -> Any:
    if hop.alias in seen:
        raise SettingsError(f"the jump hosts of {seen[0]} go in a circle: {' -> '.join([*seen, hop.alias])}")
    config = resolve(hop, ssh_config)
    options = config.lookup(hop.alias)
    for jump in parse_jumps(options.get("proxyjump", "none")) if gateway is None else []:
        gateway = _connection(jump, ssh_config, runner, seen=(*seen, hop.alias), gateway=gateway)
    command = options.get("proxycommand", "none")
    if gateway is None and command.lower() != "none":
        gateway = command
    if agent := options.get("identityagent"):
        _use_agent(agent)
    keys = known_keys(options)
    connection = fabric.Connection(
        hop.alias,
        forward_agent=False,  # nothing there needs it, and it would lend the user's keys to the server
        connect_timeout=connect_timeout(options),
        gateway=gateway if gateway is not None else False,  # False: do not look for one
        config=fabric.Config(
            lazy=True,
            ssh_config=config,
            overrides={
                "runners": {"remote": runner},
                "authentication": {"strategy_class": Login},
            },
        ),
        connect_kwargs={
            "banner_timeout": BANNER_TIMEOUT,
            "auth_timeout": AUTH_TIMEOUT,
            "channel_timeout": CHANNEL_TIMEOUT,
            "transport_factory": partial(_transport, known=keys.algorithms()),
        },
    )
    connection.client.set_missing_host_key_policy(keys)
    _open(connection, hop.alias)
    return connection


def connect_timeout(options: Mapping[str, str]) -> int:
    """Seconds, from ssh_config's ConnectTimeout; ours where it says `none`."""
    value = options.get("connecttimeout", "none")
    return int(value) if value.isdigit() else CONNECT_TIMEOUT


def _open(connection: Any, alias: str) -> None:
    """Open a connection; every way in which that fails becomes words."""
    where = f"{connection.host} port {connection.port}"
    try:
        connection.open()
    except socket.gaierror as error:
        advice = f"is the alias {alias!r} in your SSH configuration? See: ssh -G {shlex.quote(alias)}"
        raise CouldNotLookError(
            f"no such host: {connection.host}", host=alias, printed=str(error), advice=advice
        ) from error
    except paramiko.AuthenticationException as error:
        printed = "\n".join(tried(error))
        advice = f"this must work without a question: ssh {shlex.quote(alias)} true"
        raise CouldNotLookError(
            f"login as {connection.user} refused by {where}", host=alias, printed=printed, advice=advice
        ) from error
    except TimeoutError as error:
        raise CouldNotLookError(
            f"no answer from {where} within {connection.connect_timeout} s",
            host=alias,
            advice="is it up, and does a firewall stand between?",
        ) from error
    except (OSError, EOFError, paramiko.SSHException) as error:
        printed = str(error) or type(error).__name__
        raise CouldNotLookError(
            f"no SSH connection to {where}",
            host=alias,
            printed=printed,
            advice=f"see: ssh -v {shlex.quote(alias)} true",
        ) from error


def tried(error: paramiko.AuthenticationException) -> list[str]:
    """List what was offered to log in with, and what came of each."""
    result = getattr(error, "result", None)
    if result is None:
        return [str(error)]
    return [f"{_name(each.source)}: {each.result}" for each in result] or ["there was no key to offer"]


def _name(source: AuthSource) -> str:
    if isinstance(source, KeyFile):
        return str(source.path)
    if isinstance(source, InMemoryPrivateKey):
        return f"agent key {fingerprint(source.pkey.asbytes())}"
    return "password"


# --- configuration --------------------------------------------------------------------------------------------------


def resolve(hop: _Hop, ssh_config: Path | None) -> paramiko.SSHConfig:
    """Ask OpenSSH what it would do for a host; without an `ssh` here, let Paramiko read the same files."""
    if ssh_config is not None and not ssh_config.is_file():
        raise SettingsError(f"ssh_config: there is no file {ssh_config}", advice="set ssh_config to a file, or to null")
    if shutil.which("ssh") is None:
        return _resolve_without_ssh(hop, ssh_config)
    command = ["ssh", "-G", *(["-F", str(ssh_config)] if ssh_config else [])]
    command += ["-l", hop.user] if hop.user else []
    command += ["-p", hop.port] if hop.port else []
    try:
        asked = subprocess.run(
            [*command, "--", hop.alias],
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
            printed=asked.stderr,
            advice="correct the file it names",
        )
    return paramiko.SSHConfig.from_text(f"Host {hop.alias}\n{_without_host(asked.stdout)}")


def _without_host(printed: str) -> str:
    """Drop the `host` line with which some versions of `ssh -G` start: one Host section is wanted."""
    return "".join(line for line in printed.splitlines(keepends=True) if not line.startswith("host "))


def _resolve_without_ssh(hop: _Hop, ssh_config: Path | None) -> paramiko.SSHConfig:
    files = [ssh_config] if ssh_config else [Path("~/.ssh/config").expanduser(), Path("/etc/ssh/ssh_config")]
    texts = [
        f"Host {hop.alias}\n" + (f"User {hop.user}\n" if hop.user else "") + (f"Port {hop.port}\n" if hop.port else "")
    ]
    for file in files:
        if not file.is_file():
            continue
        text = file.read_text(errors="surrogateescape")
        unsupported = re.search(
            r"^\s*(Include|Match\s[^#\n]*\b(?:exec|tagged|localnetwork))\b.*$", text, re.IGNORECASE | re.MULTILINE
        )
        if unsupported:
            raise SettingsError(
                f"{file}: '{unsupported[0].strip()}' cannot be honoured without OpenSSH's client on this machine",
                advice="install it (Debian: openssh-client), or set ssh_config to a file without that line",
            )
        texts.append("Host *\n" + text)
    try:
        return paramiko.SSHConfig.from_text("\n".join(texts))
    except (paramiko.ConfigParseError, paramiko.CouldNotCanonicalize, ValueError) as error:
        raise SettingsError(f"SSH configuration cannot be read: {error}", host=hop.alias) from error


def _paths(value: str) -> list[Path]:
    whole = Path(value).expanduser()
    return [whole] if whole.is_file() else [Path(each).expanduser() for each in shlex.split(value)]


def _use_agent(value: str) -> None:
    """Honour IdentityAgent; Paramiko finds its agent through the environment only."""
    if value.lower() == "none":
        os.environ.pop("SSH_AUTH_SOCK", None)
    elif value != "SSH_AUTH_SOCK":
        os.environ["SSH_AUTH_SOCK"] = str(
            Path(os.environ.get(value[1:], "") if value.startswith("$") else value).expanduser()
        )


# --- host keys ------------------------------------------------------------------------------------------------------


def _transport(sock: Any, known: Sequence[str] = (), **kwargs: Any) -> paramiko.Transport:
    """Make a transport that asks first for the kinds of host key that are known, as OpenSSH does."""
    transport = _Transport(sock, **kwargs)
    options = transport.get_security_options()
    options.key_types = sorted(options.key_types, key=lambda kind: kind not in known)
    return transport


def known_keys(options: Mapping[str, str]) -> HostKeys:
    """Read what the known_hosts files of a host say about it; `options` are OpenSSH's, resolved."""
    import asyncssh

    host, port = options["hostname"], int(options.get("port", 22))
    alias = options.get("hostkeyalias")
    user_files = _paths(options.get("userknownhostsfile", "~/.ssh/known_hosts ~/.ssh/known_hosts2"))
    files = [*user_files, *_paths(options.get("globalknownhostsfile", "/etc/ssh/ssh_known_hosts"))]
    try:
        text = "\n".join(file.read_text(errors="replace") for file in files if file.is_file())
    except OSError as error:
        raise CouldNotLookError(f"known host keys cannot be read: {error}", host=host) from error
    found = asyncssh.match_known_hosts(asyncssh.import_known_hosts(text), alias or host, "", None if alias else port)
    trusted, authorities, revoked = ([key.public_data for key in keys] for keys in found[:3])
    return HostKeys(
        name=alias or (host if port == 22 else f"[{host}]:{port}"),
        file=user_files[0] if user_files else Path("~/.ssh/known_hosts"),
        trusted=trusted,
        revoked=revoked,
        by_authority=bool(authorities),
    )


class HostKeys(paramiko.MissingHostKeyPolicy):
    """Accept a host key that is known, and nothing else. `trusted` and `revoked` hold keys in SSH's wire format."""

    def __init__(
        self, name: str, file: Path, trusted: Sequence[bytes], revoked: Sequence[bytes], by_authority: bool = False
    ) -> None:
        self.name = name
        self.file = file
        self.trusted = trusted
        self.revoked = revoked
        self.by_authority = by_authority

    def algorithms(self) -> list[str]:
        """Name the signature algorithms of the trusted keys; one RSA key serves several (RFC 8332)."""
        kinds = [_kind(blob) for blob in self.trusted]
        return [
            name for kind in kinds for name in (["rsa-sha2-512", "rsa-sha2-256", kind] if kind == "ssh-rsa" else [kind])
        ]

    def missing_host_key(self, client: Any, hostname: str, key: Any) -> None:
        """Decide on the key that a host has just proved to hold; raises CouldNotLookError to refuse it."""
        offered = f"it offered {key.get_name()} {fingerprint(key.asbytes())}"
        if key.asbytes() in self.revoked:
            raise CouldNotLookError(
                "the host key is marked @revoked in known_hosts: refused",
                host=self.name,
                printed=offered,
                advice="do not connect until you know from its owner why",
            )
        if key.asbytes() in self.trusted:
            return
        if self.trusted:
            known = ", ".join(f"{_kind(blob)} {fingerprint(blob)}" for blob in self.trusted)
            forget = shlex.join(["ssh-keygen", "-R", self.name, "-f", str(self.file)])
            raise CouldNotLookError(
                "the host key has CHANGED: refused. Somebody may be listening in, or the server was set up anew",
                host=self.name,
                printed=f"{offered}\nknown is {known}",
                advice=f"if its owner confirms the new key: {forget} and then {self._accept(hostname)}",
            )
        if self.by_authority:
            raise CouldNotLookError(
                "the host is known through a @cert-authority only, which Paramiko cannot check: refused",
                host=self.name,
                printed=offered,
                advice=f"compare the fingerprint with its owner's, then: {self._accept(hostname)}",
            )
        raise CouldNotLookError(
            "the host key is unknown: refused",
            host=self.name,
            printed=offered,
            advice=f"compare the fingerprint with its owner's, then accept it: {self._accept(hostname)}",
        )

    def _accept(self, hostname: str) -> str:
        port = re.search(r"\]:(\d+)$", hostname)
        options = ["-o", "StrictHostKeyChecking=ask", "-o", f"UserKnownHostsFile={self.file}"]
        options += ["-p", port[1]] if port else []
        options += ["-o", f"HostKeyAlias={self.name}"] if self.name != hostname else []
        return shlex.join(["ssh", *options, hostname.split("]", maxsplit=1)[0].strip("["), "true"])


def _kind(blob: bytes) -> str:
    return str(paramiko.Message(blob).get_text())


def fingerprint(blob: bytes) -> str:
    """Write the fingerprint of a public key in SSH's wire format as `ssh-keygen -l` does."""
    return "SHA256:" + base64.b64encode(hashlib.sha256(blob).digest()).decode().rstrip("=")


# --- login ----------------------------------------------------------------------------------------------------------


def ask_secret(prompt: str) -> str | None:
    """Ask on the terminal for what must not be shown; None where there is no terminal. It is kept nowhere."""
    return getpass.getpass(prompt) if sys.stdin.isatty() else None


class _Transport(paramiko.ServiceRequestingTransport):
    """Paramiko's transport that asks for the login service once, as RFC 4252 has it; the older one asks every time."""

    def get_auth_handler(self) -> _AuthHandler:
        return _AuthHandler(self)


class _AuthHandler(AuthOnlyHandler):
    def send_auth_request(
        self, username: str, method: str, finish_message: Callable[[Any], Any] = lambda message: None
    ) -> Any:
        """Do what Paramiko 5.1 does, but make the event before the question: it can miss an answer that is quick."""
        self.auth_method, self.username = method, username
        self.auth_event = threading.Event()
        message = paramiko.Message()
        message.add_byte(cMSG_USERAUTH_REQUEST)
        for text in (username, "ssh-connection", method):
            message.add_string(text)
        finish_message(message)
        with self.transport.lock:
            self.transport._send_message(message)
        return self.wait_for_response(self.auth_event)


class KeyFile(PrivateKey):
    """A private key in a file, read when its turn comes; asks for its passphrase on a terminal."""

    def __init__(self, username: str, path: Path) -> None:
        super().__init__(username)
        self.path = path

    def authenticate(self, transport: Any) -> Any:
        """Offer the key; raises Paramiko's exceptions."""
        try:
            self.pkey = paramiko.PKey.from_path(self.path)
        except paramiko.PasswordRequiredException:
            passphrase = ask_secret(f"Passphrase for {self.path}: ")
            if passphrase is None:
                raise paramiko.AuthenticationException(
                    "has a passphrase, and there is no terminal to ask for it: ssh-add it first"
                ) from None
            self.pkey = paramiko.PKey.from_path(self.path, passphrase)
        return super().authenticate(transport)


class Login(AuthStrategy):
    """Try to log in as OpenSSH does: agent keys, key files, then a password asked for once on a terminal."""

    def __init__(self, ssh_config: Mapping[str, Any], fabric_config: Any, username: str) -> None:
        super().__init__(ssh_config)
        self.username = username
        self.allowed: list[str] = []

    def authenticate(self, transport: Any) -> Any:
        """Ask the server what it allows, then try it; raises AuthFailure with all that was tried."""
        try:
            return transport.auth_none(self.username)
        except paramiko.BadAuthenticationType as refused:
            self.allowed = refused.allowed_types
        return super().authenticate(transport)

    def get_sources(self) -> Iterator[AuthSource]:
        """Yield what to try, in OpenSSH's order (ssh_config(5), PreferredAuthentications and IdentitiesOnly)."""
        if "publickey" in self.allowed:
            yield from self._keys()
        if {"password", "keyboard-interactive"} & set(self.allowed) and sys.stdin.isatty():
            yield Password(self.username, lambda: ask_secret(f"Password of {self.username}: "))

    def _keys(self) -> Iterator[AuthSource]:
        default = ["~/.ssh/id_ed25519", "~/.ssh/id_ecdsa", "~/.ssh/id_rsa"]
        files = [
            path
            for path in (Path(each).expanduser() for each in self.ssh_config.get("identityfile", default))
            if path.is_file()
        ]
        listed = {_public(file): file for file in files}
        agent = list(paramiko.Agent().get_keys())
        only = self.ssh_config.get("identitiesonly", "no") == "yes"
        for key in sorted(agent, key=lambda key: key.asbytes() not in listed):
            if not only or key.asbytes() in listed:
                yield InMemoryPrivateKey(self.username, key)
        in_agent = {key.asbytes() for key in agent}
        yield from (
            KeyFile(self.username, file)
            for blob, file in listed.items()
            if blob not in in_agent and file.suffix != ".pub"
        )


def _public(file: Path) -> bytes:
    """Read the public half of a key file, in SSH's wire format; the path itself where there is none."""
    public = file if file.suffix == ".pub" else file.with_name(file.name + ".pub")
    try:
        return bytes(paramiko.PublicBlob.from_file(public).key_blob)
    except (OSError, ValueError):
        return os.fsencode(file)
