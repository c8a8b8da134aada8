"""What the user asked a restore to do, and the question before it."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import PurePosixPath

from ..errors import RestoreRefusedError, SettingsError
from ..recovery.copies import ON_SERVER, check_place
from ..remote.terminal import ask_yes_no, has_terminal
from .session import Session


@dataclass(frozen=True)
class RestoreOptions:
    """What the user asked for: which backup, from where, to which path, and how.

    Without a backup, the newest saved state is restored (`undo`), or a restore that was killed is completed.
    """

    backup: str | None = None
    source: str = ON_SERVER
    target: PurePosixPath | None = None
    swap: bool = False
    undo: bool = False
    yes: bool = False

    def __post_init__(self) -> None:
        check_place(self.source)
        if self.undo and (self.backup or self.target or self.source != ON_SERVER):
            raise SettingsError(
                "--undo restores the state that the last restore has saved",
                advice="leave out --backup, --from and --to; to restore another state, use --backup without --undo",
            )
        if self.target is not None and not self.target.is_absolute():
            raise SettingsError(f"--to {str(self.target)!r} is not an absolute path", advice="name a path on the host")
        if self.target is not None and self.swap:
            raise SettingsError("--to creates a new file, and --swap replaces one", advice="use one of the two")


def require_confirmation(work: Session, options: RestoreOptions) -> None:
    """Raise SettingsError if nobody can be asked, before the time that a verification takes is lost."""
    if not (options.yes or work.dry_run or has_terminal()):
        raise SettingsError(
            "a restore asks before it changes anything, and there is no terminal to ask on",
            host=work.host.name,
            advice="show the plan with --dry-run; to restore without a question: --yes",
        )


def confirm(work: Session, options: RestoreOptions, question: str) -> None:
    """Ask a question, unless `yes` is set; raises RestoreRefusedError if the answer is not yes."""
    if not options.yes and not ask_yes_no(question):
        raise RestoreRefusedError("nothing was restored: the answer was not yes", host=work.host.name)
