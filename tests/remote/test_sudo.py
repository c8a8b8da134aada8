"""Why sudo refuses, also sudo-rs: a program that prints what sudo-rs prints, since Debian 12 has no package of it."""

from __future__ import annotations

from pathlib import Path

import pytest

from demo_backups.errors import SudoError
from demo_backups.remote.host import Host
from demo_backups.remote.sudo import Refusal, explain_refusal

from ..helpers.programs import shadow_program

# As its src/sudo/pam.rs and src/common/error.rs.
SUDO_RS = r"""
if [[ "$1" == -n ]]; then echo "sudo: interactive authentication is required" >&2; exit 1; fi
[[ "$1 $2" == "-S -p" ]] || exit 99
for (( try = 1; try <= TRIES; try++ )); do
  printf '[sudo: %s] Password: ' "$3" >&2
  read -r password; echo >&2
  if [[ "$password" == right ]]; then shift 5; exec "$@"; fi
  (( try == TRIES )) || echo "sudo: Authentication failed, try again." >&2
done
echo "sudo: maximum $TRIES incorrect authentication attempts" >&2; exit 1
"""


@pytest.fixture(params=["1", "3"])
def sudo_rs(request: pytest.FixtureRequest, local_host: Host, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Host:
    """This machine, whose user is not root and whose sudo is sudo-rs with a limit of tries."""
    monkeypatch.setenv("TRIES", request.param)
    shadow_program(tmp_path / "bin", "sudo", SUDO_RS, monkeypatch)
    shadow_program(tmp_path / "bin", "id", "echo 1000", monkeypatch)
    local_host.use_sudo = True
    return local_host


def test_password_of_sudo_rs_is_sent(sudo_rs: Host, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("demo_backups.remote.host.ask_secret", lambda prompt: "right")
    assert sudo_rs.run("try", "echo out", root=True).stdout == "out\n"


def test_wrong_password_of_sudo_rs(sudo_rs: Host, monkeypatch: pytest.MonkeyPatch) -> None:
    questions: list[str] = []

    def answer(prompt: str) -> str:
        questions.append(prompt)
        return "wrong"

    monkeypatch.setattr("demo_backups.remote.host.ask_secret", answer)
    for _ in range(2):
        with pytest.raises(SudoError) as caught:
            sudo_rs.run("try", "echo out", root=True)
        assert "sudo refused the password" in caught.value.action
        assert caught.value.advice == "start the task again"
    assert len(questions) == 1


@pytest.mark.parametrize(
    ("printed", "refusal"),
    [
        ("sudo: sorry, you must have a tty to run sudo", Refusal.TERMINAL),
        ("[x] \nSorry, try again.\n[x] \nsudo: 1 incorrect password attempt", Refusal.PASSWORD),
        ("sudo: 3 incorrect password attempts", Refusal.PASSWORD),
        ("sudo: Maximum 3 incorrect authentication attempts", Refusal.PASSWORD),
        ("torrust is not in the sudoers file.  This incident will be reported.", Refusal.PERMISSION),
        ("Sorry, user torrust is not allowed to execute '/bin/sh' as root on demo.", Refusal.PERMISSION),
        ("sudo: I'm sorry torrust. I'm afraid I can't do that", Refusal.PERMISSION),
        ("sudo: invalid option provided\nusage: sudo -h | -K | -k | -V", Refusal.OPTION),
        ("sudo: a password is required", Refusal.OTHER),
        ("", Refusal.OTHER),
    ],
)
def test_refusal_is_recognized(printed: str, refusal: Refusal) -> None:
    assert explain_refusal(printed) is refusal


@pytest.mark.parametrize("command", ["no-such-program x", "true && no-such-program", "exec no-such-program"])
def test_missing_program_is_named(local_host: Host, command: str) -> None:
    for call in (local_host.query, local_host.execute):
        with pytest.raises(Exception, match="no-such-program") as caught:
            call("try", command)
        assert "install no-such-program on the host" in str(caught.value)
    assert "exit status 127" in local_host.run("try", command).output
