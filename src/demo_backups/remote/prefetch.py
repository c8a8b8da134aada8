"""Run the commands of several queries in one round trip, and let the queries find their answers."""

from __future__ import annotations

import io
import secrets
from collections.abc import Mapping, Sequence
from typing import Any

from ..errors import CouldNotLookError
from .answers import parse_count
from .host import COMMAND_TIMEOUT, Host, Result

# Read from standard input, a script shows neither in `ps` nor in the log of sudo, which would grow at every check.
READ_SCRIPT = 'script=$(cat) && exec < /dev/null && eval "$script"'


def prefetch(host: Host, action: str, commands: Sequence[str]) -> Host:
    """Run commands as root, and return a Host that has their answers.

    Its queries get the answer of a command once, if they run that command as root; all others reach the host. So it is
    for queries that are made right away. Raises CouldNotLookError if the commands could not be run; one of them that
    fails is a result.
    """
    if not commands:
        return host
    separator = secrets.token_hex(16)
    script = batch_script(commands, separator).encode("utf-8", "surrogateescape")
    result = host.stream(
        action,
        READ_SCRIPT,
        root=True,
        timeout=COMMAND_TIMEOUT,
        display="\n".join(commands),
        reads_only=True,
        source=io.BytesIO(script),
    ).result
    if not result.ok:
        raise CouldNotLookError(f"could not {action}", host=host.name, output=result.output, advice=host.advise(result))
    answers = host.parse(action, result.stdout, lambda output: parse_batch(output, separator, len(commands)))
    return _PrefetchedHost(host, dict(zip(commands, answers, strict=True)))


def batch_script(commands: Sequence[str], separator: str) -> str:
    """Build the script that runs commands, each in a shell of its own, and prints their results.

    A result is the standard output, a line with the separator and the exit status, and the standard error up to
    another line with the separator.
    """
    lines = ["exec 3>&1"]
    for command in commands:
        lines += [
            # The commands have their own `set -e`, so this must not be part of a condition.
            f"error=$( (\n{command}\n) 2>&1 >&3 3>&- ); code=$?",
            f'printf \'\\n%s %s\\n%s\\n%s\\n\' {separator} "$code" "$error" {separator}',
        ]
    return "\n".join([*lines, "exit 0"])


def parse_batch(output: str, separator: str, count: int) -> list[Result]:
    """Parse what `batch_script` printed for `count` commands; raises ValueError."""
    results = []
    rest = output
    for _ in range(count):
        stdout, found, rest = rest.partition(f"\n{separator} ")
        status, _, rest = rest.partition("\n")
        stderr, end, rest = rest.partition(f"\n{separator}\n")
        if not found or not end:
            raise ValueError(f"not the results of {count} commands")
        results.append(Result(parse_count(status, largest=255), stdout, stderr))
    if rest:
        raise ValueError("more than the results of all commands")
    return results


class _PrefetchedHost(Host):
    """A Host that has the answers of some commands, and otherwise is the one that it was made of."""

    def __init__(self, host: Host, answers: Mapping[str, Result]) -> None:
        self.__dict__.update(host.__dict__)  # the same connection, access to root and record
        self._answers = dict(answers)

    def run(self, action: str, command: str, *, root: bool = False, **options: Any) -> Result:
        answer = self._answers.pop(command, None) if root else None
        return super().run(action, command, root=root, **options) if answer is None else answer
