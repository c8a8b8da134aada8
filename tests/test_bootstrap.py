"""`./inv`: builds .venv once, completely or not at all, and runs Invoke in it.

A stand-in for Python takes the place of the real one, so that nothing is downloaded: it notes how it was called, and
makes a virtual environment whose `inv` notes the same.
"""

from __future__ import annotations

import os
import shutil
import subprocess
from pathlib import Path

import pytest

from demo_backups.project import ROOT

STAND_IN = r"""#!/usr/bin/env bash
printf '%s\n' "$*" >> "$LOG"
case "$*" in
  --version) echo "Python $VERSION" ;;
  "-c import sys; "*) [[ "$VERSION" != 3.9* ]] ;;
  "-c import ensurepip, venv") [[ -z "${NO_VENV:-}" ]] ;;
  "-m venv --clear "*)
    rm -rf -- "$4"; mkdir -p "$4/bin"; cp "$0" "$4/bin/python"
    printf '#!/usr/bin/env bash\nprintf "<%%s>" "$@"; exit "${STATUS:-0}"\n' > "$4/bin/inv"; chmod +x "$4/bin/inv" ;;
  "-m pip install "*"$FAIL"*) echo "no network" >&2; exit 1 ;;
  "-m pip install "*) ;;
  *) echo "unexpected: $*" >&2; exit 99 ;;
esac
"""

BUILT = "inv: building .venv from requirements.lock (once)\n"


class Checkout:
    """A copy of `./inv` and its lock file, and what a call of it did."""

    def __init__(self, folder: Path) -> None:
        self.root = folder / "it's a check out"
        self.log = folder / "log"
        bin_ = folder / "bin"
        for made in (self.root, bin_):
            made.mkdir(parents=True)
        for name in ("inv", "requirements.lock"):
            shutil.copy(ROOT / name, self.root / name)
        self.python = bin_ / "python3"
        self.python.write_text(STAND_IN)
        self.python.chmod(0o755)
        self.environment = {"PATH": f"{bin_}:{os.environ['PATH']}", "LOG": str(self.log)}
        self.environment |= {"VERSION": "3.11.7", "FAIL": "fail with nothing"}

    def __call__(self, *arguments: str, **changes: str) -> subprocess.CompletedProcess[str]:
        words = [str(self.root / "inv"), *arguments]
        environment = self.environment | changes
        return subprocess.run(words, env=environment, cwd="/", capture_output=True, text=True, check=False)

    @property
    def calls(self) -> list[str]:
        """What Python was asked to do since this was last looked at, the looks at itself left out."""
        lines = self.log.read_text().splitlines() if self.log.exists() else []
        self.log.unlink(missing_ok=True)
        return [line for line in lines if line.startswith("-m ")]

    @property
    def stamp(self) -> Path:
        return self.root / ".venv/requirements.lock.sha256"


@pytest.fixture
def checkout(tmp_path: Path) -> Checkout:
    return Checkout(tmp_path)


def test_the_first_call_builds_the_environment_and_the_next_ones_do_not(checkout: Checkout) -> None:
    done = checkout("--list")
    assert (done.returncode, done.stderr) == (0, BUILT)
    assert done.stdout == f"<--search-root><{checkout.root}><--no-dedupe><--list>"
    venv, locked, own = checkout.calls
    assert venv == f"-m venv --clear {checkout.root}/.venv"
    assert "--require-hashes" in locked
    assert locked.endswith(f"-r {checkout.root}/requirements.lock")
    assert {"--no-deps", "--no-index", "--no-build-isolation"} <= set(own.split())
    assert own.endswith(f"--editable {checkout.root}")

    done = checkout("--list")
    assert (done.returncode, done.stderr, checkout.calls) == (0, "", [])


def test_the_sum_of_the_lock_file_tells_what_the_environment_was_built_from(checkout: Checkout) -> None:
    checkout()
    said = subprocess.run(["sha256sum", "requirements.lock"], cwd=checkout.root, capture_output=True, check=True)
    assert checkout.stamp.read_text().split()[0] == said.stdout.decode().split()[0]


@pytest.mark.parametrize("arguments", [[], ["verify", "--backup", 'it\'s a "b" \\ *'], ["", "-h", "--", "a\nb"]])
def test_arguments_arrive_as_they_are(checkout: Checkout, arguments: list[str]) -> None:
    words = "".join(f"<{word}>" for word in ["--search-root", str(checkout.root), "--no-dedupe", *arguments])
    assert checkout(*arguments).stdout == words


def test_the_exit_code_is_that_of_the_task(checkout: Checkout) -> None:
    assert [checkout(STATUS=str(status)).returncode for status in (0, 1, 3)] == [0, 1, 3]


def test_a_lock_file_that_has_changed_is_built_from_anew(checkout: Checkout) -> None:
    checkout()
    with (checkout.root / "requirements.lock").open("a") as lock:
        lock.write("# changed\n")
    assert len(checkout.calls) == 3
    assert checkout().stderr == BUILT
    assert len(checkout.calls) == 3
    assert checkout().stderr == ""


@pytest.mark.parametrize("step", ["--require-hashes", "--editable"])
def test_a_build_that_was_cut_off_is_done_again(checkout: Checkout, step: str) -> None:
    done = checkout("verify", FAIL=step)
    assert (done.returncode, done.stdout) == (1, "")
    assert done.stderr == f"{BUILT}no network\n"
    assert not checkout.stamp.exists()
    assert checkout.calls

    done = checkout("verify")
    assert (done.returncode, done.stderr) == (0, BUILT)
    assert len(checkout.calls) == 3


def test_a_rebuild_that_was_cut_off_does_not_pass_for_the_old_one(checkout: Checkout) -> None:
    checkout()
    lock = checkout.root / "requirements.lock"
    before = lock.read_text()
    lock.write_text(f"{before}# changed\n")
    assert checkout(FAIL="--require-hashes").returncode == 1
    lock.write_text(before)
    assert checkout().stderr == BUILT


def test_an_environment_that_was_moved_or_copied_is_built_anew(checkout: Checkout) -> None:
    checkout()
    checkout.root = checkout.root.rename(checkout.root.with_name("moved"))
    assert checkout().stderr == BUILT


def test_an_environment_whose_python_is_gone_is_built_anew(checkout: Checkout) -> None:
    checkout()
    python = checkout.root / ".venv/bin/python"
    python.unlink()
    python.symlink_to("/usr/bin/python3.gone-with-an-upgrade")
    assert checkout().stderr == BUILT
    assert checkout().stderr == ""


def test_a_python_that_is_too_old_is_refused_by_name(checkout: Checkout) -> None:
    done = checkout(VERSION="3.9.18")
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr.startswith("inv: needs Python 3.10 or newer, and 'python3' is Python 3.9.18. ")
    assert "PYTHON=" in done.stderr
    assert not (checkout.root / ".venv").exists()


def test_another_python_can_be_named(checkout: Checkout, tmp_path: Path) -> None:
    other = tmp_path / "another python"
    shutil.copy(checkout.python, other)
    checkout.python.write_text("#!/bin/sh\nexit 1\n")
    assert checkout(PYTHON=str(other)).returncode == 0
    assert len(checkout.calls) == 3


def test_a_python_that_is_not_there_is_said(checkout: Checkout) -> None:
    done = checkout(PYTHON="/no/such/python3")
    assert done.returncode == 2
    assert "needs Python 3.10 or newer, and '/no/such/python3' is " in done.stderr
    assert "No such file or directory" in done.stderr


def test_a_python_without_venv_is_refused_with_the_way_to_get_it(checkout: Checkout) -> None:
    done = checkout(NO_VENV="1")
    assert done.returncode == 2
    assert done.stderr == (
        "inv: 'python3' lacks the venv module. On Debian and Ubuntu: sudo apt install python3-venv\n"
    )
    assert not (checkout.root / ".venv").exists()


def test_what_is_built_already_runs_without_any_other_python(checkout: Checkout) -> None:
    checkout()
    assert checkout("--list", PYTHON="/no/such/python3").returncode == 0


def test_a_lock_file_that_is_missing_is_said(checkout: Checkout) -> None:
    (checkout.root / "requirements.lock").unlink()
    done = checkout()
    assert (done.returncode, done.stderr) == (2, f"inv: cannot read {checkout.root}/requirements.lock\n")


def test_a_machine_without_sha256sum_uses_shasum(checkout: Checkout, tmp_path: Path) -> None:
    tools = tmp_path / "tools"
    tools.mkdir()
    for tool in ("bash", "env", "cat", "dirname", "rm", "mkdir", "cp", "chmod"):
        (tools / tool).symlink_to(shutil.which(tool) or "")
    shasum = tools / "shasum"
    shasum.write_text('#!/usr/bin/env bash\n[[ "$*" == "-a 256" ]] && echo "0123abc  -"\n')
    shasum.chmod(0o755)
    done = checkout(PATH=f"{checkout.python.parent}:{tools}")
    assert (done.returncode, done.stderr) == (0, BUILT)
    assert checkout.stamp.read_text().startswith("0123abc ")
