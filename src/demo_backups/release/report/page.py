"""The report: what it shows, made of a plan and records alone, and its two forms, a page and Markdown."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from datetime import datetime, timedelta, timezone
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ...errors import SettingsError
from ...records.record import Record
from ...ui.console import escape_controls
from ...ui.outcome import RESULTS, Tone, describe_outcome, format_size
from ..plan import Mark, Plan
from .plots import Chart, Series

if TYPE_CHECKING:
    from jinja2 import Environment

HTML, MARKDOWN = FORMATS = ("html", "markdown")
RECORDS = 50  # shown in the list, the latest
NOTES = 50  # on what could not be seen or read
POINTS = 500  # of a series in a plot, the latest
DAYS = 30  # in the plot of checks
LINES = 200  # of collected output
CHARACTERS = 2000  # of one text from a server
LONGEST_BODY = 65_536  # characters of a pull request, as GitHub takes them
FIRST = "./inv rehearse"
SYMBOLS = {
    Mark.DONE: "✓",
    Mark.TO_DO: "→",
    Mark.BLOCKED: "…",
    Mark.UNKNOWN: "?",
    Mark.OUT_OF_ORDER: "!",
}
TONES = {
    Mark.DONE: Tone.GOOD,
    Mark.TO_DO: Tone.WARNING,
    Mark.BLOCKED: Tone.PLAIN,
    Mark.UNKNOWN: Tone.PLAIN,
    Mark.OUT_OF_ORDER: Tone.BAD,
}


@dataclass(frozen=True)
class Plot:
    """A chart, or none where there are no numbers; and the numbers themselves, the latest first."""

    name: str
    title: str
    words: str
    heads: list[str]
    rows: list[list[str]]
    chart: Chart | None = None


@dataclass(frozen=True)
class Evidence:
    """What was seen of one database: on the plan's host, or where that has nothing yet, on another (`elsewhere`)."""

    database: str
    host: str
    elsewhere: bool
    last: Record | None = None
    since: Record | None = None  # a later try that could not look at any backup
    plots: list[Plot] = field(default_factory=list)


@dataclass(frozen=True)
class Page:
    """What the report shows."""

    plan: Plan
    made: datetime
    verdict: str
    tone: Tone
    empty: bool
    unread: bool  # there are records, or may be, and none could be read: what that hides is not known
    databases: list[Evidence]
    records: list[Record]  # the latest first
    older: int


def check_format(name: str) -> None:
    """Refuse a form that the report has not; raises SettingsError."""
    if name not in FORMATS:
        raise SettingsError(f"--format {name!r} is no form of the report", advice=f"say {' or '.join(FORMATS)}")


def build_page(plan: Plan, records: Sequence[Record] | None, databases: Iterable[str], made: datetime) -> Page:
    """Choose what the report shows; `made` is when it is made, with its time zone.

    Without `records` (None) not one could be read; the plan's notes say why.
    """
    unread = records is None
    ordered = sorted(records or [], key=lambda record: moment(record.when))
    empty = not ordered and not unread
    seen = [_evidence(plan.host, name, ordered, number) for number, name in enumerate(databases, start=1)]
    verdict, tone = judge(plan, seen, not empty)
    latest = ordered[::-1][:RECORDS]
    return Page(plan, made, verdict, tone, empty, unread, seen, latest, len(ordered) - len(latest))


def moment(text: str) -> datetime:
    """Read a record's time."""
    return datetime.fromisoformat(text).astimezone(timezone.utc)


# --- the verdict ----------------------------------------------------------------------------------------------------


def judge(plan: Plan, databases: Iterable[Evidence], any_record: bool) -> tuple[str, Tone]:
    """Say in one sentence how it stands, and with which tone."""
    bad = [each for each in databases if each.last and not each.elsewhere and each.last.passed is False]
    steps = [step for step in plan.steps if not step.optional]
    marks = Counter(step.mark for step in steps)
    parts = [f"the last verification of the {each.database} database failed" for each in bad]
    if not steps or marks[Mark.UNKNOWN] == len(steps):
        parts.append("nothing of the plan could be seen" if any_record else "nothing has been seen yet")
        tone = Tone.WARNING if any_record else Tone.PLAIN
    else:
        words, tone = _standing(plan, marks, len(steps))
        parts += words
    sentence = "; ".join(parts)
    return f"{sentence[0].upper()}{sentence[1:]}.", Tone.BAD if bad else tone


def _standing(plan: Plan, marks: Counter[Mark], count: int) -> tuple[list[str], Tone]:
    if marks[Mark.DONE] == count:
        return [f"all {count} steps are done"], Tone.GOOD
    words = [f"{marks[Mark.DONE]} of {count} steps are done"]
    if marks[Mark.OUT_OF_ORDER]:
        words.append(f"{marks[Mark.OUT_OF_ORDER]} out of order")
    if marks[Mark.UNKNOWN]:
        words.append(f"{marks[Mark.UNKNOWN]} could not be seen")
    words = [", ".join(words)]
    if plan.next:
        phase = next(phase.name for phase in plan.phases if plan.next in phase.steps)
        words.append(f"next: {plan.next.title} ({phase})")
    elif marks[Mark.UNKNOWN]:
        words.append("what is next cannot be seen")
    elif marks[Mark.BLOCKED]:
        words.append("the next ones wait for others")
    return words, Tone.BAD if marks[Mark.OUT_OF_ORDER] else Tone.WARNING


def verdict_of(record: Record) -> tuple[str, str, Tone]:
    """The symbol, the words and the tone of a verification."""
    words, tone = describe_outcome(record)
    return next(symbol for symbol, _, each in RESULTS.values() if each is tone), words, tone


# --- what was seen of a database ------------------------------------------------------------------------------------


def _evidence(host: str, database: str, ordered: list[Record], number: int) -> Evidence:
    """Choose the records of a host; those of another only where it has none, since they prove nothing of it."""
    about = [record for record in ordered if record.database == database]
    telling = [record for record in about if record.checks or record.bytes is not None]
    own = not telling or any(record.host == host for record in telling)
    where = host if own else telling[-1].host
    there = [record for record in about if record.host == where]
    last = next((record for record in reversed(there) if record.checks), None)
    later = there[there.index(last) + 1 :] if last else there
    since = next((each for each in reversed(later) if each.kind == "verification" and not each.checks), None)
    return Evidence(database, where, where != host, last, since, _plots(database, there, f"plot-{number}"))


def _plots(database: str, records: list[Record], name: str) -> list[Plot]:
    return [
        _over_time(f"{name}-size", "Size", "size", _sizes(records), short_size, format_size),
        _over_time(f"{name}-duration", "Duration", "duration", _durations(records), duration, duration),
        _by_day(f"{name}-checks", "Checks by day", records),
    ]


def _sizes(records: list[Record]) -> list[Series]:
    """Each backup once, however often it was looked at, when it was made; the database whenever it was looked at."""
    backups: dict[str, tuple[datetime, float]] = {}
    sources: list[tuple[datetime, float]] = []
    for each in records:
        if each.backup is not None and each.bytes is not None:
            made = each.created or (backups[each.backup][0].isoformat() if each.backup in backups else each.when)
            backups[each.backup] = (moment(made), each.bytes)
        there = each.details.get("source_bytes")
        if type(there) is int and 0 <= there < 2**63:  # nothing looks at what the details of a record are
            sources.append((moment(each.when), there))
    return [Series("backup", sorted(backups.values())), Series("database", sources)]


def _durations(records: list[Record]) -> list[Series]:
    """Of what came to its end: a run that made a backup, a verification that made its checks."""
    ended = [each for each in records if each.seconds is not None and (each.checks or each.bytes is not None)]
    return [
        Series(name, [(moment(each.when), each.seconds or 0.0) for each in ended if each.kind == kind])
        for name, kind in (("backup", "run"), ("verification", "verification"))
    ]


def _over_time(
    name: str, title: str, kind: str, series: list[Series], say: Callable[[float], str], exactly: Callable[[Any], str]
) -> Plot:
    told = [each for each in series if each.points]
    if not told:
        return Plot(name, title, f"No {kind} has been recorded yet.", [], [])
    shown = [Series(each.name, each.points[-POINTS:]) for each in series]
    words = "\n".join(_summary(each, say) for each in told)
    rows = sorted(((when, each.name, value) for each in shown for when, value in each.points), reverse=True)
    table = [[minute(when), of, exactly(value)] for when, of, value in rows]
    return Plot(name, title, words, ["When", "Of", kind.capitalize()], table, Chart(name, shown, say))


def _summary(series: Series, say: Callable[[float], str]) -> str:
    """Say what a line shows, for who cannot see it."""
    (first, _), (last, latest) = series.points[0], series.points[-1]
    values = [value for _, value in series.points]
    count = len(values)
    if count == 1:
        return f"{series.name.capitalize()}: {say(latest)}, seen once, on {last:%Y-%m-%d}."
    between = f"{say(min(values))} to {say(max(values))}, the latest" if min(values) < max(values) else "always"
    shown = f"; the latest {POINTS} are shown" if count > POINTS else ""
    when = f"seen {count:,} times, {first:%Y-%m-%d} to {last:%Y-%m-%d}"
    return f"{series.name.capitalize()}: {between} {say(latest)} ({when}{shown})."


def _by_day(name: str, title: str, records: list[Record]) -> Plot:
    days: dict[datetime, Counter[bool | None]] = {}
    for each in records:
        day = moment(each.when).replace(hour=0, minute=0, second=0, microsecond=0)
        if each.checks:
            days.setdefault(day, Counter()).update(check["passed"] for check in each.checks)
    if not days:
        return Plot(name, title, "No check of a backup has been recorded yet.", [], [])
    first = max(days) - timedelta(days=DAYS - 1)
    shown = {day: days[day] for day in sorted(days) if day >= first}
    sums = {outcome: sum(each[outcome] for each in shown.values()) for outcome in RESULTS}
    words = (
        f"{sums[True]} passed, {sums[False]} failed, {sums[None]} could not be made, on {len(shown)} "
        f"{'day' if len(shown) == 1 else 'days'} from {min(shown):%Y-%m-%d} to {max(shown):%Y-%m-%d}"
        f"{'; earlier ones are not shown' if len(shown) < len(days) else ''}."
    )
    series = [
        Series(label, [(day, float(counts[outcome])) for day, counts in shown.items() if counts[outcome]])
        for outcome, (_, label, _) in RESULTS.items()
    ]
    rows = [[f"{day:%Y-%m-%d}", *(str(shown[day][outcome]) for outcome in RESULTS)] for day in reversed(shown)]
    heads = ["Day", *(label.capitalize() for _, label, _ in RESULTS.values())]
    return Plot(name, title, words, heads, rows, Chart(name, series, lambda value: f"{value:g}", bars=True))


# --- words ----------------------------------------------------------------------------------------------------------


def minute(when: datetime) -> str:
    """Write a time to the minute."""
    return f"{when.astimezone(timezone.utc):%Y-%m-%d %H:%M} UTC"


def short_size(count: float) -> str:
    """Write a number of bytes in three digits."""
    for unit, name in ((10**12, "TB"), (10**9, "GB"), (10**6, "MB"), (10**3, "kB")):
        if count >= unit:
            return f"{count / unit:.3g} {name}" if count < 999.5 * unit else f"{count / unit:,.0f} {name}"
    return f"{count:g} bytes" if count else "0"


def duration(seconds: float) -> str:
    """Write a number of seconds as one reads a clock."""
    if seconds < 120:
        return f"{seconds:.3g} s"
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    parts = ((hours, "h"), (minutes, "min"), (0 if hours else rest, "s"))
    return " ".join(f"{count} {unit}" for count, unit in parts if count)


def cut(text: str, characters: int = CHARACTERS) -> str:
    """Bound a text from a server, as it is shown."""
    shown = escape_controls(text[:characters])  # what is written out grows
    left = max(len(text), len(shown)) - characters
    return f"{shown[:characters]} … and {left:,} characters more" if left > 0 else shown


def collected(lines: Sequence[str], most: int = LINES, characters: int = CHARACTERS) -> str:
    """Put lines that were collected below each other, bounded."""
    left = len(lines) - most
    more = [f"… and {left:,} lines more"] if left > 0 else []
    return "\n".join([*(cut(line, characters) for line in lines[:most]), *more])


# --- the two forms --------------------------------------------------------------------------------------------------


def render_html(page: Page) -> str:
    """Make the page: one file that needs nothing else and runs nothing. All values are cleaned, then escaped."""
    from markupsafe import Markup

    from .plots import draw

    # Of what is drawn only the names of the series and the numbers come from us, and no value from a server.
    environment = _environment(autoescape=True)
    environment.filters["draw"] = lambda chart: Markup(draw(chart))
    return environment.get_template("report.html.j2").render(page=page, first=FIRST)


def render_markdown(page: Page) -> str:
    """Make the text for a pull request, in GitHub's Markdown."""
    environment = _environment(autoescape=False)
    environment.filters |= {"text": markdown_text, "code": markdown_code, "fence": markdown_fence}
    template = environment.get_template("report.md.j2")
    for most in (40, 10, 3):  # lines of all that may be long
        text = template.render(page=page, first=FIRST, most=most)
        if len(text) <= LONGEST_BODY:
            break
    return text


def _environment(autoescape: bool) -> Environment:
    from jinja2 import Environment, FileSystemLoader, StrictUndefined
    from markupsafe import Markup

    environment = Environment(
        loader=FileSystemLoader(Path(__file__).parent),
        autoescape=autoescape,
        finalize=lambda value: (
            escape_controls(value) if isinstance(value, str) and not isinstance(value, Markup) else value
        ),
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        keep_trailing_newline=True,
    )
    words = (minute, moment, duration, format_size, describe_outcome, verdict_of, collected, cut)
    environment.filters |= {each.__name__: each for each in words}
    environment.globals |= {"SYMBOLS": SYMBOLS, "TONES": TONES, "RESULTS": RESULTS, "Mark": Mark, "NOTES": NOTES}
    return environment


def markdown_text(text: str) -> str:
    """Make words that are no markup of GitHub's Markdown, in one line: they call nobody and link to nothing."""
    escaped = re.sub(r"([\\`*_{}\[\]<>&|~#$])", r"\\\1", " ".join(escape_controls(text).split()))
    return re.sub(r"[@#](?=\w)|(?i:https?|ftp)(?=://)|(?i:www)(?=\.)|GH(?=-\d)", r"\g<0>&#8203;", escaped)


def markdown_code(text: str) -> str:
    """Make a code span that nothing in it can end; not for a cell of a table, which a '|' ends even there."""
    text = " ".join(escape_controls(text).split())
    if not text:
        return ""
    fence = "`" * (_longest_run(text) + 1)
    blank = " " if "`" in (text[0], text[-1]) else ""
    return f"{fence}{blank}{text}{blank}{fence}"


def markdown_fence(text: str) -> str:
    """Make a block of code that no backticks in it can end."""
    text = escape_controls(text)
    fence = "`" * max(3, _longest_run(text) + 1)
    return f"{fence}text\n{text}\n{fence}"


def _longest_run(text: str) -> int:
    return max((len(run) for run in re.findall("`+", text)), default=0)
