"""`./inv`: it builds .venv once, completely or not at all, and runs Invoke in it.

A stub replaces Python, so that nothing is downloaded: it logs its calls, and makes a virtual environment whose `inv`
prints its arguments. Stubs replace apt-get and sudo too, and PATH has only the programs that a test lists.
"""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from demo_backups.project import ROOT

from .helpers.processes import start_program, wait_for_end, wait_until
from .helpers.terminal import terminal

pytestmark = pytest.mark.user

PYTHON = r"""#!/usr/bin/env bash
log() { printf '%s\n' "$*" >> "$LOG/python"; }
case "$*" in
  --version) echo "Python $VERSION" ;;
  "-c import sys; "*) [[ "$VERSION" != 3.9* ]] ;;
  "-c import ensurepip, venv") [[ -e "$LOG/venv" ]] ;;
  "-c import fcntl; "*) exec "$REAL_PYTHON" "$@" ;;
  "-c import sysconfig; "*) echo "$LOG" ;;
  -c*"from invoke.main import program"*) printf '<%s>' "${@:3}"; exit "${STATUS:-0}" ;;
  "-I -c "*"from demo_backups.workflows.plugin_main import main"*) printf '<%s>' "${@:4}"; exit "${STATUS:-0}" ;;
  -c*ensurepip*) echo /pip.whl ;;
  "-m venv --clear --without-pip "*)
    log venv "$5"; rm -rf -- "$5"; mkdir -p "$5/bin"; cp "$0" "$5/bin/python" ;;
  "-m pip install "*)
    log pip "${@:3}"; cat "${@: -1}" >> "$LOG/requirements"; echo "$$" >> "$LOG/pips"
    while [[ -e "$LOG/hold" ]]; do sleep 0.05; done
    [[ ! -e "$LOG/offline" ]] || { echo "no network" >&2; exit 1; } ;;
  *) echo "unexpected: $*" >&2; exit 99 ;;
esac
"""
# `apt-get install` makes the programs of the same names; nothing is known of the package `chromium`.
APT_GET = r"""#!/usr/bin/env bash
printf '%s\n' "$*" >> "$LOG/apt"
[[ "$2" == install ]] || exit 0
echo "output of apt"
for package in "${@:4}"; do
  case "$package" in
    python3-venv) touch "$LOG/venv" ;;
    openssh-client) cp "$0" "${0%/*}/ssh" ;;
    *) cp "$0" "${0%/*}/$package" ;;
  esac
done
"""
APT_CACHE = '#!/usr/bin/env bash\n[[ "$2" != chromium ]]\n'
SUDO = '#!/usr/bin/env bash\n"$@"\n'
# What `./inv` and the stubs use themselves.
TOOLS = [
    "bash",
    "env",
    "cat",
    "dirname",
    "rm",
    "mkdir",
    "cp",
    "chmod",
    "mv",
    "readlink",
    "awk",
    "sha256sum",
    "sleep",
    "touch",
    "setsid",
]
REQUIRED = ["flock", "git", "sqlite3", "ssh"]
OPTIONAL = [
    "shellcheck",
    "chromium",
    "gh",
    "sudo",
    "sshd",
    "cron",
    "useradd",
    "unshare",
    "mount",
    "tcsh",
    "fish",
    "rsync",
    "zstd",
    "faketime",
    "restic",
]

BUILT = "inv: building .venv from requirements.lock (once)\n"
TEST_TOOLS_ADDED = "inv: adding the test tools of requirements-test.lock (once)\n"


class Checkout:
    """A copy of `./inv` and its lock files, with the stubs, and what the last call did."""

    def __init__(self, folder: Path) -> None:
        self.root = folder / "it's a check out"
        self.bin = folder / "bin"
        self.log = folder / "log"
        for made in (self.root, self.bin, self.log):
            made.mkdir(parents=True)
        for name in ("inv", "requirements.lock", "requirements-test.lock"):
            shutil.copy(ROOT / name, self.root / name)
        for tool in TOOLS:
            (self.bin / tool).symlink_to(shutil.which(tool) or "")
        self.python = self.add_program("python3", PYTHON)
        for name in (*REQUIRED, *OPTIONAL):
            self.add_program(name)
        (self.log / "venv").touch()
        self.environment = {"PATH": str(self.bin), "LOG": str(self.log), "VERSION": "3.11.7"}
        self.environment |= {"REAL_PYTHON": sys.executable, "LANG": "C.UTF-8"}

    def __call__(self, *arguments: str, **changes: str) -> subprocess.CompletedProcess[str]:
        return wait_for_end(self.start(*arguments, **changes))

    def start(self, *arguments: str, **changes: str) -> subprocess.Popen[str]:
        return start_program(self.root / "inv", *arguments, env=self.environment | changes, cwd="/")

    def add_program(self, name: str, text: str = "#!/usr/bin/env bash\n") -> Path:
        """Add a program to PATH."""
        path = self.bin / name
        path.write_text(text)
        path.chmod(0o755)
        return path

    def add_apt(self) -> None:
        self.add_program("apt-get", APT_GET)
        self.add_program("apt-cache", APT_CACHE)
        self.add_program("sudo", SUDO)

    def remove_programs(self, *names: str) -> None:
        for name in names:
            (self.bin / name).unlink()

    def read_log(self, name: str) -> list[str]:
        """Return what a stub has logged since the last call of this."""
        path = self.log / name
        lines = path.read_text().splitlines() if path.exists() else []
        path.unlink(missing_ok=True)
        return lines

    def count_builds(self) -> int:
        return sum(line.startswith("venv ") for line in self.read_log("python"))


@pytest.fixture
def checkout(tmp_path: Path) -> Checkout:
    return Checkout(tmp_path)


def requirements(lock: Path) -> list[str]:
    return sorted(line for line in lock.read_text().splitlines() if "==" in line)


# --- the environment ------------------------------------------------------------------------------------------------


def test_first_call_builds_environment(checkout: Checkout) -> None:
    done = checkout("--list")
    assert (done.returncode, done.stderr) == (0, BUILT)
    assert done.stdout == f"<--search-root><{checkout.root}><--write-pyc><--list>"
    venv, *pips = checkout.read_log("python")
    assert venv == f"venv {checkout.root}/.venv"
    assert len(pips) == 2
    assert all({"--require-hashes", "--no-deps"} <= set(pip.split()) for pip in pips)
    assert (checkout.log / "demo_backups.pth").read_text() == f"{checkout.root}/src\n"

    done = checkout("--list")
    assert (done.returncode, done.stderr, checkout.read_log("python")) == (0, "", [])


def test_both_pips_install_whole_lock(checkout: Checkout) -> None:
    checkout("--list")
    lines = checkout.read_log("requirements")
    assert sorted(line for line in lines if "==" in line) == requirements(checkout.root / "requirements.lock")
    assert sorted(lines) == sorted((checkout.root / "requirements.lock").read_text().splitlines())


@pytest.mark.parametrize("arguments", [[], ["verify", "--backup", 'it\'s a "b" \\ *'], ["", "--", "a\nb", "-h"]])
def test_arguments_are_passed_unchanged(checkout: Checkout, arguments: list[str]) -> None:
    words = "".join(f"<{word}>" for word in ["--search-root", str(checkout.root), "--write-pyc", *arguments])
    assert checkout(*arguments).stdout == words


def test_exit_code_is_that_of_task(checkout: Checkout) -> None:
    assert [checkout(STATUS=str(status)).returncode for status in (0, 1, 3)] == [0, 1, 3]


def test_changed_lock_causes_rebuild(checkout: Checkout) -> None:
    checkout()
    with (checkout.root / "requirements.lock").open("a") as lock:
        lock.write("# changed\n")
    assert checkout().stderr == BUILT
    assert checkout().stderr == ""


def test_failed_build_is_repeated(checkout: Checkout) -> None:
    (checkout.log / "offline").touch()
    done = checkout("verify")
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr.startswith(f"{BUILT}no network\nno network\ninv: could not install requirements.lock;")
    (checkout.log / "offline").unlink()
    assert checkout("verify").stderr == BUILT
    assert checkout("verify").stderr == ""


def test_failed_rebuild_is_repeated(checkout: Checkout) -> None:
    checkout()
    lock = checkout.root / "requirements.lock"
    before = lock.read_text()
    lock.write_text(f"{before}# changed\n")
    (checkout.log / "offline").touch()
    assert checkout().returncode == 2
    (checkout.log / "offline").unlink()
    lock.write_text(before)
    assert checkout().stderr == BUILT


def test_ctrl_c_ends_build_and_both_pips(checkout: Checkout) -> None:
    (checkout.log / "hold").touch()
    pips = checkout.log / "pips"
    task = checkout.start("--list")
    wait_until(lambda: pips.exists() and len(pips.read_text().split()) == 2, "two pips")
    os.killpg(task.pid, signal.SIGINT)
    assert wait_for_end(task).returncode == 130
    wait_until(lambda: not any(Path(f"/proc/{pid}").exists() for pid in pips.read_text().split()), "their end")
    (checkout.log / "hold").unlink()
    assert checkout().stderr == BUILT


def test_calls_at_once_build_once(checkout: Checkout) -> None:
    (checkout.log / "hold").touch()
    first = checkout.start("first")
    wait_until((checkout.log / "pips").exists, "the first build")
    second = checkout.start("second")
    assert second.stderr is not None
    assert second.stderr.readline() == "inv: waiting for another ./inv that builds .venv\n"
    (checkout.log / "hold").unlink()
    for task, name in ((first, "first"), (second, "second")):
        done = wait_for_end(task)
        assert done.returncode == 0
        assert done.stdout.endswith(f"<{name}>")
    assert checkout.count_builds() == 1


def test_moved_checkout_causes_rebuild(checkout: Checkout) -> None:
    checkout()
    checkout.root = checkout.root.rename(checkout.root.with_name("moved"))
    assert checkout().stderr == BUILT


@pytest.mark.parametrize("exists", [True, False], ids=["upgraded", "removed"])
def test_replaced_python_causes_rebuild(checkout: Checkout, tmp_path: Path, exists: bool) -> None:
    checkout()
    other = tmp_path / "python3.12"
    if exists:
        shutil.copy(checkout.python, other)
    python = checkout.root / ".venv/bin/python"
    python.unlink()
    python.symlink_to(other)
    assert checkout().stderr == BUILT
    assert checkout().stderr == ""


def test_built_environment_needs_no_other_python(checkout: Checkout) -> None:
    checkout()
    assert checkout("--list", PYTHON="/no/such/python3").returncode == 0


def test_built_environment_is_used_read_only(checkout: Checkout, private_mounts: list[str]) -> None:
    checkout()
    script = 'mount --bind "$0" "$0" && mount -o remount,bind,ro "$0" && exec "$0/inv" --list'
    words = [*private_mounts, "sh", "-c", script, str(checkout.root)]
    environment = checkout.environment | {"PATH": os.environ["PATH"]}
    done = subprocess.run(words, env=environment, capture_output=True, text=True, check=False)
    assert (done.returncode, done.stderr) == (0, "")

    (checkout.root / "requirements.lock").open("a").write("# changed\n")
    done = subprocess.run(words, env=environment, capture_output=True, text=True, check=False)
    assert (done.returncode, done.stdout) == (2, "")
    assert "no permission to write" in done.stderr


def test_symlink_to_inv_works(checkout: Checkout, tmp_path: Path) -> None:
    (tmp_path / "home").mkdir()
    link = tmp_path / "home/inv"
    link.symlink_to(Path("..") / checkout.root.name / "inv")
    done = subprocess.run([link, "--list"], env=checkout.environment, capture_output=True, text=True, check=False)
    assert done.stdout == f"<--search-root><{checkout.root}><--write-pyc><--list>"


def test_monitoring_program_is_installed(checkout: Checkout, tmp_path: Path) -> None:
    checkout()
    program = checkout.root / ".venv/bin/demo-backups-check"
    link = tmp_path / "check_backups"
    link.symlink_to(program)
    for path in (program, link):
        environment = {"PATH": str(checkout.bin), "STATUS": "3"}
        done = subprocess.run([path, "--host", "a b"], cwd="/", env=environment, capture_output=True, check=False)
        assert (done.returncode, done.stdout, done.stderr) == (3, b"<--host><a b>", b"")


def test_monitoring_program_needs_no_path(checkout: Checkout) -> None:
    checkout()
    program = checkout.root / ".venv/bin/demo-backups-check"
    done = subprocess.run([program], env={"PATH": ""}, capture_output=True, text=True, check=False)
    assert (done.returncode, done.stdout, done.stderr) == (0, "<>", "")
    (program.parent / "python").unlink()
    done = subprocess.run([program], env={}, capture_output=True, text=True, check=False)
    assert (done.returncode, done.stderr) == (3, "")
    assert done.stdout.startswith("UNKNOWN: ")


def test_old_monitoring_program_is_replaced(checkout: Checkout) -> None:
    checkout()
    program = checkout.root / ".venv/bin/demo-backups-check"
    text = program.read_text()
    for change in (program.unlink, lambda: program.write_text("old")):
        change()
        assert checkout().stderr == ""
        assert (program.read_text(), os.access(program, os.X_OK)) == (text, True)
    assert [path.name for path in program.parent.iterdir() if path.name.startswith("demo")] == [program.name]


@pytest.mark.parametrize("name", ["requirements.lock", "requirements-test.lock"])
def test_missing_lock_is_an_error(checkout: Checkout, name: str) -> None:
    (checkout.root / name).unlink()
    done = checkout()
    assert (done.returncode, done.stderr) == (2, f"inv: cannot read {checkout.root}/{name}\n")


def test_shasum_replaces_sha256sum(checkout: Checkout) -> None:
    checkout.remove_programs("sha256sum")
    checkout.add_program("shasum", '#!/usr/bin/env bash\n[[ "$*" == "-a 256" ]] && echo "0123abc  -"\n')
    done = checkout()
    assert (done.returncode, done.stderr) == (0, BUILT)
    assert checkout().stderr == ""


# --- the test tools -------------------------------------------------------------------------------------------------


def test_first_test_call_adds_test_tools(checkout: Checkout) -> None:
    checkout("--list")
    checkout.read_log("requirements")
    done = checkout("test", "--pytest", "-x")
    assert (done.returncode, done.stderr) == (0, TEST_TOOLS_ADDED)
    lines = [line for line in checkout.read_log("requirements") if "==" in line]
    assert sorted(lines) == requirements(checkout.root / "requirements-test.lock")
    assert checkout.count_builds() == 1
    assert checkout("test").stderr == ""


@pytest.mark.parametrize("arguments", [["rehearse"], ["--help", "test"], ["-h", "test"], ["test", "--help"]])
def test_other_calls_need_no_test_tools(checkout: Checkout, arguments: list[str]) -> None:
    assert checkout(*arguments).stderr == BUILT


def test_changed_test_lock_keeps_environment(checkout: Checkout) -> None:
    checkout("test")
    with (checkout.root / "requirements-test.lock").open("a") as lock:
        lock.write("# changed\n")
    assert checkout("--list").stderr == ""
    assert checkout("test").stderr == TEST_TOOLS_ADDED
    assert checkout.count_builds() == 1


def test_rebuild_adds_test_tools_again(checkout: Checkout) -> None:
    checkout("test")
    with (checkout.root / "requirements.lock").open("a") as lock:
        lock.write("# changed\n")
    assert checkout("test").stderr == BUILT + TEST_TOOLS_ADDED


# --- Python ---------------------------------------------------------------------------------------------------------


def test_old_python_is_refused(checkout: Checkout) -> None:
    done = checkout(VERSION="3.9.18")
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr.startswith("inv: needs Python 3.10 or newer, and 'python3' is Python 3.9.18. ")
    assert "PYTHON=" in done.stderr
    assert not (checkout.root / ".venv").exists()


def test_other_python_can_be_chosen(checkout: Checkout, tmp_path: Path) -> None:
    other = tmp_path / "another python"
    shutil.copy(checkout.python, other)
    checkout.add_program("python3", "#!/bin/sh\nexit 1\n")
    assert checkout(PYTHON=str(other)).returncode == 0
    assert checkout.count_builds() == 1


def test_missing_chosen_python_is_an_error(checkout: Checkout) -> None:
    done = checkout(PYTHON="/no/such/python3")
    assert done.returncode == 2
    assert "needs Python 3.10 or newer, and '/no/such/python3' is " in done.stderr
    assert "No such file or directory" in done.stderr


# --- system packages ------------------------------------------------------------------------------------------------

SUDO_PREFIX = "" if os.geteuid() == 0 else "sudo "


@pytest.mark.parametrize("task", ["rehearse", "test"])
def test_missing_programs_are_named_with_command(checkout: Checkout, task: str) -> None:
    checkout.add_apt()
    checkout.remove_programs("sqlite3", "ssh")
    (checkout.log / "venv").unlink()
    done = checkout(task)
    assert (done.returncode, done.stdout) == (2, "")
    names, command = done.stderr.splitlines()
    assert names.endswith(": venv sqlite3 ssh")
    update, install = command.removeprefix("inv: to install: ").split(" && ")
    assert update == f"{SUDO_PREFIX}apt-get update"
    assert install == f"{SUDO_PREFIX}apt-get install python3-venv sqlite3 openssh-client"
    assert not (checkout.root / ".venv").exists()
    assert checkout.read_log("apt") == []


@pytest.mark.parametrize(("task", "code"), [("list-backups", 0), ("rehearse", 0), ("test", 2)])
def test_only_tests_require_git(checkout: Checkout, task: str, code: int) -> None:
    checkout.remove_programs("git")
    assert checkout(task).returncode == code


def test_missing_python_is_named_with_packages(checkout: Checkout) -> None:
    checkout.add_apt()
    checkout.remove_programs("python3")
    done = checkout("--list")
    assert done.returncode == 2
    assert done.stderr.endswith("apt-get install python3 python3-venv\n")


@pytest.mark.parametrize("arguments", [["rehearse", "--install", "--keep"], ["--install", "rehearse", "--keep"]])
def test_install_flag_installs_without_question(checkout: Checkout, arguments: list[str]) -> None:
    checkout.add_apt()
    checkout.remove_programs("sqlite3", "ssh")
    (checkout.log / "venv").unlink()
    done = checkout(*arguments)
    assert done.returncode == 0
    assert done.stdout == f"<--search-root><{checkout.root}><--write-pyc><rehearse><--keep>"
    assert "output of apt" in done.stderr
    update, install = checkout.read_log("apt")
    assert "update" in update.split()
    assert install.split()[-3:] == ["python3-venv", "sqlite3", "openssh-client"]


def test_install_flag_without_missing_programs(checkout: Checkout) -> None:
    checkout.add_apt()
    done = checkout("rehearse", "--install")
    assert (done.returncode, done.stderr) == (0, BUILT)
    assert checkout.read_log("apt") == []


@pytest.mark.parametrize(("answer", "code"), [("y", 0), ("n", 2), ("", 2)])
def test_question_is_asked_on_terminal(checkout: Checkout, answer: str, code: int) -> None:
    checkout.add_apt()
    checkout.remove_programs("sqlite3")
    with terminal([checkout.root / "inv", "rehearse"], checkout.environment) as shown:
        shown.expect("[y/N]")
        shown.type(answer)
        assert shown.end() == code
    assert bool(checkout.read_log("apt")) == (code == 0)


def test_other_systems_get_names(checkout: Checkout) -> None:
    checkout.remove_programs("sqlite3", "flock")
    done = checkout("rehearse", "--install")
    assert (done.returncode, done.stderr) == (2, "inv: not installed: sqlite3 flock\n")


def test_missing_optional_programs_do_not_stop_tests(checkout: Checkout) -> None:
    checkout.add_apt()
    checkout.remove_programs("shellcheck", "gh")
    done = checkout("test")
    assert done.returncode == 0
    assert "apt-get install shellcheck gh" in done.stderr
    assert done.stdout.endswith("<test>")
    assert checkout("rehearse").stderr == ""


def test_unknown_packages_are_left_out(checkout: Checkout) -> None:
    checkout.add_apt()
    checkout.remove_programs("chromium", "gh")
    done = checkout("test", "--install")
    assert done.returncode == 0
    assert "no package chromium" in done.stderr
    assert checkout.read_log("apt")[-1].split()[-1] == "gh"
    assert (checkout.bin / "gh").exists()


def test_failed_installation_stops_task(checkout: Checkout) -> None:
    checkout.add_apt()
    checkout.add_program("apt-get", "#!/usr/bin/env bash\necho broken >&2\nexit 100\n")
    checkout.remove_programs("sqlite3")
    done = checkout("rehearse", "--install")
    assert done.returncode == 100
    assert done.stderr.endswith("broken\n")
