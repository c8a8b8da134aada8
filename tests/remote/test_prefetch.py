"""Several queries are answered by one round trip."""

from __future__ import annotations

from typing import Any

import pytest

from demo_backups.errors import CouldNotLookError
from demo_backups.remote.host import Host, Result, Transfer
from demo_backups.remote.prefetch import parse_batch, prefetch

COMMANDS = {
    "echo out; echo err >&2; exit 3": Result(3, "out\n", "err"),
    r"printf 'a\0b\n\nsep 0\n'": Result(0, "a\0b\n\nsep 0\n", ""),
    "set -e; false; echo unreachable": Result(1, "", ""),
    "printf ' it'\\''s \\\\ \"$HOME\" ' # a comment": Result(0, ' it\'s \\ "$HOME" ', ""),
    "cat": Result(0, "", ""),  # there is no input
    "kill -9 $(sh -c 'echo $PPID')": Result(137, "", ""),
    "printf 'no such file\\n\\n' >&2; false": Result(1, "", "no such file"),
}


@pytest.fixture
def streams(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The actions of all commands that reach the host."""
    actions: list[str] = []
    stream = Host.stream

    def count(self: Host, action: str, command: str, **options: Any) -> Transfer:
        actions.append(action)
        return stream(self, action, command, **options)

    monkeypatch.setattr(Host, "stream", count)
    return actions


def test_commands_are_answered_in_one_round_trip(local_host: Host, streams: list[str]) -> None:
    host = prefetch(local_host, "read facts", list(COMMANDS))
    results = {command: host.run("read one", command, root=True) for command in COMMANDS}
    assert results == COMMANDS
    assert streams == ["read facts"]


def test_answer_is_used_once(local_host: Host, streams: list[str]) -> None:
    host = prefetch(local_host, "read facts", ["echo x"])
    assert [host.query("read one", "echo x") for _ in range(2)] == ["x\n", "x\n"]
    assert streams == ["read facts", "read one"]


def test_other_commands_reach_the_host(local_host: Host, streams: list[str]) -> None:
    host = prefetch(local_host, "read facts", ["id -u"])
    host.query("read as the login", "id -u", root=False)
    host.query("read another", "id -g")
    assert streams == ["read facts", "read as the login", "read another"]


@pytest.mark.parametrize("answer", ["", "x\n", "a\n\nsep 0\n", "\nsep 0\n\nsep\n\nsep 0\n\nsep\nmore"])
def test_incomplete_batch_is_no_answer(answer: str) -> None:
    with pytest.raises(ValueError, match=r"results of|number"):
        parse_batch(answer, "sep", 2)


def test_failed_batch_is_reported(local_host: Host, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Host, "stream", lambda *_, **__: Transfer(Result(2, "", "sh: broken"), 0, "", True))
    with pytest.raises(CouldNotLookError, match="could not read facts"):
        prefetch(local_host, "read facts", ["true"])
