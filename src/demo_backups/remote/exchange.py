"""One command on a host from its start to its exit status: what is sent to it, and what it prints.

The command is a script that first prints a marker on both of its outputs. What comes before the marker is printed by a
login shell or by sudo. Input is sent only after the marker was read, so that neither of them can take it. A password
is sent only after sudo's own prompt was read: a sudo that does not ask passes it on to the command as data.
"""

from __future__ import annotations

import contextlib
import enum
import hashlib
import select
import threading
import time
from dataclasses import dataclass
from typing import TYPE_CHECKING, BinaryIO, Protocol

if TYPE_CHECKING:
    from .interrupts import Interrupts

CHUNK = 256 * 1024  # bytes that are sent at a time
OUTPUT_LIMIT = 8 * 1024 * 1024  # bytes of standard output that are kept; more than that is an error
STDERR_LIMIT = 64 * 1024  # bytes of standard error, of which the start and the end are kept
PREAMBLE_LIMIT = 64 * 1024  # bytes of what is printed before the marker, of which the end is kept
START_TIMEOUT = 60  # seconds for a command that is sent or received data to start
FINISH_TIMEOUT = 3600  # seconds for a command to end after it has all of its input, for example to flush and check it


class Stream(enum.Enum):
    """An output of a command."""

    STDOUT = "stdout"
    STDERR = "stderr"


class RunningCommand(Protocol):
    """A command that was started, and its three streams. Everything here raises ConnectionBrokenError."""

    def filenos(self) -> list[int]:
        """File descriptors that are readable when there is something to read."""

    def read(self, stream: Stream) -> bytes | None:
        """Read what there is: None if there is nothing yet, nothing (`b""`) at the end. Does not block."""

    def write(self, data: bytes) -> None:
        """Write all of this to the input; blocks while the command reads nothing. Raises InputClosedError."""

    def close_input(self) -> None:
        """End the input."""

    def wait(self, seconds: float) -> bool:
        """Wait for the end of the command; tell whether it has come."""

    def exit_status(self) -> int | None:
        """The exit status of a command that has ended; None if a signal ended it."""

    def close(self) -> None:
        """Give the command up if it has not ended, and free what it uses here."""


class ConnectionBrokenError(Exception):
    """The connection was lost, or the server broke the protocol."""


class NoSessionError(Exception):
    """The server opened no session, so the command did not start."""


class InputClosedError(Exception):
    """The command has closed its input."""


class PasswordRefusedError(Exception):
    """Sudo asked for the password again."""


class OutputLimitError(Exception):
    """The command printed more than is kept."""


class CommandTimeoutError(Exception):
    """The command did not end in time, or its streams stood still."""

    def __init__(self, seconds: float, stalled: bool) -> None:
        super().__init__(seconds)
        self.seconds = seconds
        self.stalled = stalled


class LocalStreamError(Exception):
    """The local end of a stream, usually a file, could not be read or written."""


@dataclass(frozen=True)
class Request:
    """What to do with a command that was started.

    `source` is sent to its standard input, `sink` gets its standard output; without a sink that is kept in memory.
    `timeout` is in seconds: for the whole command, or with a source or a sink, for how long nothing may move. Without
    `hashes` no SHA-256 of what a sink gets is computed.
    """

    marker: bytes = b""
    prompt: bytes = b""
    password: bytes | None = None
    source: BinaryIO | None = None
    sink: BinaryIO | None = None
    timeout: float = START_TIMEOUT
    hashes: bool = True


@dataclass(frozen=True)
class ExchangeResult:
    """How a command ended, and what it printed before the marker (`preamble`) and after it.

    `transferred` counts the bytes that were sent from the source, or received into the sink, and `sha256` is theirs,
    empty if it was not requested. `input_complete` is False where the command ended before it took all of the source.
    """

    started: bool
    status: int | None
    stdout: bytes
    stderr: bytes
    preamble: bytes
    transferred: int
    sha256: str
    input_complete: bool


def run_exchange(command: RunningCommand, request: Request, interrupts: Interrupts) -> ExchangeResult:
    """Exchange data with a command until it has ended.

    Raises ConnectionBrokenError, PasswordRefusedError, OutputLimitError, CommandTimeoutError, LocalStreamError, and
    KeyboardInterrupt after Ctrl-C; the command is given up then, but on a server it may continue.
    """
    exchange = _Exchange(command, request, interrupts)
    try:
        exchange.run()
        return exchange.outcome()
    finally:
        command.close()
        exchange.join_sender()


class _Exchange:
    def __init__(self, command: RunningCommand, request: Request, interrupts: Interrupts) -> None:
        self._command = command
        self._request = request
        self._interrupts = interrupts
        self._open = set(Stream)
        self._filters = {stream: _MarkerFilter(request.marker) for stream in Stream}
        self._stdout: _Sink | _Memory = _Sink(request.sink, request.hashes) if request.sink else _Memory(OUTPUT_LIMIT)
        self._stderr = _HeadAndTail(STDERR_LIMIT)
        self._sender: _Sender | None = None
        self._password_sent = False
        self._begin = self._last_move = time.monotonic()
        self._sent = 0

    def run(self) -> None:
        """Read, send and wait until the command has ended."""
        if self._request.source is None and self._request.password is None:
            self._command.close_input()
        while self._open:
            self._wait_readable()
            for stream in sorted(self._open, key=lambda stream: stream.value):
                self._read(stream)
            if self._sender:
                self._sender.raise_source_error()
        while not self._command.wait(0.05):
            self._check()

    def outcome(self) -> ExchangeResult:
        """Collect how it ended."""
        status = self._command.exit_status()
        if self._sender:
            self._sender.join(1)
            self._sender.raise_source_error()
        transfer = self._sender or self._stdout
        return ExchangeResult(
            started=self._filters[Stream.STDOUT].found,
            status=status,
            stdout=self._stdout.content(),
            stderr=self._stderr.content(),
            preamble=b"\n".join(bytes(self._filters[stream].before) for stream in (Stream.STDERR, Stream.STDOUT)),
            transferred=transfer.count,
            sha256=transfer.sha256.hexdigest() if self._request.hashes else "",
            input_complete=self._request.source is None or bool(self._sender and self._sender.complete),
        )

    def join_sender(self) -> None:
        """Wait briefly for the sending thread. Closing the command ends the thread, unless the source blocks."""
        if self._sender:
            self._sender.join(1)

    def _wait_readable(self) -> None:
        """Wait until there is something to read, half a second at most."""
        poll = select.poll()
        for descriptor in (*self._command.filenos(), *self._interrupts.filenos()):
            poll.register(descriptor, select.POLLIN)
        since, limit = self._limit()
        seconds = min(0.5, max(0.0, since + limit - time.monotonic()))
        poll.poll(seconds * 1000)
        self._check()

    def _check(self) -> None:
        """Raise what ends the exchange from outside: Ctrl-C, and a deadline that has passed."""
        self._interrupts.raise_pending()
        if self._sender and self._sender.count != self._sent:
            self._sent, self._last_move = self._sender.count, time.monotonic()
        since, seconds = self._limit()
        if time.monotonic() >= since + seconds:
            raise CommandTimeoutError(seconds, stalled=self._is_moving())

    def _limit(self) -> tuple[float, float]:
        """Return the time at which the current timeout starts, and its seconds."""
        if self._request.source is None and self._request.sink is None:
            return self._begin, self._request.timeout
        if not self._filters[Stream.STDOUT].found:
            return self._begin, START_TIMEOUT
        return self._last_move, self._request.timeout if self._is_moving() else FINISH_TIMEOUT

    def _is_moving(self) -> bool:
        """Tell whether a source is being sent, or a sink is being written."""
        is_sending = self._sender is not None and not self._sender.complete
        is_receiving = self._request.sink is not None and Stream.STDOUT in self._open
        return self._filters[Stream.STDOUT].found and (is_sending or is_receiving)

    def _read(self, stream: Stream) -> None:
        data = self._command.read(stream)
        if data is None:
            return
        if not data:
            self._open.discard(stream)
            return
        self._last_move = time.monotonic()
        filter_ = self._filters[stream]
        was_found = filter_.found
        (self._stdout if stream is Stream.STDOUT else self._stderr).add(filter_.feed(data))
        if stream is Stream.STDERR and not filter_.found:
            self._answer_prompt()
        if stream is Stream.STDOUT and filter_.found and not was_found:
            self._start_input()

    def _answer_prompt(self) -> None:
        """Send the password when sudo asks for it; a second prompt means that it was wrong."""
        if self._request.password is None:
            return
        prompts = bytes(self._filters[Stream.STDERR].before).count(self._request.prompt)
        if prompts > 1:
            raise PasswordRefusedError
        if prompts and not self._password_sent:
            self._password_sent = True
            with contextlib.suppress(InputClosedError):  # then sudo has ended, and its exit status says so
                self._command.write(self._request.password + b"\n")

    def _start_input(self) -> None:
        if self._request.source is not None:
            self._sender = _Sender(self._command, self._request.source)
            self._sender.start()
        elif self._request.password is not None:
            self._command.close_input()


class _MarkerFilter:
    """Drop what comes before the line with the marker, but keep the end of it."""

    def __init__(self, marker: bytes) -> None:
        self.found = False
        self.before = bytearray()
        self._line = marker + b"\n"

    def feed(self, data: bytes) -> bytes:
        """Return what of this comes after the marker."""
        if self.found:
            return data
        before, line, after = bytes(self.before + data).partition(self._line)
        self.found = bool(line)
        self.before = bytearray(before[-PREAMBLE_LIMIT:])
        return after


class _Memory:
    """Keep all of an output, up to a limit."""

    def __init__(self, limit: int) -> None:
        self.count = 0
        self.sha256 = hashlib.sha256()
        self._limit = limit
        self._chunks: list[bytes] = []

    def add(self, data: bytes) -> None:
        self.count += len(data)
        if self.count > self._limit:
            raise OutputLimitError
        self.sha256.update(data)
        self._chunks.append(data)

    def content(self) -> bytes:
        return b"".join(self._chunks)


class _Sink:
    """Hand an output on, and keep none of it."""

    def __init__(self, sink: BinaryIO, hashes: bool) -> None:
        self.count = 0
        self.sha256 = hashlib.sha256()
        self._sink = sink
        self._hashes = hashes

    def add(self, data: bytes) -> None:
        rest = memoryview(data)
        try:
            while rest:
                written = self._sink.write(rest)
                rest = rest[len(rest) if written is None else written :]
        except (OSError, ValueError) as error:
            raise LocalStreamError(str(error)) from error
        if self._hashes:
            self.sha256.update(data)
        self.count += len(data)

    def content(self) -> bytes:
        return b""


class _HeadAndTail:
    """Keep the start and the end of an output."""

    def __init__(self, limit: int) -> None:
        self._count = 0
        self._half = limit // 2
        self._head = bytearray()
        self._tail = bytearray()

    def add(self, data: bytes) -> None:
        self._count += len(data)
        room = self._half - len(self._head)
        self._head += data[:room]
        self._tail += data[room:] if room else data
        del self._tail[: -self._half]

    def content(self) -> bytes:
        dropped = self._count - len(self._head) - len(self._tail)
        gap = f"\n[... {dropped:,} bytes ...]\n".encode() if dropped else b""
        return bytes(self._head) + gap + bytes(self._tail)


class _Sender(threading.Thread):
    """Send a source to a command's input, in a thread of its own, since a write waits for the command to read."""

    def __init__(self, command: RunningCommand, source: BinaryIO) -> None:
        super().__init__(name="sender", daemon=True)
        self.count = 0
        self.sha256 = hashlib.sha256()
        self.complete = False
        self._command = command
        self._source = source
        self._source_error: Exception | None = None

    def run(self) -> None:
        """Send until the source ends, cannot be read, or the command takes no more."""
        try:
            while data := self._read():
                self._command.write(data)
                self.sha256.update(data)
                self.count += len(data)
            if self._source_error is None:
                self._command.close_input()
                self.complete = True
        except (InputClosedError, ConnectionBrokenError):
            pass  # the wait for the exit status raises the reason

    def raise_source_error(self) -> None:
        """Raise LocalStreamError where the source could not be read: the command must not get a part as the whole."""
        if self._source_error is not None:
            raise LocalStreamError(str(self._source_error)) from self._source_error

    def _read(self) -> bytes:
        try:
            return self._source.read(CHUNK)
        except (OSError, ValueError) as error:
            self._source_error = error
            return b""
