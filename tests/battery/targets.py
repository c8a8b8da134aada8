"""The processes of a task, by what they do: the targets of the signals."""

from __future__ import annotations

import contextlib
import os
import signal
import time
from collections.abc import Callable, Sequence
from pathlib import Path

from ..helpers.sshd import children, command_name
from .machine import Machine, RunningTask

IDLE_SAMPLES = 3  # so many times in a row, all other processes must be waiting
SAMPLE_INTERVAL = 0.05  # seconds


def read_arguments(pid: int) -> list[str]:
    """Return the program and the arguments of a process; none if it has ended."""
    try:
        return Path(f"/proc/{pid}/cmdline").read_bytes().decode(errors="replace").split("\0")[:-1]
    except OSError:
        return []


def read_status(pid: int) -> tuple[str, int]:
    """Return the state of a process, as a letter of proc(5), and the process that has started it; raises OSError."""
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return fields[0], int(fields[1])


def is_running(pid: int) -> bool:
    """Tell whether a process is there, and is no zombie."""
    try:
        return read_status(pid)[0] not in "ZX"
    except OSError:
        return False


# --- the targets ----------------------------------------------------------------------------------------------------


def find_inv(machine: Machine, task: RunningTask) -> list[int]:
    """Return the task itself."""
    return [] if task.has_ended else [task.process.pid]


def find_session(machine: Machine, task: RunningTask) -> list[int]:
    """Return the processes of sshd for the connection."""
    return machine.server.sessions


def find_script(machine: Machine, task: RunningTask) -> list[int]:
    """Return the backup script, restore.sh, or else the shells that sshd has started for the task."""
    jobs = [pid for pid in machine.processes() if _script_name(pid) in (machine.script.name, "restore.sh")]
    if task.name in ("run", "restore"):
        return _roots(jobs)
    return [pid for session in machine.server.sessions for pid in children(session) if not _is_sshd(pid)]


def find_supervisor(machine: Machine, task: RunningTask) -> list[int]:
    """Return job.sh, without the processes that it has forked."""
    return _roots([pid for pid in machine.processes() if _script_name(pid) == "job.sh"])


def find_sqlite3(machine: Machine, task: RunningTask) -> list[int]:
    """Return the sqlite3 programs."""
    return [pid for pid in machine.processes() if command_name(pid) == "sqlite3"]


def find_restic(machine: Machine, task: RunningTask) -> list[int]:
    """Return the restic programs."""
    return [pid for pid in machine.local_processes() if command_name(pid) == "restic"]


def _is_sshd(pid: int) -> bool:
    return command_name(pid).startswith("sshd")


def _script_name(pid: int) -> str:
    """Return the name of the script that bash runs: from a file, or with -c."""
    arguments = read_arguments(pid)
    if len(arguments) > 1 and arguments[0].endswith("bash"):
        index = 3 if arguments[1] == "-c" else 1
        return arguments[index].rpartition("/")[2] if len(arguments) > index else ""
    return ""


def _roots(pids: Sequence[int]) -> list[int]:
    """Return the processes that no other one of them has started."""
    found = []
    for pid in pids:
        with contextlib.suppress(OSError):
            if read_status(pid)[1] not in pids:
                found.append(pid)
    return found


TARGETS: dict[str, Callable[[Machine, RunningTask], list[int]]] = {
    "inv": find_inv,
    "session": find_session,
    "script": find_script,
    "supervisor": find_supervisor,
    "sqlite3": find_sqlite3,
    "restic": find_restic,
}


# --- signals --------------------------------------------------------------------------------------------------------


def send(pids: Sequence[int], number: signal.Signals) -> bool:
    """Send a signal; tell whether it has reached a process that was running."""
    reached = False
    for pid in pids:
        with contextlib.suppress(ProcessLookupError):
            was_running = is_running(pid)
            os.kill(pid, number)
            reached = reached or was_running
    return reached


def wait_while_stopped(machine: Machine, task: RunningTask, stopped: Sequence[int], seconds: float) -> str:
    """Wait until the task has ended or all other processes wait for the stopped ones; return what ended the wait."""
    deadline = time.monotonic() + seconds
    quiet = 0
    before: dict[int, int] = {}
    while time.monotonic() < deadline:
        if task.has_ended:
            return "until the task had ended"
        others = [*machine.processes(), *machine.local_processes(), *machine.server.sessions, task.process.pid]
        pids = set(others).difference(stopped)
        now = {pid: ticks for pid in pids if (ticks := _cpu_ticks(pid)) is not None}
        quiet = quiet + 1 if now == before else 0
        if quiet >= IDLE_SAMPLES:
            return "until all others were waiting"
        before = now
        time.sleep(SAMPLE_INTERVAL)
    return f"for {seconds:g} s"


def _cpu_ticks(pid: int) -> int | None:
    try:
        fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
        return int(fields[11]) + int(fields[12])
    except (OSError, IndexError):
        return None
