"""What can go wrong, in the user's words: what was tried, where, what came back, and the way out."""

from __future__ import annotations

FAILED, WRONG_INPUT, COULD_NOT_LOOK, INTERRUPTED = 1, 2, 3, 130


class BackupsError(Exception):
    """Say what was tried, on which host, what that printed, and what to do next; carry the exit code."""

    exit_code = FAILED

    def __init__(self, action: str, *, host: str | None = None, output: str = "", advice: str = "") -> None:
        super().__init__(action)
        self.action = action
        self.host = host
        self.output = output.strip()
        self.advice = advice

    def __str__(self) -> str:
        first = f"{self.host}: {self.action}" if self.host else self.action
        output = [f"  | {line}" for line in self.output.splitlines()]
        return "\n".join([first, *output, *([f"  -> {self.advice}"] if self.advice else [])])


class StepError(BackupsError):
    """A step was tried and failed, or was refused because it could not go well."""


class SettingsError(BackupsError):
    """The settings or an argument are wrong; nothing was connected to."""

    exit_code = WRONG_INPUT


class CouldNotLookError(BackupsError):
    """Something could not be seen: unreachable, refused, no permission, a tool is missing."""

    exit_code = COULD_NOT_LOOK


class ConnectionLostError(CouldNotLookError):
    """A command was cut off, or gave no answer in time; what it started may go on."""


class InterruptedRunError(BackupsError):
    """The user pressed Ctrl-C."""

    exit_code = INTERRUPTED
