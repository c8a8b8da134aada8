"""Enable, disable and the plan with crontabs that administrators wrote: other spellings, times, users, secrets."""

from __future__ import annotations

import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from demo_backups.errors import COULD_NOT_LOOK, FAILED
from demo_backups.project import ROOT

from .helpers.faults import install_program
from .helpers.processes import wait_for_end
from .helpers.tasks import INV, DemoServer, assert_exit, assert_success, read_json
from .helpers.terminal import Terminal, terminal

SECRET = "s3cr3t"
ENABLE, DISABLE = "enable-index-backup", "disable-index-backup"


@pytest.fixture
def server(demo_server: DemoServer) -> DemoServer:
    """A server to which the script is deployed; `current` in its home is a symlink to the application."""
    demo_server.deploy()
    (demo_server.server.home / "current").symlink_to(demo_server.settings.app_dir)
    return demo_server


def fill(server: DemoServer, line: str) -> str:
    """Replace VARS by the paths of the server, SCRIPT by that of its script, APP by that of its application."""
    variables = f"DATABASE_FILE={server.source} BACKUP_DIR={server.backups}"
    values = {"VARS": variables, "SCRIPT": str(server.script), "APP": str(server.settings.app_dir)}
    for name, value in values.items():
        line = line.replace(name, value)
    return line


def evaluate_enable(server: DemoServer) -> dict[str, str]:
    """Return the step of the plan that looks at the crontab."""
    phases = read_json(server.inv("plan", "--json"))["phases"]
    step = next(step for phase in phases for step in phase["steps"] if step["name"] == "index-enable")
    return {"mark": step["mark"], "details": step["observed"]}


def answer_disable(server: DemoServer, answer: str) -> tuple[int, str]:
    """Answer the question of disable on a terminal; return the exit code and the output."""
    with terminal([INV, "--search-root", ROOT, DISABLE], server.environment) as screen:
        assert isinstance(screen, Terminal)
        screen.expect("[y/N]")
        screen.type(answer)
        return screen.end(), screen.shown


# --- the published times, in other words ----------------------------------------------------------------------------

SAME_JOB = "MAILTO=x\n# a comment\n5 4 * * * /bin/true\n@hourly VARS $HOME/current/share/bin/index-db-backup.sh\n"


def test_other_spelling_satisfies_tasks(server: DemoServer) -> None:
    content = fill(server, SAME_JOB)
    server.crontab.write_text(content)
    line = content.splitlines()[-1].strip()
    output = assert_success(server.inv(ENABLE))
    assert "nothing to do" in output
    assert line in output
    step = evaluate_enable(server)
    assert step["mark"] in ("done", "out of order")
    assert line in step["details"]
    assert server.crontab.read_text() == content

    error = assert_exit(server.inv(DISABLE), FAILED, "--yes")
    assert line in error
    assert server.crontab.read_text() == content
    assert_success(server.inv(DISABLE, "--yes"))
    rest = content.removesuffix(content.splitlines(keepends=True)[-1])
    assert (server.crontab.read_text() if server.crontab.exists() else "") == rest


def test_pasted_published_line_satisfies_tasks(server: DemoServer) -> None:
    assert_success(server.inv(ENABLE))
    pasted = server.crontab.read_text().splitlines(keepends=True)[-1]
    server.crontab.write_text(f"A=1\n{pasted}")
    assert "nothing to do" in assert_success(server.inv(ENABLE))
    assert evaluate_enable(server)["details"] == "in the crontab"
    assert_success(server.inv(DISABLE))
    assert server.crontab.read_text() == "A=1\n"


# --- other jobs -----------------------------------------------------------------------------------------------------

OTHER_JOB = {
    "time": "30 * * * * VARS SCRIPT",
    "CRLF": "BACKUP_DIR=/tmp\n@hourly VARS SCRIPT >> /tmp/log 2>&1\r",
}


@pytest.mark.parametrize("text", OTHER_JOB.values(), ids=OTHER_JOB)
def test_other_job_is_a_conflict(server: DemoServer, text: str) -> None:
    content = fill(server, text) + "\n"
    server.crontab.write_bytes(content.encode())
    line = content.rstrip("\r\n").split("\n")[-1]
    error = assert_exit(server.inv(ENABLE), FAILED, line, "./inv disable ")
    assert str(server.script) in error
    step = evaluate_enable(server)
    assert step["mark"] in ("to do", "blocked")
    assert line in step["details"]
    assert_exit(server.inv(DISABLE), FAILED, line)
    assert server.crontab.read_bytes() == content.encode()
    assert_success(server.inv(DISABLE, "--yes"))
    assert str(server.script) not in (server.crontab.read_text() if server.crontab.exists() else "")


def test_undecidable_line_is_unknown(server: DemoServer) -> None:
    content = fill(server, "@hourly VARS $BIN/index-db-backup.sh\n")
    server.crontab.write_text(content)
    for arguments in ([ENABLE], [DISABLE], [DISABLE, "--yes"]):
        assert_exit(server.inv(*arguments), COULD_NOT_LOOK, "the crontab of ")
    assert evaluate_enable(server)["mark"] == "unknown"
    assert server.crontab.read_text() == content


def test_line_without_job_is_left_alone(server: DemoServer) -> None:
    content = fill(server, "#@hourly SCRIPT\n@hourly /opt/index-db-backup.sh\n")
    server.crontab.write_text(content)
    assert "nothing to do" in assert_success(server.inv(DISABLE))
    assert_success(server.inv(ENABLE))
    assert_success(server.inv(DISABLE))
    assert server.crontab.read_text() == content


# --- disable --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("answer", "code", "removed"), [("y", 0, True), ("", FAILED, False)])
def test_disable_asks_on_terminal(server: DemoServer, answer: str, code: int, removed: bool) -> None:
    line = fill(server, "30 * * * * VARS SCRIPT")
    server.crontab.write_text(f"A=1\n{line}\n")
    status, shown = answer_disable(server, answer)
    assert status == code
    assert line in shown
    assert (server.crontab.read_text() == "A=1\n") is removed


def test_disable_removes_its_own_line_first(server: DemoServer) -> None:
    assert_success(server.inv(ENABLE))
    other = fill(server, "30 * * * * VARS SCRIPT\n")
    with server.crontab.open("a") as file:
        file.write(other)
    assert "another line" in assert_success(server.inv(ENABLE))
    assert_exit(server.inv(DISABLE), FAILED, other.strip())
    assert server.crontab.read_text() == other


def test_dry_run_shows_every_removed_line(server: DemoServer) -> None:
    content = fill(server, "30 * * * * VARS SCRIPT\n@reboot SCRIPT\n5 4 * * * /bin/true\n")
    server.crontab.write_text(content)
    output = assert_success(server.inv(DISABLE, "--dry-run"))
    assert fill(server, "\n-30 * * * * VARS SCRIPT\n-@reboot SCRIPT\n") in output
    assert "\n-5 4" not in output
    assert server.crontab.read_text() == content


def test_edited_job_is_removed_with_its_comment(server: DemoServer) -> None:
    assert_success(server.inv(ENABLE))
    edited = server.crontab.read_text().replace("0  *", "30  *")
    server.crontab.write_text(f"{edited}A=1\n")
    assert_exit(server.inv(DISABLE), FAILED, "30  *")
    assert_success(server.inv(DISABLE, "--yes"))
    assert server.crontab.read_text() == "A=1\n"


def test_disable_needs_no_published_line(server: DemoServer) -> None:
    script = server.settings.database("tracker").script
    assert "nothing to do" in assert_success(server.inv("disable", "--database", "tracker"))
    server.crontab.write_text(f"0 3 * * * {script}\n")
    assert_exit(server.inv("disable", "--database", "tracker"), FAILED, str(script))
    assert_success(server.inv("disable", "--database", "tracker", "--yes"))
    assert not server.crontab.exists()


# --- at the same time -----------------------------------------------------------------------------------------------


@pytest.fixture
def slow_crontab(server: DemoServer) -> Iterator[DemoServer]:
    """A server whose crontab command gives two tasks the time to read the same crontab."""
    folder = server.server.folder
    program = (folder / "bin/crontab").rename(folder / "real-crontab")
    install_program(
        server,
        "crontab",
        f'if [ "$1" = -l ]; then {program} -l; status=$?; echo >> {folder}/reads\n'
        f"  until [ $(wc -l < {folder}/reads) -ge 2 ]; do sleep 0.02; done; exit $status\nfi\n"
        f'exec {program} "$@"',
    )
    yield server
    (folder / "reads").unlink(missing_ok=True)


def run_twice(server: DemoServer, task: str) -> list[subprocess.CompletedProcess[str]]:
    """Run a task two times at once: both read the crontab before one of them changes it."""
    (server.server.folder / "reads").unlink(missing_ok=True)
    return [wait_for_end(process) for process in [server.start(task), server.start(task)]]


def test_simultaneous_tasks_agree(slow_crontab: DemoServer) -> None:
    results = run_twice(slow_crontab, ENABLE)
    outputs = sorted(assert_success(done) for done in results)
    assert sum("nothing to do" in output for output in outputs) == 1
    assert slow_crontab.crontab.read_text().count(str(slow_crontab.script)) == 1

    outputs = sorted(assert_success(done) for done in run_twice(slow_crontab, DISABLE))
    assert sum("nothing to do" in output for output in outputs) == 1
    assert not slow_crontab.crontab.exists()


# --- secrets --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "line",
    [
        "5 * * * * run-it --password=s3cr3t SCRIPT",
        "TOKEN=s3cr3t\n5 * * * * env A='x s3cr3t' SCRIPT || curl https://me:s3cr3t@example.org",
    ],
)
def test_secret_is_shown_and_stored_nowhere(server: DemoServer, line: str) -> None:
    content = fill(server, line)  # without a line end, which is reported too
    server.crontab.write_text(content)
    tasks = [
        [ENABLE],
        [ENABLE, "--dry-run"],
        [DISABLE],
        [DISABLE, "--dry-run"],
        ["plan"],
        ["report", "--format=markdown"],
    ]
    for arguments in (*tasks, [DISABLE, "--yes"]):
        done = server.inv(*arguments)
        assert SECRET not in done.stdout + done.stderr
    records = list(Path(server.environment["INVOKE_EVIDENCE_DIR"]).iterdir())
    assert len(records) == 3  # of enable and disable
    assert not [path for path in records if SECRET in path.read_text()]


def test_unreadable_crontab_shows_no_secret(server: DemoServer) -> None:
    server.crontab.write_text(f"TOKEN={SECRET}\n")
    install_program(server, "crontab", f"cat {server.crontab}; echo 'read error' >&2; exit 1")
    assert SECRET not in assert_exit(server.inv(ENABLE), COULD_NOT_LOOK, "read error")


# --- line ends ------------------------------------------------------------------------------------------------------


def test_missing_line_end_is_added(server: DemoServer) -> None:
    old = "5 4 * * * /bin/true\n# a comment"
    server.crontab.write_text(old)
    assert "no line end" in assert_success(server.inv(ENABLE))
    assert server.crontab.read_text().endswith(f"\n{old}\n")
    assert "no line end" not in assert_success(server.inv(DISABLE))
    assert server.crontab.read_text() == f"{old}\n"


def test_carriage_returns_are_reported_and_kept(server: DemoServer) -> None:
    old = b"MAILTO=me\r\n5 4 * * * /bin/true\r\n"
    server.crontab.write_bytes(old)
    assert "CRLF" in assert_success(server.inv(ENABLE))
    assert server.crontab.read_bytes().endswith(b"\n" + old)
    assert_success(server.inv(DISABLE))
    assert server.crontab.read_bytes() == old


# --- what cron could not run ----------------------------------------------------------------------------------------


def test_enable_needs_executable_script(server: DemoServer) -> None:
    server.crontab.write_text("A=1\n")
    server.script.chmod(0o644)
    assert_exit(server.inv(ENABLE), FAILED, str(server.script), "-rw-r--r--")
    assert server.crontab.read_text() == "A=1\n"
