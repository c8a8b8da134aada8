"""Connections over the user's own SSH configuration, with host keys checked as OpenSSH checks them.

Fabric accepts every host key, and Paramiko reads only a part of OpenSSH's configuration. So every connection, to jump
hosts too, is opened here: `ssh -G` resolves the alias, known_hosts decides on the host key, and the keys are tried in
OpenSSH's order.
"""

from __future__ import annotations

import contextlib
import logging
import shlex
import socket
from collections.abc import Iterator, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import fabric
import paramiko
from paramiko.auth_strategy import AuthSource
from paramiko.ssh_exception import IncompatiblePeer, NoValidConnectionsError

from ..errors import HostUnreachableError, LoginError, SettingsError
from ..settings.load import check_host
from ..settings.model import LOCAL, Settings
from ..settings.values import OPENSSH
from .auth import AgentKey, KeyFile, Login, make_transport
from .host import Host
from .host_keys import HostKeyPolicy
from .interrupts import watch_interrupts
from .known_hosts import fingerprint
from .openssh_runner import open_openssh
from .proxy import ProxyCommand
from .runners import LocalRunner, SshRunner
from .ssh_config import USE_OPENSSH, Hop, parse_destination, parse_jumps, resolve

CONNECT_TIMEOUT = BANNER_TIMEOUT = 10  # seconds
AUTH_TIMEOUT = 30
CHANNEL_TIMEOUT = 30
KEEPALIVE = 30  # seconds between keepalive messages, so that no firewall drops an idle connection
# Paramiko's warnings are raised as exceptions too, and those are reported.
logging.getLogger("paramiko").addHandler(logging.NullHandler())
logging.getLogger("paramiko").propagate = False


@contextlib.contextmanager
def open_host(settings: Settings, name: str | None = None) -> Iterator[Host]:
    """Open a Host by its name, by default that of the settings; `local` is this machine.

    Raises SettingsError and CouldNotLookError.
    """
    name = check_host(name or settings.host)
    with watch_interrupts() as interrupts:
        if name == LOCAL:
            yield Host(name, LocalRunner(), settings.use_sudo, interrupts)
            return
        ssh_config = Path(settings.ssh_config).expanduser() if settings.ssh_config else None
        if settings.ssh_transport == OPENSSH:
            with open_openssh(name, ssh_config, interrupts) as openssh_runner:
                yield Host(name, openssh_runner, settings.use_sudo, interrupts)
            return

        def reconnect(old: Any) -> Any:
            close_connection(old)
            return connect(name, ssh_config)

        connection = interrupts.call(lambda: connect(name, ssh_config), close_connection)
        runner = SshRunner(connection, reconnect)
        try:
            yield Host(name, runner, settings.use_sudo, interrupts)
        finally:
            close_connection(runner.connection)


def connect(alias: str, ssh_config: Path | None = None) -> Any:
    """Open a Fabric connection to an SSH alias, through its jump hosts.

    `ssh_config` replaces the user's and the system's files. Raises SettingsError for a configuration that cannot be
    read or is not supported, and CouldNotLookError if the host cannot be reached, verified or logged in to.
    """
    connection = _connect_through_jumps(parse_destination(alias), ssh_config, earlier=())
    connection.transport.set_keepalive(KEEPALIVE)
    return connection


def _connect_through_jumps(hop: Hop, ssh_config: Path | None, earlier: Sequence[str], gateway: Any = None) -> Any:
    """Connect to a host; `earlier` are the aliases for which this one is a jump host."""
    with contextlib.ExitStack() as on_failure:
        on_failure.callback(lambda: close_connection(gateway))
        if hop.alias in earlier:
            chain = " -> ".join([*earlier, hop.alias])
            raise SettingsError(f"the jump hosts of {earlier[0]} form a loop: {chain}")
        options = resolve(hop, ssh_config)
        for jump in parse_jumps(options.get("proxyjump", "none")) if gateway is None else []:
            gateway = _connect_through_jumps(jump, ssh_config, earlier=(*earlier, hop.alias), gateway=gateway)
        connection = _connect_hop(hop, ssh_config, options, gateway)
        on_failure.pop_all()
        return connection


class _ResolvedConfig(paramiko.SSHConfig):
    """The options that `ssh -G` has resolved for one host, in the form that Fabric takes."""

    def __init__(self, options: Mapping[str, Any]) -> None:
        super().__init__()
        self.options = options

    def lookup(self, hostname: str) -> paramiko.SSHConfigDict:
        """Return the options, whatever name Fabric looks up."""
        return paramiko.SSHConfigDict(self.options)


def _connect_hop(hop: Hop, ssh_config: Path | None, options: Mapping[str, Any], gateway: Any) -> Any:
    keys = HostKeyPolicy(hop, ssh_config, options)
    proxy = None if gateway is not None else _start_proxy(options, hop.alias)
    connection = fabric.Connection(
        hop.alias,
        forward_agent=False,  # nothing needs it, and it would let the server use the user's keys
        connect_timeout=connect_timeout(options),
        gateway=gateway if gateway is not None else False,  # False: do not look for one
        config=fabric.Config(
            lazy=True,
            ssh_config=_ResolvedConfig(options),
            overrides={"authentication": {"strategy_class": Login}},
        ),
        connect_kwargs={
            "banner_timeout": BANNER_TIMEOUT,
            "auth_timeout": AUTH_TIMEOUT,
            "channel_timeout": CHANNEL_TIMEOUT,
            "transport_factory": partial(make_transport, host_key_algorithms=keys.algorithms()),
            **({"sock": proxy} if proxy else {}),
        },
    )
    connection.client.set_missing_host_key_policy(keys)
    try:
        _open_translated(connection, hop, ssh_config, proxy)
    except BaseException:
        connection.client.close()
        if proxy:
            proxy.close()
        raise
    return connection


def _start_proxy(options: Mapping[str, Any], alias: str) -> ProxyCommand | None:
    command = options.get("proxycommand") or "none"
    if command.lower() == "none":
        return None
    if options.get("proxyusefdpass") == "yes":
        raise SettingsError("ProxyUseFdpass is not supported by ssh_transport: fabric", host=alias, advice=USE_OPENSSH)
    return ProxyCommand(command)


def close_connection(connection: Any) -> None:
    """Close a connection, and those to its jump hosts, which Fabric leaves open."""
    while isinstance(connection, fabric.Connection):
        connection.close()
        connection = connection.gateway


def connect_timeout(options: Mapping[str, str]) -> int:
    """Return ssh_config's ConnectTimeout in seconds; CONNECT_TIMEOUT where that is `none`."""
    value = options.get("connecttimeout", "none")
    return int(value) if value.isdigit() else CONNECT_TIMEOUT


def _open_translated(connection: Any, hop: Hop, ssh_config: Path | None, proxy: ProxyCommand | None) -> None:
    """Open a connection; each way in which that can fail raises an error with advice."""
    alias = hop.alias
    address = f"{connection.host} port {connection.port}"
    try:
        connection.open()
    except socket.gaierror as error:
        advice = (
            f"is the alias {alias!r} in your SSH configuration? See: {shlex.join(hop.ssh_command(ssh_config, '-G'))}"
        )
        raise HostUnreachableError(
            f"no such host: {connection.host}", host=alias, output=str(error), advice=advice
        ) from error
    except paramiko.AuthenticationException as error:
        printed = "\n".join(list_login_attempts(error))
        advice = f"this command must work without a prompt: {shlex.join([*hop.ssh_command(ssh_config), 'true'])}"
        raise LoginError(
            f"login as {connection.user} refused by {address}",
            host=alias,
            output=printed,
            advice=f"{advice}. If it does: {USE_OPENSSH}",
        ) from error
    except TimeoutError as error:
        raise HostUnreachableError(
            f"no answer from {address} within {connection.connect_timeout} s",
            host=alias,
            advice=_master_advice(connection) or "is the host up, and does a firewall drop the connection?",
        ) from error
    except IncompatiblePeer as error:
        raise HostUnreachableError(
            f"{address} and this transport have no algorithm in common",
            host=alias,
            output="\n".join(connection.client.get_transport().list_incompatible()) or str(error),
            advice=USE_OPENSSH,
        ) from error
    except (OSError, EOFError, paramiko.SSHException) as error:
        raise HostUnreachableError(
            f"no SSH connection to {address}",
            host=alias,
            output="\n".join(filter(None, [_reason(error), proxy.errors() if proxy else ""])),
            advice=_master_advice(connection) or f"see: {shlex.join([*hop.ssh_command(ssh_config, '-v'), 'true'])}",
        ) from error


def _master_advice(connection: Any) -> str:
    """Return the advice for a host that this machine reaches by an open ControlMaster, empty if there is none."""
    path = Path(connection.ssh_config.get("controlpath", "none")).expanduser()
    return f"OpenSSH has a connection open, at {path}; to use it: {USE_OPENSSH}" if path.is_socket() else ""


def _reason(error: Exception) -> str:
    """Say why there is no connection, where Paramiko's own message does not."""
    if isinstance(error, NoValidConnectionsError):
        return "\n".join(f"{address[0]}: {failure.strerror}" for address, failure in error.errors.items())
    messages = {
        "Error reading SSH protocol banner": f"it sent no SSH banner within {BANNER_TIMEOUT} s",
        "No existing session": "it stopped answering during the key exchange",
    }
    return messages.get(str(error), str(error)) or type(error).__name__


def list_login_attempts(error: paramiko.AuthenticationException) -> list[str]:
    """List the keys and passwords that were tried, each with its result."""
    result = getattr(error, "result", None)
    if result is None:
        return [str(error)]
    # For an offer that was accepted, the result is a list: the methods that the server requires in addition.
    accepted = [isinstance(attempt.result, list) for attempt in result]
    attempts = [
        f"{_source_name(attempt.source)}: {'accepted' if is_accepted else attempt.result}"
        for attempt, is_accepted in zip(result, accepted, strict=True)
    ]
    verb = "still requires" if any(accepted) else "accepts"
    methods = ", ".join(result.strategy.allowed)
    return [*(attempts or ["there was nothing to offer"]), f"the server {verb}: {methods}"]


def _source_name(source: AuthSource) -> str:
    if isinstance(source, KeyFile):
        return str(source.path)
    if isinstance(source, AgentKey):
        return f"agent key {fingerprint(source.pkey.asbytes())}"
    return "password"
