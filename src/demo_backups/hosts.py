"""A Host runs commands: over SSH (Fabric) or here (Invoke), as root where that is needed.

Everything that is done on a server is a shell command; what goes there, a script or a crontab, goes as an argument of
one. So there is one way in, it works the same here and there, as root and not, and a `.bashrc` that prints, which ends
every SFTP session, does no harm.
"""

from __future__ import annotations

import _weakrefset
import contextlib
import io
import secrets
import shlex
import signal
import sys
import threading
import time
import weakref
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from types import FrameType
from typing import Any, TypeVar

import invoke
from invoke.exceptions import AuthFailure, CommandTimedOut, ThreadException

from .errors import BackupsError, ConnectionLostError, CouldNotLookError, InterruptedRunError, StepError
from .settings import LOCAL, Settings, check_host

COMMAND_TIMEOUT = 60  # seconds, for a question; what copies or reads a database gets LONG_TIMEOUT
LONG_TIMEOUT = 3600
LONGEST_KEPT, MOST_KEPT = 2000, 100  # characters of a command, and commands, that are kept for the record
ANSWER_TIMEOUT = 30  # seconds, for the server to take a command, or to give a sign of life
LARGEST_ARGUMENT = 128 * 1024 - 4096  # bytes; Linux takes 128 KiB for one argument (execve(2), MAX_ARG_STRLEN)

SUDO_ADVICE = "allow it in sudoers, run this task on a terminal, or set use_sudo to false (INVOKE_USE_SUDO=0)"


T = TypeVar("T")


@dataclass(frozen=True)
class Result:
    """What a command said: its exit status, None if a signal ended it, and its two outputs.

    The outputs are decoded so that every byte comes back out again: `text.encode("utf-8", "surrogateescape")`.
    """

    status: int | None
    stdout: str
    stderr: str

    @property
    def ok(self) -> bool:
        """Tell whether the command succeeded."""
        return self.status == 0

    @property
    def printed(self) -> str:
        """All that it printed, and its exit status if that is all there is to say."""
        words = "\n".join(text.strip() for text in (self.stderr, self.stdout) if text.strip())
        return words or ("it was killed by a signal" if self.status is None else f"exit status {self.status}")


def task_command(name: str, host: str, *flags: str) -> str:
    """The command with which a task is done on a host, for a user to type."""
    return shlex.join(["./inv", name, "--host", host, *flags])


class Host:
    """A server, or this machine, on which commands are run.

    `context` is Invoke's Context or Fabric's Connection: the two have one interface.
    `commands` is what was run, for the record: each command once, in order.
    """

    def __init__(self, name: str, context: Any, use_sudo: bool, interrupted: threading.Event) -> None:
        self.name = name
        self._interrupted = interrupted
        self.use_sudo = use_sudo
        self.commands: list[str] = []
        self._context = context
        self._marker = secrets.token_hex(16)
        self._prefix: str | None = None
        self._password: str | None = None
        context.config.sudo.prompt = f"[{self._marker}] "

    def run(
        self, what: str, command: str, *, root: bool = False, timeout: int = COMMAND_TIMEOUT, shown: str = ""
    ) -> Result:
        """Run a POSIX shell command and wait for it, `timeout` seconds at most.

        `what` says in an error what was tried ("list the backups"). With `root`, and `use_sudo` in the settings, root
        runs it. The record has the command, or what is `shown` in its stead. Raises CouldNotLookError where the command
        did not start, ConnectionLostError where it gave no answer in time or was cut off, and InterruptedRunError after
        Ctrl-C.
        """
        # Whatever the login shell prints before the marker is not the command's.
        script = f"echo {self._marker}; echo {self._marker} >&2; exec </dev/null; LC_ALL=C; export LC_ALL\n{command}"
        shell = f"/bin/sh -c {shlex.quote(script)}"
        if len(shell.encode("utf-8", "surrogateescape")) > LARGEST_ARGUMENT:
            raise StepError(f"could not {what}: more than {LARGEST_ARGUMENT} bytes for one command", host=self.name)
        run = self._context.run
        if root and self.use_sudo:
            shell = f"{self._root_prefix()}{shell}"
            if self._password is not None:
                run = self._sudo
        streams = io.StringIO(), io.StringIO()
        self._keep(shown or command)
        result = self._started(
            what,
            lambda: run(
                shell,
                hide=False,
                warn=True,
                echo=False,
                pty=False,
                in_stream=False,
                encoding="latin-1",
                timeout=timeout,
                out_stream=streams[0],
                err_stream=streams[1],
            ),
        )
        outputs = [
            stream.getvalue().encode("latin-1").decode("utf-8", "surrogateescape").partition(f"{self._marker}\n")
            for stream in streams
        ]
        (_, started, stdout), (_, _, stderr) = outputs
        if not started:
            advice = (
                SUDO_ADVICE
                if root and self.use_sudo
                else f"this must print 'ok': ssh {self.name} /bin/sh -c \"'echo ok'\""
            )
            printed = "\n".join(before for before, *_ in reversed(outputs))
            raise CouldNotLookError(
                f"could not {what}: the command did not start", host=self.name, printed=printed, advice=advice
            )
        return Result(result.exited if result.exited >= 0 else None, stdout, stderr)

    def ask(self, what: str, command: str, *, root: bool = True, advice: str = "") -> str:
        """Run a command whose output is an answer; raises CouldNotLookError, with an advice, unless it succeeds."""
        result = self.run(what, command, root=root)
        if not result.ok:
            raise CouldNotLookError(
                f"could not {what}", host=self.name, printed=result.printed, advice=self._advice(result) or advice
            )
        return result.stdout

    def learn(self, what: str, command: str, parse: Callable[[str], T], *, advice: str = "") -> T:
        """Ask, and parse the answer; raises CouldNotLookError also where it cannot be read."""
        answer = self.ask(what, command, advice=advice)
        try:
            return parse(answer)
        except (ValueError, IndexError) as error:
            raise CouldNotLookError(
                f"could not {what}: the answer cannot be read", host=self.name, printed=f"{answer[:500]}\n({error})"
            ) from error

    def task(self, name: str, *flags: str) -> str:
        """The command with which a task is done on this host."""
        return task_command(name, self.name, *flags)

    def act(self, what: str, command: str, *, shown: str = "") -> str:
        """Run a command that changes something; raises StepError unless it succeeds."""
        result = self.run(what, command, root=True, shown=shown)
        if not result.ok:
            raise StepError(f"could not {what}", host=self.name, printed=result.printed, advice=self._advice(result))
        return result.stdout

    def _keep(self, command: str) -> None:
        if len(command) > LONGEST_KEPT:
            command = f"{command[:LONGEST_KEPT]}... <{len(command):,} characters in all>"
        if len(self.commands) >= MOST_KEPT:
            command = f"<more than {MOST_KEPT} commands>"
        if command not in self.commands:
            self.commands.append(command)

    def _advice(self, result: Result) -> str:
        if "Permission denied" in result.stderr and not self.use_sudo:
            return "if it belongs to root there, set use_sudo to true (INVOKE_USE_SUDO=1)"
        return ""

    def _started(self, what: str, run: Any) -> Any:
        """Run it, and turn all that can happen on the way into words."""
        try:
            try:
                result = run()
            finally:  # whatever else comes of a Ctrl-C: Invoke may meet it half set up, and fail of that
                self._heed_interrupt()
        except CommandTimedOut as error:
            raise ConnectionLostError(
                f"could not {what}: no answer within {error.timeout} s", host=self.name, advice=self._still_running
            ) from error
        except KeyboardInterrupt:
            raise InterruptedRunError(
                f"interrupted while trying to {what}", host=self.name, advice=self._still_running
            ) from None
        except AuthFailure as error:
            raise CouldNotLookError(
                f"could not {what}: sudo refused the password", host=self.name, advice="try again"
            ) from error
        except _NoSessionError as error:
            raise CouldNotLookError(
                f"could not {what}: the server opens no session for a command",
                host=self.name,
                printed=str(error),
                advice="see MaxSessions in its sshd_config",
            ) from error
        except _connection_errors() as error:
            raise self._lost(what, str(error)) from error
        return result

    def _heed_interrupt(self) -> None:
        """Raise a KeyboardInterrupt that Python has lost."""
        if self._interrupted.is_set():
            raise KeyboardInterrupt

    def _lost(self, what: str, printed: str) -> BackupsError:
        return ConnectionLostError(
            f"the connection was lost while trying to {what}",
            host=self.name,
            printed=printed,
            advice=self._still_running,
        )

    @property
    def _still_running(self) -> str:
        return f"it may still be running on {self.name}: look there before you start it again"

    def _root_prefix(self) -> str:
        """Find out once how to become root: not at all, by `sudo -n`, or by a password asked for on a terminal."""
        if self._prefix is None:
            self._prefix = "" if self.run("see who we are", "id -u").stdout.strip() == "0" else self._try_sudo()
        return self._prefix

    def _try_sudo(self) -> str:
        from .login import ask_secret

        probe = self.run("use sudo", "sudo -n true")
        if probe.ok:
            return "sudo -n -H -- "
        if probe.status == 127:
            raise CouldNotLookError(
                "sudo is not installed", host=self.name, advice="log in as root, or set use_sudo to false"
            )
        self._password = ask_secret(f"sudo password on {self.name} (asked once, kept nowhere): ")
        if self._password is None:
            raise CouldNotLookError(
                "sudo asks for a password, and there is no terminal to ask for it",
                host=self.name,
                printed=probe.stderr,
                advice=SUDO_ADVICE,
            )
        return ""

    def _sudo(self, command: str, **options: Any) -> Any:
        # Invoke writes the password in the encoding of the output, which is latin-1 here: byte for byte.
        password = (self._password or "").encode().decode("latin-1")
        return self._context.sudo(command, user="root", password=password, **options)


def _connection_errors() -> tuple[type[BaseException], ...]:
    """What a connection that breaks may raise; Paramiko's own only where it is loaded at all."""
    paramiko = sys.modules.get("paramiko")
    return (ThreadException, EOFError, OSError, *((paramiko.SSHException,) if paramiko else ()))


@contextlib.contextmanager
def _interrupts() -> Iterator[threading.Event]:
    """Note every Ctrl-C: Python loses one that meets a callback of its own, and prints a traceback instead."""
    noted = threading.Event()
    before = signal.getsignal(signal.SIGINT)
    if not callable(before) or threading.current_thread() is not threading.main_thread():
        yield noted
        return

    def note(number: int, frame: FrameType | None) -> None:
        noted.set()
        if not _would_be_lost(frame):
            before(number, frame)

    signal.signal(signal.SIGINT, note)
    try:
        yield noted
    finally:
        signal.signal(signal.SIGINT, before)


def _would_be_lost(frame: FrameType | None) -> bool:
    """Tell whether what is raised here goes nowhere: in the callback of a weak reference, or in a `__del__`."""
    while frame:
        if frame.f_code.co_name == "__del__" or frame.f_code.co_filename in (weakref.__file__, _weakrefset.__file__):
            return True
        frame = frame.f_back
    return False


@contextlib.contextmanager
def open_host(settings: Settings, name: str | None = None) -> Iterator[Host]:
    """Open a Host by its name, the settings' own by default; `local` is this machine.

    Raises SettingsError and CouldNotLookError.
    """
    name = check_host(name or settings.host)
    with _interrupts() as interrupted:
        if name == LOCAL:
            yield Host(name, _local_context(), settings.use_sudo, interrupted)
            return
        from .ssh import close, connect

        connection = connect(
            name, Path(settings.ssh_config).expanduser() if settings.ssh_config else None, _remote_runner()
        )
        try:
            yield Host(name, connection, settings.use_sudo, interrupted)
        finally:
            close(connection)


def _local_context() -> invoke.Context:
    # Neither files nor environment: what the user set for other projects' tasks does not reach these commands.
    config = invoke.Config(lazy=True, overrides={"run": {"shell": "/bin/sh"}, "runners": {"local": _LocalRunner}})
    return invoke.Context(config)


class _NoSessionError(Exception):
    """The server refused a session: the command did not start."""


class _GivenUp(invoke.Runner):
    """Know for sure that a command was given up, and then wait for nothing: what it started may hold its outputs."""

    _given_up = False

    def kill(self) -> None:
        """End the command, as far as that can be done from here."""
        self._given_up = True
        with contextlib.suppress(*_connection_errors()):  # where the connection is gone, that has ended it
            super().kill()

    @property
    def timed_out(self) -> bool:
        """Tell whether it was the timer that ended it."""
        return self._given_up

    def _thread_join_timeout(self, target: Callable[..., Any]) -> int | None:
        return 0 if self._given_up else super()._thread_join_timeout(target)


class _LocalRunner(_GivenUp, invoke.Local):
    def send_interrupt(self, interrupt: KeyboardInterrupt) -> None:
        """End at once on Ctrl-C; by itself Invoke waits for the command."""
        self.kill()
        raise interrupt


@contextlib.contextmanager
def _at_most(seconds: float, close: Callable[[], object]) -> Iterator[None]:
    """Bound a wait that Paramiko does not: after so many seconds, close what is waited for, which ends it."""

    def give_up() -> None:
        with contextlib.suppress(*_connection_errors()):  # who waited goes on at once, and may be first to end it all
            close()

    timer = threading.Timer(seconds, give_up)
    timer.start()
    try:
        yield
    finally:
        timer.cancel()


def _remote_runner() -> Any:
    import fabric.runners
    import paramiko

    class RemoteRunner(_GivenUp, fabric.runners.Remote):
        def start(self, *args: Any, **kwargs: Any) -> None:
            """Start the command; where MaxSessions is 1, sshd refuses it until it has forgotten the one before."""
            for pause in (0.05, 0.2, 1, None):
                try:
                    super().start(*args, **kwargs)
                except paramiko.ChannelException as error:  # comes from opening the session: nothing has started
                    if pause is None:
                        raise _NoSessionError(str(error)) from error
                    time.sleep(pause)
                else:
                    return

        def send_start_message(self, command: str) -> None:
            """Send the very bytes: a name of a file need not be UTF-8."""
            with _at_most(ANSWER_TIMEOUT, self.channel.close):
                self.channel.exec_command(command.encode("utf-8", "surrogateescape"))

        def returncode(self) -> Any:
            """The exit status, -1 after a signal; raises EOFError where it was the connection that ended."""
            status = super().returncode()
            if status == -1 and not self.timed_out:
                # A lost connection looks the same at first. One that answers is there.
                with _at_most(ANSWER_TIMEOUT, self.context.transport.close):
                    self.context.transport.global_request("keepalive@openssh.com", wait=True)
                if not self.context.is_connected:
                    raise EOFError
            return status

        def send_interrupt(self, interrupt: KeyboardInterrupt) -> None:
            """End at once on Ctrl-C; by itself Fabric waits for the threads that read the command's output."""
            self.channel.close()
            raise interrupt

    return RemoteRunner
