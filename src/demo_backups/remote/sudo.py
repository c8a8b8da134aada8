"""Why sudo has refused, from its messages in English: those of sudo, and those of sudo-rs, which Ubuntu ships."""

from __future__ import annotations

import enum
import re

USE_SUDO = "set use_sudo to true (INVOKE_USE_SUDO=1)"  # the advice where only root can do it
SUDO_ADVICE = "allow it in sudoers, run this task on a terminal, or set use_sudo to false (INVOKE_USE_SUDO=0)"


class Refusal(enum.Enum):
    """Why sudo has refused: a pattern of its messages, what is wrong, and what to do."""

    TERMINAL = (
        "must have a tty",
        "sudo requires a terminal there: requiretty is set in sudoers",
        "add 'Defaults:USER !requiretty' with visudo on the host, log in as root, "
        "or set use_sudo to false (INVOKE_USE_SUDO=0)",
    )
    PASSWORD = (
        r"incorrect (password|authentication) attempt|(Authentication failed|Sorry), try again",
        "sudo refused the password",
        "start the task again",
    )
    PERMISSION = (
        r"not in the sudoers file|is not allowed to (execute|run)|may not run sudo|I'm afraid I can't do that",
        "this user may not use sudo for it",
        "allow it in sudoers on the host, log in as another user, or set use_sudo to false (INVOKE_USE_SUDO=0)",
    )
    OPTION = (
        r"(invalid|unrecognized|unknown) option",
        "this sudo does not know an option: sudo-rs before 0.2.5 has no --prompt",
        "install a newer sudo there, or let sudoers require no password (NOPASSWD)",
    )
    OTHER = ("", "the command did not start", SUDO_ADVICE)

    def __init__(self, pattern: str, problem: str, advice: str) -> None:
        self.pattern = pattern
        self.problem = problem
        self.advice = advice


def explain_refusal(printed: str) -> Refusal:
    """Find out from what sudo has printed why it did not run a command."""
    return next(refusal for refusal in Refusal if re.search(refusal.pattern, printed))
