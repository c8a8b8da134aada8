"""Connections over the user's own SSH set-up, with host keys checked as OpenSSH checks them.

Fabric accepts every host key and Paramiko reads only a part of OpenSSH's configuration, so every connection, jump
hosts included, is made here: `ssh -G` resolves the alias, known_hosts decides on the host key, and the keys are tried
in OpenSSH's order. Sources: ssh_config(5), sshd(8) "SSH_KNOWN_HOSTS FILE FORMAT".
"""

from __future__ import annotations

import base64
import contextlib
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
from paramiko.ssh_exception import NoValidConnectionsError

from .errors import CouldNotLookError, SettingsError

CONNECT_TIMEOUT = BANNER_TIMEOUT = 10  # seconds
AUTH_TIMEOUT = 30
CHANNEL_TIMEOUT = 30
CONFIG_FILES = ("~/.ssh/config", "/etc/ssh/ssh_config")
KEEPALIVE = 30  # seconds between two signs of life, so that no firewall forgets a quiet connection

# Its warnings come back as exceptions too, and those are the ones that reach the user.
logging.getLogger("paramiko").addHandler(logging.NullHandler())
logging.getLogger("paramiko").propagate = False


def connect(alias: str, ssh_config: Path | None = None, runner: type[fabric.runners.Remote] | None = None) -> Any:
    """Open a Fabric connection to an SSH alias, through its jump hosts.

    `ssh_config` takes the place of the user's and the system's files. Raises SettingsError for a configuration that
    cannot be read or honoured, and CouldNotLookError where the host cannot be reached, proved or logged in to.
    """
    user, _, name = alias.rpartition("@")
    connection = _connection(_Hop(name, user or None), ssh_config, runner or fabric.runners.Remote, seen=())
    connection.transport.set_keepalive(KEEPALIVE)
    return connection


@dataclass(frozen=True)
class _Hop:
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


def parse_jumps(value: str) -> list[_Hop]:
    """Split ssh_config's ProxyJump: `[user@]host[:port]` or `ssh://...`, by commas; `none` is none."""
    if value.lower() == "none":
        return []
    hops = []
    jumps = [jump.strip() for jump in value.split(",")]
    for number, jump in enumerate(jumps):
        match = re.fullmatch(r"(?:ssh://)?(?:([^@]+)@)?(\[[^]]+\]|[^-:/@[][^:/@]*)(?::(\d+))?/?", jump)
        if not match:
            raise SettingsError(f"ProxyJump {value!r} cannot be read", advice="see ssh_config(5), ProxyJump")
        hops.append(_Hop(match[2].strip("[]"), match[1], match[3], ",".join(jumps[:number]) or None))
    return hops


def _connection(hop: _Hop, ssh_config: Path | None, runner: Any, seen: Sequence[str], gateway: Any = None) -> Any:
    if hop.alias in seen:
        raise SettingsError(f"the jump hosts of {seen[0]} go in a circle: {' -> '.join([*seen, hop.alias])}")
    config = resolve(hop, ssh_config)
    options = config.lookup(hop.alias)
    for jump in parse_jumps(options.get("proxyjump", "none")) if gateway is None else []:
        gateway = _connection(jump, ssh_config, runner, seen=(*seen, hop.alias), gateway=gateway)
    command = options.get("proxycommand") or "none"
    if gateway is None and command.lower() != "none":
        gateway = command
    keys = known_keys(hop, ssh_config, options)
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
    with _agent(options.get("identityagent")):
        _open(connection, hop, ssh_config)
    return connection


def connect_timeout(options: Mapping[str, str]) -> int:
    """Seconds, from ssh_config's ConnectTimeout; ours where it says `none`."""
    value = options.get("connecttimeout", "none")
    return int(value) if value.isdigit() else CONNECT_TIMEOUT


def _open(connection: Any, hop: _Hop, ssh_config: Path | None) -> None:
    """Open a connection; every way in which that fails becomes words."""
    alias = hop.alias
    where = f"{connection.host} port {connection.port}"
    try:
        connection.open()
    except socket.gaierror as error:
        advice = f"is the alias {alias!r} in your SSH configuration? See: {shlex.join(hop.ssh(ssh_config, '-G'))}"
        raise CouldNotLookError(
            f"no such host: {connection.host}", host=alias, printed=str(error), advice=advice
        ) from error
    except paramiko.AuthenticationException as error:
        printed = "\n".join(tried(error))
        advice = f"this must work without a question: {shlex.join([*hop.ssh(ssh_config), 'true'])}"
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
        raise CouldNotLookError(
            f"no SSH connection to {where}",
            host=alias,
            printed=_reason(error),
            advice=f"see: {shlex.join([*hop.ssh(ssh_config, '-v'), 'true'])}",
        ) from error


def _reason(error: Exception) -> str:
    """Say why there is no connection, where Paramiko's own words do not."""
    if isinstance(error, NoValidConnectionsError):
        return "\n".join(f"{address[0]}: {each.strerror}" for address, each in error.errors.items())
    words = {
        "Error reading SSH protocol banner": f"it did not greet as an SSH server does within {BANNER_TIMEOUT} s",
        "No existing session": "it stopped answering before the keys were agreed on",
    }
    return words.get(str(error), str(error)) or type(error).__name__


def tried(error: paramiko.AuthenticationException) -> list[str]:
    """List what was offered to log in with, and what came of each."""
    result = getattr(error, "result", None)
    if result is None:
        return [str(error)]
    offered = [f"{_name(each.source)}: {each.result}" for each in result] or ["there was nothing to offer"]
    return [*offered, f"the server takes: {', '.join(result.strategy.allowed)}"]


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
            printed=asked.stderr,
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


def _resolve_without_ssh(hop: _Hop, ssh_config: Path | None) -> paramiko.SSHConfig:
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
            "the SSH configuration cannot be read", host=hop.alias, printed=str(error), advice="correct it"
        ) from error
    return config


def _paths(value: str) -> list[Path]:
    """Split a list of files as `ssh -G` prints it: full paths, with their own blanks unquoted."""
    return [Path(each.strip('"')).expanduser() for each in re.split(r'\s+(?=["/~])', value)]


@contextlib.contextmanager
def _agent(value: str | None) -> Iterator[None]:
    """Honour a host's IdentityAgent while it is logged in to; Paramiko finds its agent through the environment only."""
    before = os.environ.get("SSH_AUTH_SOCK")
    if value is None or value == "SSH_AUTH_SOCK":
        wanted = before
    elif value.startswith("$"):
        wanted = os.environ.get(value[1:].strip("{}"))
    else:
        wanted = None if value.lower() == "none" else str(Path(value).expanduser())
    try:
        _set_agent(wanted)
        yield
    finally:
        _set_agent(before)


def _set_agent(value: str | None) -> None:
    os.environ.pop("SSH_AUTH_SOCK", None)
    if value is not None:
        os.environ["SSH_AUTH_SOCK"] = value


# --- host keys ------------------------------------------------------------------------------------------------------


def _transport(sock: Any, known: Sequence[str] = (), **kwargs: Any) -> paramiko.Transport:
    """Make a transport that asks first for the kinds of host key that are known, as OpenSSH does."""
    transport = _Transport(sock, **kwargs)
    options = transport.get_security_options()
    options.key_types = sorted(options.key_types, key=lambda kind: kind not in known)
    return transport


def known_keys(hop: _Hop, ssh_config: Path | None, options: Mapping[str, str]) -> HostKeys:
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
        *_paths(options.get("userknownhostsfile", "~/.ssh/known_hosts ~/.ssh/known_hosts2")),
        *_paths(options.get("globalknownhostsfile", "/etc/ssh/ssh_known_hosts /etc/ssh/ssh_known_hosts2")),
    ]
    keys = HostKeys(hop.alias, name, shlex.join([*hop.ssh(ssh_config, "-o", "StrictHostKeyChecking=ask"), "true"]))
    for file, line in _lines(files, hop.alias):
        # One line at a time, since one that cannot be read says nothing about the others (sshd(8)).
        with contextlib.suppress(ValueError):
            entry = asyncssh.import_known_hosts(line)
            for of, into in ((name, keys.trusted), (host, keys.without_port)):
                trusted, authorities, revoked = asyncssh.match_known_hosts(entry, of, "", None)[:3]
                if alias is None or of == name:
                    into.update({key.public_data: file for key in trusted})
                    keys.revoked.update(key.public_data for key in revoked)
                    keys.by_authority |= bool(authorities)
    return keys


def _lines(files: Sequence[Path], host: str) -> Iterator[tuple[Path, str]]:
    """Read the lines of those files that are there."""
    for file in files:
        try:
            text = file.read_text(errors="replace") if file.is_file() else ""
        except OSError as error:
            raise CouldNotLookError("known host keys cannot be read", host=host, printed=str(error)) from error
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
                printed=offered,
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
                printed="\n".join([offered, *known]),
                advice=f"if its owner confirms the new key: {steps}",
            )
        if self.by_authority:
            raise CouldNotLookError(
                f"{self.name} is known through a @cert-authority only, which cannot be checked here: refused",
                host=self.alias,
                printed=offered,
                advice="compare the fingerprint with its owner's, then add a line to known_hosts: "
                f"{self.name} {_kind(blob)} {base64.b64encode(blob).decode()}",
            )
        raise CouldNotLookError(
            f"the host key of {self.name} is unknown: refused",
            host=self.alias,
            printed=offered,
            advice=f"compare the fingerprint with its owner's, then accept it: {self.accept}",
        )


def _describe(blob: bytes) -> str:
    return f"{_kind(blob)} {fingerprint(blob)}"


def _kind(blob: bytes) -> str:
    return str(paramiko.Message(blob).get_text())


def fingerprint(blob: bytes) -> str:
    """Write the fingerprint of a public key in SSH's wire format as `ssh-keygen -l` does."""
    return "SHA256:" + base64.b64encode(hashlib.sha256(blob).digest()).decode().rstrip("=")


# --- login ----------------------------------------------------------------------------------------------------------


def ask_secret(prompt: str) -> str | None:
    """Ask on the terminal for what must not be shown; None where there is no terminal. It is kept nowhere."""
    try:
        return getpass.getpass(prompt) if sys.stdin.isatty() else None
    except EOFError:  # Ctrl-D
        raise KeyboardInterrupt from None


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
        except (TypeError, paramiko.PasswordRequiredException):  # the first is what from_path lets through
            passphrase = ask_secret(f"Passphrase for {self.path}: ")
            if passphrase is None:
                raise paramiko.AuthenticationException(
                    "has a passphrase, and there is no terminal to ask for it: ssh-add it first"
                ) from None
            try:
                self.pkey = paramiko.PKey.from_path(self.path, passphrase.encode())
            except (TypeError, ValueError, paramiko.SSHException) as error:
                raise paramiko.AuthenticationException("the passphrase is wrong, or the file is damaged") from error
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
        files = [Path(each).expanduser() for each in self.ssh_config.get("identityfile", default)]
        # Of a key in the agent, the public half may be all that is here.
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
            if blob not in in_agent and file.suffix != ".pub" and file.is_file()
        )


def _public(file: Path) -> bytes:
    """Read the public half of a key file, in SSH's wire format; the path itself where there is none."""
    public = file if file.suffix == ".pub" else file.with_name(file.name + ".pub")
    try:
        return bytes(paramiko.PublicBlob.from_file(public).key_blob)
    except (OSError, ValueError):
        return os.fsencode(file)
