"""The result of a restore drill: its steps, as drill.sh prints them, and the checks that follow from them."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from ..backup.checks import check_integrity, check_row, list_integrity_lines, outcome_of_failure
from ..errors import DrillError
from ..records.check import Check, Checked, Outcome
from ..remote.files import File
from ..remote.host import Host, Result
from ..remote.job_state import JobStatus
from ..remote.sudo import USE_SUDO
from ..settings.model import Database, Settings
from ..units import format_duration
from .restore_advice import find_advice
from .restore_job import DONE, UNCLEAN, parse_result

MOST_VIOLATIONS = 20  # of foreign keys, that are listed
VIOLATIONS = (
    "SELECT 'in ' || \"table\" || ', row ' || coalesce(rowid, '?') || ' has no parent in ' || parent "
    f"FROM pragma_foreign_key_check LIMIT {MOST_VIOLATIONS}"
)
LONGEST_DETAIL = 4000  # characters of an output in the details of a check
ENDED = ":: ended"  # lines that drill.sh adds to the output of the command
LEFT = ":: left "


@dataclass(frozen=True)
class DrillStep:
    """A step of drill.sh that has ended: its exit status and what it printed."""

    status: int
    output: str


@dataclass(frozen=True)
class Drill(Checked):
    """The checks of a restored backup.

    `source` is ON_SERVER or FETCHED; `backup` is the file on the server, or on this machine. `command_status` is the
    exit status of the command of the settings, None if it was not run. `unclean` is what could not be removed.
    """

    host: str
    database: str
    source: str
    backup: File
    checks: Sequence[Check]
    integrity: Sequence[str] = field(default_factory=list)
    command_status: int | None = None
    unclean: str = ""

    def as_json(self) -> dict[str, Any]:
        """Return the object that `inv restore-drill --json` prints."""
        return {
            "host": self.host,
            "database": self.database,
            "due": True,
            "source": self.source,
            "backup": self.backup.as_json(),
            "checks": [check.as_json() for check in self.checks],
            "passed": self.outcome.value,
        }


_END = re.compile(r"== ([a-z_]+) ([0-9]{1,3})")


def parse_steps(output: str) -> tuple[dict[str, DrillStep], str]:
    """Parse what drill.sh printed: the steps that have ended, and everything that is not of a step."""
    steps: dict[str, DrillStep] = {}
    printed: list[str] = []
    others: list[str] = []
    for line in output.split("\n"):
        end = _END.fullmatch(line)
        if end:
            steps.setdefault(end[1], DrillStep(int(end[2]), "\n".join(printed)))
            printed = []
        elif line.startswith("| "):
            printed.append(line[2:])
        elif line and not line.startswith("-- "):
            others.append(line)
    return steps, "\n".join([*others, *printed]).strip()


def collect_drill(
    host: Host, database: Database, source: str, backup: File, status: JobStatus, output: str, settings: Settings
) -> Drill:
    """Return what a drill found; raises DrillError if it came to no restore, and CouldNotLookError."""
    steps, others = parse_steps(output)
    if "restore" not in steps:
        raise _explain_missing_restore(host, steps, status, others)
    reason = _explain_missing_step(steps, status, others)
    checks = [_check_content(host, database, steps["restore"], backup)]
    for name, check in _CHECKS.items():
        checks.append(check(steps[name]) if name in steps else Check(name, Outcome.UNKNOWN, reason))
    command_status = None
    if settings.drill_command:
        ended = steps.get("command")
        command_status = ended.status if ended else None
        missing = Check("command", Outcome.UNKNOWN, reason)
        checks.append(_check_command(ended, settings.drill_timeout) if ended else missing)
    integrity = list_integrity_lines(_as_result(steps["integrity"])) if "integrity" in steps else []
    unclean = "\n".join(
        steps[name].output.strip() or f"exit status {steps[name].status}"
        for name in ("cleanup", "upload")
        if name in steps and steps[name].status != 0
    )
    if not unclean and "cleanup" not in steps:
        unclean = "the drill was killed before it had removed its files"
    return Drill(host.name, database.name, source, backup, checks, integrity, command_status, unclean)


def _explain_missing_restore(host: Host, steps: Mapping[str, DrillStep], status: JobStatus, others: str) -> DrillError:
    """Explain why a drill came to no restore: a step before it failed, or the job was stopped or killed."""
    failed = [step.output for step in steps.values() if step.status != 0]
    output = "\n".join([*failed, others, status.problem]).strip()
    if not failed and status.status is None:
        return DrillError(
            "the drill was killed, or the server went down",
            host=host.name,
            output=output,
            advice="start it again: it removes what is left",
        )
    return DrillError(
        "the drill ended before the backup was restored",
        host=host.name,
        output=output or f"exit status {status.status}",
        advice=_advise(host, output),
    )


def _advise(host: Host, output: str) -> str:
    if "Operation not permitted" in output:
        return f"only root and the owner of a backup can hold it by a hard link: {USE_SUDO}"
    return host.advise(Result(1, "", output)) or "remove the cause, and start it again"


def _explain_missing_step(steps: Mapping[str, DrillStep], status: JobStatus, others: str) -> str:
    restore, give = steps["restore"], steps.get("give")
    if restore.status not in (DONE, UNCLEAN):
        return "the backup was not restored"
    if give and give.status != 0:
        return f"the restored database could not be given to the login user: {give.output.strip()}"
    ending = "killed" if status.status is None else f"exit status {status.status}"
    return f"the drill ended before: {others or ending}"


def _as_result(step: DrillStep) -> Result:
    return Result(step.status, step.output, "") if step.status == 0 else Result(step.status, "", step.output)


def _check_content(host: Host, database: Database, step: DrillStep, backup: File) -> Check:
    """Check that the restore has proven that the restored database is equal to the backup."""
    if step.status not in (DONE, UNCLEAN):
        advice = find_advice(database, step.output)
        detail = f"not restored (exit status {step.status}): {_shorten(step.output)}" + f"; {advice}" * bool(advice)
        return Check("content", Outcome.FAILED, detail)
    result = host.parse("read the result of the restore", step.output, parse_result)
    outcome = Outcome.PASSED if result.identical else Outcome.FAILED
    text = "equal to the backup" if result.identical else "NOT equal to the backup"
    return Check("content", outcome, f"restored: {text}, byte for byte ({backup.bytes:,} bytes)")


def _check_integrity(step: DrillStep) -> Check:
    return check_integrity(_as_result(step), quick=False)


def _check_foreign_keys(step: DrillStep) -> Check:
    if step.status != 0:
        return Check(
            "foreign_keys", outcome_of_failure(_as_result(step)), f"foreign_key_check: {_shorten(step.output)}"
        )
    violations = [line for line in step.output.splitlines() if line]
    if not violations:
        return Check("foreign_keys", Outcome.PASSED, "foreign_key_check: no violation")
    count = f"at least {MOST_VIOLATIONS}" if len(violations) >= MOST_VIOLATIONS else str(len(violations))
    detail = "\n".join([f"foreign_key_check: {count} violations", *violations])
    return Check("foreign_keys", Outcome.FAILED, detail)


def _check_query(step: DrillStep) -> Check:
    return check_row(_as_result(step))


def _check_command(step: DrillStep, timeout: float) -> Check:
    lines = step.output.splitlines()
    left = [line.removeprefix(LEFT) for line in lines if line.startswith(LEFT)]
    text = "\n".join(line for line in lines if line != ENDED and not line.startswith(LEFT)).strip()
    detail = f"drill_command: exit status {step.status}"
    if ENDED in lines:
        detail = f"drill_command: stopped, because it did not end within {format_duration(timeout)}"
    if left:
        detail += f"; it left processes running, which were ended: {left[0]}"
    outcome = Outcome.PASSED if step.status == 0 else Outcome.FAILED
    return Check("command", outcome, detail + (f"\n{_shorten(text)}" if text and outcome is Outcome.FAILED else ""))


_CHECKS = {"integrity": _check_integrity, "foreign_keys": _check_foreign_keys, "query": _check_query}


def _shorten(text: str) -> str:
    text = text.strip()
    return text if len(text) <= LONGEST_DETAIL else f"[...]{text[-LONGEST_DETAIL:]}"


def list_started_steps(lines: Iterable[str]) -> list[str]:
    """List the steps of the output of drill.sh that have started."""
    return [line.removeprefix("-- ") for line in lines if line.startswith("-- ")]
