"""Check the text of a backup script: it uses .backup and no cp, and quotes its variables."""

from __future__ import annotations

import re


def lint(text: str) -> list[str]:
    """Name what the text of a script has of the old way: no `.backup`, a `cp`, variables that are not quoted.

    As far as a reader sees it who knows quotes, comments and `$(...)`; ShellCheck (SC2086) sees more.
    """
    code, bare = _split(_HERE_DOCUMENT.sub(r"\g<start>", text))
    typed = "".join(match["body"] for match in _HERE_DOCUMENT.finditer(text))  # what a shell does not split
    unquoted = re.findall(r"\$\{?\w+\}?|\$@", _ASSIGNMENT.sub("", _ONE_WORD.sub("", bare)))
    return [
        *([] if re.search(r"\bsqlite3\s.*\.backup\s", code + typed, re.DOTALL) else ["does not use sqlite3's .backup"]),
        *(["uses cp"] if _CP.search(bare) else []),
        *([f"not quoted: {', '.join(dict.fromkeys(unquoted))}"] if unquoted else []),
    ]


_HERE_DOCUMENT = re.compile(
    r"""(?P<start>(?<!<)<<-?[ \t]*(?P<quote>["']?)(?P<end>\w+)(?P=quote)[^\n]*\n)(?P<body>.*?^)\t*(?P=end)$""",
    re.DOTALL | re.MULTILINE,
)
_ONE_WORD = re.compile(r"\[\[.*?\]\]|\(\(.*?\)\)|\bcase\s+\S+\s+in\b", re.DOTALL)  # in these nothing is split
_ASSIGNMENT = re.compile(r"(?:(?<=[\s;&|(])|^)\w+=\S*", re.MULTILINE)
_CP = re.compile(
    r"""(?:^|[;&|(){!`]|\s\w+=\S*\s|^\w+=\S*\s
    |(?:\b(?:then|do|else|elif|if|while|until|time|timeout|exec|command|nohup|nice|ionice|env|sudo|xargs)|\s-exec)
        (?:\s+(?:-(?!v\b)\S+(?:\s+[A-Za-z{]\S*)??|\d\S*))*\s)  # command -v cp only asks where it is
    \s*\\?(?:\S*/)?cp\s""",
    re.MULTILINE | re.VERBOSE,
)
_BARE = re.compile(r"""\\.|'[^']*'|(?<![^\s;&|()])\#[^\n]*|\$\(|.""", re.DOTALL)
_QUOTED = re.compile(r"""\\.|\$\(|.""", re.DOTALL)


def _split(text: str) -> tuple[str, str]:
    """Return a shell script's code without comments, and what of it is not within quotes.

    What a `$(...)` within double quotes runs is code again, as in a shell.
    """
    code, bare, within, place = "", "", [""], 0
    while place < len(text):
        quoted = within[-1] == '"'
        match = (_QUOTED if quoted else _BARE).match(text, place)
        assert match  # each ends in "."
        token, place = match[0], match.end()
        if token.startswith("#") and not quoted:
            continue
        code += token
        if token == '"':
            within.pop() if quoted else within.append(token)
            bare += "" if quoted else '""'
        elif token == "$(" or (token == "(" and not quoted):
            within.append("(")
            bare += token
        elif not quoted:
            bare += "''" if token.startswith("'") or token == "\\$" else token
            if token == ")" and within[-1] == "(":
                within.pop()
    return code, bare
