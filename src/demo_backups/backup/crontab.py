"""The crontab: its lines, the job of a database, and how a host's crontab is read and replaced."""

from __future__ import annotations

import difflib
import hashlib
import re
from dataclasses import dataclass
from pathlib import PurePosixPath

from ..errors import CouldNotLookError, CrontabConflictError, NoScheduleError, StepError
from ..project import ROOT
from ..remote.files import check_sha256, send
from ..remote.host import Host
from ..remote.shell import HOME, STATE_DIR, quote
from ..settings import Database, Settings
from .script import Script

PUBLISHED = ROOT / "share/container/default/config/crontab.conf"


# --- the text -------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class CrontabJob:
    """A database's job: when it runs, its command, and the log for its output."""

    database: str
    schedule: str  # as published, with its blanks
    command: str
    log: PurePosixPath
    script: PurePosixPath

    @property
    def marker(self) -> str:
        """The start of the comment above the job, which marks it as ours."""
        return f"# demo-backups: {self.database} database"

    @property
    def comment(self) -> str:
        """The comment above the job."""
        return f"{self.marker} (inv enable --database {self.database})"

    @property
    def line(self) -> str:
        """The line of the crontab."""
        return f"{self.schedule}{escape_command(f'{self.command} >> {quote(self.log)} 2>&1')}"

    @property
    def block(self) -> str:
        """The lines that enabling adds."""
        return f"{self.comment}\n{self.line}\n"

    @property
    def block_pattern(self) -> re.Pattern[str]:
        """What the lines look like in a crontab: earlier versions named another task in the comment."""
        return re.compile(rf"^{re.escape(self.marker)} \(inv [^\n]*\)\n{re.escape(self.line)}\n", re.MULTILINE)


def escape_command(command: str) -> str:
    r"""Escape a command for a crontab, where `%` is a line end unless it is `\%` (crontab(5)), and `\\` is `\`."""
    return re.sub(r"[\\%]", r"\\\g<0>", command)


def unescape_command(command: str) -> str:
    r"""Undo `escape_command`, as cron does."""
    return re.sub(r"\\([\\%])", r"\1", command)


def split_line(line: str) -> tuple[str, str] | None:
    """Split an active line into schedule, blanks included, and command; None for comments, settings and empty lines."""
    match = re.match(r"([ \t]*(?:@[a-z]+[ \t]+|(?:[0-9*][^ \t=]*[ \t]+)(?:[^ \t]+[ \t]+){4}))(\S.*)$", line)
    return (match[1], match[2]) if match else None


def find_schedule(database: Database, text: str) -> str:
    """Find when a crontab such as the published one runs a database's script; raises NoScheduleError."""
    for line in text.splitlines():
        parts = split_line(line)
        if parts is None:
            continue
        schedule, command = parts
        program = PurePosixPath(command.split()[0])
        if program.name == database.script.name:
            return schedule
    raise NoScheduleError(
        f"{PUBLISHED.name} has no line for the {database.name} database: it is backed up by hand",
        advice=f"to have cron back it up, add a line that runs {database.script.name} to {PUBLISHED}",
    )


def count_daily_runs(database: Database, text: str) -> int:
    """Count how often a day a crontab such as the published one runs a database's script; 1 if it does not."""
    try:
        minute, hour, *_ = find_schedule(database, text).split()
    except NoScheduleError:
        return 1
    per_hour = 60 if minute == "*" else minute.count(",") + 1
    hours = 24 if hour == "*" else hour.count(",") + 1
    return per_hour * hours


def backup_command(database: Database, script: Script) -> str:
    """Build the command that backs a database up: the script, with the paths that differ from its defaults."""
    paths = {"DATABASE_FILE": database.source, "BACKUP_DIR": database.backup_dir}
    variables = [f"{name}={quote(path)}" for name, path in paths.items() if script.default(name) != str(path)]
    return " ".join([*variables, quote(database.script)])


def make_job(settings: Settings, database: Database, script: Script) -> CrontabJob:
    """Make a database's job, scheduled as published; raises NoScheduleError."""
    schedule = find_schedule(database, PUBLISHED.read_text())
    return CrontabJob(database.name, schedule, backup_command(database, script), settings.cron_log, database.script)


def has_job(text: str, job: CrontabJob) -> bool:
    """Tell whether a crontab has the job's line, active."""
    return job.line in [line.strip(" \t") for line in text.split("\n")]


def add_job(text: str, job: CrontabJob) -> str:
    """Add the job at the top, where no PATH or SHELL setting of the crontab applies to it.

    Returns `text` unchanged where it has the active line already. Raises CrontabConflictError where another line runs
    the script.
    """
    if has_job(text, job):
        return text
    for line in text.split("\n"):
        parts = split_line(line)
        if parts and quote(job.script) in unescape_command(parts[1]):
            raise CrontabConflictError(
                "another line of the crontab already runs this script",
                output=line,
                advice="remove that line (crontab -e), or keep it and do not enable this one",
            )
    return job.block + text


def remove_job(text: str, job: CrontabJob) -> str:
    """Remove the job and its comment, and keep the rest byte for byte.

    Returns `text` unchanged where it does not have the job. Raises CrontabConflictError where the job was edited.
    """
    rest, count = job.block_pattern.subn("", text, count=1)
    if has_job(rest, job) or (not count and job.marker in text):
        lines = [line for line in text.splitlines() if job.marker in line or str(job.script) in line]
        raise CrontabConflictError(
            "the line in the crontab was edited since it was enabled",
            output="\n".join(lines),
            advice="remove it by hand: crontab -e",
        )
    return rest


def diff_crontabs(old: str | None, new: str | None) -> str:
    """Compare two crontabs in the format of `diff -u`."""
    old_lines = (old or "").splitlines()
    new_lines = (new or "").splitlines()
    return "\n".join(difflib.unified_diff(old_lines, new_lines, "crontab (installed)", "crontab (new)", lineterm=""))


# --- on a host ------------------------------------------------------------------------------------------------------


def read_crontab(host: Host) -> str | None:
    """Read the crontab of the user who runs the backups; None if that user has none. Raises CouldNotLookError."""
    result = host.run("read the crontab", "crontab -l", root=True)
    if result.ok:
        return result.stdout
    if result.status == 127:
        raise CouldNotLookError(
            "cron is not installed: there is no crontab command",
            host=host.name,
            advice="install it (Debian and Ubuntu: sudo apt install cron)",
        )
    if "no crontab for" in result.stderr:
        return None
    raise CouldNotLookError(
        "could not read the crontab", host=host.name, output=result.output, advice=host.advise(result)
    )


def check_log_writable(host: Host, log: PurePosixPath) -> None:
    """Check that the job can write its log: otherwise the shell would not start the backup. Raises StepError."""
    path = quote(log)
    folder = quote(log.parent)
    command = f"if [ -e {path} ]; then [ -f {path} ] && [ -w {path} ]; else [ -d {folder} ] && [ -w {folder} ]; fi"
    if not host.run(f"check that {log} can be written", command, root=True).ok:
        raise StepError(
            f"the job could not write its log {log}, so it would never run",
            host=host.name,
            advice="set cron_log to a file that the crontab's user can write",
        )


def install_command(old: str | None, new: str | None) -> str:
    """Build the command that replaces the crontab with its standard input; `None` is no crontab at all.

    It keeps the old crontab, and fails if that has changed since it was read. The command itself contains no line of a
    crontab, because every user of the host can read the arguments of a command, and sudo logs them.
    """
    old_sha256 = hashlib.sha256(_encode(old)).hexdigest()
    new_sha256 = hashlib.sha256(_encode(new)).hexdigest()
    stage = [
        "new=$(mktemp ./crontab.new.XXXXXX)",
        'cat > "$new"',
        check_sha256('"$new"', new_sha256, "the transfer was damaged"),
    ]
    lines = [
        f"set -eu; umask 077; mkdir -p -- {STATE_DIR}; cd -- {STATE_DIR}",
        'if [ "$(stat -c %u .)" != "$(id -u)" ] || [ -n "$(find . -prune -perm /022)" ]; then',
        '  echo "$PWD belongs to another user, or others can write to it" >&2; exit 1',
        "fi",
        "exec 8< .; flock --wait 10 8 || { echo 'another task is changing the crontab' >&2; exit 1; }",
        "find . -maxdepth 1 -name 'crontab.[no][el][wd].??????' -delete",  # left by a task that was killed
        'new=""; old=""; trap \'rm -f -- "$new" "$old"\' EXIT; trap "exit 1" HUP INT TERM',
        *([] if new is None else stage),
        "old=$(mktemp ./crontab.old.XXXXXX)",
        f'[ "$(crontab -l 2>/dev/null | sha256sum)" = "{old_sha256}  -" ] ||',
        "  { echo 'the crontab has changed since it was read' >&2; exit 1; }",
        'crontab -l > "$old" 2>/dev/null || :',
        check_sha256('"$old"', old_sha256, "the old crontab could not be saved: is the disk full?"),
        'sync -- "$old"; mv --force -- "$old" crontab.previous',
        "crontab -r" if new is None else 'crontab "$new"',
    ]
    return "\n".join(lines)


def install_crontab(host: Host, old: str | None, new: str | None) -> None:
    """Replace the crontab, and check that the new one is installed; raises StepError."""
    send(host, "install the crontab", install_command(old, new), _encode(new))
    if _encode(read_crontab(host)) != _encode(new):
        raise StepError(
            "the installed crontab is not the one that was sent",
            host=host.name,
            advice=f"on the host, compare crontab -l with {STATE_DIR.replace(HOME, '~')}/crontab.previous",
        )


def _encode(text: str | None) -> bytes:
    return (text or "").encode("utf-8", "surrogateescape")
