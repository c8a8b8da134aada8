"""Read the Markdown of the docs: headings, tables, code blocks, links, and calls of tasks."""

from __future__ import annotations

import re
import shlex
from collections.abc import Iterator
from pathlib import Path

from demo_backups.project import ROOT

README = ROOT / "README.md"
DOCS = [README, ROOT / "AGENTS.md", ROOT / "CHANGELOG.md", *sorted((ROOT / "docs").rglob("*.md"))]


def page(name: str) -> str:
    """Read a page below docs/."""
    return (ROOT / "docs" / name).read_text()


def code_blocks(text: str, language: str = "bash") -> list[str]:
    """Return the fenced code blocks of a language, without their indentation."""
    found = re.findall(rf"^( *)```{language}\n(.*?)^ *```$", text, re.MULTILINE | re.DOTALL)
    return [re.sub(rf"^{indent}", "", body, flags=re.MULTILINE) for indent, body in found]


def without_code_blocks(text: str) -> str:
    """Return the text without its fenced code blocks."""
    return re.sub(r"^ *```.*?^ *```$", "", text, flags=re.MULTILINE | re.DOTALL)


def section(text: str, title: str) -> str:
    """Return the text below a heading, up to the next heading of its level or above."""
    match = re.search(rf"^(##+) {re.escape(title)}\n(.*?)(?=^##?#? |\Z)", text, re.MULTILINE | re.DOTALL)
    assert match, f"no heading {title!r}"
    return match[2]


def tables(text: str) -> list[list[list[str]]]:
    """Return the cells of all tables of a text, without their headings."""
    found = []
    for block in re.findall(r"(?:^\|.*\n)+", text, re.MULTILINE):
        rows = [[cell.strip() for cell in line.strip("|").split("|")] for line in block.splitlines()]
        found.append(rows[2:])
    return found


def table(text: str) -> list[list[str]]:
    """Return the cells of the first table of a text, without its heading."""
    return tables(text)[0]


def code_spans(text: str) -> list[str]:
    """Return the text between backticks."""
    return re.findall(r"`([^`]+)`", text)


def anchors(text: str) -> set[str]:
    """Return the anchors of a page's headings, as GitHub derives them."""
    headings = re.findall(r"^#+ (.+)$", without_code_blocks(text), re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings}


def links(text: str) -> list[str]:
    """Return the targets of a page's links to files of this project."""
    targets = re.findall(r"\]\(([^)\s]+)\)", without_code_blocks(text))
    return [target for target in targets if not target.startswith("https://")]


def task_calls(text: str) -> Iterator[list[str]]:
    """Return the arguments of every call of `inv`, in code blocks and in backticks."""
    lines = "\n".join(code_blocks(text)).splitlines()
    for line in [*lines, *code_spans(" ".join(without_code_blocks(text).split()))]:
        call = re.match(r"(?:[A-Z_]+=\S* )*(?:\S*/)?inv (.+)", line)
        if call:
            yield shlex.split(call[1], comments=True)


def files_named(text: str) -> list[Path]:
    """Return the files of this project that are named in backticks."""
    return [ROOT / span for span in code_spans(text) if re.fullmatch(r"[\w./-]+", span) and (ROOT / span).exists()]
