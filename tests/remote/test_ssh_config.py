"""The SSH configuration as OpenSSH reads it, with OpenSSH's client here and without."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import pytest

from demo_backups.errors import WRONG_INPUT, SettingsError
from demo_backups.remote.auth import agent_of
from demo_backups.remote.connection import connect, connect_timeout
from demo_backups.remote.ssh_config import Hop, parse_jumps, paths, resolve


def write(path: Path, text: str) -> Path:
    path.write_text(text)
    return path


def without_ssh(monkeypatch: pytest.MonkeyPatch, folder: Path) -> None:
    """Make this a machine without OpenSSH's client, whose user has a home of the test's own."""
    monkeypatch.setenv("PATH", str(folder))
    monkeypatch.setenv("HOME", str(folder))


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
    ConnectTimeout 7
    ProxyJump one,torrust@two:2200
Match originalhost matched
    HostName matched.example
Host *
    User everybody
"""


@pytest.mark.parametrize(
    ("alias", "option", "value"),
    [
        ("demo", "hostname", "demo.example"),
        ("demo", "port", "2222"),
        ("demo", "user", "torrust"),
        ("demo", "hostkeyalias", "torrust-demo"),
        ("demo", "identityagent", "{folder}/agent.sock"),
        ("demo", "identityfile", ["{folder}/torrust_key"]),
        ("demo", "connecttimeout", "7"),
        ("demo", "proxyjump", "one,torrust@two:2200"),
        ("matched", "hostname", "matched.example"),
        ("other", "hostname", "other"),
        ("other", "user", "everybody"),
        ("other", "port", "22"),
        ("deep", "hostname", "deep.example"),
        ("deep", "user", "from-the-include"),
    ],
)
def test_a_host_is_resolved_as_openssh_does(tmp_path: Path, alias: str, option: str, value: Any) -> None:
    write(tmp_path / "included", "Host deep\n  HostName deep.example\n  User from-the-include\n")
    config = write(tmp_path / "config", CONFIG.format(folder=tmp_path))
    found = resolve(Hop(alias), config).lookup(alias)[option]
    expected = [each.format(folder=tmp_path) for each in value] if isinstance(value, list) else value
    assert found == (expected.format(folder=tmp_path) if isinstance(expected, str) else expected)


def test_what_a_proxyjump_says_wins_over_the_configuration(tmp_path: Path) -> None:
    config = write(tmp_path / "config", CONFIG.replace("Include {folder}/included\n", "").format(folder=tmp_path))
    found = resolve(Hop("demo", user="root", port="22"), config).lookup("demo")
    assert (found["user"], found["port"], found["hostname"]) == ("root", "22", "demo.example")


@pytest.mark.parametrize("present", [True, False], ids=["ssh", "no ssh"])
def test_known_hosts_may_be_several_files_with_blanks_in_their_names(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, present: bool
) -> None:
    config = write(tmp_path / "config", f'Host demo\n UserKnownHostsFile "{tmp_path}/a b/o\'k" {tmp_path}/second\n')
    if not present:
        without_ssh(monkeypatch, tmp_path)
    options = resolve(Hop("demo"), config).lookup("demo")
    files = paths(options["userknownhostsfile"])
    assert files == [tmp_path / "a b/o'k", tmp_path / "second"]


def test_a_missing_configuration_file_is_named(tmp_path: Path) -> None:
    with pytest.raises(SettingsError, match=r"there is no file .*nothing-here") as caught:
        resolve(Hop("demo"), tmp_path / "nothing-here")
    assert "set ssh_config to a file, or to null" in str(caught.value)


def test_what_openssh_refuses_to_read_is_handed_on(tmp_path: Path) -> None:
    config = write(tmp_path / "config", "Host demo\n  Prot 22\n")
    with pytest.raises(SettingsError) as caught:
        resolve(Hop("demo"), config)
    assert "Bad configuration option: prot" in str(caught.value)
    assert str(config) in str(caught.value)
    assert caught.value.exit_code == WRONG_INPUT


def test_without_openssh_the_same_files_are_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    without_ssh(monkeypatch, tmp_path)
    text = CONFIG.replace("Include {folder}/included\n", "").format(folder=tmp_path)
    (tmp_path / ".ssh").mkdir()
    write(tmp_path / ".ssh/config", text)
    monkeypatch.setattr(
        "demo_backups.remote.ssh_config.CONFIG_FILES",
        ("~/.ssh/config", str(write(tmp_path / "system", "Compression yes\n"))),
    )
    for config in (write(tmp_path / "config", text), None):
        found = resolve(Hop("demo", user="root"), config).lookup("demo")
        assert (found["hostname"], found["port"], found["user"]) == ("demo.example", "2222", "root")
        assert found["hostkeyalias"] == "torrust-demo"
        assert resolve(Hop("matched"), config).lookup("matched")["hostname"] == "matched.example"
    assert resolve(Hop("demo"), None).lookup("demo")["compression"] == "yes"
    monkeypatch.setenv("HOME", str(tmp_path / "nobody"))
    assert resolve(Hop("demo"), None).lookup("demo")["hostname"] == "demo"


@pytest.mark.parametrize(
    "line",
    [
        "Include ~/.ssh/more",
        'Match exec "true"',
        "Match host demo !exec /bin/false",
        "Match tagged work",
        "match localnetwork 10.0.0.0/8",
        "CanonicalizeHostname yes",
        "CanonicalizeHostname=always",
    ],
)
def test_without_openssh_what_cannot_be_honoured_is_refused_by_name(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, line: str
) -> None:
    without_ssh(monkeypatch, tmp_path)
    config = write(tmp_path / "config", f"Host demo\n  User torrust\n  {line}\n")
    with pytest.raises(SettingsError) as caught:
        resolve(Hop("demo"), config)
    assert f"{config}: '{line}' cannot be honoured without OpenSSH's client" in str(caught.value)
    assert "openssh-client" in str(caught.value)


@pytest.mark.parametrize(
    "line",
    ["# Include more", "CanonicalizeHostname  no", "Match all", "Match user torrust host demo", "ProxyCommand none"],
)
def test_without_openssh_the_rest_is_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, line: str) -> None:
    without_ssh(monkeypatch, tmp_path)
    config = write(tmp_path / "config", f"Host demo\n  User torrust\n{line}\n")
    assert resolve(Hop("demo"), config).lookup("demo")["user"] == "torrust"


@pytest.mark.parametrize("text", ["Port many\n", "nonsense\n", 'Host "open\n'])
def test_without_openssh_a_broken_configuration_is_told_in_words(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, text: str
) -> None:
    without_ssh(monkeypatch, tmp_path)
    with pytest.raises(SettingsError, match="the SSH configuration cannot be read"):
        resolve(Hop("demo"), write(tmp_path / "config", text))


@pytest.mark.parametrize(
    ("value", "hops"),
    [
        ("none", []),
        ("None", []),
        ("jump", [Hop("jump")]),
        ("torrust@jump", [Hop("jump", "torrust")]),
        ("jump:2222", [Hop("jump", None, "2222")]),
        ("a@b.example:22, c", [Hop("b.example", "a", "22"), Hop("c", jumps="a@b.example:22")]),
        ("one,two,three", [Hop("one"), Hop("two", jumps="one"), Hop("three", jumps="one,two")]),
        ("ssh://torrust@jump:22/", [Hop("jump", "torrust", "22")]),
        ("ssh://[::1]:22", [Hop("::1", None, "22")]),
        ("[fe80::1]", [Hop("fe80::1")]),
    ],
)
def test_proxyjump_is_split_as_openssh_does(value: str, hops: list[Hop]) -> None:
    assert parse_jumps(value) == hops


@pytest.mark.parametrize("value", ["", "a,,b", "user@", "jump:port", "-oProxyCommand=touch x", "@jump", "[]:22"])
def test_a_proxyjump_that_cannot_be_read_is_refused(value: str) -> None:
    with pytest.raises(SettingsError, match="cannot be read"):
        parse_jumps(value)


def test_jump_hosts_in_a_circle_are_refused(tmp_path: Path) -> None:
    config = write(tmp_path / "config", "Host a\n ProxyJump b\nHost b\n ProxyJump c\nHost c\n ProxyJump a\n")
    with pytest.raises(SettingsError, match="a -> b -> c -> a") as caught:
        connect("a", config)
    assert caught.value.exit_code == WRONG_INPUT


@pytest.mark.parametrize(("text", "seconds"), [("ConnectTimeout 3", 3), ("ConnectTimeout none", 10), ("", 10)])
def test_connect_timeout_is_the_users_or_ours(tmp_path: Path, text: str, seconds: int) -> None:
    config = write(tmp_path / "config", text)
    assert connect_timeout(resolve(Hop("demo"), config).lookup("demo")) == seconds


@pytest.mark.parametrize(
    ("value", "inside"),
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
def test_identity_agent_holds_for_its_own_host_only(
    monkeypatch: pytest.MonkeyPatch, value: str | None, inside: str | None
) -> None:
    for name, setting in (("SSH_AUTH_SOCK", "/outside.sock"), ("MY_AGENT", "/my.sock"), ("HOME", "/home-of-test")):
        monkeypatch.setenv(name, setting)
    with agent_of(value):
        assert os.environ.get("SSH_AUTH_SOCK") == inside
    assert os.environ["SSH_AUTH_SOCK"] == "/outside.sock"
