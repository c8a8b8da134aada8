"""Mask the secrets in a line of a crontab before it is printed or stored.

Masked are the values of environment variables, wherever they are set, except those that say where a backup comes from
and goes to and when and how cron runs it; passwords in URLs; the values of options and headers whose name says that
they are secret; and what a line gives its command as standard input. If a command cannot be parsed, everything after
its first assignment is masked.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import TYPE_CHECKING

from .cron_syntax import parse_setting, split_line
from .shell_syntax import UnreadableScriptError, parse_script, program_name

if TYPE_CHECKING:
    from tree_sitter import Node

MASK = "***"
_PUBLIC = frozenset(("DATABASE_FILE", "BACKUP_DIR", "PATH", "SHELL", "HOME", "CRON_TZ", "TZ"))
_SECRET = r"(?:pass(?:word|wd|phrase)?|pwd|secret|token|bearer|auth\w*|credential|(?:api|access|private)[-_]?key)"
_ASSIGNMENT = re.compile(r"(?<![\w-])(?P<name>[A-Za-z_]\w*)\+?=")
_SECRET_OPTION = re.compile(rf"--?[\w-]*{_SECRET}s?[\w-]*(?P<value>=.*)?", re.IGNORECASE | re.DOTALL)
_SECRET_HEADER = re.compile(rf"['\"]?[\w-]*{_SECRET}[\w-]*\s*:", re.IGNORECASE)
_REMAINING = re.compile(rf"{_ASSIGNMENT.pattern}(?!{re.escape(MASK)})[^\s;|&()<>'\"`]+")
_URL_PASSWORD = re.compile(r"(?P<start>[A-Za-z][\w+.-]*://)[^/\s@'\"]+@")
_PASSWORD_PROGRAMS = (
    "mysql",
    "mysqldump",
    "mysqladmin",
    "mariadb",
    "mariadb-dump",
    "mariadb-admin",
    "sshpass",
    "zip",
    "7z",
)
_LOGIN_OPTIONS = ("-u", "--user", "-U", "--proxy-user")


def mask_line(line: str) -> str:
    """Mask the secrets in a line of a crontab."""
    setting = parse_setting(line)
    if setting is not None:
        return line if setting[0] in _PUBLIC else f"{setting[0]}={MASK}"
    if line.lstrip(" \t").startswith("#"):
        return _mask_text(_mask_from_assignment(line))
    times, command = split_line(line) or ("", line)
    match = re.match(r"(?:\\.|[^\\%])*", command, re.DOTALL)
    end = match.end() if match else 0
    given = f"%{MASK}" if command[end:].startswith("%") else command[end:]
    return _mask_from_assignment(times) + mask_command(command[:end]) + given


def mask_command(command: str) -> str:
    """Mask the secrets in a shell command."""
    try:
        root = parse_script(command)
    except (UnreadableScriptError, RecursionError):
        return _mask_text(_mask_from_assignment(command))
    text = root.text or b""
    base = root.start_byte  # after leading blanks
    spans = sorted({(start - base, end - base) for start, end in _find_spans(root)}, reverse=True)
    limit = len(text)
    for start, end in spans:  # from the last, so that the positions of the others remain
        if end <= limit:
            text = text[:start] + MASK.encode() + text[end:]
            limit = start
    return _mask_text(text.decode(errors="replace"))


def _mask_from_assignment(text: str) -> str:
    match = next((match for match in _ASSIGNMENT.finditer(text) if match["name"] not in _PUBLIC), None)
    return text if match is None else text[: match.end()] + MASK


def _mask_text(text: str) -> str:
    """Mask what is found without the grammar: passwords in URLs, and assignments that are still there."""
    text = _URL_PASSWORD.sub(rf"\g<start>{MASK}@", text)
    return _REMAINING.sub(lambda match: match[0] if match["name"] in _PUBLIC else f"{match['name']}={MASK}", text)


def _find_spans(root: Node) -> Iterator[tuple[int, int]]:
    """Yield the positions of what is masked, in bytes."""
    stack = [root]
    while stack:
        node = stack.pop()
        stack.extend(node.children)
        if node.type == "variable_assignment":
            name, value = node.child_by_field_name("name"), node.child_by_field_name("value")
            if name and value and _text(name) not in _PUBLIC:
                yield value.start_byte, value.end_byte
        elif node.type in ("heredoc_body", "herestring_redirect"):
            yield node.start_byte, node.end_byte
        elif node.type in ("command", "declaration_command"):
            yield from _find_secret_words(node)


def _find_secret_words(command: Node) -> Iterator[tuple[int, int]]:
    words = [node for node in command.children if node.type != "variable_assignment"]
    program = program_name(_text(words[0])) if words else ""
    previous = ""
    for node in words:
        text = _text(node)
        start = _secret_start(program, previous, text)
        if start is not None:
            yield node.start_byte + len(text[:start].encode(errors="replace")), node.end_byte
        previous = text


def _secret_start(program: str, previous: str, word: str) -> int | None:
    """Return where the secret starts in a word, which has its quotes; None if there is none."""
    option = _SECRET_OPTION.fullmatch(previous)
    if option and not option["value"] and not word.startswith("-"):
        return 0
    option = _SECRET_OPTION.fullmatch(word)
    if option:
        return word.index("=") + 1 if option["value"] else None
    if program in _PASSWORD_PROGRAMS and (previous == "-p" or re.match(r"-p.", word)):
        return 0 if previous == "-p" else 2
    if previous in _LOGIN_OPTIONS and ":" in word:
        return word.index(":") + 1
    header = _SECRET_HEADER.match(word)
    if header:
        return header.end()
    assignment = next((match for match in _ASSIGNMENT.finditer(word) if match["name"] not in _PUBLIC), None)
    assignment = re.match(r"-[A-Za-z]\w*=", word) if word.startswith("-") else assignment
    return assignment.end() if assignment else None


def _text(node: Node) -> str:
    return (node.text or b"").decode(errors="replace")
