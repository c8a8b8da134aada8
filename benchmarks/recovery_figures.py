"""The figures of fetch and restore, from the raw numbers of `recovery.py`."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from statistics import median
from typing import Any

from figures import Figure
from recovery import TIGHT_TIMEOUT

LONGEST_PROBLEM = 300  # characters of an error in the table


def summarize(measured: Mapping[str, Any]) -> list[Figure]:
    """Make the rows of the table from the raw numbers; what was not measured has the reason."""
    figures = []
    for name, (what, target, describe) in FIGURES.items():
        numbers = measured.get(name)
        if numbers is None:
            continue
        problems = {
            key: text for one in (numbers, *numbers.values()) if isinstance(one, dict) for key, text in one.items()
        }
        if "failed" in problems:
            figures.append(Figure(what, target, f"failed: {_one_line(problems['failed'])}", False))
        elif "not measured" in problems:
            figures.append(Figure(what, target, f"not measured: {_one_line(problems['not measured'])}", None))
        else:
            figures.append(Figure(what, target, *describe(numbers)))
    return figures


def _one_line(text: str) -> str:
    return " ".join(text.split()).replace("|", "\\|")[:LONGEST_PROBLEM]


def _size(count: float) -> str:
    return f"{count / 1e6:.0f} MB"


def _describe_stream(numbers: Mapping[str, Any], limit: float) -> tuple[str, bool]:
    scp, stream, fetch = (median(numbers[name]) for name in ("scp", "stream", "inv fetch"))
    ratio = stream / scp
    sent = f"{_size(numbers['bytes'])}, {numbers['sent_bytes'] / numbers['bytes']:.0%} of it on the wire"
    return f"{ratio:.2f} ({sent}: {stream:.1f} s, `scp` {scp:.1f} s, `inv fetch` {fetch:.1f} s)", ratio <= limit


def _describe_delta(numbers: Mapping[str, Any]) -> tuple[str, bool]:
    share = numbers["sent_bytes"] / numbers["bytes"]
    changed = numbers["changed_pages"] / numbers["pages"]
    text = f"{share:.1%} ({numbers['sent_bytes'] / 1e6:.1f} of {_size(numbers['bytes'])}; {changed:.1%} of the pages)"
    return text, share <= 0.03 and numbers["verified"] is True


def _describe_resume(numbers: Mapping[str, Any]) -> tuple[str, bool]:
    twice = [max(0, numbers[name] - numbers["whole"]) / 2**20 for name in ("interrupted", "connection lost")]
    return f"{twice[0]:.1f} MiB after Ctrl-C, {twice[1]:.1f} MiB after a lost connection", max(twice) <= 8


def _describe_restore(numbers: Mapping[str, Any]) -> tuple[str, bool]:
    cp, restore = (median(numbers[name]) for name in ("cp", ".restore"))
    task = f"{median(numbers['inv restore']):.1f} s" if numbers["inv restore"] else "refused"
    failed = {name: sum(traffic["failed"] for traffic in found) for name, found in numbers["writes"].items()}
    slowest = max(traffic["slowest"] for found in numbers["writes"].values() for traffic in found)
    text = (
        f"{failed['.restore']} and, with `inv restore`, {failed['inv restore']} failed writes, the slowest took "
        f"{slowest:.1f} s; {restore / cp:.2f} ({_size(numbers['bytes'])}: {restore:.1f} s, `cp` and sync {cp:.1f} s, "
        f"`inv restore` {task})"
    )
    return text, not any(failed.values()) and restore <= 2.5 * cp


def _describe_rollback(numbers: Mapping[str, Any]) -> tuple[str, bool]:
    refused, restored = numbers["refused"], numbers["restored"]
    is_refused = refused["status"] == 1 and refused["unchanged"]
    end = "restored" if restored["status"] == 0 else "not restored, with an error,"
    text = (
        f"{'refused, nothing changed,' if is_refused else 'NOT refused'} with a timeout of {TIGHT_TIMEOUT}; "
        f"with 5 s {end} in {restored['seconds']:.1f} s, {numbers['failed_writes']} of {numbers['commits']:,} writes "
        f"failed, the slowest took {numbers['slowest_write']:.1f} s ({_size(numbers['bytes'])})"
    )
    return text, is_refused and restored["status"] in (0, 1) and numbers["failed_writes"] == 0


def _describe_memory(numbers: Mapping[str, Any]) -> tuple[str, bool]:
    above = {
        name: ((one["here"] - one["idle here"]) / 1e6, (one["server"] - one["idle server"]) / 1e6)
        for name, one in numbers.items()
    }
    parts = [f"{name}: {here:.0f} MB here, {server:.0f} MB on the server" for name, (here, server) in above.items()]
    return "; ".join(parts), max(max(pair) for pair in above.values()) <= 64


FIGURES: dict[str, tuple[str, str, Callable[[Mapping[str, Any]], tuple[str, bool]]]] = {
    "stream": (
        "stream over loopback relative to `scp`, without hash job and checks",
        "1.5 or less",
        lambda numbers: _describe_stream(numbers, 1.5),
    ),
    "link": (
        "the same with zstd, on a link of 100 Mbit/s with 20 ms of delay",
        "0.7 or less",
        lambda numbers: _describe_stream(numbers, 0.7),
    ),
    "delta": ("bytes sent by `--delta` with 1 % of the pages changed", "3 % of the file or less", _describe_delta),
    "resume": ("bytes sent twice by a fetch that was interrupted at half", "8 MiB or less", _describe_resume),
    "restore": (
        "failed writes and time of `.restore` relative to `cp` and sync, WAL mode, 200 commits/s",
        "0; 2.5 or less",
        _describe_restore,
    ),
    "rollback": (
        "the same in rollback mode",
        "refused if it would exceed `writer_timeout`, else 0 failed writes",
        _describe_rollback,
    ),
    "memory": ("memory above that of `inv list-backups`", "64 MB or less", _describe_memory),
}
