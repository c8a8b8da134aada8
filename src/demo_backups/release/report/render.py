"""Write the report in its two formats: an HTML page, and Markdown for a pull request."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

from ...errors import SettingsError
from ...ui.outcome import MARKS, RESULTS, Tone, describe_kind, describe_outcome
from ...units import escape_controls, format_age, format_duration, format_size, format_time
from ..plan import Mark
from .charts import parse_time
from .text import code_block, code_span, escape_markdown, join_lines, mask_users, truncate, without_login

if TYPE_CHECKING:
    from jinja2 import Environment

    from ...records.record import Record
    from .page import Page

HTML, MARKDOWN = FORMATS = ("html", "markdown")
TEMPLATES = Path(__file__).parent
MOST_NOTES = 50
MOST_LINES = (40, 10, 3)  # of each output in Markdown: the first of these with which the text is short enough
LONGEST_BODY = 65_000  # characters; GitHub's limit is 65,536, and open-pr adds two comments around the text


def check_format(name: str) -> None:
    """Raise SettingsError unless the report has this format."""
    if name not in FORMATS:
        raise SettingsError(f"--format {name!r} is not a format of the report", advice=f"use {' or '.join(FORMATS)}")


def render_html(page: Page) -> str:
    """Write the page: one file that loads nothing and runs no script. All values are escaped."""
    template = make_environment(autoescape=True).get_template("report.html.j2")
    return template.render(page=page, most_notes=MOST_NOTES)


def render_markdown(page: Page) -> str:
    """Write the body of a pull request in GitHub's Markdown, at most LONGEST_BODY characters."""
    template = make_environment(autoescape=False).get_template("report.md.j2")
    text = ""
    for most in MOST_LINES:
        text = template.render(page=page, most=most)
        if len(text) <= LONGEST_BODY:
            break
    return text


def make_environment(autoescape: bool, *folders: Path) -> Environment:
    """Create a Jinja environment with the templates of this package, and those of other folders.

    Control characters are escaped in every value that is printed.
    """
    from jinja2 import Environment, FileSystemLoader, StrictUndefined
    from markupsafe import Markup

    def finalize(value: Any) -> Any:
        return escape_controls(value) if isinstance(value, str) and not isinstance(value, Markup) else value

    environment = Environment(
        loader=FileSystemLoader([TEMPLATES, *folders]),
        autoescape=autoescape,
        finalize=finalize,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        keep_trailing_newline=True,
    )
    texts = (code_block, code_span, escape_markdown, join_lines, mask_users, truncate, without_login)
    values = (
        parse_time,
        format_age,
        format_duration,
        format_size,
        format_time,
        describe_kind,
        describe_outcome,
        describe_verification,
    )
    environment.filters |= {function.__name__: function for function in (*texts, *values)}
    environment.globals |= {"MARKS": MARKS, "RESULTS": RESULTS, "Mark": Mark}
    return environment


def describe_verification(record: Record) -> tuple[str, str, Tone]:
    """Return the symbol, the description and the tone of a verification."""
    description, tone = describe_outcome(record)
    return next(symbol for symbol, _, result_tone in RESULTS.values() if result_tone is tone), description, tone
