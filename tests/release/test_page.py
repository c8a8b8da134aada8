"""What the report shows, decided from a plan and records alone; and its form for a pull request."""

from __future__ import annotations

import re
from dataclasses import replace
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest

from demo_backups.errors import SettingsError
from demo_backups.records.record import Record
from demo_backups.release.plan import Mark, Plan
from demo_backups.release.report.page import (
    LONGEST_BODY,
    Evidence,
    Page,
    Plot,
    build_page,
    check_format,
    duration,
    markdown_code,
    markdown_text,
    render_html,
    render_markdown,
    short_size,
    verdict_of,
)
from demo_backups.release.report.plots import STAND_INS, draw
from demo_backups.ui.outcome import Tone

from ..helpers.report_samples import (
    DATABASES,
    NOW,
    all_marks,
    checks,
    history,
    plan_of,
    run,
    step,
    unreachable,
    verification,
)

DONE, TO_DO, WAITING, NOT_SEEN, OUT_OF_ORDER = (
    Mark.DONE,
    Mark.TO_DO,
    Mark.BLOCKED,
    Mark.UNKNOWN,
    Mark.OUT_OF_ORDER,
)
FAILED = verification(checks=checks(integrity=False), exit_status=1)
UNKNOWN = plan_of(NOT_SEEN, NOT_SEEN)


def look(*records: Record, plan: Plan = UNKNOWN) -> Page:
    return build_page(plan, records, DATABASES, NOW)


def about(*records: Record, database: str = "index") -> Evidence:
    """What the report shows of a database."""
    return look(*records).databases[DATABASES.index(database)]


def plot(name: str, *records: Record) -> Plot:
    return {each.title.split()[0]: each for each in about(*records).plots}[name]


def points(name: str, *records: Record) -> dict[str, list[tuple[float, float]]]:
    """What a plot draws: of each series, how many hours before now, and the number."""
    chart = plot(name, *records).chart
    assert chart
    return {
        each.name: [((NOW - when) / timedelta(hours=1), value) for when, value in each.points] for each in chart.series
    }


# --- the verdict ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("plan", "records", "verdict", "tone"),
    [
        (UNKNOWN, [], "Nothing has been seen yet.", Tone.PLAIN),
        (Plan("demo", [], []), [], "Nothing has been seen yet.", Tone.PLAIN),
        (UNKNOWN, [run()], "Nothing of the plan could be seen.", Tone.WARNING),
        (plan_of(DONE, DONE), [run()], "All 2 steps are done.", Tone.GOOD),
        (plan_of(DONE, DONE, optional=TO_DO), [run()], "All 2 steps are done.", Tone.GOOD),
        (
            plan_of(DONE, TO_DO, WAITING, WAITING),
            [],
            "1 of 4 steps are done; next: Step 2 (Index database).",
            Tone.WARNING,
        ),
        (plan_of(DONE, WAITING), [run()], "1 of 2 steps are done; the next ones wait for others.", Tone.WARNING),
        *(
            (
                plan_of(DONE, NOT_SEEN, *waiting),
                [run()],
                f"1 of {2 + len(waiting)} steps are done, 1 could not be seen; what is next cannot be seen.",
                Tone.WARNING,
            )
            for waiting in ([], [WAITING])
        ),
        (
            plan_of(DONE, OUT_OF_ORDER, TO_DO),
            [run()],
            "1 of 3 steps are done, 1 out of order; next: Step 3 (Pull request).",
            Tone.BAD,
        ),
        (
            plan_of(DONE, DONE),
            [FAILED],
            "The last verification of the index database failed; all 2 steps are done.",
            Tone.BAD,
        ),
        (plan_of(DONE, DONE), [replace(FAILED, host="rehearsal")], "All 2 steps are done.", Tone.GOOD),
        (plan_of(DONE, DONE), [replace(FAILED, database="gone")], "All 2 steps are done.", Tone.GOOD),
        (
            plan_of(DONE, DONE),
            [verification(2, checks=checks(size=False)), verification(1)],
            "All 2 steps are done.",
            Tone.GOOD,
        ),
    ],
)
def test_one_sentence_says_how_it_stands(plan: Plan, records: list[Record], verdict: str, tone: Tone) -> None:
    page = look(*records, plan=plan)
    assert (page.verdict, page.tone) == (verdict, tone)


@pytest.mark.parametrize(
    ("record", "verdict"),
    [
        (verification(), ("✓", "all 5 checks passed", Tone.GOOD)),
        (FAILED, ("✗", "1 of 5 checks failed: integrity", Tone.BAD)),
        (verification(kind="rehearsal", exit_status=1), ("✗", "failed, exit status 1", Tone.BAD)),  # after its checks
        (verification(exit_status=130), ("?", "interrupted", Tone.WARNING)),
    ],
)
def test_a_symbol_says_what_the_words_and_the_tone_say(record: Record, verdict: tuple[str, str, Tone]) -> None:
    assert verdict_of(record) == verdict


# --- what was seen of a database ------------------------------------------------------------------------------------


def test_the_last_verification_is_the_latest_of_the_host_by_its_time() -> None:
    last, other = verification(1), verification(0, host="other")
    seen = about(other, last, verification(2), run(0.5))
    assert (seen.last, seen.host, seen.elsewhere, seen.since) == (last, "demo", False, None)


def test_times_of_different_zones_are_compared_as_times() -> None:
    last, earlier = verification(1, when="2024-11-24T19:00:00+00:00"), verification(when="2024-11-24T20:30:00+05:30")
    assert about(last, earlier).last == last
    assert look(last, earlier).records == [last, earlier]


def test_what_another_host_shows_is_shown_only_where_the_own_has_nothing_and_said() -> None:
    other = verification(0, host="rehearsal")
    assert (about(other).last, about(other).host, about(other).elsewhere) == (other, "rehearsal", True)
    assert not about(other, verification(9)).elsewhere
    own = about(other, run(9))
    assert (own.last, own.elsewhere) == (None, False)
    assert about(other, unreachable()).elsewhere


def test_a_later_try_that_could_not_look_is_said_and_the_last_checks_still_shown() -> None:
    seen = about(verification(3), unreachable(2), unreachable(1), run(0.5))
    assert (seen.last, seen.since) == (verification(3), unreachable(1))
    assert about(unreachable(2), verification(1)).since is None
    assert about(unreachable(2)).since == unreachable(2)


def test_a_database_of_which_nothing_is_known_has_words_in_place_of_plots() -> None:
    seen = about(verification(), database="tracker")
    assert (seen.last, seen.elsewhere) == (None, False)
    assert [(each.chart, each.rows) for each in seen.plots] == [(None, [])] * 3
    assert all(each.words.endswith("has been recorded yet.") for each in seen.plots)


def test_a_record_that_failed_before_it_saw_anything_draws_nothing() -> None:
    assert [each.chart for each in about(unreachable(1)).plots] == [None] * 3


@pytest.mark.parametrize(("count", "older"), [(0, 0), (1, 0), (50, 0), (51, 1), (1000, 950)])
def test_the_list_of_records_is_bounded_and_says_how_many_are_not_in_it(count: int, older: int) -> None:
    records = [run(number) for number in range(count)]
    page = look(*records)
    assert page.records == records[:50]
    assert (page.older, page.empty) == (older, count == 0)


# --- plots: what they show ------------------------------------------------------------------------------------------


def test_a_backup_is_one_point_when_it_was_made_however_often_it_was_looked_at() -> None:
    made = run(5)
    looked = [verification(hours, backup=made.backup, bytes=made.bytes) for hours in (4, 3)]
    known = verification(2, created=(NOW - timedelta(hours=7)).isoformat(), details={})
    assert points("Size", made, *looked, known) == {
        "backup": [(7, 2_298_000), (5, 2_295_000)],
        "database": [(4, 2_304_096), (3, 2_304_096)],
    }


@pytest.mark.parametrize("details", [{}, {"source_bytes": None}, {"source_bytes": "much"}])
def test_a_record_that_does_not_know_the_source_draws_the_backup_alone(details: dict[str, Any]) -> None:
    assert points("Size", verification(1, details=details))["database"] == []


def test_durations_are_of_what_came_to_its_end() -> None:
    records = [run(4, seconds=3.0), run(3, bytes=None, exit_status=1), verification(2), unreachable(1)]
    assert points("Duration", *records) == {"backup": [(4, 3.0)], "verification": [(2, 0.5)]}


def test_checks_are_counted_by_day() -> None:
    bad = checks(size=False, query=None)
    shown = plot("Checks", verification(1), verification(2, checks=bad), verification(30))
    assert shown.rows == [["2024-11-24", "8", "1", "1"], ["2024-11-23", "5", "0", "0"]]
    assert shown.heads == ["Day", "Passed", "Failed", "Could not be made"]
    assert shown.words == "13 passed, 1 failed, 1 could not be made, on 2 days from 2024-11-23 to 2024-11-24."
    assert [(name, [value for _, value in series]) for name, series in points("Checks", verification(1)).items()] == [
        ("passed", [5]),
        ("failed", []),
        ("could not be made", []),
    ]


def test_of_many_days_the_latest_are_shown_and_that_is_said() -> None:
    shown = plot("Checks", *(verification(24 * day) for day in range(40)))
    assert [row[0] for row in (shown.rows[0], shown.rows[-1])] == ["2024-11-24", "2024-10-26"]
    assert len(shown.rows) == 30
    assert shown.words.endswith("; earlier ones are not shown.")


def test_of_many_points_the_latest_are_shown_and_that_is_said() -> None:
    shown = plot("Size", *(run(number) for number in range(501)))
    assert len(shown.rows) == 500
    assert shown.rows[0] == ["2024-11-24 20:00 UTC", "backup", "2,300,000 bytes"]
    assert "; the latest 500 are shown" in shown.words


@pytest.mark.parametrize(
    ("records", "words"),
    [
        ([run()], "Backup: 2.3 MB, seen once, on 2024-11-24."),
        (
            [run(1000), run(0)],
            "Backup: 1.3 MB to 2.3 MB, the latest 2.3 MB (seen 2 times, 2024-10-14 to 2024-11-24).",
        ),
        ([run(1, bytes=5), run(0, bytes=5)], "Backup: always 5 bytes (seen 2 times, 2024-11-24 to 2024-11-24)."),
    ],
)
def test_words_say_what_a_plot_shows(records: list[Record], words: str) -> None:
    assert plot("Size", *records).words == words


@pytest.mark.parametrize(
    ("count", "words"),
    [
        (0, "0"),
        (1, "1 bytes"),
        (999, "999 bytes"),
        (1000, "1 kB"),
        (2_310_144, "2.31 MB"),
        (999_700, "1,000 kB"),
        (17_000_000_001, "17 GB"),
        (3.5e12, "3.5 TB"),
    ],
)
def test_a_size_in_three_digits(count: float, words: str) -> None:
    assert short_size(count) == words


@pytest.mark.parametrize(
    ("seconds", "words"),
    [(0, "0 s"), (0.068, "0.068 s"), (61, "61 s"), (267, "4 min 27 s"), (300, "5 min"), (7500, "2 h 5 min")],
)
def test_a_duration_as_one_reads_a_clock(seconds: float, words: str) -> None:
    assert duration(seconds) == words


# --- plots: how they are drawn --------------------------------------------------------------------------------------


def drawn(*records: Record) -> list[str]:
    return [draw(each.chart) for each in about(*records).plots if each.chart]


def test_the_same_numbers_give_the_same_picture_whatever_the_user_s_own_matplotlib_says(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    import matplotlib as mpl

    first = drawn(*history(40))
    monkeypatch.setitem(mpl.rcParams, "svg.fonttype", "path")
    monkeypatch.setitem(mpl.rcParams, "ytick.labelsize", 30)
    assert drawn(*history(40)) == first
    assert mpl.rcParams["ytick.labelsize"] == 30  # and it is left as it was


@pytest.mark.parametrize("count", [2, 14, 40, 1000])
def test_a_picture_has_the_page_s_colours_and_letters_and_nothing_from_elsewhere(count: int) -> None:
    pictures = drawn(*history(count))
    assert len(pictures) == 3
    for svg in pictures:
        assert svg.startswith('<svg aria-hidden="true" viewBox="0 0 ')
        assert svg.endswith("</svg>")
        assert set(re.findall(r"(?:fill|stroke)(?:: |=\")([^;\"]+)", svg)) <= (
            {"none"} | {f"var({name})" for name in STAND_INS} | set(re.findall(r"url\(#plot-1-[^)]+\)", svg))
        )
        assert re.findall(r"#[0-9a-f]{6}\b|https?:|font-family|<style|<metadata", svg) == []
        assert len(svg) < 60_000
        ids = re.findall(r'\bid="([^"]+)"', svg)
        assert len(ids) == len(set(ids))
        assert set(re.findall(r'(?:href="|url\()#([^")]+)', svg)) <= set(ids)


def test_every_series_that_has_points_is_named_in_its_picture_and_no_other() -> None:
    def names(svg: str) -> set[str]:
        return set(re.findall(r">([a-z ]+)</text>", svg))

    size, duration, counts = drawn(*history(40))
    assert names(size) >= {"backup", "database"}
    assert names(duration) >= {"backup", "verification"}
    assert names(counts) >= {"passed", "failed", "could not be made"}
    alone = drawn(verification())
    assert names(alone[2]) & {"passed", "failed", "could not be made"} == {"passed"}


# --- Markdown, for a pull request -----------------------------------------------------------------------------------


def cells(line: str) -> list[str]:
    """The cells of a row of a table, as GitHub splits it: at a '|' that is not escaped, in code too."""
    return [cell.strip() for cell in re.findall(r"\|((?:\\.|[^|\\])*)(?=\|)", line)]


def test_markdown_has_the_plan_the_last_verifications_and_what_was_not_seen() -> None:
    text = render_markdown(look(verification(), unreachable(-1), plan=all_marks(notes=("demo: no such host",))))
    rows = [cells(line) for line in text.splitlines() if line.startswith("|")]
    assert ["Step 4", "→ to do", "as seen"] in rows
    assert ["An extra (optional)", "… waiting", "as seen"] in rows
    assert ["integrity", "✓ passed", "integrity: as it says"] in rows
    assert "### Phase 2: Pull request\n\n| Step" in text
    assert "**✓ all 5 checks passed**: `/backups/backup_2024-11-24_20-00-00.db` on `demo`" in text
    assert "by `maintainer@laptop`" in text
    assert "\n```text\nok\n```\n" in text
    assert "A later try, at 2024-11-24 21:00 UTC, ended without a check: demo: no answer" in text
    assert "- demo: no such host" in text
    assert "\n\n\n" not in text


def test_markdown_of_nothing_says_what_to_do_first() -> None:
    text = render_markdown(look())
    assert "Begin with `./inv rehearse`" in text
    assert text.count("None has been recorded yet.") == 2


def test_markdown_without_a_record_that_could_be_read_does_not_say_that_there_is_none() -> None:
    text = render_markdown(build_page(all_marks(), None, DATABASES, NOW))
    assert text.count("No record could be read; why stands below.") == 2
    assert "yet" not in text


HOSTILE = "a|b `c` <img src=x onerror=alert(1)> **bold** [x](http://x) @someone #12 \\| &lt; _u_ ~~s~~\nnext ```\n| d |"


def test_what_comes_from_elsewhere_breaks_no_table_and_no_fence_and_calls_nobody() -> None:
    plan = plan_of(TO_DO, TO_DO, notes=(HOSTILE,))
    odd = replace(plan.phases[0].steps[0], title=HOSTILE, details=HOSTILE)
    plan = replace(plan, host=HOSTILE, phases=[replace(plan.phases[0], name=HOSTILE, steps=[odd])])
    record = verification(
        host=HOSTILE,
        who=HOSTILE,
        backup=HOSTILE,
        checks=[{"name": HOSTILE, "passed": False, "detail": HOSTILE}],
        integrity_check=["````", HOSTILE, "`````"],
        commands=[HOSTILE, "~~~"],
    )
    text = render_markdown(look(record, plan=plan))
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
def test_a_code_span_that_nothing_in_it_ends(text: str, code: str) -> None:
    assert markdown_code(text) == code


def test_markdown_stays_below_what_github_takes_however_much_was_collected() -> None:
    long = "\udcff|" * 5000
    many = [long] * 500
    steps = [step(f"Step {number}", TO_DO, observed=long) for number in range(18)]
    plan = replace(UNKNOWN, phases=[replace(UNKNOWN.phases[0], steps=steps)], notes=[long] * 5)
    made = [{"name": "size", "passed": False, "detail": long}] * 5
    records = [verification(database=name, integrity_check=many, commands=many, checks=made) for name in DATABASES]
    text = render_markdown(look(*records, plan=plan))
    assert len(text) < 65_536
    assert "… and 460 lines more" in text
    assert "characters more" in text


@pytest.mark.parametrize("wrong", [-1, 10**400, True, "5", None])
def test_a_size_of_the_database_that_is_none_is_not_drawn(wrong: object) -> None:
    assert points("Size", verification(details={"source_bytes": wrong}))["database"] == []


def test_ten_thousand_damaged_records_make_neither_form_long() -> None:
    plan = all_marks(notes=tuple(f"passed over: evidence/{number}.json" for number in range(10_000)))
    page = look(verification(), plan=plan)
    text, html = render_markdown(page), render_html(page)
    assert "- … and 9960 more: `./inv plan`" in text
    assert len(text) <= LONGEST_BODY
    assert "… and 9950 more" in html
    assert len(html) < 200_000


def test_of_what_was_collected_markdown_has_fewer_lines_where_github_takes_no_more() -> None:
    lines = ["<" * 3000 + str(number) for number in range(1000)]
    rows = [{"name": f"check {number}", "passed": True, "detail": "@x" * 300} for number in range(16)]
    short = look(verification(integrity_check=lines, commands=lines))
    made: dict[str, Any] = {"integrity_check": lines, "commands": lines, "checks": rows}
    long = look(*(verification(database=name, **made) for name in DATABASES))
    assert "… and 960 lines more" in render_markdown(short)
    assert "… and 990 lines more" in render_markdown(long)
    assert len(render_markdown(long)) <= LONGEST_BODY


@pytest.mark.parametrize(
    "text",
    ["https://evil.example/x", "HTTP://evil.example", "see www.evil.example", "ftp://x.example", "GH-12", "@me", "$x$"],
)
def test_words_in_markdown_link_to_nothing_and_are_no_formula(text: str) -> None:
    # As GitHub finds links, references and formulas in plain text (github.github.com/gfm, autolinks).
    found = re.search(r"https?://|www\.|ftp://|GH-\d|@\w|(?<!\\)\$", markdown_text(text), re.IGNORECASE)
    assert not found


def test_the_page_stays_small_however_much_was_collected() -> None:
    long = "\x1b" * 1_000_000
    made = [{"name": "size", "passed": False, "detail": long}] * 5
    records = [unreachable(number, error=long) for number in range(60)]
    records.append(verification(61, checks=made, integrity_check=[long] * 300, commands=[long] * 300, error=long))
    text = render_html(look(*records))
    assert len(text) < 2_000_000
    assert "… and 100 lines more" in text
    assert "… and 998,000 characters more" in text


def test_broken_bytes_and_control_characters_are_written_out_in_both_forms() -> None:
    odd = "\udcff\x1b[31m\u202e"
    page = look(verification(backup=odd, integrity_check=[odd], error=odd), plan=plan_of(TO_DO, notes=(odd,)))
    for text in (render_html(page), render_markdown(page)):
        text.encode()
        assert "\x1b" not in text
        assert "\u202e" not in text
        assert r"\x1b[31m\u202e" in text.replace("\\\\", "\\").replace("\\[", "[")


@pytest.mark.parametrize("name", ["pdf", "", "HTML"])
def test_another_form_is_refused(name: str) -> None:
    with pytest.raises(SettingsError, match="--format") as caught:
        check_format(name)
    assert caught.value.advice == "say html or markdown"


def test_listing_the_tasks_loads_neither_the_templates_nor_the_plots(tmp_path: Path) -> None:
    import subprocess
    import sys

    code = (
        "import sys, demo_backups.release.report.page, demo_backups.release.report.plots; "
        "print(sorted({'jinja2', 'matplotlib'} & set(sys.modules)))"
    )
    done = subprocess.run([sys.executable, "-c", code], cwd=tmp_path, capture_output=True, text=True, check=True)
    assert done.stdout == "[]\n"
