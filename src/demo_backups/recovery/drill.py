"""A restore drill: a job that restores a backup into a scratch directory on the server, checks it there, and cleans up.

The restore is the one of `restore_job`. `drill.sh` runs it, then the checks, and removes everything in the end, also if
nobody follows the job any more. What a killed one leaves, the next one removes.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path, PurePosixPath
from typing import Any

from ..backup.checks import check_integrity, list_integrity_lines
from ..backup.disk_space import SpaceDemand, disks_command, find_inode_shortages, find_shortages, parse_disks
from ..errors import COULD_NOT_LOOK, FAILED, DrillError, JobRunningError, StepError, UnsafePathError
from ..records.check import Check, Outcome, combine_outcomes
from ..remote.answers import parse_count, parse_line, parse_yes_no
from ..remote.files import File, stat_file
from ..remote.host import Host, Result
from ..remote.job_state import DRILL, Job, JobStatus
from ..remote.jobs import find_job, is_job_running, start_job
from ..remote.shell import quote
from ..remote.sudo import USE_SUDO
from ..remote.upload_part import PREFIX
from ..settings import Database, Settings
from ..sqlite.command import is_access_failure, sqlite_command
from ..sqlite.inspect import Notify, ignore, parse_real_path
from ..sqlite.integrity import find_missing_definition, integrity_command
from ..units import format_duration, format_short_size
from .restore_advice import find_advice
from .restore_job import (
    DONE,
    UNCLEAN,
    Method,
    Proof,
    RestoreRequest,
    Save,
    parse_result,
    restore_command,
)

SCRIPT = Path(__file__).with_name("drill.sh")
DEFAULT_DIR = ".demo-backups/drill"  # in the home directory of the login user
CHECKS = ("content", "integrity", "foreign_keys", "query", "command")
MOST_VIOLATIONS = 20  # of foreign keys, that are listed
LONGEST_DETAIL = 4000  # characters of an output in the details of a check
ENDED = ":: ended"  # lines that drill.sh adds to the output of the command
LEFT = ":: left "
UNSAFE = 77  # exit status of `directory_command`, after sysexits.h
VIOLATIONS = (
    "SELECT 'in ' || \"table\" || ', row ' || coalesce(rowid, '?') || ' has no parent in ' || parent "
    f"FROM pragma_foreign_key_check LIMIT {MOST_VIOLATIONS}"
)


# --- the directories ------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Login:
    """The login user on a host."""

    uid: int
    gid: int
    name: str
    home: PurePosixPath
    path: str


def login_command() -> str:
    """Build the command that prints the user who runs it, with home directory and PATH."""
    return 'id -u; id -g; id -un; printf "%s\\n" "$HOME" "$PATH"'


def parse_login(output: str) -> Login:
    """Parse what `login_command` printed; raises ValueError."""
    uid, gid, name, home, path = (parse_line(f"{line}\n") for line in output.removesuffix("\n").split("\n"))
    if not home.startswith("/"):
        raise ValueError(f"{home!r} is not a home directory")
    return Login(parse_count(uid), parse_count(gid), name, PurePosixPath(home), path)


def directory_command(directory: PurePosixPath) -> str:
    """Build the command that creates the directory of the drills, for its user only, and prints its real path.

    Exits UNSAFE if it belongs to another user, or if others can write to it.
    """
    return "\n".join(
        [
            f"set -eu; umask 077; mkdir -p -- {quote(directory)}; cd -- {quote(directory)}",
            '[ -n "$(find . -maxdepth 0 -uid "$(id -u)" ! -perm /022)" ] || {',
            f'  echo "it belongs to $(stat -c %U .), mode $(stat -c %a .)" >&2; exit {UNSAFE}; }}',
            "pwd -P",
        ]
    )


def places_command(candidate: PurePosixPath, directory: PurePosixPath, source: PurePosixPath) -> str:
    """Build the command that prints where root can restore to, and what is to be known about the directory `source`.

    It prints, on a line each: the first directory on the disk of `directory` in which only root can put a file, or
    nothing; `yes` if `source` is on the same disk, else `no`; and `yes` if only root can put a file into it or replace
    it. The candidate is tried, and then the directories above `directory`, the nearest first.
    """
    return "\n".join(
        [
            "set -eu",
            # In a directory such as /tmp (sticky), nobody can replace what root has put there.
            "only_root() { path=$1 sticky=$2",
            '  while [ -n "$(find "$path" -maxdepth 0 -type d -uid 0 \\( ! -perm /022 -o -perm "$sticky" \\))" ]; do',
            '    [ "$path" != / ] || return 0; path=$(dirname -- "$path") sticky=-1000',
            "  done; return 1; }",
            'device() { stat -c %d -- "$1"; }',
            'answer() { if "$@"; then echo yes; else echo no; fi; }',
            f"source=$(realpath -e -- {quote(source)}); device=$(device {quote(directory)})",
            f"set -- {quote(candidate)}; path={quote(directory)}",
            'while [ "$path" != / ]; do path=$(dirname -- "$path"); set -- "$@" "$path"; done',
            "found=",
            "for parent; do",
            '  parent=$(realpath -e -- "$parent") || continue',
            '  if [ "$(device "$parent")" = "$device" ] && only_root "$parent" -1000; then found=$parent; break; fi',
            "done",
            'printf "%s\\n" "$found"',
            'answer [ "$(device "$source")" = "$device" ]',
            'answer only_root "$source" -7777',
        ]
    )


@dataclass(frozen=True)
class Places:
    """What `places_command` prints."""

    parent: PurePosixPath | None
    same_disk: bool
    only_root: bool


def parse_places(output: str) -> Places:
    """Parse what `places_command` printed; raises ValueError."""
    parent, same_disk, only_root, rest = output.split("\n")
    if rest or not (parent.startswith("/") or not parent):
        raise ValueError("not a directory and two answers")
    answers = [parse_yes_no(f"{answer}\n") for answer in (same_disk, only_root)]
    return Places(PurePosixPath(parent) if parent else None, answers[0], answers[1])


@dataclass(frozen=True)
class Scratch:
    """Where a drill restores to.

    `run` is the directory of the login user, in which everything is checked, below `directory`. `work` is the one in
    which the restore writes. If root restores for the login user, it is one to which only root can write; otherwise it
    is `run`. `link` is a second name for the backup, from which it is restored; None if it is restored from its own.
    """

    host: Host
    login: Login
    directory: PurePosixPath
    run: PurePosixPath
    work: PurePosixPath
    link: PurePosixPath | None


def _scratch_name(database: Database) -> str:
    place = hashlib.sha256(f"{database.name} {database.backup_dir}".encode()).hexdigest()[:8]
    return f"{re.sub('[^A-Za-z0-9_-]', '_', database.name)}-{place}"


def upload_dir(directory: PurePosixPath, database: Database) -> PurePosixPath:
    """Return the directory, below that of the drills, to which a backup is uploaded."""
    return directory / f"{_scratch_name(database)}-upload"


def prepare_directory(host: Host, directory: PurePosixPath | None) -> tuple[Login, PurePosixPath]:
    """Create the directory of the drills, as the login user; return that user and the real path.

    Raises UnsafePathError where another user could interfere, StepError, and CouldNotLookError.
    """
    as_login = host.as_login()
    login = as_login.query_parsed("see who the login user is", login_command(), parse_login)
    return login, _create_directory(as_login, login, directory or login.home / DEFAULT_DIR)


def prepare_scratch(
    host: Host, database: Database, login: Login, directory: PurePosixPath, source: PurePosixPath
) -> Scratch:
    """Decide where the restore of a backup in the directory `source` writes.

    Raises UnsafePathError where another user could interfere, and CouldNotLookError.
    """
    action = f"find a directory for root on the disk of {directory}"
    places = host.query_parsed(action, places_command(database.backup_dir, directory, source), parse_places)
    run = directory / _scratch_name(database)
    work = run
    if host.use_sudo and login.uid != 0:
        if places.parent is None:
            raise UnsafePathError(
                f"refused: on the disk of {directory} there is no directory to which only root can write",
                host=host.name,
                advice=f"set drill_dir (INVOKE_DRILL_DIR) to a directory of {login.name} in one that belongs to root",
            )
        if not places.same_disk and not places.only_root:
            raise UnsafePathError(
                f"refused: root would read a backup in {source}, which others than root can replace, for {login.name}",
                host=host.name,
                advice="set drill_dir to a directory on the disk of the backup (INVOKE_DRILL_DIR)",
            )
        work = places.parent / f".demo-backups-drill-{run.name}"
    link = None
    if places.same_disk:
        link = work / ".backup.db"
    elif source == database.backup_dir:
        link = source / f".drill.{database.backup_prefix.rstrip('_')}.db"
    return Scratch(host, login, directory, run, work, link)


def _create_directory(as_login: Host, login: Login, directory: PurePosixPath) -> PurePosixPath:
    action = f"create the directory of the drills, {directory}"
    result = as_login.run(action, directory_command(directory))
    advice = f"as root on the host: install -d -m 700 -o {quote(login.name)} {quote(directory)}"
    if result.status == UNSAFE:
        raise UnsafePathError(
            f"refused: the directory of the drills, {directory}, is not that of {login.name} alone",
            host=as_login.name,
            output=result.output,
            advice=f"{advice}; or set drill_dir to another one",
        )
    if not result.ok:
        if "Permission denied" not in result.output:
            advice = as_login.advise(result) or advice
        raise StepError(f"could not {action}", host=as_login.name, output=result.output, advice=advice)
    return as_login.parse(action, result.stdout, parse_real_path)


def require_space(scratch: Scratch, size: int, floor: int) -> None:
    """Raise DrillError if there is too little space for so many bytes."""
    command = disks_command(scratch.work.parent, scratch.directory)
    disk, _, state = scratch.host.query_parsed("read the free space", command, lambda text: parse_disks(text, 3))
    demands = [SpaceDemand(disk, size, "the restored database"), SpaceDemand(state, 0, "the state of the job")]
    problems = [
        f"{format_short_size(shortage.bytes)} more needed on {shortage.mount} (for {shortage.purpose})"
        for shortage in find_shortages(demands, floor)
    ]
    problems += [
        f"not enough free inodes on {demand.disk.mount} (see df -i)" for demand in find_inode_shortages(demands)
    ]
    if problems:
        raise DrillError(
            "the drill was not started",
            host=scratch.host.name,
            output="\n".join(problems),
            advice="free space, or set drill_dir to a directory on another disk (INVOKE_DRILL_DIR)",
        )


# --- the upload of a fetched backup ---------------------------------------------------------------------------------


def create_upload_dir(host: Host, folder: PurePosixPath) -> None:
    """Create the directory of an upload, as the login user; raises StepError."""
    host.execute(f"create {folder}", f"umask 077; mkdir -p -- {quote(folder)}")


def missing_bytes(host: Host, target: PurePosixPath, size: int) -> int:
    """Return how many bytes of an upload of this size are not on the host yet."""
    parts = [stat_file(host, path) for path in (target, target.with_name(PREFIX + target.name))]
    return max(0, size - max((part.bytes for part in parts if part), default=0))


# --- the job --------------------------------------------------------------------------------------------------------


def drill_command(scratch: Scratch, database: Database, backup: PurePosixPath, settings: Settings) -> str:
    """Build the command of the job: see drill.sh."""
    name = database.source.name
    restored = scratch.run / name
    request = RestoreRequest(
        backup=scratch.link or backup,
        target=scratch.work / name,
        method=Method.SWAP,
        proof=Proof.STOPPED,
        save=Save.NONE,
        saved=None,
        journal=scratch.work / ".restore",
        lock=None,
        stop=None,
        start=None,
        healthy=None,
        service_directory=PurePosixPath("/"),
        service_timeout=settings.service_timeout,
        owner=None,
        mode="600",
        writer_timeout=settings.writer_timeout,
        floor=settings.free_space_floor,
    )
    values: dict[str, object] = {
        "work": scratch.work,
        "run": scratch.run,
        "upload": upload_dir(scratch.directory, database),
        "name": name,
        "backup": backup,
        "link": scratch.link or "",
        "restore": restore_command(request),
        "integrity": integrity_command(restored, quick=False),
        "foreign_keys": sqlite_command(restored, VIOLATIONS, immutable=True),
        "query": sqlite_command(restored, database.query, immutable=True),
        "command": (settings.drill_command or "").replace("{file}", quote(restored)),
        "limit": f"{settings.drill_timeout * 1000:.0f}",
    }
    if scratch.work != scratch.run:
        login = scratch.login
        values |= {"uid": login.uid, "gid": login.gid, "user": login.name, "home": login.home, "path": login.path}
    arguments = [f"{key}={value}" for key, value in values.items()]
    return " ".join(map(quote, ["exec", "bash", "-c", SCRIPT.read_text(), SCRIPT.name, *arguments]))


def start_drill(scratch: Scratch, database: Database, backup: File, settings: Settings, notify: Notify = ignore) -> Job:
    """Start the drill of a backup, or join the one that is running, if it is the same.

    Raises JobRunningError if another drill of the database is running, and StepError.
    """
    command = drill_command(scratch, database, backup.path, settings)
    # A drill with other settings, and one of a backup that was replaced, is another one.
    identity = f"{command} {backup.bytes} {backup.modified.timestamp()}"
    description = f"drill {hashlib.sha256(identity.encode('utf-8', 'surrogateescape')).hexdigest()}"
    new_job = Job(DRILL, database.name, description, str(backup.path), backup.bytes)
    running = find_job(scratch.host, database, DRILL)
    if running and running.command == new_job.command and is_job_running(scratch.host, database, DRILL):
        notify(f"joining the drill that {running.by} started at {running.when}")
        return running
    require_space(scratch, backup.bytes, settings.free_space_floor)
    watched = dict.fromkeys((scratch.work.parent, scratch.directory))
    try:
        return start_job(scratch.host, database, new_job, command, list(watched), settings.free_space_floor)
    except JobRunningError as error:
        error.advice = f"wait for its end: {format_duration(settings.drill_timeout)} at most for drill_command"
        raise


# --- the result -----------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class DrillStep:
    """A step of drill.sh that has ended: its exit status and what it printed."""

    status: int
    output: str


@dataclass(frozen=True)
class Drill:
    """The checks of a restored backup.

    `source` is SERVER or HERE; `backup` is the file on the server, or on this machine. `command_status` is the exit
    status of the command of the settings, None if it was not run. `unclean` is what could not be removed.
    """

    host: str
    database: str
    source: str
    backup: File
    checks: Sequence[Check]
    integrity: Sequence[str] = field(default_factory=list)
    command_status: int | None = None
    unclean: str = ""

    @property
    def outcome(self) -> Outcome:
        """The combined outcome of the checks."""
        return combine_outcomes(check.outcome for check in self.checks)

    @property
    def exit_code(self) -> int:
        """0: all checks passed; 1: one failed; 3: none failed, and one is unknown."""
        return {Outcome.PASSED: 0, Outcome.FAILED: FAILED, Outcome.UNKNOWN: COULD_NOT_LOOK}[self.outcome]

    def as_json(self) -> dict[str, Any]:
        """Return the object that `inv restore-drill --json` prints."""
        return {
            "host": self.host,
            "database": self.database,
            "due": True,
            "source": self.source,
            "backup": {
                "path": str(self.backup.path),
                "bytes": self.backup.bytes,
                "created": self.backup.modified.isoformat(),
            },
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
        return Check("foreign_keys", _outcome_of_failure(step), f"foreign_key_check: {_shorten(step.output)}")
    violations = [line for line in step.output.splitlines() if line]
    if not violations:
        return Check("foreign_keys", Outcome.PASSED, "foreign_key_check: no violation")
    count = f"at least {MOST_VIOLATIONS}" if len(violations) >= MOST_VIOLATIONS else str(len(violations))
    detail = "\n".join([f"foreign_key_check: {count} violations", *violations])
    return Check("foreign_keys", Outcome.FAILED, detail)


def _check_query(step: DrillStep) -> Check:
    if step.status != 0:
        return Check("query", _outcome_of_failure(step), _shorten(step.output))
    if not step.output.strip():
        return Check("query", Outcome.FAILED, "the query returned no row")
    return Check("query", Outcome.PASSED, "the query returned a row")


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


def _outcome_of_failure(step: DrillStep) -> Outcome:
    result = _as_result(step)
    return Outcome.UNKNOWN if is_access_failure(result) or find_missing_definition(result.output) else Outcome.FAILED


def _shorten(text: str) -> str:
    text = text.strip()
    return text if len(text) <= LONGEST_DETAIL else f"[...]{text[-LONGEST_DETAIL:]}"


def list_started_steps(lines: Iterable[str]) -> list[str]:
    """List the steps of the output of drill.sh that have started."""
    return [line.removeprefix("-- ") for line in lines if line.startswith("-- ")]
