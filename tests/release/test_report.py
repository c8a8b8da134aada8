"""The page of the report in a browser."""

from __future__ import annotations

import functools
import json
import os
import re
import shutil
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Literal

import pytest
from playwright.sync_api import Browser, sync_playwright
from playwright.sync_api import Page as Tab

from demo_backups.records.store import read_records
from demo_backups.release.plan import Mark
from demo_backups.release.report.files import save_report
from demo_backups.release.report.page import Page
from demo_backups.release.report.render import render_html

from ..helpers.report_samples import (
    DATABASES,
    EMPTY_PAGE,
    FULL_PAGE,
    MARKUP,
    NOW,
    PAGES,
    checks,
    page_of,
    plan_of,
    run,
    verification,
)

Scheme = Literal["light", "dark"]
WIDTHS = (380, 1280)
SCHEMES: tuple[Scheme, ...] = ("light", "dark")


@functools.cache
def rendered(name: str) -> str:
    return render_html(PAGES[name])


def html_of(page: Page) -> str:
    """Return the page as text; the shared pages are rendered once."""
    name = next((name for name, shared in PAGES.items() if shared is page), None)
    return rendered(name) if name else render_html(page)


# --- the browser ----------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    """Launch Debian's Chromium; skipped where it is missing, which under CI is a failure.

    For this module alone: Playwright runs an event loop in this thread, in which no other test could run its own.
    """
    chromium = shutil.which("chromium")
    if chromium is None:
        (pytest.fail if os.environ.get("CI") == "true" else pytest.skip)("no chromium (Debian: apt install chromium)")
    with sync_playwright() as playwright:
        arguments = ["--no-sandbox"] if os.geteuid() == 0 else []  # as root it only runs without
        browser = playwright.chromium.launch(executable_path=chromium, args=arguments)
        yield browser
        browser.close()


@dataclass
class OpenPage:
    """A page in a tab, with the messages and the requests of the tab."""

    tab: Tab
    address: str
    messages: list[str] = field(default_factory=list)
    requests: list[str] = field(default_factory=list)


Show = Callable[..., OpenPage]


@pytest.fixture
def show(browser: Browser, tmp_path: Path) -> Iterator[Show]:
    """Save a page and open it."""
    tabs: list[Tab] = []

    def open_page(page: Page, width: int = 1280, scheme: Scheme = "light") -> OpenPage:
        path = tmp_path / "reports/index.html"
        save_report(html_of(page), path)
        tab = browser.new_page(viewport={"width": width, "height": 900}, color_scheme=scheme)
        tabs.append(tab)
        opened = OpenPage(tab, path.as_uri())
        tab.on("console", lambda message: opened.messages.append(message.text))
        tab.on("pageerror", lambda error: opened.messages.append(str(error)))
        tab.on("dialog", lambda dialog: opened.messages.append(dialog.message))
        tab.on("request", lambda request: opened.requests.append(request.url))
        tab.goto(opened.address)
        return opened

    yield open_page
    for tab in tabs:
        tab.close()


all_pages = pytest.mark.parametrize("page", PAGES.values(), ids=PAGES.keys())


# --- safe and complete ----------------------------------------------------------------------------------------------


@all_pages
@pytest.mark.parametrize("width", WIDTHS)
def test_page_loads_nothing_and_fits_window(page: Page, width: int, show: Show) -> None:
    opened = show(page, width)
    for details in opened.tab.locator("details").all()[:12]:
        details.evaluate("element => element.open = true")
    content, window = opened.tab.evaluate(
        "[document.scrollingElement.scrollWidth, document.scrollingElement.clientWidth]"
    )
    assert content <= window == width
    assert (opened.messages, opened.requests) == ([], [opened.address])


@pytest.mark.parametrize("width", WIDTHS)
def test_only_scrollable_elements_are_wider_than_window(width: int, show: Show) -> None:
    tab = show(FULL_PAGE, width).tab
    wider = f"!e.closest('.scroll, svg') && e.checkVisibility() && e.getBoundingClientRect().right > {width}"
    assert tab.evaluate(f"[...document.querySelectorAll('main *')].filter(e => {wider}).map(e => e.outerHTML)") == []


@all_pages
def test_page_has_no_scripts_or_forms(page: Page, show: Show) -> None:
    tab = show(page).tab
    assert tab.locator("script, iframe, object, embed, form, link, base, img, a[href^='javascript']").count() == 0
    attributes = tab.evaluate("[...document.querySelectorAll('*')].flatMap(e => [...e.attributes].map(a => a.name))")
    assert [name for name in attributes if name.startswith("on")] == []


def test_markup_from_elsewhere_stays_text(show: Show) -> None:
    tab = show(PAGES["markup"]).tab
    text = tab.evaluate("document.documentElement.textContent")
    values = "title, step, details, note, host, name of check, detail, output, command, error, kind, who, file, sum"
    assert text.count(MARKUP) >= len(values.split(","))
    assert "49" not in text
    assert tab.get_by_role("heading", level=2, name="<b>index</b>").count() == 1
    assert tab.title() == f"Backups of {MARKUP}"
    # Unescaped quotes in a name would end its attribute.
    assert tab.get_by_role("region", name="Commands, <b>index</b>", include_hidden=True).count() == 1


def test_content_policy_blocks_scripts_and_images(show: Show) -> None:
    opened = show(EMPTY_PAGE)
    opened.tab.evaluate(
        """() => {
            const script = document.createElement("script");
            script.textContent = "window.hacked = true";
            const image = document.createElement("img");
            image.src = "file:///etc/hostname";
            document.body.append(script, image);
        }"""
    )
    assert opened.tab.evaluate("window.hacked") is None
    blocked = [message for message in opened.messages if "Content Security Policy" in message]
    assert len(blocked) == 2, opened.messages


def test_control_characters_are_escaped(show: Show) -> None:
    odd = "\udcff \x1b[31m \u202e \x00 \x85"
    tab = show(page_of(verification(backup=odd, integrity_check=[odd]), plan=plan_of(Mark.TO_DO, notes=(odd,)))).tab
    text = tab.evaluate("document.body.textContent")
    assert text.count(r"\udcff \x1b[31m \u202e \x00 \x85") == 3
    assert tab.evaluate("document.characterSet") == "UTF-8"


# --- content --------------------------------------------------------------------------------------------------------


def test_page_shows_verdict_and_marks(show: Show) -> None:
    tab = show(FULL_PAGE).tab
    assert "demo" in tab.get_by_role("heading", level=1).inner_text()
    assert tab.locator("header .verdict").inner_text() == FULL_PAGE.verdict.text
    steps = tab.locator("#main ol li").all_inner_texts()
    marks = [re.split(r"\n", text)[-2].split(" ", 1)[1] for text in steps]
    assert marks == [step.mark.value for step in FULL_PAGE.plan.steps]
    assert "An extra (optional)" in steps[-1]


def test_last_fetch_and_drill_are_shown(show: Show) -> None:
    fetched = run(hours=48, kind="fetch")
    tab = show(page_of(fetched, run(hours=1, kind="fetch", exit_status=3), verification(0))).tab
    card = tab.get_by_role("region", name="Database: index").locator(".card", has_text="Fetch and drill")
    fetch, drill = card.locator("dd").all_inner_texts()
    assert fetch.startswith("2 days ago")
    assert str(fetched.backup) in fetch
    assert "A later fetch failed" in fetch
    assert drill == "never"


def test_last_verification_is_shown_in_full(show: Show) -> None:
    tab = show(page_of(verification(0, checks=checks(size=False), created=NOW.isoformat()))).tab
    section = tab.get_by_role("region", name="Database: index")
    facts = section.locator(".card").first.locator("dd").all_inner_texts()
    assert facts == [
        "/backups/backup_2024-11-24_20-00-00.db",
        "demo",
        "2024-11-24 20:00 UTC",
        "500 ms",
        "maintainer@laptop",
        "2,300,000 bytes",
        "2024-11-24 20:00 UTC",
    ]
    rows = tab.get_by_role("table", name="Checks of this backup").get_by_role("row").all_inner_texts()
    assert [row.split("\t")[:2] for row in rows[1:3]] == [["created", "✓ passed"], ["size", "✗ failed"]]
    assert len(rows) == 6
    assert section.get_by_role("region", name="Output of the integrity check").inner_text() == "ok"
    section.get_by_text("Commands (1)").click()
    assert "PRAGMA integrity_check" in section.get_by_role("region", name="Commands").inner_text()


def test_page_links_pull_request(show: Show) -> None:
    url = "https://github.com/torrust/torrust-demo/pull/90"
    plan = replace(plan_of(Mark.DONE), checkout="/srv/<b>checkout</b>", pull_request=url)
    banner = show(page_of(verification(), plan=plan)).tab.get_by_role("banner")
    assert banner.get_by_role("link", name=url).get_attribute("href") == url
    assert "/srv/<b>checkout</b>" in banner.inner_text()


def test_empty_page_names_first_task(show: Show) -> None:
    tab = show(EMPTY_PAGE).tab
    assert "./inv rehearse" in tab.get_by_role("banner").inner_text()
    assert tab.get_by_role("img").count() == 0


def test_unreadable_records_link_to_reason(show: Show) -> None:
    tab = show(PAGES["unreadable"]).tab
    assert "yet" not in tab.get_by_role("document").inner_text()
    assert tab.locator("main a[href='#notes']").count() == len(DATABASES) + 1
    tab.get_by_role("region", name="Records").get_by_role("link").click()
    assert tab.url.endswith("#notes")


def test_record_of_first_schema_is_shown(show: Show, tmp_path: Path) -> None:
    fields = {
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
    (folder / "old.json").write_text(json.dumps(fields))
    records, invalid = read_records(folder)
    assert invalid == []
    section = show(page_of(*records)).tab.get_by_role("region", name="Database: index")
    assert "/backups/old.db" in section.inner_text()
    assert "not recorded" in section.inner_text()
    assert section.get_by_role("img").count() == 3


def test_page_of_many_records_stays_small(show: Show) -> None:
    assert len(html_of(PAGES["many"]).encode()) < 2_000_000
    tab = show(PAGES["many"]).tab
    assert tab.get_by_role("region", name="The latest records").get_by_role("row").count() == 51
    assert "950" in tab.get_by_role("region", name="Records", exact=True).inner_text()
    assert tab.get_by_role("img").count() == 3


# --- accessibility --------------------------------------------------------------------------------------------------


@all_pages
def test_structure_is_accessible(page: Page, show: Show) -> None:
    tab = show(page).tab
    assert tab.evaluate("document.documentElement.lang") == "en"
    for role in ("banner", "navigation", "main"):
        assert tab.get_by_role(role).count() == 1
    headings = tab.evaluate("[...document.querySelectorAll('h1,h2,h3,h4')].map(e => e.tagName)")
    levels = [int(name[1]) for name in headings]
    assert levels.count(1) == 1
    assert all(after - before <= 1 for before, after in zip([0, *levels], levels, strict=False))
    ids = tab.evaluate("[...document.querySelectorAll('[id]')].map(e => e.id)")
    assert len(ids) == len(set(ids))
    targets = tab.evaluate("[...document.querySelectorAll('a[href^=\"#\"]')].map(e => e.getAttribute('href').slice(1))")
    labels = tab.evaluate(
        "['aria-labelledby', 'aria-describedby'].flatMap(name =>"
        " [...document.querySelectorAll(`[${name}]`)].map(e => e.getAttribute(name)))"
    )
    assert {*targets, *labels} <= set(ids)
    assert tab.locator("table").count() == tab.locator("table > caption").count()
    assert tab.locator("th:not([scope])").count() == 0


@pytest.mark.parametrize("name", ["full", "single", "many"])
def test_plots_have_names_descriptions_and_tables(name: str, show: Show) -> None:
    tab = show(PAGES[name]).tab
    plots = tab.get_by_role("img").all()
    assert tab.locator("svg").count() == len(plots) >= 3
    for plot in plots:
        title, description = plot.locator("> title"), plot.locator("> desc")
        assert re.fullmatch(r"(Size|Duration|Checks by day), (index|tracker)", title.text_content() or "")
        assert re.search(r"\d", description.text_content() or "")
        assert tab.get_by_role("img", name=title.text_content() or "", exact=True).count() == 1
    figures = tab.locator("figure:has(svg)")
    assert figures.count() == tab.locator("figure:has(svg):has(details table tbody tr)").count()


@pytest.mark.parametrize("width", WIDTHS)
def test_checks_are_a_table_at_every_width(width: int, show: Show) -> None:
    tab = show(PAGES["single"], width).tab
    snapshot = tab.get_by_role("table", name="Checks of this backup").aria_snapshot()
    assert snapshot.count("- rowheader ") == 5
    assert snapshot.count("- columnheader ") == 3


def test_wide_table_announces_that_it_scrolls(show: Show) -> None:
    tab = show(FULL_PAGE, 380).tab
    table = tab.get_by_role("region", name="The latest records")
    assert table.evaluate("e => e.scrollWidth > e.clientWidth")
    assert tab.locator(".hint").is_visible()
    table.evaluate("e => e.scrollLeft = e.scrollWidth")
    assert table.locator("th").last.evaluate("e => e.getBoundingClientRect().right <= innerWidth")
    wide = show(FULL_PAGE, 1280).tab
    assert wide.get_by_role("region", name="The latest records").evaluate("e => e.scrollWidth <= e.clientWidth")
    assert not wide.locator(".hint").is_visible()


def test_scrollbar_of_wide_table_is_in_window(show: Show) -> None:
    table = show(FULL_PAGE, 380).tab.get_by_role("region", name="The latest records")
    assert table.evaluate("e => e.scrollHeight > e.clientHeight && e.offsetHeight < innerHeight")


def test_narrow_tables_break_no_words(show: Show) -> None:
    tab = show(FULL_PAGE, 380).tab
    tab.evaluate("document.querySelectorAll('details').forEach(e => e.open = true)")
    lines = "e => Math.round(e.getBoundingClientRect().height / parseFloat(getComputedStyle(e).lineHeight))"
    heads = tab.locator("figure .scroll thead th").all()
    assert {head.evaluate(lines) for head in heads} == {1}


def test_keyboard_reaches_everything_and_shows_focus(show: Show) -> None:
    tab = show(FULL_PAGE).tab
    tab.evaluate("document.querySelectorAll('pre, .scroll, summary, a').forEach((e, n) => e.dataset.number = n)")
    expected = set(tab.evaluate("[...document.querySelectorAll('[data-number]')].map(e => e.dataset.number)"))
    reached: list[str] = []
    for _ in range(3 * len(expected)):
        tab.keyboard.press("Tab")
        focus: dict[str, Any] = tab.evaluate(
            "(e => ({number: e.dataset.number, name: e.tagName, outline: getComputedStyle(e).outlineStyle}))"
            "(document.activeElement)"
        )
        if focus["number"] is None:
            break
        assert focus["outline"] == "solid", focus
        reached.append(focus["number"])
        if focus["name"] == "SUMMARY":
            tab.keyboard.press("Enter")
    assert tab.locator("details:not([open])").count() == 0
    assert set(reached) == expected
    assert reached == sorted(reached, key=int)


def test_first_tab_stop_skips_navigation(show: Show) -> None:
    tab = show(FULL_PAGE).tab
    tab.keyboard.press("Tab")
    link = tab.get_by_role("link", name="Skip to the report")
    assert link.evaluate("e => e === document.activeElement && e.getBoundingClientRect().top >= 0")
    tab.keyboard.press("Enter")
    assert tab.evaluate("document.activeElement.id") == "main"


# The contrast of each visible text with its background (WCAG 2.2, "contrast ratio").
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
        if (element.closest("svg title, svg desc")) continue;
        const style = getComputedStyle(element);
        const ink = channels(element.closest("svg") ? style.fill : style.color);
        const [a, b] = [light(ink), light(behind(element))].sort((x, y) => y - x);
        found.push([(a + 0.05) / (b + 0.05), element.outerHTML.slice(0, 200)]);
    }
    return found;
}"""


@pytest.mark.parametrize("scheme", SCHEMES)
@pytest.mark.parametrize("name", ["full", "empty"])
def test_text_has_enough_contrast(name: str, scheme: Scheme, show: Show) -> None:
    tab = show(PAGES[name], scheme=scheme).tab
    tab.evaluate("document.querySelectorAll('details').forEach(e => e.open = true)")
    contrasts = tab.evaluate(CONTRASTS)
    assert len(contrasts) > 40
    assert [contrast for contrast in contrasts if contrast[0] < 4.5] == []


def test_plots_follow_the_color_scheme(show: Show) -> None:
    def colors(scheme: Scheme) -> list[str]:
        tab = show(FULL_PAGE, scheme=scheme).tab
        line = "getComputedStyle(document.querySelector('.series-1 .line')).stroke"
        bar = "getComputedStyle(document.querySelector('.series-good .bar')).fill"
        return list(tab.evaluate(f"[getComputedStyle(document.body).backgroundColor, {line}, {bar}]"))

    light, dark = colors("light"), colors("dark")
    assert all(one != other for one, other in zip(light, dark, strict=True)), (light, dark)
    assert "none" not in [*light, *dark]


def test_print_has_whole_output_and_no_navigation(show: Show) -> None:
    tab = show(FULL_PAGE, scheme="dark").tab
    tab.emulate_media(media="print", color_scheme="dark")
    assert not tab.get_by_role("navigation").is_visible()
    clipped = "[...document.querySelectorAll('pre, .scroll')].filter(e => e.scrollHeight > e.clientHeight + 1).length"
    assert tab.evaluate(clipped) == 0
    assert tab.evaluate("getComputedStyle(document.body).backgroundColor") == "rgb(255, 255, 255)"


def test_picture_of_the_page_can_be_taken(show: Show, tmp_path: Path) -> None:
    """Set REPORT_PICTURES to a folder to keep the pictures."""
    folder = Path(os.environ.get("REPORT_PICTURES", tmp_path))
    sizes = set()
    for scheme in SCHEMES:
        picture = folder / f"report-{scheme}.png"
        show(FULL_PAGE, scheme=scheme).tab.screenshot(path=picture)
        sizes.add(picture.stat().st_size)
    assert min(sizes) > 10_000
