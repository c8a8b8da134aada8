"""A Host runs commands: over SSH (Fabric) or here (Invoke), as root where that is needed.

Everything that is done on a server is a shell command; what goes there, a script or a crontab, goes as an argument of
one. So there is one way in, it works the same here and there, as root and not, and a `.bashrc` that prints, which ends
every SFTP session, does no harm.
"""

from __future__ import annotations

import io
import secrets
import shlex
import threading
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, TypeVar

from invoke.exceptions import AuthFailure, CommandTimedOut

from ..errors import BackupsError, ConnectionLostError, CouldNotLookError, InterruptedRunError, StepError
from ..project import task_command
from .auth import ask_secret
from .runners import NoSessionError, connection_errors

T = TypeVar("T")
COMMAND_TIMEOUT = 60  # seconds, for a question; what copies or reads a database gets LONG_TIMEOUT
LONG_TIMEOUT = 3600
LONGEST_COMMAND, MOST_COMMANDS = 2000, 100  # characters of a command, and commands, that are kept for the record
LARGEST_ARGUMENT = 128 * 1024 - 4096  # bytes; Linux takes 128 KiB for one argument (execve(2), MAX_ARG_STRLEN)
SUDO_ADVICE = "allow it in sudoers, run this task on a terminal, or set use_sudo to false (INVOKE_USE_SUDO=0)"


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
    def output(self) -> str:
        """All that it printed, and its exit status if that is all there is to say."""
        words = "\n".join(text.strip() for text in (self.stderr, self.stdout) if text.strip())
        return words or ("it was killed by a signal" if self.status is None else f"exit status {self.status}")


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
        self, action: str, command: str, *, root: bool = False, timeout: int = COMMAND_TIMEOUT, display: str = ""
    ) -> Result:
        """Run a POSIX shell command and wait for it, `timeout` seconds at most.

        `action` says in an error what was tried ("list the backups"). With `root`, and `use_sudo` in the settings, root
        runs it. The record has the command, or what is `display` instead. Raises CouldNotLookError where the command
        did not start, ConnectionLostError where it gave no answer in time or was cut off, and InterruptedRunError after
        Ctrl-C.
        """
        # Whatever the login shell prints before the marker is not the command's.
        script = f"echo {self._marker}; echo {self._marker} >&2; exec </dev/null; LC_ALL=C; export LC_ALL\n{command}"
        shell = f"/bin/sh -c {shlex.quote(script)}"
        if len(shell.encode("utf-8", "surrogateescape")) > LARGEST_ARGUMENT:
            raise StepError(f"could not {action}: more than {LARGEST_ARGUMENT} bytes for one command", host=self.name)
        run = self._context.run
        if root and self.use_sudo:
            shell = f"{self._root_prefix()}{shell}"
            if self._password is not None:
                run = self._sudo
        streams = io.StringIO(), io.StringIO()
        self._keep(display or command)
        result = self._run_translated(
            action,
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
                f"could not {action}: the command did not start", host=self.name, output=printed, advice=advice
            )
        return Result(result.exited if result.exited >= 0 else None, stdout, stderr)

    def query(self, action: str, command: str, *, root: bool = True, advice: str = "") -> str:
        """Run a command whose output is an answer; raises CouldNotLookError, with an advice, unless it succeeds."""
        result = self.run(action, command, root=root)
        if not result.ok:
            raise CouldNotLookError(
                f"could not {action}", host=self.name, output=result.output, advice=self._advice(result) or advice
            )
        return result.stdout

    def query_parsed(self, action: str, command: str, parse: Callable[[str], T], *, advice: str = "") -> T:
        """Ask, and parse the answer; raises CouldNotLookError also where it cannot be read."""
        answer = self.query(action, command, advice=advice)
        try:
            return parse(answer)
        except (ValueError, IndexError) as error:
            raise CouldNotLookError(
                f"could not {action}: the answer cannot be read", host=self.name, output=f"{answer[:500]}\n({error})"
            ) from error

    def task(self, name: str, *flags: str) -> str:
        """The command with which a task is done on this host."""
        return task_command(name, self.name, *flags)

    def execute(self, action: str, command: str, *, display: str = "") -> str:
        """Run a command that changes something; raises StepError unless it succeeds."""
        result = self.run(action, command, root=True, display=display)
        if not result.ok:
            raise StepError(f"could not {action}", host=self.name, output=result.output, advice=self._advice(result))
        return result.stdout

    def _keep(self, command: str) -> None:
        if len(command) > LONGEST_COMMAND:
            command = f"{command[:LONGEST_COMMAND]}... <{len(command):,} characters in all>"
        if len(self.commands) >= MOST_COMMANDS:
            command = f"<more than {MOST_COMMANDS} commands>"
        if command not in self.commands:
            self.commands.append(command)

    def _advice(self, result: Result) -> str:
        if "Permission denied" in result.stderr and not self.use_sudo:
            return "if it belongs to root there, set use_sudo to true (INVOKE_USE_SUDO=1)"
        return ""

    def _run_translated(self, action: str, run: Any) -> Any:
        """Run it, and turn all that can happen on the way into words."""
        try:
            try:
                result = run()
            finally:  # whatever else comes of a Ctrl-C: Invoke may meet it half set up, and fail of that
                self._raise_pending_interrupt()
        except CommandTimedOut as error:
            raise ConnectionLostError(
                f"could not {action}: no answer within {error.timeout} s", host=self.name, advice=self._still_running
            ) from error
        except KeyboardInterrupt:
            raise InterruptedRunError(
                f"interrupted while trying to {action}", host=self.name, advice=self._still_running
            ) from None
        except AuthFailure as error:
            raise CouldNotLookError(
                f"could not {action}: sudo refused the password", host=self.name, advice="try again"
            ) from error
        except NoSessionError as error:
            raise CouldNotLookError(
                f"could not {action}: the server opens no session for a command",
                host=self.name,
                output=str(error),
                advice="see MaxSessions in its sshd_config",
            ) from error
        except connection_errors() as error:
            raise self._lost(action, str(error)) from error
        return result

    def _raise_pending_interrupt(self) -> None:
        """Raise a KeyboardInterrupt that Python has lost."""
        if self._interrupted.is_set():
            raise KeyboardInterrupt

    def _lost(self, action: str, printed: str) -> BackupsError:
        return ConnectionLostError(
            f"the connection was lost while trying to {action}",
            host=self.name,
            output=printed,
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
                output=probe.stderr,
                advice=SUDO_ADVICE,
            )
        return ""

    def _sudo(self, command: str, **options: Any) -> Any:
        # Invoke writes the password in the encoding of the output, which is latin-1 here: byte for byte.
        password = (self._password or "").encode().decode("latin-1")
        return self._context.sudo(command, user="root", password=password, **options)
