"""Lint a backup script: it uses sqlite3's .backup, runs no cp, and quotes its variables."""

from __future__ import annotations

import re
from dataclasses import dataclass

from ..errors import UncheckedScriptError, UnsafeScriptError
from ..records.check import Outcome
from .shell_syntax import (
    MAX_BYTES,
    SHELLS,
    Command,
    UnreadableScriptError,
    find_commands,
    find_unquoted,
    parse_script,
    program_name,
)

_PRINTING_PROGRAMS = ("echo", "printf", "logger", ":")
# Programs that run a command elsewhere, or have a cp of their own; those that run it here are WRAPPERS.
_LAUNCHERS = (
    *("docker", "kubectl", "lxc", "machinectl", "nsenter", "parallel", "podman", "rsh", "setpriv", "ssh", "strace"),
    *("systemd-run", "unshare", "watch"),
)
_BACKUP_ARGUMENT = re.compile(r"(?:^|\n|\\n)\s*\.backup\s")
_BACKUP_INPUT = re.compile(r"""(?:^|[\s'"]|\\n)\.backup\s""")


@dataclass(frozen=True)
class LintResult:
    """The outcome of a lint; `findings` are the faults, or the reason why the outcome is unknown."""

    outcome: Outcome
    findings: tuple[str, ...] = ()


def lint(text: str) -> LintResult:
    """Check that a script uses sqlite3's .backup, does not run cp, and quotes its variables.

    The outcome is unknown if the grammar cannot read the script, which happens for some valid scripts. cp is also
    found behind sudo, timeout, xargs and other commands that run commands, in `find -exec`, `bash -c`, `eval` and
    `trap`, and in functions and aliases. ShellCheck finds more about quoting (SC2086).
    """
    try:
        return _lint(text)
    except UnreadableScriptError as error:
        return LintResult(Outcome.UNKNOWN, (f"the script cannot be checked: {error}",))


def require_safe(content: bytes, name: str, *, host: str | None = None, advice: str) -> None:
    """Check a script that is about to be deployed, run or put into a crontab; `name` is its path.

    Raises UnsafeScriptError if it fails the lint, and UncheckedScriptError if the lint cannot read it.
    """
    result = lint(content.decode(errors="replace"))
    findings = "\n".join(result.findings)
    if result.outcome is Outcome.FAILED:
        raise UnsafeScriptError(f"{name} is not safe", host=host, output=findings, advice=advice)
    if result.outcome is Outcome.UNKNOWN:
        raise UncheckedScriptError(f"it is unknown whether {name} is safe", host=host, output=findings, advice=advice)


@dataclass
class _Usage:
    """What the commands of a script do."""

    uses_backup: bool = False
    may_use_backup: bool = False  # .backup is an argument of a program whose name is not known
    uses_cp: bool = False


def _lint(text: str) -> LintResult:
    root = parse_script(text)
    usage = _read_usage(text)
    if usage.may_use_backup and not usage.uses_backup:
        raise UnreadableScriptError("the program that gets .backup is in a variable")
    unquoted = dict.fromkeys(find_unquoted(root))
    findings = [
        *([] if usage.uses_backup else ["does not use sqlite3's .backup"]),
        *(["uses cp"] if usage.uses_cp else []),
        *([f"not quoted: {', '.join(unquoted)}"] if unquoted else []),
    ]
    return LintResult(Outcome.FAILED if findings else Outcome.PASSED, tuple(findings))


def _read_usage(text: str) -> _Usage:
    """Read a script and the scripts that it hands to shells."""
    usage = _Usage()
    texts = [text]
    remaining = 2 * MAX_BYTES
    while texts:
        text = texts.pop()
        remaining -= len(text)
        if remaining < 0:
            raise UnreadableScriptError("the scripts in it are too long")
        for command in find_commands(parse_script(text)):
            _note_usage(command, usage)
            texts.extend(_inner_scripts(command))
    return usage


def _note_usage(command: Command, usage: _Usage) -> None:
    if command.program in _PRINTING_PROGRAMS:
        return
    programs = [program_name(word) for word in command.words]
    if command.program == "cp" or (command.program in _LAUNCHERS and "cp" in programs):
        usage.uses_cp = True
    elif "sqlite3" in programs:  # also behind a wrapper that is not known, such as docker exec
        arguments = command.words[programs.index("sqlite3") + 1 :]
        is_argument = any(map(_BACKUP_ARGUMENT.search, arguments))
        usage.uses_backup |= is_argument or any(map(_BACKUP_INPUT.search, command.inputs()))
    elif command.program.startswith("$"):
        usage.may_use_backup |= any(map(_BACKUP_ARGUMENT.search, command.words))


def _inner_scripts(command: Command) -> list[str]:
    """Return the scripts that a command runs: of a shell, eval, trap and alias."""
    arguments = command.words[1:]
    if command.program == "eval":
        return [" ".join(arguments)]
    if command.program == "trap":
        return arguments[:1]
    if command.program == "alias":
        return [argument.partition("=")[2] for argument in arguments]
    return list(command.scripts()) if command.program in SHELLS else []
