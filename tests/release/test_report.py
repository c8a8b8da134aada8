"""The report as a user meets it: the task, and its page in a browser."""

from __future__ import annotations

import functools
import json
import os
import re
import shutil
import subprocess
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Literal

import pytest
from playwright.sync_api import Browser, sync_playwright
from playwright.sync_api import Page as Tab

from demo_backups.errors import FAILED, WRONG_INPUT, StepError
from demo_backups.project import ROOT
from demo_backups.records.record import Record
from demo_backups.records.store import read_records, write_record
from demo_backups.release.plan import Mark, Plan
from demo_backups.release.report.files import save_report
from demo_backups.release.report.page import Page, build_page, render_html

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
from ..helpers.tasks import INV, Inv

Scheme = Literal["light", "dark"]
WIDTHS = (380, 1280)
SCHEMES: tuple[Scheme, ...] = ("light", "dark")


# --- pages ----------------------------------------------------------------------------------------------------------


def page_of(*records: Record, plan: Plan | None = None) -> Page:
    return build_page(plan or all_marks(notes=("demo: no such host",)), records, DATABASES, NOW)


EMPTY = page_of(plan=plan_of(Mark.UNKNOWN, Mark.UNKNOWN, Mark.UNKNOWN))
UNREAD = build_page(all_marks(notes=("the records cannot be read",)), None, DATABASES, NOW)
LONG = "/backups/" + "a-very-long-name-without-a-blank-" * 8 + ".db"
FULL = page_of(
    unreachable(-1),
    verification(0, checks=checks(integrity=False, query=None), integrity_check=["row missing " * 30] * 60),
    run(0.1, error="it failed\n  | as it printed", exit_status=1, backup=None, bytes=None),
    replace(verification(1, host="rehearsal", database="tracker"), backup=LONG, who="", host="h" * 100),
    *history(40),
    plan=replace(all_marks(notes=("demo: no such host", LONG)), host="demo"),
)
HOSTILE = (
    '<img src=x onerror=hacked()><script>hacked()</script></svg></style></pre>"\' onload="hacked()" {{7*7}} {% raw %}'
)


def hostile() -> Page:
    """A page in which everything that can come from elsewhere is markup."""
    plan = plan_of(Mark.TO_DO, Mark.DONE, notes=(HOSTILE,), host=HOSTILE)
    odd = step(HOSTILE, Mark.TO_DO, observed=HOSTILE)
    plan = replace(plan, phases=[replace(plan.phases[0], name=HOSTILE, steps=[odd]), plan.phases[1]])
    record = verification(
        kind=HOSTILE,
        host=HOSTILE,
        who=HOSTILE,
        backup=HOSTILE,
        script_sha256=HOSTILE,
        checks=[{"name": HOSTILE, "passed": False, "detail": HOSTILE}],
        integrity_check=[HOSTILE],
        commands=[HOSTILE],
        error=HOSTILE,
        database="<b>index</b>",
    )
    later = unreachable(-1, host=HOSTILE, error=HOSTILE, database="<b>index</b>")
    return build_page(plan, [record, later], ["<b>index</b>"], NOW)


PAGES: dict[str, Page] = {
    "empty": EMPTY,
    "unread": UNREAD,
    "full": FULL,
    "single": page_of(verification()),
    "failed": page_of(unreachable()),
    "hostile": hostile(),
    "many": page_of(*history(1000)),
}


@functools.cache
def rendered(name: str) -> str:
    return render_html(PAGES[name])


def html_of(page: Page) -> str:
    """The page as text; those that many tests look at are made once."""
    name = next((name for name, each in PAGES.items() if each is page), None)
    return rendered(name) if name else render_html(page)


# --- the browser ----------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    """Debian's Chromium; skipped where it is missing, which under CI is a failure.

    For this module alone: Playwright keeps an event loop in this thread, in which no other test could run its own.
    """
    chromium = shutil.which("chromium")
    if chromium is None:
        (pytest.fail if os.environ.get("CI") == "true" else pytest.skip)("no chromium (Debian: apt install chromium)")
    with sync_playwright() as playwright:
        arguments = ["--no-sandbox"] if os.geteuid() == 0 else []  # as root it runs without one only
        opened = playwright.chromium.launch(executable_path=chromium, args=arguments)
        yield opened
        opened.close()


@dataclass
class Shown:
    """A page in a tab, and all that the tab said and asked for."""

    tab: Tab
    address: str
    said: list[str] = field(default_factory=list)
    asked: list[str] = field(default_factory=list)


Show = Callable[..., Shown]


@pytest.fixture
def show(browser: Browser, tmp_path: Path) -> Iterator[Show]:
    """Open a page as it is written."""
    opened: list[Tab] = []

    def open_page(page: Page, width: int = 1280, scheme: Scheme = "light") -> Shown:
        place = tmp_path / "reports/index.html"
        save_report(html_of(page), place)
        tab = browser.new_page(viewport={"width": width, "height": 900}, color_scheme=scheme)
        opened.append(tab)
        shown = Shown(tab, place.as_uri())
        tab.on("console", lambda message: shown.said.append(message.text))
        tab.on("pageerror", lambda error: shown.said.append(str(error)))
        tab.on("dialog", lambda dialog: shown.said.append(dialog.message))
        tab.on("request", lambda request: shown.asked.append(request.url))
        tab.goto(shown.address)
        return shown

    yield open_page
    for tab in opened:
        tab.close()


each_page = pytest.mark.parametrize("page", PAGES.values(), ids=PAGES.keys())


@each_page
@pytest.mark.parametrize("width", WIDTHS)
def test_a_page_says_and_asks_for_nothing_and_fits_its_window(page: Page, width: int, show: Show) -> None:
    shown = show(page, width)
    for details in shown.tab.locator("details").all()[:12]:
        details.evaluate("each => each.open = true")
    wide = shown.tab.evaluate("[document.scrollingElement.scrollWidth, document.scrollingElement.clientWidth]")
    assert wide[0] <= wide[1] == width
    assert (shown.said, shown.asked) == ([], [shown.address])


NARROW = "[...document.querySelectorAll('main *')].filter(e => !e.closest('svg') && %s).map(e => e.outerHTML)"


@pytest.mark.parametrize("width", WIDTHS)
def test_nothing_stands_outside_of_its_place_but_what_can_be_scrolled(width: int, show: Show) -> None:
    tab = show(FULL, width).tab
    outside = f"!e.closest('.scroll') && e.checkVisibility() && e.getBoundingClientRect().right > {width}"
    assert tab.evaluate(NARROW % outside) == []


@each_page
def test_a_page_has_no_script_and_no_handler_and_no_form(page: Page, show: Show) -> None:
    tab = show(page).tab
    assert tab.locator("script, iframe, object, embed, form, link, base, img, a[href^='javascript']").count() == 0
    handlers = (
        "[...document.querySelectorAll('*')].flatMap(e => [...e.attributes]).filter(a => a.name.startsWith('on'))"
    )
    assert tab.evaluate(f"{handlers}.map(a => a.name)") == []


def test_markup_from_elsewhere_stays_text_wherever_it_stands(show: Show) -> None:
    tab = show(PAGES["hostile"]).tab
    text = tab.evaluate("document.documentElement.textContent")
    values = "title, step, observed, note, host, name of check, detail, output, command, error, kind, who, file, sum"
    assert text.count(HOSTILE) >= len(values.split(","))
    assert "49" not in text
    assert "The <b>index</b> database" in text
    assert tab.title() == f"Backups of {HOSTILE}"
    # A name in an attribute ended it, were its quotes not escaped.
    assert tab.get_by_role("region", name="Commands that were run for <b>index</b>", include_hidden=True).count() == 1


def test_what_would_be_run_or_loaded_all_the_same_is_refused_by_the_page(show: Show) -> None:
    shown = show(EMPTY)
    shown.tab.evaluate(
        """() => {
            const script = document.createElement("script");
            script.textContent = "window.hacked = true";
            const image = document.createElement("img");
            image.src = "file:///etc/hostname";
            document.body.append(script, image);
        }"""
    )
    assert shown.tab.evaluate("window.hacked") is None
    refused = [words for words in shown.said if "Content Security Policy" in words]
    assert len(refused) == 2, shown.said


def test_control_characters_and_broken_bytes_are_written_out(show: Show) -> None:
    odd = "\udcff \x1b[31m \u202e \x00 \x85"
    tab = show(page_of(verification(backup=odd, integrity_check=[odd]), plan=plan_of(Mark.TO_DO, notes=(odd,)))).tab
    text = tab.evaluate("document.body.textContent")
    assert text.count(r"\udcff \x1b[31m \u202e \x00 \x85") == 3
    assert tab.evaluate("document.characterSet") == "UTF-8"


# --- what it shows --------------------------------------------------------------------------------------------------


def test_the_page_shows_the_verdict_the_plan_and_each_mark_in_words(show: Show) -> None:
    tab = show(FULL).tab
    assert tab.get_by_role("heading", level=1).inner_text() == "Backups of demo"
    assert tab.locator("header .verdict").inner_text() == FULL.verdict
    steps = tab.locator("#main ol li").all_inner_texts()
    assert [re.split(r"\n", text)[-2].split(" ", 1)[1] for text in steps] == [
        each.mark.value for each in FULL.plan.steps
    ]
    assert "An extra (optional)" in steps[-1]


def test_the_last_verification_is_told_in_full(show: Show) -> None:
    tab = show(page_of(verification(0, checks=checks(size=False), created=NOW.isoformat()))).tab
    section = tab.get_by_role("region", name="The index database")
    facts = dict(zip(section.locator("dt").all_inner_texts(), section.locator("dd").all_inner_texts(), strict=True))
    assert facts == {
        "File": "/backups/backup_2024-11-24_20-00-00.db",
        "Host": "demo",
        "Verified": "2024-11-24 20:00 UTC, in 0.5 s",
        "By": "maintainer@laptop",
        "Size": "2,300,000 bytes",
        "Written": "2024-11-24 20:00 UTC",
    }
    rows = tab.get_by_role("table", name="The checks of this backup").get_by_role("row").all_inner_texts()
    assert [row.split("\t")[:2] for row in rows[1:3]] == [["created", "✓ passed"], ["size", "✗ failed"]]
    assert len(rows) == 6
    output = section.get_by_role("region", name="What the check of the whole file of index printed")
    assert output.inner_text() == "ok"
    section.get_by_text("Commands that were run (1)").click()
    assert "PRAGMA integrity_check" in section.get_by_role("region", name="Commands").inner_text()


def test_a_page_of_nothing_says_what_to_do_first(show: Show) -> None:
    tab = show(EMPTY).tab
    assert "Begin with ./inv rehearse" in tab.get_by_role("banner").inner_text()
    assert tab.get_by_role("img").count() == 0
    assert tab.get_by_text("No verification has been recorded yet.").count() == len(DATABASES)
    assert tab.get_by_text("None yet. Every task").is_visible()


def test_a_page_without_a_record_that_could_be_read_does_not_say_that_there_is_none(show: Show) -> None:
    tab = show(UNREAD).tab
    assert "yet" not in tab.get_by_role("document").inner_text()
    assert tab.get_by_text("No record could be read: why.").count() == len(DATABASES)
    tab.get_by_role("region", name="Records").get_by_role("link", name="why").click()
    assert tab.url.endswith("#notes")


def test_a_record_of_the_first_schema_is_shown(show: Show, tmp_path: Path) -> None:
    old = {
        "kind": "verification",
        "host": "demo",
        "database": "index",
        "when": "2024-11-24T20:00:00+00:00",
        "schema": 1,
        "script_sha256": None,
        "exit_status": 0,
        "backup": "/backups/old.db",
        "bytes": 5,
        "seconds": 1.5,
        "checks": [{"name": "size", "passed": True, "detail": "5 bytes"}],
        "integrity_check": ["ok"],
        "error": None,
        "details": {},
    }
    folder = tmp_path / "evidence"
    folder.mkdir()
    (folder / "old.json").write_text(json.dumps(old))
    records, damaged = read_records(folder)
    assert damaged == []
    section = show(page_of(*records)).tab.get_by_role("region", name="The index database")
    assert "/backups/old.db" in section.inner_text()
    assert "not recorded" in section.inner_text()
    assert section.get_by_role("img").count() == 3


def test_of_many_records_the_latest_are_listed_and_the_page_stays_small(show: Show) -> None:
    assert len(html_of(PAGES["many"]).encode()) < 2_000_000
    tab = show(PAGES["many"]).tab
    assert tab.get_by_role("region", name="The latest records").get_by_role("row").count() == 51
    assert tab.get_by_text("950 older ones are not shown.").is_visible()
    assert tab.get_by_role("img").count() == 3


# --- for everyone ---------------------------------------------------------------------------------------------------


@each_page
def test_the_page_s_structure_is_told_to_who_cannot_see_it(page: Page, show: Show) -> None:
    tab = show(page).tab
    assert tab.evaluate("document.documentElement.lang") == "en"
    for role in ("banner", "navigation", "main"):
        assert tab.get_by_role(role).count() == 1
    levels = [
        int(name[1]) for name in tab.evaluate("[...document.querySelectorAll('h1,h2,h3,h4')].map(e => e.tagName)")
    ]
    assert levels.count(1) == 1
    assert all(after - before <= 1 for before, after in zip([0, *levels], levels, strict=False))
    ids = tab.evaluate("[...document.querySelectorAll('[id]')].map(e => e.id)")
    assert len(ids) == len(set(ids))
    targets = tab.evaluate("[...document.querySelectorAll('a')].map(e => e.getAttribute('href').slice(1))")
    labels = tab.evaluate(
        "[...document.querySelectorAll('[aria-labelledby]')].map(e => e.getAttribute('aria-labelledby'))"
    )
    assert {*targets, *labels} <= set(ids)
    assert tab.locator("table").count() == tab.locator("table > caption").count()
    assert tab.locator("th:not([scope])").count() == 0


@pytest.mark.parametrize("page", [PAGES["full"], PAGES["single"], PAGES["many"]], ids=["full", "single", "many"])
def test_every_picture_has_a_name_that_says_what_it_shows_and_its_numbers_as_a_table(page: Page, show: Show) -> None:
    tab = show(page).tab
    names = [each.get_attribute("aria-label") or "" for each in tab.get_by_role("img").all()]
    assert tab.locator("svg").count() == tab.locator("[role=img] svg").count() == len(names)
    assert len(names) >= 3
    assert all(re.match(r"(Size|Duration|Checks by day)\. .*\d", name) for name in names)
    assert (
        tab.locator("figure:has(svg)").count()
        == tab.locator("figure:has(svg) details table tbody tr").locator("xpath=ancestor::figure").count()
    )


@pytest.mark.parametrize("width", WIDTHS)
def test_a_table_stays_a_table_at_every_width(width: int, show: Show) -> None:
    tab = show(PAGES["single"], width).tab
    snapshot = tab.get_by_role("table", name="The checks of this backup").aria_snapshot()
    assert snapshot.count("- rowheader ") == 5
    assert '- columnheader "What it saw"' in snapshot


def test_the_keyboard_reaches_all_that_opens_or_scrolls_and_shows_where_it_is(show: Show) -> None:
    tab = show(FULL).tab
    tab.evaluate("document.querySelectorAll('pre, .scroll, summary, a').forEach((e, n) => e.dataset.number = n)")
    wanted = set(tab.evaluate("[...document.querySelectorAll('[data-number]')].map(e => e.dataset.number)"))
    reached: list[str] = []
    for _ in range(3 * len(wanted)):
        tab.keyboard.press("Tab")
        at: dict[str, Any] = tab.evaluate(
            "(e => ({number: e.dataset.number, name: e.tagName, outline: getComputedStyle(e).outlineStyle}))"
            "(document.activeElement)"
        )
        if at["number"] is None:
            break
        assert at["outline"] == "solid", at
        reached.append(at["number"])
        if at["name"] == "SUMMARY":
            tab.keyboard.press("Enter")
    assert tab.locator("details:not([open])").count() == 0
    assert set(reached) == wanted
    assert reached == sorted(reached, key=int)


def test_the_first_key_leads_past_the_navigation(show: Show) -> None:
    tab = show(FULL).tab
    tab.keyboard.press("Tab")
    link = tab.get_by_role("link", name="Skip to the report")
    assert link.evaluate("e => e === document.activeElement && e.getBoundingClientRect().top >= 0")
    tab.keyboard.press("Enter")
    assert tab.evaluate("document.activeElement.id") == "main"


# Of each visible text: its contrast with what is behind it (WCAG 2.2, "contrast ratio").
CONTRASTS = """() => {
    const channels = text => text.match(/[\\d.]+/g).map(Number);
    const light = ([r, g, b]) => {
        const [x, y, z] = [r, g, b].map(v => v / 255).map(v => v <= 0.04045 ? v / 12.92 : ((v + 0.055) / 1.055) ** 2.4);
        return 0.2126 * x + 0.7152 * y + 0.0722 * z;
    };
    const behind = element => {
        for (let e = element; e; e = e.parentElement) {
            const colour = channels(getComputedStyle(e).backgroundColor);
            if (colour.length === 3) return colour;
            if (colour[3] !== 0) throw new Error("half transparent: " + e.outerHTML);
        }
        throw new Error("no background");
    };
    const found = [];
    const walker = document.createTreeWalker(document.body, NodeFilter.SHOW_TEXT);
    while (walker.nextNode()) {
        const element = walker.currentNode.parentElement;
        if (!walker.currentNode.data.trim() || !element.checkVisibility()) continue;
        const style = getComputedStyle(element);
        const ink = channels(element.closest("svg") ? style.fill : style.color);
        const [a, b] = [light(ink), light(behind(element))].sort((x, y) => y - x);
        found.push([(a + 0.05) / (b + 0.05), element.outerHTML.slice(0, 200)]);
    }
    return found;
}"""


@pytest.mark.parametrize("scheme", SCHEMES)
@pytest.mark.parametrize("name", ["full", "empty"])
def test_every_text_can_be_read_on_what_is_behind_it(name: str, scheme: Scheme, show: Show) -> None:
    tab = show(PAGES[name], scheme=scheme).tab
    tab.evaluate("document.querySelectorAll('details').forEach(e => e.open = true)")
    found = tab.evaluate(CONTRASTS)
    assert len(found) > 40
    assert [each for each in found if each[0] < 4.5] == []


def test_light_and_dark_are_two(show: Show) -> None:
    def colours(scheme: Scheme) -> list[str]:
        tab = show(FULL, scheme=scheme).tab
        lines = "getComputedStyle(document.querySelector('svg [style*=\"--plot-1\"]')).stroke"
        return list(tab.evaluate(f"[getComputedStyle(document.body).backgroundColor, {lines}]"))

    light, dark = colours("light"), colours("dark")
    assert all(one != other for one, other in zip(light, dark, strict=True)), (light, dark)


def test_on_paper_all_of_an_output_is_there_and_no_navigation(show: Show) -> None:
    tab = show(FULL, scheme="dark").tab
    tab.emulate_media(media="print", color_scheme="dark")
    assert not tab.get_by_role("navigation").is_visible()
    cut_off = "[...document.querySelectorAll('pre, .scroll')].filter(e => e.scrollHeight > e.clientHeight + 1).length"
    assert tab.evaluate(cut_off) == 0
    assert tab.evaluate("getComputedStyle(document.body).backgroundColor") == "rgb(255, 255, 255)"


def test_a_picture_of_the_page_can_be_taken(show: Show, tmp_path: Path) -> None:
    """Set REPORT_PICTURES to a folder to keep them: it is how the one in the README is made."""
    folder = Path(os.environ.get("REPORT_PICTURES", tmp_path))
    sizes = set()
    for scheme in SCHEMES:
        picture = folder / f"report-{scheme}.png"
        show(FULL, scheme=scheme).tab.screenshot(path=picture)
        sizes.add(picture.stat().st_size)
    assert min(sizes) > 10_000


# --- written whole or not at all ------------------------------------------------------------------------------------


def test_a_page_replaces_the_one_before_and_leaves_nothing_beside_it(tmp_path: Path) -> None:
    place = tmp_path / "a/reports/index.html"
    for text in ("first", "second ünï"):
        save_report(text, place)
        assert place.read_text(encoding="utf-8") == text
    assert list(place.parent.iterdir()) == [place]
    assert place.stat().st_mode & 0o777 == 0o644


def test_a_page_that_cannot_be_written_whole_leaves_the_one_before(tmp_path: Path) -> None:
    place = tmp_path / "index.html"
    save_report("before", place)
    with pytest.raises(UnicodeEncodeError):
        save_report("\udcff", place)
    assert place.read_text() == "before"
    assert list(tmp_path.iterdir()) == [place]


@pytest.mark.parametrize("in_the_way", ["reports", "reports/index.html/x"])
def test_a_place_that_is_taken_is_said_in_words(in_the_way: str, tmp_path: Path) -> None:
    (tmp_path / in_the_way).parent.mkdir(parents=True, exist_ok=True)
    (tmp_path / in_the_way).touch()
    before = sorted(tmp_path.rglob("*"))
    with pytest.raises(StepError, match="the report could not be written to") as caught:
        save_report("text", tmp_path / "reports/index.html")
    assert caught.value.output
    assert str(tmp_path / "reports") in caught.value.advice
    assert sorted(tmp_path.rglob("*")) == before


# --- the task -------------------------------------------------------------------------------------------------------


@pytest.fixture
def report(inv: Inv, home: Path, private_mounts: list[str]) -> Callable[..., subprocess.CompletedProcess[str]]:
    """Call the task with a reports folder of the test's own, mounted over that of this checkout for it alone."""
    (home / "reports").mkdir()
    (ROOT / "reports").mkdir(exist_ok=True)  # ignored by git

    def call(*arguments: str, mount: tuple[str, ...] = (), **changes: str) -> subprocess.CompletedProcess[str]:
        mount = mount or ("--bind", str(home / "reports"))
        script = 'mount "$@" "$REPORTS"; exec "$INV" --search-root "$ROOT" report --host nowhere.invalid $FLAGS'
        variables = {"REPORTS": str(ROOT / "reports"), "INV": str(INV), "ROOT": str(ROOT), "FLAGS": " ".join(arguments)}
        return subprocess.run(
            [*private_mounts, "sh", "-euc", script, "sh", *mount],
            env=inv.environment | {"INVOKE_RELEASE_REPOSITORY": str(home)} | variables | changes,
            cwd=home,
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            check=False,
        )

    return call


Report = Callable[..., subprocess.CompletedProcess[str]]


def test_the_task_writes_the_page_with_what_is_known_and_names_damaged_records(report: Report, home: Path) -> None:
    write_record(home / "evidence", verification(host="nowhere.invalid"))
    (home / "evidence/half.json").write_text('{"kind": "run", "ho')
    done = report()
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout == f"the report is {ROOT / 'reports/index.html'}\n"
    assert [path.name for path in (home / "reports").iterdir()] == ["index.html"]
    text = (home / "reports/index.html").read_text(encoding="utf-8")
    assert 'Backups of <span class="name">nowhere.invalid' in text
    assert "/backups/backup_2024-11-24_20-00-00.db" in text
    assert "half.json" in text
    assert text.count("<svg") == 3
    assert text.count('class="step"') == 18


def test_without_a_record_or_a_server_the_task_still_makes_a_page(report: Report, home: Path) -> None:
    done = report()
    assert (done.returncode, done.stderr) == (0, "")
    assert "./inv rehearse" in (home / "reports/index.html").read_text(encoding="utf-8")


@pytest.mark.parametrize(("place", "why"), [("evidence", "cannot be read"), ("evidence/half.json", "it is empty")])
def test_records_that_cannot_be_read_at_all_are_no_empty_list(report: Report, home: Path, place: str, why: str) -> None:
    (home / place).parent.mkdir(exist_ok=True)
    (home / place).touch()
    done = report()
    assert (done.returncode, done.stderr) == (0, "")
    text = (home / "reports/index.html").read_text(encoding="utf-8")
    assert why in text
    assert "recorded yet" not in text


@pytest.mark.parametrize(
    ("mount", "words"),
    [
        (("-t", "tmpfs", "-o", "ro", "tmpfs"), "Read-only file system"),
        (("-t", "tmpfs", "-o", "size=8k", "tmpfs"), "No space left on device"),
    ],
    ids=["read-only", "full"],
)
def test_a_folder_that_cannot_be_written_is_a_failure_in_words(
    mount: tuple[str, ...], words: str, report: Report
) -> None:
    done = report(mount=mount)
    assert (done.returncode, done.stdout) == (FAILED, "")
    assert "the report could not be written to" in done.stderr
    assert words in done.stderr
    assert "Traceback" not in done.stderr


def test_markdown_goes_to_standard_output_alone_whatever_the_terminal_has(report: Report, home: Path) -> None:
    write_record(home / "evidence", verification(host="nowhere.invalid"))
    done = report("--format", "markdown", LC_ALL="C", PYTHONUTF8="0", PYTHONIOENCODING="ascii", PYTHONCOERCECLOCALE="0")
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout.startswith("## Backups of `nowhere.invalid`\n")
    assert "✓ passed" in done.stdout
    assert list((home / "reports").iterdir()) == []


def test_another_form_is_a_wrong_argument(inv: Inv) -> None:
    done = inv("report", "--format", "pdf")
    assert (done.returncode, done.stdout) == (WRONG_INPUT, "")
    assert "--format 'pdf'" in done.stderr


def test_it_is_opened_in_the_user_s_browser(report: Report, home: Path) -> None:
    (home / "browser").write_text('#!/bin/sh\nprintf %s "$1" > "$HOME/opened"\n')
    (home / "browser").chmod(0o755)
    done = report("--open", BROWSER="./browser")
    assert (done.returncode, done.stderr) == (0, "")
    assert (home / "opened").read_text() == (ROOT / "reports/index.html").as_uri()


def test_without_a_browser_it_says_where_the_page_is(report: Report, home: Path) -> None:
    (home / "bin").mkdir()
    for name in ("sh", "unshare", "mount", "git", "ssh"):
        (home / "bin" / name).symlink_to(shutil.which(name) or "/nowhere")
    done = report("--open", PATH=str(home / "bin"), DISPLAY="", WAYLAND_DISPLAY="", BROWSER="")
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout == f"the report is {ROOT / 'reports/index.html'}: no browser was found here, open it in one\n"
    assert (home / "reports/index.html").is_file()
