"""The SSH configuration of a host as `ssh -G` resolves it, and how destinations are split."""

from __future__ import annotations

import getpass
import os
import socket
from pathlib import Path
from typing import Any

import pytest

from demo_backups.errors import WRONG_INPUT, CouldNotLookError, SettingsError
from demo_backups.remote import auth, connection, ssh_config
from demo_backups.remote.ssh_config import Hop

from ..helpers.host_keys import program, write

CONFIG = """
Include {folder}/included
Host demo
    HostName demo.example
    Port 2222
    User torrust
    HostKeyAlias torrust-demo
    UserKnownHostsFile "{folder}/a b/known" {folder}/second
    IdentityAgent {folder}/agent.sock
    IdentityFile {folder}/%r_key
    IdentityFile "{folder}/it's %% b"
    ConnectTimeout 7
    ProxyJump one,torrust@two:2200
Match originalhost matched
    HostName matched.example
Host *
    User everybody
"""


def resolve(config: Path, hop: Hop | None = None) -> dict[str, Any]:
    return ssh_config.resolve(hop or Hop("demo"), config)


@pytest.fixture
def config(tmp_path: Path) -> Path:
    """An SSH configuration that uses Include, Match, quotes and percent tokens."""
    write(tmp_path / "included", "Host deep\n  HostName deep.example\n  User from-the-include\n")
    return write(tmp_path / "config", CONFIG.format(folder=tmp_path))


@pytest.mark.parametrize(
    ("alias", "option", "value"),
    [
        ("demo", "hostname", "demo.example"),
        ("demo", "port", "2222"),
        ("demo", "user", "torrust"),
        ("demo", "hostkeyalias", "torrust-demo"),
        ("demo", "identityagent", "{folder}/agent.sock"),
        ("demo", "identityfile", ["{folder}/torrust_key", "{folder}/it's % b"]),
        ("demo", "connecttimeout", "7"),
        ("demo", "proxyjump", "one,torrust@two:2200"),
        ("matched", "hostname", "matched.example"),
        ("other", "hostname", "other"),
        ("other", "user", "everybody"),
        ("other", "port", "22"),
        ("deep", "hostname", "deep.example"),
        ("deep", "user", "from-the-include"),
        ("::1", "hostname", "::1"),
        ("fe80::1%lo", "hostname", "fe80::1%lo"),
    ],
)
def test_host_is_resolved_by_openssh(tmp_path: Path, config: Path, alias: str, option: str, value: Any) -> None:
    found = resolve(config, Hop(alias))[option]
    assert (str(found) if isinstance(value, str) else found) == (
        value.format(folder=tmp_path) if isinstance(value, str) else [text.format(folder=tmp_path) for text in value]
    )


def test_destination_overrides_configuration(config: Path) -> None:
    options = resolve(config, Hop("demo", user="root", port="22"))
    assert (options["user"], options["port"], options["hostname"]) == ("root", "22", "demo.example")


def test_files_with_blanks_are_split(tmp_path: Path) -> None:
    config = write(tmp_path / "config", f'Host demo\n UserKnownHostsFile "{tmp_path}/a b/o\'k" {tmp_path}/second\n')
    files = ssh_config.split_paths(resolve(config)["userknownhostsfile"])
    assert files == [tmp_path / "a b/o'k", tmp_path / "second"]
    assert ssh_config.split_paths("none") == []


def test_path_of_missing_user_is_refused() -> None:
    with pytest.raises(SettingsError, match="no-such-user"):
        ssh_config.split_paths("~no-such-user/known_hosts")


def test_missing_configuration_file_is_named(tmp_path: Path) -> None:
    with pytest.raises(SettingsError, match=r"no such file: .*missing") as caught:
        resolve(tmp_path / "missing")
    assert caught.value.advice == "set ssh_config to a file, or to null"


def test_error_of_openssh_is_shown(tmp_path: Path) -> None:
    config = write(tmp_path / "config", "Host demo\n  Prot 22\n")
    with pytest.raises(SettingsError) as caught:
        resolve(config)
    assert "Bad configuration option: prot" in caught.value.output
    assert str(config) in caught.value.output
    assert caught.value.exit_code == WRONG_INPUT


def test_missing_openssh_client_is_named(config: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(SettingsError, match="ssh is not installed") as caught:
        resolve(config)
    assert caught.value.exit_code == WRONG_INPUT
    assert "openssh-client" in caught.value.advice


@pytest.mark.parametrize("output", ["", "hostname demo\nuser me\n", "hostname demo\nuser me\nport 0\n", "port 22\n"])
def test_unexpected_output_is_an_error(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, output: str) -> None:
    config = write(tmp_path / "config", "")
    Path(program(tmp_path, f"printf '{output}'")).rename(tmp_path / "ssh")
    monkeypatch.setenv("PATH", f"{tmp_path}:{os.environ['PATH']}")
    with pytest.raises(CouldNotLookError, match="printed no hostname, user or port"):
        resolve(config)


def test_options_are_parsed_without_quoting() -> None:
    output = 'host demo\nuser o\'k "x"\nidentityfile ~/a b\nidentityfile /c\nsetenv A=b\nproxyjump a\nproxyjump b\n'
    assert ssh_config.parse_options(output) == {
        "host": "demo",
        "user": 'o\'k "x"',
        "identityfile": ["~/a b", "/c"],
        "setenv": ["A=b"],
        "proxyjump": "a",
    }


# --- tokens ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("value", "expanded"),
    [
        ("/%%/%h/%n/%p/%r", "/%/demo.example/demo/2222/torrust"),
        ("/%d/%i/%u", f"/{Path.home()}/{os.getuid()}/{getpass.getuser()}"),
        ("/%k/%L/%l", f"/torrust-demo/{socket.gethostname().partition('.')[0]}/{socket.gethostname()}"),
        ("/${DEMO_KEYS}/key", "/keys of the test/key"),
        ("~/%%h", "~/%h"),
    ],
)
def test_tokens_of_identity_files_are_expanded(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, value: str, expanded: str
) -> None:
    monkeypatch.setenv("DEMO_KEYS", "keys of the test")
    config = write(tmp_path / "config", f"IdentityFile {value}\n{CONFIG.format(folder=tmp_path)}")
    assert resolve(config)["identityfile"][0] == expanded


@pytest.mark.parametrize("value", ["/%C", "/%T", "/100%", "/${DEMO_NOT_SET}/key"])
def test_unsupported_token_is_refused(tmp_path: Path, value: str) -> None:
    config = write(tmp_path / "config", f"IdentityFile {value}\n")
    with pytest.raises(SettingsError, match="cannot be expanded"):
        resolve(config)


def test_tokens_of_proxy_command_are_expanded(tmp_path: Path) -> None:
    config = write(tmp_path / "config", "Host demo\n Port 2222\n ProxyCommand nc -x '%n' %h %p %% ${HOME}\n")
    assert resolve(config)["proxycommand"] == "nc -x 'demo' demo 2222 % ${HOME}"


# --- destinations ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("text", "hop"),
    [
        ("demo", Hop("demo")),
        ("torrust@demo", Hop("demo", "torrust")),
        ("first.last@example.org@demo", Hop("demo", "first.last@example.org")),
        (r"DOMAIN\user@demo", Hop("demo", r"DOMAIN\user")),
        ("::1", Hop("::1")),
        ("fe80::1%eth0", Hop("fe80::1%eth0")),
        ("ssh://demo", Hop("demo")),
        ("ssh://torrust@demo:2222", Hop("demo", "torrust", "2222")),
        ("ssh://a%40b@[::1]:2222/", Hop("::1", "a@b", "2222")),
        ("ssh://torrust;fingerprint=x@demo", Hop("demo", "torrust")),
    ],
)
def test_destination_is_split_as_by_ssh(text: str, hop: Hop) -> None:
    assert ssh_config.parse_destination(text) == hop


@pytest.mark.parametrize(
    "text",
    [
        "",
        "@demo",
        "torrust@",
        "-oProxyCommand=touch x",
        "x@-oProxyCommand=touch",
        "-x@demo",
        "de mo",
        "demo;id",
        "$(id)@demo;x",
        "`id`",
        "x -y@demo",
        "ssh://",
        "ssh://-oX@demo",
        "ssh://demo/path",
        "ssh://@demo",
        "ssh://a@-demo",
        "ssh://demo:port",
    ],
)
def test_invalid_destination_is_refused(text: str) -> None:
    with pytest.raises(SettingsError) as caught:
        ssh_config.parse_destination(text)
    assert "ssh://[USER@]HOST[:PORT]" in caught.value.advice


@pytest.mark.parametrize(
    ("value", "hops"),
    [
        ("none", []),
        ("None", []),
        ("jump", [Hop("jump")]),
        ("torrust@jump", [Hop("jump", "torrust")]),
        ("a@realm@jump", [Hop("jump", "a@realm")]),
        ("jump:2222", [Hop("jump", None, "2222")]),
        ("a@b.example:22, c", [Hop("b.example", "a", "22"), Hop("c", jumps="a@b.example:22")]),
        ("one,two,three", [Hop("one"), Hop("two", jumps="one"), Hop("three", jumps="one,two")]),
        ("ssh://torrust@jump:22/", [Hop("jump", "torrust", "22")]),
        ("ssh://[::1]:22", [Hop("::1", None, "22")]),
        ("[fe80::1]", [Hop("fe80::1")]),
    ],
)
def test_proxy_jump_is_split_as_by_ssh(value: str, hops: list[Hop]) -> None:
    assert ssh_config.parse_jumps(value) == hops


@pytest.mark.parametrize(
    "value", ["", "a,,b", "user@", "jump:port", "-oProxyCommand=touch x", "-oX@jump", "a@-x", "@jump", "[]:22", "::1"]
)
def test_invalid_proxy_jump_is_refused(value: str) -> None:
    with pytest.raises(SettingsError, match="is not valid"):
        ssh_config.parse_jumps(value)


def test_circular_jump_hosts_are_refused(tmp_path: Path) -> None:
    config = write(tmp_path / "config", "Host a\n ProxyJump b\nHost b\n ProxyJump c\nHost c\n ProxyJump a\n")
    with pytest.raises(SettingsError, match="a -> b -> c -> a") as caught:
        connection.connect("a", config)
    assert caught.value.exit_code == WRONG_INPUT


# --- what other modules read ----------------------------------------------------------------------------------------


@pytest.mark.parametrize(("text", "seconds"), [("ConnectTimeout 3", 3), ("ConnectTimeout none", 10), ("", 10)])
def test_connect_timeout_has_a_default(tmp_path: Path, text: str, seconds: int) -> None:
    config = write(tmp_path / "config", text)
    assert connection.connect_timeout(resolve(config)) == seconds


@pytest.mark.parametrize(
    ("value", "socket"),
    [
        (None, "/outside.sock"),
        ("SSH_AUTH_SOCK", "/outside.sock"),
        ("none", None),
        ("/of/the/host.sock", "/of/the/host.sock"),
        ("~/host.sock", "/home-of-test/host.sock"),
        ("$MY_AGENT", "/my.sock"),
        ("${MY_AGENT}", "/my.sock"),
        ("$NOT_SET", None),
    ],
)
def test_identity_agent_is_found(monkeypatch: pytest.MonkeyPatch, value: str | None, socket: str | None) -> None:
    for name, setting in (("SSH_AUTH_SOCK", "/outside.sock"), ("MY_AGENT", "/my.sock"), ("HOME", "/home-of-test")):
        monkeypatch.setenv(name, setting)
    assert auth.find_agent(value) == socket
