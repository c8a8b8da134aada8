"""A Host runs commands, over SSH or on this machine, as root where that is needed.

Everything on a server is done by shell commands; files are streams of bytes to and from such a command. This works the
same way on a server and on this machine, as root and as another user. A `.bashrc` that prints something does no harm,
while it breaks every SFTP session.
"""

from __future__ import annotations

import copy
import logging
import re
import secrets
import shlex
import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, BinaryIO, TypeVar

from ..errors import (
    BackupsError,
    CommandNotStartedError,
    ConnectionLostError,
    CouldNotLookError,
    InterruptedRunError,
    OutputTooLongError,
    StepError,
    SudoError,
)
from ..project import task_command
from .answers import parse_count, parse_line
from .exchange import (
    OUTPUT_LIMIT,
    CommandTimeoutError,
    ConnectionBrokenError,
    ExchangeResult,
    LocalStreamError,
    NoSessionError,
    OutputLimitError,
    PasswordRefusedError,
    Request,
    run_exchange,
)
from .shell import for_any_shell
from .sudo import SUDO_ADVICE, USE_SUDO, Refusal, explain_refusal
from .terminal import ask_secret

if TYPE_CHECKING:
    from .interrupts import Interrupts
    from .runners import Runner

T = TypeVar("T")
COMMAND_TIMEOUT = 60  # seconds for a query; a command that copies or reads a database gets LONG_TIMEOUT
LONG_TIMEOUT = 3600
LONGEST_COMMAND, MOST_COMMANDS = 2000, 100  # characters of a command, and commands, that a record keeps
LONGEST_ANSWER = 500  # characters of an answer that cannot be parsed, in the error
# Everything that a function of text can raise: no answer of a host ends in a traceback.
PARSE_ERRORS = (ValueError, ArithmeticError, LookupError, TypeError, RecursionError, OSError)
LARGEST_ARGUMENT = 128 * 1024 - 4096  # bytes; Linux takes 128 KiB for one argument (execve(2), MAX_ARG_STRLEN)
PROGRAM_NOT_FOUND = 127  # the exit status of a shell that does not find a program
SUDO_WITHOUT_PASSWORD = "sudo -n -H -- "
PASSWORD_REFUSED = "Sorry, try again."  # what sudo prints, and then asks again
ENGLISH = "LC_ALL=C; export LC_ALL"  # of sudo too, whose messages are recognized

log = logging.getLogger("demo_backups.remote")


@dataclass(frozen=True)
class Result:
    """What a command printed, and its exit status: None if a signal ended it.

    The outputs are decoded so that every byte can be restored: `text.encode("utf-8", "surrogateescape")`.
    """

    status: int | None
    stdout: str
    stderr: str

    @property
    def ok(self) -> bool:
        """Tell whether the command succeeded."""
        return self.status == 0

    @property
    def output(self) -> str:
        """Both outputs, or the exit status if the command printed nothing."""
        printed = "\n".join(text.strip() for text in (self.stderr, self.stdout) if text.strip())
        if self.status == PROGRAM_NOT_FOUND:
            printed += f"\nexit status {PROGRAM_NOT_FOUND}: a program is not installed there, or not on the PATH"
        return printed.strip() or _describe_status(self.status)


@dataclass(frozen=True)
class Transfer:
    """What was streamed to or from a command: its result, and the number and the SHA-256 of the bytes."""

    result: Result
    bytes: int
    sha256: str
    complete: bool  # False where the command ended before it took everything


@dataclass(frozen=True)
class _Command:
    """A command, and what is shown of it."""

    action: str
    script: str
    display: str
    reads_only: bool = False


@dataclass(frozen=True)
class _RootAccess:
    """How commands are run as root: what is put before them, and the password if sudo asks for one."""

    prefix: str
    password: bytes | None = None


class Host:
    """A server, or this machine, on which commands are run.

    `commands` lists what was run, for the record: each command once, in order.
    """

    def __init__(self, name: str, runner: Runner, use_sudo: bool, interrupts: Interrupts) -> None:
        self.name = name
        self.use_sudo = use_sudo
        self.commands: list[str] = []
        self._runner = runner
        self._interrupts = interrupts
        self._marker = secrets.token_hex(16)
        self._prompt = f"[{secrets.token_hex(16)}] "
        self._root_access: _RootAccess | None = None
        self._password_refused = False

    def as_login(self) -> Host:
        """Return this host without sudo: what it runs as root is then run as the login user. They share the record."""
        host = copy.copy(self)
        host.use_sudo = False
        return host

    def run(
        self,
        action: str,
        command: str,
        *,
        root: bool = False,
        timeout: float = COMMAND_TIMEOUT,
        display: str = "",
        reads_only: bool = False,
    ) -> Result:
        """Run a POSIX shell command and wait for it, for `timeout` seconds at most.

        `action` names in an error what was tried ("list the backups"). With `root`, and `use_sudo` in the settings,
        root runs it. The record and the log contain `display`, or the command if that is empty. An error does not warn
        of a command that may still be running if it `reads_only`.

        Raises CouldNotLookError if the command did not start or printed more than OUTPUT_LIMIT, ConnectionLostError if
        it gave no answer in time or was cut off, and InterruptedRunError after Ctrl-C.
        """
        transfer = self.stream(action, command, root=root, timeout=timeout, display=display, reads_only=reads_only)
        return transfer.result

    def stream(
        self,
        action: str,
        command: str,
        *,
        root: bool = False,
        timeout: float = COMMAND_TIMEOUT,
        display: str = "",
        reads_only: bool = False,
        source: BinaryIO | None = None,
        sink: BinaryIO | None = None,
        hashes: bool = True,
    ) -> Transfer:
        """Run a command as `run` does, send a source to its standard input, write its standard output to a sink.

        With a source or a sink, `timeout` is how long nothing may move. Without a source the input is empty. A command
        with a source cannot tell a source that was cut off from one that has ended: it must compare a size or a hash.
        Without `hashes` the transfer has no SHA-256, for a sink that computes its own.
        """
        self._remember(display or command)
        request = Request(timeout=timeout, source=source, sink=sink, hashes=hashes)
        outcome = self._run_with_access(_Command(action, command, display or command, reads_only), root, request)
        result = Result(outcome.status, _decode(outcome.stdout), _decode(outcome.stderr))
        return Transfer(result, outcome.transferred, outcome.sha256, outcome.input_complete)

    def query(self, action: str, command: str, *, root: bool = True, advice: str = "") -> str:
        """Run a command and return its output; raises CouldNotLookError, with the advice, unless it succeeds."""
        result = self.run(action, command, root=root, reads_only=True)
        if not result.ok:
            raise CouldNotLookError(
                f"could not {action}", host=self.name, output=result.output, advice=self.advise(result) or advice
            )
        return result.stdout

    def query_parsed(self, action: str, command: str, parse: Callable[[str], T], *, advice: str = "") -> T:
        """Run a query and parse its answer; raises CouldNotLookError also for an answer that cannot be parsed."""
        return self.parse(action, self.query(action, command, advice=advice), parse)

    def parse(self, action: str, answer: str, parse: Callable[[str], T]) -> T:
        """Parse what a command printed; raises CouldNotLookError for an answer that cannot be parsed.

        The error shows the start of the answer.
        """
        try:
            return parse(answer)
        except PARSE_ERRORS as error:
            shown = answer[:LONGEST_ANSWER] + (
                f"... <{len(answer):,} characters in all>" * (len(answer) > LONGEST_ANSWER)
            )
            reason = str(error)[:LONGEST_ANSWER]
            raise CouldNotLookError(
                f"could not {action}: the answer cannot be parsed",
                host=self.name,
                output=f"{shown or 'no output'}\n({reason})",
            ) from error

    def execute(self, action: str, command: str, *, display: str = "") -> str:
        """Run a command that changes something, as root; raises StepError unless it succeeds."""
        result = self.run(action, command, root=True, display=display)
        self.require_success(action, result)
        return result.stdout

    def require_success(self, action: str, result: Result) -> None:
        """Raise StepError unless a command that changes something has succeeded."""
        if not result.ok:
            raise StepError(f"could not {action}", host=self.name, output=result.output, advice=self.advise(result))

    def wait(self, seconds: float) -> None:
        """Sleep between two commands; raises KeyboardInterrupt."""
        self._interrupts.wait(seconds)

    def task(self, name: str, *flags: str) -> str:
        """Return the command with which a user runs a task on this host."""
        return task_command(name, self.name, *flags)

    def command_line(self, command: str) -> str:
        """Return what a user types on the host to run a shell command as this Host does: as root where it uses sudo."""
        uses_sudo = self._root_access is not None and self._root_access.prefix
        return f"sudo -H sh -c {shlex.quote(command)}" if uses_sudo else command

    def _remember(self, command: str) -> None:
        if len(command) > LONGEST_COMMAND:
            command = f"{command[:LONGEST_COMMAND]}... <{len(command):,} characters in all>"
        if len(self.commands) >= MOST_COMMANDS:
            command = f"<more than {MOST_COMMANDS} commands>"
        if command not in self.commands:
            self.commands.append(command)

    def advise(self, result: Result) -> str:
        """Say what to do about a command that failed, where its exit status or message tells that; else nothing."""
        if result.status == PROGRAM_NOT_FOUND:
            program = find_missing_program(result.stderr)
            return f"install {program or 'the program'} on the host, or put it on the PATH of this login"
        if "Permission denied" in result.stderr and not self.use_sudo:
            return f"if it belongs to root on the host, {USE_SUDO}"
        if is_disk_full(result):
            return "free space or inodes on the host: df shows the use of space, df -i that of inodes"
        if "Read-only file system" in result.stderr:
            return "the file system is read-only on the host: see the log of the kernel (dmesg)"
        return ""

    # --- one command --------------------------------------------------------------------------------------------------

    def _run_with_access(self, command: _Command, root: bool, request: Request) -> ExchangeResult:
        """Run a command as the login user or as root; raises CommandNotStartedError."""
        if root and self.use_sudo:
            outcome = self._run_as_root(command, request)
            if not outcome.started:
                raise self._sudo_error(command.action, _decode(outcome.preamble))
            return outcome
        outcome = self._run_logged(command, None, request)
        if not outcome.started:
            raise CommandNotStartedError(
                f"could not {command.action}: the command did not start",
                host=self.name,
                output=_decode(outcome.preamble),
                advice=f"this must print 'ok': ssh {self.name} /bin/sh -c \"'echo ok'\"",
            )
        return outcome

    def _sudo_error(self, action: str, printed: str) -> SudoError:
        refusal = explain_refusal(printed)
        if refusal is Refusal.PASSWORD:
            self._password_refused = True
        return SudoError(
            f"could not {action}: {refusal.problem}", host=self.name, output=printed, advice=refusal.advice
        )

    def _run_as_root(self, command: _Command, request: Request) -> ExchangeResult:
        if self._password_refused:  # not again: a server may lock the account
            raise self._sudo_error(command.action, PASSWORD_REFUSED)
        access = self._find_root_access()
        outcome = self._run_logged(command, access, request)
        if not outcome.started and access.prefix == SUDO_WITHOUT_PASSWORD:
            # Until now sudo did not ask, because it had accepted a password shortly before. Now it asks.
            self._root_access = None
            access = self._find_root_access()
            if access.password is not None:
                outcome = self._run_logged(command, access, request)
        return outcome

    def _run_logged(self, command: _Command, access: _RootAccess | None, request: Request) -> ExchangeResult:
        """Run a command, and log how it ended."""
        begin = time.monotonic()
        ending = "failed"
        try:
            outcome = self._run_translated(command, access or _RootAccess(""), request)
            ending = _describe_status(outcome.status) if outcome.started else "did not start"
            return outcome
        except BackupsError as error:
            ending = error.action
            raise
        finally:
            user = " as root" if access else ""
            log.debug("%s%s: %s, %.2f s: %s", self.name, user, ending, time.monotonic() - begin, command.display)

    def _run_translated(self, command: _Command, access: _RootAccess, request: Request) -> ExchangeResult:
        """Run a command; every way in which that fails becomes an error with an advice."""
        action = command.action
        shell = self._shell_command(command, access.prefix, has_input=request.source is not None)
        request = replace(request, marker=self._marker.encode(), prompt=self._prompt.encode(), password=access.password)
        still_running = f"it may still be running on {self.name}: check that before you start it again"
        if command.reads_only:
            still_running = "it only reads: start the task again"
        try:
            with self._interrupts.deferred():
                self._interrupts.raise_pending()
                started = self._interrupts.call(lambda: self._runner.start(shell), lambda late: late.close())
                return run_exchange(started, request, self._interrupts)
        except KeyboardInterrupt:
            raise InterruptedRunError(
                f"interrupted while trying to {action}", host=self.name, advice=still_running
            ) from None
        except CommandTimeoutError as error:
            problem = "no data was transferred" if error.stalled else "no answer"
            raise ConnectionLostError(
                f"could not {action}: {problem} within {error.seconds:g} s", host=self.name, advice=still_running
            ) from error
        except ConnectionBrokenError as error:
            raise ConnectionLostError(
                f"the connection was lost while trying to {action}",
                host=self.name,
                output=str(error),
                advice=still_running,
            ) from error
        except (NoSessionError, PasswordRefusedError, OutputLimitError, LocalStreamError) as error:
            raise self._refused(action, error) from error

    def _refused(self, action: str, error: Exception) -> BackupsError:
        match error:
            case NoSessionError():
                return CommandNotStartedError(
                    f"could not {action}: the server opens no session for the command",
                    host=self.name,
                    output=str(error),
                    advice="see MaxSessions in its sshd_config",
                )
            case PasswordRefusedError():
                return self._sudo_error(action, PASSWORD_REFUSED)
            case OutputLimitError():
                return OutputTooLongError(
                    f"could not {action}: the command printed more than {OUTPUT_LIMIT:,} bytes", host=self.name
                )
            case _:
                return StepError(
                    f"could not {action}: a file on this machine could not be read or written",
                    host=self.name,
                    output=str(error),
                )

    def _shell_command(self, command: _Command, prefix: str, has_input: bool) -> str:
        """Make a command of any login shell, which runs a script that starts with the markers."""
        script = f"echo {self._marker}; echo {self._marker} >&2; {'' if has_input else 'exec </dev/null; '}"
        script += f"{ENGLISH}\n{command.script}"
        shell = for_any_shell(f"{ENGLISH}; exec {prefix}/bin/sh -c {shlex.quote(script)}")
        if len(shell.encode("utf-8", "surrogateescape")) > LARGEST_ARGUMENT:
            raise StepError(
                f"could not {command.action}: more than {LARGEST_ARGUMENT} bytes for one command", host=self.name
            )
        return shell

    # --- root ---------------------------------------------------------------------------------------------------------

    def _find_root_access(self) -> _RootAccess:
        """Find out once how to become root: not at all, by `sudo -n`, or by a password typed on the terminal."""
        if self._root_access is None:
            action = "find out the user id"
            user_id = self.parse(action, self.query(action, "id -u", root=False), parse_user_id)
            self._root_access = _RootAccess("") if user_id == 0 else self._try_sudo()
        return self._root_access

    def _try_sudo(self) -> _RootAccess:
        probe = self.run("use sudo", "sudo -n true")
        if probe.ok:
            return _RootAccess(SUDO_WITHOUT_PASSWORD)
        if probe.status == PROGRAM_NOT_FOUND:
            raise SudoError("sudo is not installed", host=self.name, advice="log in as root, or set use_sudo to false")
        if explain_refusal(probe.stderr) is Refusal.TERMINAL:
            raise self._sudo_error("use sudo", probe.stderr)
        password = ask_secret(f"sudo password on {self.name} (asked once, not stored): ")
        if password is None:
            raise SudoError(
                "sudo asks for a password, and there is no terminal to ask for it",
                host=self.name,
                output=probe.stderr,
                advice=SUDO_ADVICE,
            )
        return _RootAccess(
            f"{shlex.join(['sudo', '-S', '-p', self._prompt, '-H', '--'])} ",
            password.encode("utf-8", "surrogateescape"),
        )


def parse_user_id(output: str) -> int:
    """Parse what `id -u` printed; raises ValueError."""
    return parse_count(parse_line(output), largest=2**32)


def is_disk_full(result: Result) -> bool:
    """Tell whether a command complained of a full disk or quota."""
    return "No space left on device" in result.stderr or "Disk quota exceeded" in result.stderr


def find_missing_program(stderr: str) -> str | None:
    """Find in the message of a shell the name of the program that it did not find; None if there is none."""
    match = re.search(r"^[^\n]*?: (?:line )?(?:\d+: )?([^:\s]+): (?:command )?not found$", stderr, re.MULTILINE)
    return match[1] if match else None


def _describe_status(status: int | None) -> str:
    return "killed by a signal" if status is None else f"exit status {status}"


def _decode(printed: bytes) -> str:
    return printed.decode("utf-8", "surrogateescape")
