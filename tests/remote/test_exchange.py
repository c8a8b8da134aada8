"""The exchange with one command: its marker, sudo's prompt, its input, and the limits of time and size."""

from __future__ import annotations

import hashlib
import io
import shlex
import threading
import time
from pathlib import Path
from typing import Any

import pytest

from demo_backups.remote.exchange import (
    PREAMBLE_LIMIT,
    STDERR_LIMIT,
    CommandTimeoutError,
    ExchangeResult,
    LocalStreamError,
    OutputLimitError,
    PasswordRefusedError,
    Request,
    run_exchange,
)
from demo_backups.remote.interrupts import Interrupts
from demo_backups.remote.runners import LocalRunner

MARKS = "echo MARKER; echo MARKER >&2; "


def exchange(script: str, **request: Any) -> ExchangeResult:
    """Run a script on this machine that prints the marker itself."""
    return run_exchange(LocalRunner().start(script), Request(b"MARKER", **request), Interrupts())


def test_marker_separates_preamble_from_output() -> None:
    outcome = exchange(f"echo MARKER of another kind; echo before >&2; {MARKS} echo MARKER; echo after >&2")
    assert outcome.started
    assert (outcome.stdout, outcome.stderr) == (b"MARKER\n", b"after\n")
    assert outcome.preamble == b"before\n\nMARKER of another kind\n"


def test_marker_may_arrive_in_pieces() -> None:
    outcome = exchange("printf xMAR; sleep 0.05; printf KER; sleep 0.05; echo; echo out")
    assert outcome.stdout == b"out\n"


def test_end_of_long_preamble_is_kept() -> None:
    outcome = exchange("head -c 1000000 /dev/zero; echo last; exit 1")
    assert (outcome.started, outcome.status) == (False, 1)
    assert outcome.preamble.endswith(b"\0last\n")
    assert len(outcome.preamble) <= PREAMBLE_LIMIT + 1


def test_input_is_sent_only_after_marker() -> None:
    """What a login shell reads before the marker gets nothing of it."""
    steals = "stolen=$(timeout 0.3 cat); "
    outcome = exchange(f'{steals} {MARKS} printf "%s|" "$stolen"; cat', source=io.BytesIO(b"data"))
    assert outcome.stdout == b"|data"


def test_command_without_input_gets_its_end() -> None:
    assert exchange(f"cat; {MARKS} cat; echo end").stdout == b"end\n"


@pytest.mark.parametrize("size", [0, 1, 65536, 3_000_000])
def test_source_and_sink_carry_every_byte(size: int) -> None:
    data = bytes(range(256)) * (size // 256) + b"x" * (size % 256)
    sink = io.BytesIO()
    outcome = exchange(f"{MARKS} cat", source=io.BytesIO(data), sink=sink)
    assert sink.getvalue() == data
    assert (outcome.status, outcome.transferred, outcome.input_complete) == (0, size, True)
    assert outcome.sha256 == hashlib.sha256(data).hexdigest()
    assert outcome.stdout == b""


def test_source_that_is_not_read_is_incomplete() -> None:
    outcome = exchange(f"{MARKS} head -c 10", source=io.BytesIO(b"x" * 10_000_000))
    assert (outcome.status, outcome.stdout, outcome.input_complete) == (0, b"x" * 10, False)


# --- limits ---------------------------------------------------------------------------------------------------------


def test_start_and_end_of_stderr_are_kept() -> None:
    outcome = exchange(f"{MARKS} {{ echo first; head -c 1000000 /dev/zero; echo last; }} >&2")
    assert outcome.stderr.startswith(b"first\n\0")
    assert outcome.stderr.endswith(b"\0last\n")
    assert len(outcome.stderr) < STDERR_LIMIT + 100
    assert b"[... 934,475 bytes ...]" in outcome.stderr


def test_endless_output_is_given_up() -> None:
    with pytest.raises(OutputLimitError):
        exchange(f"{MARKS} yes")


def test_time_counts_for_whole_command() -> None:
    with pytest.raises(CommandTimeoutError) as caught:
        exchange(f"{MARKS} while :; do echo x; sleep 0.05; done", timeout=0.5)
    assert (caught.value.seconds, caught.value.stalled) == (0.5, False)


def test_moving_stream_has_no_time_limit() -> None:
    sink = io.BytesIO()
    exchange(f"{MARKS} for i in 1 2 3 4 5 6; do echo $i; sleep 0.2; done", sink=sink, timeout=0.9)
    assert sink.getvalue() == b"1\n2\n3\n4\n5\n6\n"


@pytest.mark.parametrize(
    ("script", "source"),
    [("echo x; exec sleep 600", None), ("exec sleep 600", b"x" * 10_000_000)],
    ids=["no output", "no reading"],
)
def test_stalled_stream_is_given_up(script: str, source: bytes | None) -> None:
    streams: dict[str, Any] = {"source": io.BytesIO(source)} if source else {"sink": io.BytesIO()}
    with pytest.raises(CommandTimeoutError) as caught:
        exchange(f"{MARKS} {script}", timeout=0.5, **streams)
    assert (caught.value.seconds, caught.value.stalled) == (0.5, True)


def test_command_may_work_after_its_input_ends() -> None:
    outcome = exchange(f"{MARKS} cat; sleep 0.7; echo end", source=io.BytesIO(b"data "), timeout=0.2)
    assert outcome.stdout == b"data end\n"


def test_stream_must_start_in_time(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("demo_backups.remote.exchange.START_TIMEOUT", 0.3)
    with pytest.raises(CommandTimeoutError) as caught:
        exchange("while :; do echo x; sleep 0.05; done", source=io.BytesIO(b""), timeout=600)
    assert (caught.value.seconds, caught.value.stalled) == (0.3, False)


def test_slow_reader_limits_what_is_sent(tmp_path: Path) -> None:
    """The source is read only as fast as the command reads: nothing is collected on the way."""
    go = tmp_path / "go"
    source = CountingSource(50_000_000)

    def release() -> None:
        while source.count < 200_000 and not source.closed:
            time.sleep(0.01)
        count = -1
        while count != source.count:  # until it stands still
            count = source.count
            time.sleep(0.3)
        counts.append(count)
        go.touch()

    counts: list[int] = []
    thread = threading.Thread(target=release)
    thread.start()
    script = f"until [ -e {shlex.quote(str(go))} ]; do sleep 0.02; done; cat >/dev/null"
    outcome = exchange(f"{MARKS} {script}", source=source)
    thread.join()
    assert outcome.transferred == source.count == 50_000_000
    assert counts[0] <= 1_000_000


class CountingSource(io.BytesIO):
    """A source of so many bytes that counts what was read of it."""

    def __init__(self, size: int) -> None:
        super().__init__()
        self.count = 0
        self._size = size

    def read(self, size: int | None = -1) -> bytes:
        assert size is not None
        assert size > 0
        chunk = min(size, self._size - self.count)
        self.count += chunk
        return bytes(chunk)


# --- the local ends -------------------------------------------------------------------------------------------------


class FullDisk(io.BytesIO):
    """A sink without room."""

    def write(self, data: Any) -> int:
        raise OSError(28, "No space left on device")


class BrokenDisk(io.BytesIO):
    """A source that cannot be read to its end."""

    def read(self, size: int | None = -1) -> bytes:
        if self.tell():
            raise OSError(5, "Input/output error")
        return super().read(4)


class ShortWrites(io.RawIOBase):
    """A sink that takes three bytes at a time."""

    def __init__(self) -> None:
        super().__init__()
        self.content = b""

    def writable(self) -> bool:
        return True

    def write(self, data: Any) -> int:
        self.content += bytes(data[:3])
        return len(data[:3])


def test_full_disk_is_no_lost_connection() -> None:
    with pytest.raises(LocalStreamError, match="No space left on device"):
        exchange(f"{MARKS} cat /dev/zero", sink=FullDisk())


def test_unreadable_source_is_reported(tmp_path: Path) -> None:
    with pytest.raises(LocalStreamError, match="Input/output error"):
        exchange(f"{MARKS} cat", source=BrokenDisk(b"some data"))


def test_short_writes_are_completed() -> None:
    sink: Any = ShortWrites()
    exchange(f"{MARKS} echo 0123456789", sink=sink)
    assert sink.content == b"0123456789\n"


# --- sudo -----------------------------------------------------------------------------------------------------------


def test_password_is_sent_only_after_prompt() -> None:
    script = f'early=$(timeout 0.3 cat); printf "prompt> " >&2; read -r line; {MARKS} echo "$early|$line"; cat'
    outcome = exchange(script, prompt=b"prompt> ", password=b"secret", source=io.BytesIO(b"data"))
    assert outcome.stdout == b"|secret\ndata"


def test_password_is_not_sent_without_prompt() -> None:
    outcome = exchange(f"{MARKS} cat; printf 'prompt> ' >&2", prompt=b"prompt> ", password=b"secret")
    assert (outcome.stdout, outcome.stderr) == (b"", b"prompt> ")


def test_second_prompt_means_wrong_password() -> None:
    script = 'printf "prompt> " >&2; read -r line; echo Sorry >&2; printf "prompt> " >&2; read -r line; echo "$line"'
    with pytest.raises(PasswordRefusedError):
        exchange(f"{script}; {MARKS}", prompt=b"prompt> ", password=b"secret")


def test_pending_interrupt_ends_exchange() -> None:
    interrupts = Interrupts()
    interrupts.pending = True
    with pytest.raises(KeyboardInterrupt):
        run_exchange(LocalRunner().start(f"{MARKS} sleep 600"), Request(b"MARKER"), interrupts)
