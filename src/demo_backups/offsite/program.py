"""Run restic: its environment, its password, its output, and how it is ended by Ctrl-C."""

from __future__ import annotations

import contextlib
import os
import shutil
import signal
import subprocess
import threading
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import IO, TypeVar

from ..errors import (
    BackupsError,
    CouldNotLookError,
    InterruptedRunError,
    MissingToolError,
    OffsiteError,
    OutputTooLongError,
    RepositoryDamagedError,
    RepositoryPasswordError,
)
from ..project import ROOT
from ..remote.notify import Notify, ignore
from ..settings.model import Settings
from .answers import parse_config, parse_version
from .failures import explain, find_damaged_key, shorten_output
from .location import Location, find_location
from .password import read_password

T = TypeVar("T")
OLDEST = (0, 14)
CHUNK = 1024 * 1024
MOST_OUTPUT = 64 * 1024 * 1024  # bytes of an answer
MOST_MESSAGES = 256 * 1024  # bytes of standard error that are kept, the first and the last ones
END_TIMEOUT = 60.0  # seconds for restic to remove its lock after Ctrl-C
# What the user may have set for another repository, or another way to give the password.
REPLACED = (
    *("RESTIC_REPOSITORY", "RESTIC_REPOSITORY_FILE", "RESTIC_PASSWORD", "RESTIC_PASSWORD_FILE"),
    "RESTIC_PASSWORD_COMMAND",
)
UNCLEAR = (RepositoryPasswordError, OffsiteError)  # which a damaged key can cause
Receive = Callable[[bytes], object]


@dataclass(frozen=True)
class Restic:
    """Restic for one repository."""

    location: Location
    password: bytes
    program: str
    notify: Notify = ignore

    def query(self, action: str, parse: Callable[[str], T], *arguments: str) -> T:
        """Run restic and parse what it prints; an answer that cannot be parsed is a CouldNotLookError."""
        output = self.run(action, *arguments)
        try:
            return parse(output)
        except ValueError as error:
            raise CouldNotLookError(
                f"{action}: restic answered something unexpected",
                output=self.location.mask(str(error)),
                advice="update restic; if that does not help, run it by hand for the same repository",
            ) from error

    def run(self, action: str, *arguments: str, stdin: int | None = None) -> str:
        """Run restic to its end and return what it printed; raises the error of `explain`."""
        collected = bytearray()

        def collect(data: bytes) -> None:
            if len(collected) + len(data) > MOST_OUTPUT:
                raise OutputTooLongError(f"{action}: restic printed more than {MOST_OUTPUT:,} bytes")
            collected.extend(data)

        self.stream(action, collect, *arguments, stdin=stdin)
        return collected.decode(errors="replace")

    def stream(self, action: str, receive: Receive, *arguments: str, stdin: int | None = None) -> None:
        """Run restic to its end and pass on what it prints, as it comes; raises the error of `explain`."""
        last = b""
        with self._start(arguments, stdin) as (process, messages):
            assert process.stdout
            while data := os.read(process.stdout.fileno(), CHUNK):
                last = (last + data)[-MOST_MESSAGES:] if arguments[0] != "dump" else b""
                receive(data)
            process.wait()
            output = messages.text() + "\n" + last.decode(errors="replace")
        if process.returncode:
            raise self._explain(action, process.returncode, output)

    def _explain(self, action: str, status: int, output: str) -> BackupsError:
        error = explain(action, status, output, self.location.mask)
        directory = self.location.directory
        key = find_damaged_key(directory) if directory and type(error) in UNCLEAR else None
        if key:
            return RepositoryDamagedError(
                f"{action}: the repository is damaged: a key of it was changed",
                output=f"{key}: its name is not its SHA-256",
                advice="restore this file from another copy of the repository, and check the disk that it is on",
            )
        return error

    def command(self, *arguments: str) -> list[str]:
        """Return the command line of restic."""
        return [self.program, *self.location.options, *arguments]

    @contextlib.contextmanager
    def _start(
        self, arguments: Sequence[str], stdin: int | None
    ) -> Iterator[tuple[subprocess.Popen[bytes], _Messages]]:
        """Start restic, in a session of its own: it has no terminal to ask on, and Ctrl-C is passed on once."""
        process = self._open(arguments, stdin)
        messages = _Messages(process.stderr, self._notify_retry)
        try:
            yield process, messages
        except BaseException as error:
            self._end(process)
            if isinstance(error, KeyboardInterrupt):
                raise InterruptedRunError(
                    f"interrupted: restic {arguments[0]} has not ended",
                    advice="start the task again: it first removes a lock that may be left",
                ) from error
            raise
        finally:
            messages.close()
            assert process.stdout
            process.stdout.close()

    def _open(self, arguments: Sequence[str], stdin: int | None) -> subprocess.Popen[bytes]:
        reader, writer = os.pipe()
        try:
            os.write(writer, self.password)
            os.close(writer)
            return subprocess.Popen(
                self.command(*arguments),
                cwd=ROOT,
                env=self._environment(reader),
                stdin=subprocess.DEVNULL if stdin is None else stdin,
                stdout=subprocess.PIPE,
                stderr=subprocess.PIPE,
                bufsize=0,
                pass_fds=[reader],
                start_new_session=True,
            )
        except OSError as error:
            raise MissingToolError("restic cannot be started", output=str(error), advice="install it again") from error
        finally:
            os.close(reader)

    def _environment(self, password: int) -> dict[str, str]:
        inherited = {name: value for name, value in os.environ.items() if name not in REPLACED}
        return inherited | {
            "RESTIC_REPOSITORY": self.location.address,
            "RESTIC_PASSWORD_FILE": f"/dev/fd/{password}",
            "RESTIC_PROGRESS_FPS": "2",
            "SSH_ASKPASS_REQUIRE": "never",
            "LC_ALL": "C",
            "TZ": "UTC",
        }

    def _notify_retry(self, line: str) -> None:
        """Pass on that restic waits and tries again, which may take a quarter of an hour."""
        if "retrying after" in line:
            self.notify(f"restic: {self.location.mask(shorten_output(line))}")

    @staticmethod
    def _end(process: subprocess.Popen[bytes]) -> None:
        """Ask restic to end, as by Ctrl-C, so that it removes its lock; kill it if it does not.

        Its output is read and thrown away: newer versions end only when they have written what they are writing.
        """
        with contextlib.suppress(ProcessLookupError):
            process.send_signal(signal.SIGINT)
        assert process.stdout
        threading.Thread(target=_discard, args=(os.dup(process.stdout.fileno()),), daemon=True).start()
        try:
            process.wait(END_TIMEOUT)
        except BaseException:  # another Ctrl-C
            with contextlib.suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGKILL)
            process.wait()


def _discard(descriptor: int) -> None:
    """Read a pipe to its end, and close it."""
    try:
        while os.read(descriptor, CHUNK):
            pass
    finally:
        os.close(descriptor)


class _Messages:
    """The first and the last bytes of standard error, read by a thread of its own."""

    def __init__(self, stream: IO[bytes] | None, notify: Notify) -> None:
        assert stream
        self._notify = notify
        self._stream = stream
        self._first = b""
        self._last = b""
        self._thread = threading.Thread(target=self._read, name="restic", daemon=True)
        self._thread.start()

    def text(self) -> str:
        """Return what was printed, after the program has ended."""
        self._thread.join(END_TIMEOUT)
        return (self._first + self._last).decode(errors="replace")

    def close(self) -> None:
        """Stop reading."""
        self._thread.join(1)
        if not self._thread.is_alive():
            self._stream.close()

    def _read(self) -> None:
        with contextlib.suppress(OSError, ValueError):
            while data := os.read(self._stream.fileno(), 65536):
                for line in data.decode(errors="replace").splitlines():
                    self._notify(line)
                if len(self._first) < MOST_MESSAGES:
                    self._first += data
                else:
                    self._last = (self._last + data)[-MOST_MESSAGES:]


def open_restic(settings: Settings, notify: Notify) -> Restic:
    """Return restic for the repository of the settings; `notify` gets what it says while it waits.

    Raises SettingsError, RepositoryPasswordError, and MissingToolError if restic is missing or too old.
    """
    location = find_location(settings)
    program = shutil.which("restic")
    if program is None:
        raise MissingToolError(
            "restic is not installed on this machine", advice="on Debian and Ubuntu: sudo apt install restic"
        )
    restic = Restic(location, read_password(settings.offsite), program, notify)
    done = subprocess.run([program, "version"], capture_output=True, text=True, check=False, stdin=subprocess.DEVNULL)
    try:
        version = parse_version(done.stdout)
    except ValueError as error:
        raise MissingToolError(
            f"{program} does not work", output=shorten_output(done.stdout + done.stderr), advice="install restic again"
        ) from error
    if version < OLDEST:
        raise MissingToolError(
            f"{program} is version {version[0]}.{version[1]}: it is too old",
            advice=f"install restic {OLDEST[0]}.{OLDEST[1]} or newer",
        )
    return restic


def read_id(restic: Restic) -> str:
    """Return the ID of the repository: this proves that it exists, and that the password is right."""
    return restic.query("opening the off-site repository", parse_config, "cat", "config", "--no-lock").id
