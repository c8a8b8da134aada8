"""Replace the crontab of a host, and check beforehand that cron can run what it gets."""

from __future__ import annotations

import hashlib
import io
from collections.abc import Callable
from pathlib import PurePosixPath
from typing import TypeVar

from ..errors import CrontabChangedError, StepError
from ..remote.files import STALL_TIMEOUT, check_sha256, require_complete
from ..remote.host import Host
from ..remote.shell import CRON_PATH, STATE_DIR, quote
from .script import Script

T = TypeVar("T")
CHANGED, DROPPED = 75, 76  # exit statuses of the command that installs a crontab
ATTEMPTS = 5  # to change a crontab that somebody else changes at the same time
LOCK_TIMEOUT = 30  # seconds to wait for another task that changes the crontab


# --- checks ---------------------------------------------------------------------------------------------------------


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


def executable_command(path: PurePosixPath, interpreter: list[str]) -> str:
    """Build the command that prints `yes` if its user can execute a script, and otherwise `no:` and the reason.

    `interpreter` has the words of the script's first line. `[ -x` also fails on a file system that is mounted noexec,
    for root too.
    """
    refuse = 'refuse() { echo "no: $*"; exit; }'
    lines = [refuse]
    for parent in reversed(path.parents):
        lines.append(f"[ -x {quote(parent)} ] || refuse {quote(f'$(id -un) cannot enter {parent}')}")
    script = quote(path)
    lines += [
        f"[ -f {script} ] || refuse 'it is not a regular file'",
        f"if ! [ -x {script} ]; then",
        f"  case ,$(findmnt -n -o OPTIONS -T {script} 2>/dev/null), in",
        "    *,noexec,*) refuse 'its file system is mounted noexec';;",
        "  esac",
        f"  refuse \"$(id -un) may not execute it: $(stat -c '%A %U %G' -- {script})\"",
        "fi",
    ]
    if interpreter:
        lines.append(f"[ -x {quote(interpreter[0])} ] || refuse {quote(f'there is no {interpreter[0]}')}")
    if len(interpreter) > 1 and PurePosixPath(interpreter[0]).name == "env":
        program = interpreter[-1]
        reason = quote(f"{program} is not in cron's PATH, {CRON_PATH}")
        lines.append(f"PATH={CRON_PATH} command -v {quote(program)} >/dev/null || refuse {reason}")
    return "\n".join([*lines, "echo yes"])


def parse_executable(output: str) -> str:
    """Parse what `executable_command` printed: the reason, empty if the script can be executed; raises ValueError."""
    if output == "yes\n":
        return ""
    if not output.startswith("no: "):
        raise ValueError("neither yes nor no")
    return output[4:].strip()


def check_executable(host: Host, path: PurePosixPath, script: Script) -> None:
    """Check that the user of the crontab can execute the script on the host; raises StepError."""
    first_line = script.content.partition(b"\n")[0].decode(errors="replace")
    interpreter = first_line[2:].split() if first_line.startswith("#!") else []
    command = executable_command(path, interpreter)
    reason = host.query_parsed(f"check that {path} can be executed", command, parse_executable)
    if reason:
        raise StepError(
            f"cron could not execute {path}",
            host=host.name,
            output=reason,
            advice="correct that on the host, or set app_dir to a place from which the crontab's user can execute it",
        )


# --- installation ---------------------------------------------------------------------------------------------------


def install_command(old: str | None, new: str | None) -> str:
    """Build the command that replaces the crontab with its standard input; `None` is no crontab at all.

    It keeps the old crontab, fails with CHANGED if that has changed since it was read, and with DROPPED if the new one
    is not in place afterwards. It first removes what a killed task left. The command itself contains no line of a
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
        f"exec 8< .; flock --wait {LOCK_TIMEOUT} 8 || {{ echo 'another task is changing the crontab' >&2; exit 1; }}",
        # Nobody else has the lock, so these are of no use to anybody.
        "find . -maxdepth 1 -name 'crontab.[no][el][wd].??????' -type f -delete",
        'new=""; old=""; trap \'rm -f -- "$new" "$old"\' EXIT; trap "exit 1" HUP INT TERM',
        *([] if new is None else stage),
        "old=$(mktemp ./crontab.old.XXXXXX)",
        f'[ "$(crontab -l 2>/dev/null | sha256sum)" = "{old_sha256}  -" ] ||',
        f"  {{ echo 'the crontab has changed since it was read' >&2; exit {CHANGED}; }}",
        'crontab -l > "$old" 2>/dev/null || :',
        check_sha256('"$old"', old_sha256, "the old crontab could not be saved: is the disk full?"),
        'sync -- "$old"; mv --force -- "$old" crontab.previous',
        "crontab -r" if new is None else 'crontab "$new"',
        f'[ "$(crontab -l 2>/dev/null | sha256sum)" = "{new_sha256}  -" ] || exit {DROPPED}',
    ]
    return "\n".join(lines)


def install_crontab(host: Host, old: str | None, new: str | None) -> None:
    """Replace the crontab, and check that the new one is installed.

    Raises CrontabChangedError if the old one has changed since it was read, and StepError if that fails otherwise.
    """
    action = "install the crontab"
    stream = io.BytesIO(_encode(new))
    transfer = host.stream(action, install_command(old, new), root=True, timeout=STALL_TIMEOUT, source=stream)
    if transfer.result.status == CHANGED:
        raise CrontabChangedError(
            f"could not {action}",
            host=host.name,
            output=transfer.result.output,
            advice="somebody else is changing it: start the task again",
        )
    if transfer.result.status == DROPPED:
        raise StepError(
            "the installed crontab is not the one that was sent",
            host=host.name,
            advice=f"compare it on the host: {host.command_line(f'crontab -l | diff {STATE_DIR}/crontab.previous -')}",
        )
    require_complete(host, action, transfer)


def retry_if_changed(change: Callable[[], T]) -> T:
    """Change a crontab: if somebody else changes it at the same time, read it again and decide again."""
    for _ in range(ATTEMPTS - 1):
        try:
            return change()
        except CrontabChangedError:
            continue
    return change()


def _encode(text: str | None) -> bytes:
    return (text or "").encode("utf-8", "surrogateescape")
