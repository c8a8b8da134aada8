"""The report as Markdown, and the bounds of both formats."""

from __future__ import annotations

import re
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from demo_backups.errors import SettingsError
from demo_backups.records.check import Check, Outcome
from demo_backups.records.record import Record, VerificationDetails
from demo_backups.release.plan import Mark
from demo_backups.release.report.page import build_page
from demo_backups.release.report.render import (
    LONGEST_BODY,
    check_format,
    describe_verification,
    render_html,
    render_markdown,
)
from demo_backups.release.report.text import code_span, escape_markdown
from demo_backups.settings.model import Settings
from demo_backups.ui.outcome import Tone

from ..helpers.report_samples import (
    DATABASES,
    EMPTY_PAGE,
    NOW,
    all_marks,
    checks,
    page_of,
    plan_of,
    step,
    unreachable,
    verification,
)

MARKUP = "a|b `c` <img src=x onerror=alert(1)> **bold** [x](http://x) @someone #12 \\| &lt; _u_ ~~s~~\nnext ```\n| d |"


@pytest.mark.parametrize("name", ["pdf", "", "HTML"])
def test_unknown_format_is_refused(name: str) -> None:
    with pytest.raises(SettingsError, match="--format") as caught:
        check_format(name)
    assert "html" in caught.value.advice
    assert "markdown" in caught.value.advice


@pytest.mark.parametrize(
    ("record", "symbol", "tone"),
    [
        (verification(), "✓", Tone.GOOD),
        (verification(checks=checks(integrity=False), exit_status=1), "✗", Tone.BAD),
        (verification(kind="rehearsal", exit_status=1), "✗", Tone.BAD),  # failed after its checks
        (verification(exit_status=130), "?", Tone.WARNING),
    ],
)
def test_symbol_and_tone_of_verification_agree(record: Record, symbol: str, tone: Tone) -> None:
    assert (describe_verification(record)[0], describe_verification(record)[2]) == (symbol, tone)


# --- Markdown -------------------------------------------------------------------------------------------------------


def cells(line: str) -> list[str]:
    """Split a row of a table as GitHub does: at each '|' that is not escaped, in code too."""
    return [cell.strip() for cell in re.findall(r"\|((?:\\.|[^|\\])*)(?=\|)", line)]


def test_markdown_has_plan_checks_and_notes() -> None:
    plan = replace(all_marks(notes=("gh cannot read it", "invalid record")), host_notes=("demo: no such host",))
    text = render_markdown(page_of(verification(), unreachable(-1), plan=plan))
    rows = [cells(line) for line in text.splitlines() if line.startswith("|")]
    assert ["Step 3", "! out of order", "some details"] in rows
    assert ["integrity", "✓ passed", "integrity: details"] in rows
    assert "**✓ all 5 checks passed**: `/backups/backup_2024-11-24_20-00-00.db` on `demo`" in text
    assert "\n```text\nok\n```\n" in text
    assert "2024-11-24 21:00 UTC" in text
    assert "demo: no answer" in text
    assert "- demo: no such host" in text
    assert "\n\n\n" not in text


def test_markdown_leaves_out_pull_request_and_people() -> None:
    plan = replace(all_marks(notes=("gh cannot read it",)), host="login@demo", host_notes=("job of maintainer@laptop",))
    error = "started by maintainer@laptop"
    text = render_markdown(
        page_of(verification(host="login@demo"), unreachable(-1, host="login@demo", error=error), plan=plan)
    )
    for absent in ("Pull request", "Step 4", "An extra", "gh cannot", "@", "laptop", "next"):
        assert absent not in text, absent
    assert "on `demo`" in text


@pytest.mark.parametrize(("closes", "expected"), [(85, True), (None, False)])
def test_markdown_starts_with_summary(project_settings: Settings, closes: int | None, expected: bool) -> None:
    release = project_settings.release.model_copy(update={"closes": closes})
    text = render_markdown(page_of(verification(), plan=replace(plan_of(Mark.DONE, Mark.DONE), release=release)))
    summary = text.partition("### ")[0]
    assert summary.startswith("## Summary\n")
    assert f"into `{release.base}`" in summary
    assert "All 1 steps" in summary
    assert "all 5 checks passed" in summary
    assert ("\nCloses #85\n" in summary) == expected


def test_markdown_shows_verification_of_plan() -> None:
    full = verification(2, backup="/b/full.db")
    quick = verification(1, backup="/b/quick.db", details=VerificationDetails(quick=True))
    assert "/b/full.db" in render_markdown(page_of(full, quick))
    assert "/b/quick.db" in render_markdown(page_of(quick))
    plan = replace(plan_of(Mark.DONE), verifications={"index": full})
    assert "/b/full.db" in render_markdown(page_of(full, verification(backup="/b/other.db"), plan=plan))


def test_markdown_without_records_names_first_task() -> None:
    assert "`./inv rehearse`" in render_markdown(EMPTY_PAGE)


def test_markdown_distinguishes_unreadable_records() -> None:
    empty = render_markdown(page_of(plan=all_marks()))
    unreadable = render_markdown(build_page(all_marks(), None, DATABASES, NOW))
    assert unreadable.count("could not be read") == len(DATABASES)
    assert "could not be read" not in empty
    assert "./inv rehearse" not in unreadable


def test_markup_from_elsewhere_is_escaped() -> None:
    plan = plan_of(Mark.TO_DO, Mark.TO_DO, notes=(MARKUP,))
    odd = replace(plan.phases[0].steps[0], title=MARKUP, details=MARKUP)
    plan = replace(plan, host=MARKUP, phases=[replace(plan.phases[0], name=MARKUP, steps=[odd])])
    record = verification(
        host=MARKUP,
        who=MARKUP,
        backup=MARKUP,
        checks=[Check(MARKUP, Outcome.FAILED, MARKUP)],
        integrity_check=["````", MARKUP, "`````"],
        commands=[MARKUP, "~~~"],
    )
    text = render_markdown(page_of(record, plan=plan))
    assert {len(cells(line)) for line in text.splitlines() if line.startswith("| ") and line != "| d |"} == {3}
    outside = re.sub(r"^(`{3,})text\n.*?\n\1`*$", "", text, flags=re.MULTILINE | re.DOTALL)
    assert "`````" not in outside
    plain = re.sub(r"(?<![\\`])(`+)(?!`).*?(?<!`)\1(?!`)", "", outside)  # without code
    assert re.findall(r"(?<!\\)<(?!details>|/details>|summary>|/summary>)", plain) == []
    assert re.findall(r"(?<!&)[@#]\w", plain) == []
    assert re.findall(r"(?<!\\)\[x", plain) == []
    assert "`" not in re.sub(r"\\`", "", plain)
    assert re.findall(r"(?<!\\)~", plain) == []


@pytest.mark.parametrize(
    ("text", "code"),
    [
        ("", ""),
        ("plain", "`plain`"),
        ("a`b", "``a`b``"),
        ("`", "`` ` ``"),
        ("a``b`", "``` a``b` ```"),
        ("a|b", "`a|b`"),
        ("two\n lines", "`two lines`"),
        ("\x1b[2J\udcff", r"`\x1b[2J\udcff`"),
    ],
)
def test_code_span_is_not_closed_by_content(text: str, code: str) -> None:
    assert code_span(text) == code


@pytest.mark.parametrize(
    "text",
    ["https://evil.example/x", "HTTP://evil.example", "see www.evil.example", "ftp://x.example", "GH-12", "@me", "$x$"],
)
def test_escaped_text_has_no_links_or_formulas(text: str) -> None:
    # As GitHub finds links, references and formulas in plain text (github.github.com/gfm, autolinks).
    assert not re.search(r"https?://|www\.|ftp://|GH-\d|@\w|(?<!\\)\$", escape_markdown(text), re.IGNORECASE)


# --- bounds ---------------------------------------------------------------------------------------------------------


def test_markdown_stays_within_github_limit() -> None:
    long = "\udcff|" * 5000
    many = [long] * 500
    steps = [step(f"Step {number}", Mark.TO_DO, details=long) for number in range(18)]
    plan = plan_of(Mark.UNKNOWN, Mark.UNKNOWN)
    plan = replace(plan, phases=[replace(plan.phases[0], steps=steps)], notes=[long] * 5)
    rows = [Check("size", Outcome.FAILED, long)] * 5
    records = [verification(database=name, integrity_check=many, commands=many, checks=rows) for name in DATABASES]
    text = render_markdown(page_of(*records, plan=plan))
    assert len(text) <= LONGEST_BODY
    assert "460 more lines" in text
    assert "more characters" in text


def test_markdown_shortens_output_to_fit() -> None:
    lines = ["<" * 3000 + str(number) for number in range(1000)]
    rows = [Check(f"check {number}", Outcome.PASSED, "#x" * 300) for number in range(16)]
    short = page_of(verification(integrity_check=lines, commands=lines))
    fields: dict[str, Any] = {"integrity_check": lines, "commands": lines, "checks": rows}
    long = page_of(*(verification(database=name, **fields) for name in DATABASES))
    assert "960 more lines" in render_markdown(short)
    assert "990 more lines" in render_markdown(long)
    assert len(render_markdown(long)) <= LONGEST_BODY


def test_many_notes_are_bounded() -> None:
    plan = all_marks(notes=tuple(f"invalid record: evidence/{number}.json" for number in range(10_000)))
    page = page_of(verification(), plan=replace(plan, host_notes=tuple(plan.notes)))
    text, html = render_markdown(page), render_html(page)
    assert "9960 more" in text
    assert len(text) <= LONGEST_BODY
    assert "9950 more" in html
    assert len(html) < 200_000


def test_page_stays_small_with_long_output() -> None:
    long = "\x1b" * 1_000_000
    rows = [Check("size", Outcome.FAILED, long)] * 5
    records = [unreachable(number, error=long) for number in range(60)]
    records.append(verification(61, checks=rows, integrity_check=[long] * 300, commands=[long] * 300, error=long))
    text = render_html(page_of(*records))
    assert len(text) < 2_000_000
    assert "100 more lines" in text
    assert "998,000 more characters" in text


def test_control_characters_are_escaped_in_both_formats() -> None:
    odd = "\udcff\x1b[31m\u202e"
    page = page_of(verification(backup=odd, integrity_check=[odd], error=odd), plan=plan_of(Mark.TO_DO, notes=(odd,)))
    for text in (render_html(page), render_markdown(page)):
        text.encode()
        assert "\x1b" not in text
        assert "\u202e" not in text
        assert r"\x1b[31m\u202e" in text.replace("\\\\", "\\").replace("\\[", "[")


def test_import_loads_no_templates(tmp_path: Path) -> None:
    code = (
        "import sys, demo_backups.release.report.render, demo_backups.release.report.page; "
        "print(sorted({'jinja2', 'humanize'} & set(sys.modules)))"
    )
    done = subprocess.run([sys.executable, "-c", code], cwd=tmp_path, capture_output=True, text=True, check=True)
    assert done.stdout == "[]\n"
