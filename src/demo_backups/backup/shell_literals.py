"""Protect the characters of a shell command that quotes make literal, such as the `$` in '$HOME'.

The reader of shell_syntax removes the quotes from a word. Afterwards a literal `$` would look like one that the shell
expands. So it is replaced by another character beforehand, and put back when the word is used.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import TYPE_CHECKING

from .shell_syntax import parse_script

if TYPE_CHECKING:
    from tree_sitter import Node

_SPECIAL = "$`*?[~"
_PROTECTED = {ord(char): chr(0xE000 + number) for number, char in enumerate(_SPECIAL)}
_RESTORED = {ord(protected): chr(char) for char, protected in _PROTECTED.items()}
_ESCAPED = re.compile(rf"\\([{re.escape(_SPECIAL)}])")
_PATTERN_CHARACTERS = {code: char for code, char in _PROTECTED.items() if chr(code) not in "$`"}


def protect_literals(text: str) -> str:
    """Replace the characters that are literal; raises UnreadableScriptError."""
    if not re.search(r"['\"\\]", text) or not re.search(rf"[{re.escape(_SPECIAL)}]", text):
        return text
    root = parse_script(text)
    content = root.text or b""
    base = root.start_byte  # after leading blanks
    for start, end, replacement in sorted(_replacements(root), reverse=True):
        content = content[: start - base] + replacement.encode() + content[end - base :]
    return content.decode(errors="replace")


def restore_literals(text: str) -> str:
    """Put the characters back."""
    return text.translate(_RESTORED)


def _replacements(root: Node) -> Iterator[tuple[int, int, str]]:
    stack = [root]
    while stack:
        node = stack.pop()
        text = (node.text or b"").decode(errors="replace")
        if node.type == "raw_string":
            yield node.start_byte, node.end_byte, text.translate(_PROTECTED)
        elif node.type == "string_content":
            literal = _ESCAPED.sub(lambda match: match[1].translate(_PROTECTED), text)
            yield node.start_byte, node.end_byte, literal.translate(_PATTERN_CHARACTERS)
        elif node.type == "word" and not node.children:
            literal = _ESCAPED.sub(lambda match: match[1].translate(_PROTECTED), text)
            if literal != text:
                yield node.start_byte, node.end_byte, literal
        stack.extend(node.children)
