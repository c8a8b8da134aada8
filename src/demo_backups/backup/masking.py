"""Mask the secrets in a line of a crontab before it is printed or stored.

Masked are the values of environment variables, wherever they are set, except those that say where a backup comes from
and goes to and when and how cron runs it; passwords in URLs; the values of options and headers whose name says that
they are secret; the passwords of programs that take them in a short option; and what a line gives its command as
standard input. The same is masked in the script of a `sh -c`. If a command cannot be parsed, everything after its first
assignment is masked.
"""

from __future__ import annotations

import itertools
import re
from collections.abc import Iterable, Iterator, Mapping
from typing import TYPE_CHECKING

from .cron_syntax import parse_setting, split_line
from .shell_syntax import UnreadableScriptError, parse_script, program_name

if TYPE_CHECKING:
    from tree_sitter import Node

MASK = "***"
_PUBLIC = frozenset(("DATABASE_FILE", "BACKUP_DIR", "PATH", "SHELL", "HOME", "CRON_TZ", "TZ"))
_KEY = r"(?:account|api|access|encryption|private|storage)[-_]?key"
_SECRET = rf"(?:pass(?:word|wd|phrase)?|pwd|secret|token|bearer|auth\w*|credential|{_KEY})"
_ASSIGNMENT = re.compile(r"(?<![\w-])(?P<name>[A-Za-z_]\w*)\+?=")
_SECRET_OPTION = re.compile(rf"--?[\w-]*{_SECRET}s?[\w-]*(?P<value>=.*)?", re.IGNORECASE | re.DOTALL)
_SECRET_HEADER = re.compile(rf"{_SECRET}[\w-]*[\\\"']*\s*:", re.IGNORECASE)  # also the name of a value in JSON
_SECRET_COMMENT = re.compile(rf"{_SECRET}\w*", re.IGNORECASE)
_REMAINING = re.compile(rf"{_ASSIGNMENT.pattern}(?!{re.escape(MASK)})[^\s;|&()<>'\"`]+")
_URL_PASSWORD = re.compile(r"(?P<start>[A-Za-z][\w+.-]*://)[^/\s@'\"]+@")
# The short options after which, or after a blank, a program takes a password.
_PASSWORD_OPTIONS: Mapping[str, tuple[str, ...]] = {
    **dict.fromkeys(("mysql", "mysqldump", "mysqladmin", "mariadb", "mariadb-dump", "mariadb-admin"), ("-p",)),
    **dict.fromkeys(("mongo", "mongosh", "mongodump", "mongoexport", "sshpass"), ("-p",)),
    **dict.fromkeys(("7z", "7za", "rar"), ("-p", "-hp")),
    "zip": ("-P",),
    "redis-cli": ("-a",),
    "openssl": ("-k",),
}
_LOGIN_OPTIONS = ("-u", "--user", "-U", "--proxy-user")
_LOGIN = re.compile(r"(?:-u|-U|--user=|--proxy-user=)[^:/]*:")
_DEFAULT = re.compile(rf"(?P<start>\$\{{\w*{_SECRET}\w*:?[-=+])[^{{}}]+(?=\}})", re.IGNORECASE)


def mask_line(line: str) -> str:
    """Mask the secrets in a line of a crontab."""
    setting = parse_setting(line)
    if setting is not None:
        return line if setting[0] in _PUBLIC else f"{setting[0]}={MASK}"
    if line.lstrip(" \t").startswith("#"):
        return _mask_comment(line)
    times, command = split_line(line) or ("", line)
    match = re.match(r"(?:\\.|[^\\%])*", command, re.DOTALL)
    end = match.end() if match else 0
    stdin = f"%{MASK}" if command[end:].startswith("%") else command[end:]
    return _mask_from_assignment(times) + mask_command(command[:end]) + stdin


def mask_command(command: str) -> str:
    """Mask the secrets in a shell command."""
    try:
        root = parse_script(command)
    except (UnreadableScriptError, RecursionError):
        return _mask_text(_mask_from_assignment(command))
    text = root.text or b""
    base = root.start_byte  # after leading blanks
    for start, end in reversed(_merge(_find_spans(root))):  # from the last: the positions of the others remain
        text = text[: start - base] + MASK.encode() + text[end - base :]
    return _mask_text(text.decode(errors="replace"))


def _mask_comment(line: str) -> str:
    """Mask a comment: as a line, where it is one that was disabled."""
    start = len(line) - len(line.lstrip("# \t"))
    if split_line(line[start:]):
        return line[:start] + mask_line(line[start:])
    match = _SECRET_COMMENT.search(line)
    return _mask_text(_mask_from_assignment(line if match is None else f"{line[: match.end()]} {MASK}"))


def _merge(spans: Iterable[tuple[int, int]]) -> list[tuple[int, int]]:
    """Sort spans, and join those that overlap."""
    merged: list[tuple[int, int]] = []
    for start, end in sorted(spans):
        if merged and start < merged[-1][1]:
            merged[-1] = (merged[-1][0], max(end, merged[-1][1]))
        else:
            merged.append((start, end))
    return merged


def _mask_from_assignment(text: str) -> str:
    match = next((match for match in _ASSIGNMENT.finditer(text) if match["name"] not in _PUBLIC), None)
    return text if match is None else text[: match.end()] + MASK


def _mask_text(text: str) -> str:
    """Mask what is found without the grammar: passwords in URLs, and assignments that are still there."""
    text = _URL_PASSWORD.sub(rf"\g<start>{MASK}@", text)
    text = _DEFAULT.sub(rf"\g<start>{MASK}", text)
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
        elif node.type in ("raw_string", "string"):
            yield from _find_secret_script(node)
        elif node.type == "comment":
            match = _SECRET_COMMENT.search(_text(node))
            if match:
                yield node.start_byte + len(_text(node)[: match.end()].encode(errors="replace")), node.end_byte
        elif node.type in ("command", "declaration_command"):
            yield from _find_secret_words(node)


def _find_secret_script(string: Node) -> Iterator[tuple[int, int]]:
    """Yield what follows the first secret in a quoted text, which a shell may run."""
    text = _text(string)[1:-1]
    if len(text.split()) > 1:
        masked = mask_command(text)
        if masked != text:
            same = itertools.takewhile(lambda pair: pair[0] == pair[1], zip(text, masked, strict=False))
            start = sum(len(character.encode(errors="replace")) for character, _ in same)
            yield string.start_byte + 1 + start, string.end_byte - 1


def _find_secret_words(command: Node) -> Iterator[tuple[int, int]]:
    options: tuple[str, ...] = ()
    previous = ""
    for node in command.children:
        if node.type == "variable_assignment":
            continue
        text = _text(node)
        quote = len(text) - len(text.lstrip("'\""))
        word = text[quote:]
        start = _secret_start(options, previous, word)
        if start is not None:
            yield node.start_byte + len(text[: quote + start].encode(errors="replace")), node.end_byte
        previous = word.rstrip("'\"")
        options += _PASSWORD_OPTIONS.get(program_name(previous), ())  # it may be behind sudo, nice or docker exec


def _secret_start(options: tuple[str, ...], previous: str, word: str) -> int | None:
    """Return where the secret starts in a word, without a quote before it; None if there is none.

    `options` are those that take a password.
    """
    option = _SECRET_OPTION.fullmatch(previous)
    if previous in options or (option and not option["value"] and not word.startswith("-")):
        return 0
    if joined := next((option for option in options if word.startswith(option) and word != option), None):
        return len(joined)
    option = _SECRET_OPTION.fullmatch(word)
    if option:
        return word.index("=") + 1 if option["value"] else None
    login = re.search(r"[:,%]", word) if previous in _LOGIN_OPTIONS else _LOGIN.match(word)
    if login:
        return login.end()
    header = _SECRET_HEADER.search(word)
    if header:
        return header.end()
    assignment = next((match for match in _ASSIGNMENT.finditer(word) if match["name"] not in _PUBLIC), None)
    assignment = re.match(r"-[A-Za-z]\w*=", word) if word.startswith("-") else assignment
    return assignment.end() if assignment else None


def _text(node: Node) -> str:
    return (node.text or b"").decode(errors="replace")
