"""The figures of the impact on a service: the task's copy, compared with the one without flushing and with `cp`."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from figures import Figure
from measure import MAXIMUM_RATE
from render import Row

from demo_backups.project import ROOT

SERVICE_RESULTS = [ROOT / "benchmarks" / name for name in ("service_4_gb.json", "service_memory.json")]
TASK, UNFLUSHED, CP = "task", "task, not flushed", "cp, fsync"
SLOWEST, WALL, STILL_CACHED = 0.6, 1.05, 0.9  # the targets, compared with the same copy without flushing
SLOWEST_TO_CP = {200.0: 0.5, float(MAXIMUM_RATE): 0.7}  # by commits per second


def summarize_service(rows: Sequence[Row]) -> list[Figure]:
    """Make the figures of all situations in which the task and another method were measured."""
    situations: dict[tuple[object, ...], dict[str, Row]] = {}
    for row in rows:
        if row.impact:
            situations.setdefault((row.size, row.journal, row.rate, row.caches, row.memory), {})[row.method] = row
    return [figure for methods in situations.values() for figure in _compare(methods)]


def _describe(row: Row) -> str:
    rate = "the maximum rate" if row.rate == MAXIMUM_RATE else f"{row.rate:g} commits/s"
    memory = f", {row.memory / 1e9:g} GB of memory" if row.memory else ""
    return f"{row.size / 1e9:g} GB{memory}, {rate}, {row.caches}"


def _compare(methods: dict[str, Row]) -> Iterator[Figure]:
    task = methods.get(TASK)
    if task is None or task.impact is None:
        return
    situation, unflushed, cp = _describe(task), methods.get(UNFLUSHED), methods.get(CP)
    if unflushed:
        yield _slowest(f"slowest write compared with no flushing, {situation}", task, unflushed, SLOWEST)
        ratio = task.seconds / unflushed.seconds
        text = f"{ratio:.2f} ({task.seconds:.1f} s, {unflushed.seconds:.1f} s)"
        yield Figure(f"wall time compared with no flushing, {situation}", f"{WALL:g} or less", text, ratio <= WALL)
    if cp and task.rate in SLOWEST_TO_CP:
        yield _slowest(f"slowest write compared with `cp`, {situation}", task, cp, SLOWEST_TO_CP[task.rate])
    if task.memory:
        still_cached = task.impact.still_cached
        others = [f"{row.impact.still_cached:.0%} with `{row.method}`" for row in (unflushed, cp) if row and row.impact]
        text = f"{still_cached:.0%} of {task.impact.cached_before / 1e6:.0f} MB"
        yield Figure(
            f"pages of the service that stay cached, {situation}",
            f"{STILL_CACHED:.0%} or more",
            f"{text} ({', '.join(others)})" if others else text,
            still_cached >= STILL_CACHED,
        )


def _slowest(text: str, task: Row, other: Row, limit: float) -> Figure:
    assert task.impact  # both rows have a writer
    assert other.impact
    slowest, reference = task.impact.during.slowest, other.impact.during.slowest
    ratio = slowest / reference
    return Figure(text, f"{limit:g} or less", f"{ratio:.2f} ({slowest:.3f} s, {reference:.3f} s)", ratio <= limit)
