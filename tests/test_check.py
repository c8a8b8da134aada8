"""`inv check` and `demo-backups-check` as a monitoring system calls them: every error is UNKNOWN, in one line."""

from __future__ import annotations

import os
import re
import shutil
import signal
import socket
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from invoke.parser.context import ParserContext

from demo_backups.errors import SettingsError
from demo_backups.health.options import CheckOptions
from demo_backups.health.state import State
from demo_backups.project import ROOT
from demo_backups.settings.model import Settings
from demo_backups.workflows import check_command, plugin_main, time_limit
from demo_backups.workflows.check import check_database

from .helpers import task_reference
from .helpers.pings import SECRET, serve_pings
from .helpers.processes import start_program, wait_for_end, wait_until
from .helpers.tasks import CompletedTask, InvRunner, read_json

CRITICAL, UNKNOWN = State.CRITICAL.value, State.UNKNOWN.value
CODE = re.search(r'^exec "\$python" -I -c "(.*?)" "\$@"\'$', (ROOT / "inv").read_text(), re.MULTILINE | re.DOTALL)
assert CODE
PLUGIN = [sys.executable, "-I", "-c", CODE[1].replace('\\"', '"')]


@pytest.fixture
def plugin(run_inv: InvRunner, home: Path) -> InvRunner:
    """The program on this machine, with a backup directory without backups."""
    (home / "backups").mkdir()
    run_inv.environment |= {
        "INVOKE_HOST": "local",
        "INVOKE_USE_SUDO": "0",
        "INVOKE_APP_DIR": str(home),
        "INVOKE_BACKUP_DIR": str(home / "backups"),
    }
    return run_inv


@pytest.fixture
def silent_host(home: Path) -> Iterator[tuple[Path, threading.Event]]:
    """An SSH configuration whose host `silent` takes connections and never sends a byte; an event for the first one."""
    with socket.create_server(("127.0.0.1", 0)) as listening:
        connected = threading.Event()

        def accept() -> None:
            connection, _ = listening.accept()
            connected.set()
            accepted.append(connection)

        accepted: list[socket.socket] = []
        threading.Thread(target=accept, daemon=True).start()
        config = home / "ssh_config"
        config.write_text(f"Host silent\n    HostName 127.0.0.1\n    Port {listening.getsockname()[1]}\n")
        yield config, connected
        for connection in accepted:
            connection.close()


def read_unknown(done: CompletedTask) -> str:
    """Return the one line of an error; nothing else may be printed."""
    assert done.returncode == UNKNOWN, done.stdout + done.stderr
    assert done.stderr == ""
    (line,) = done.stdout.splitlines()
    assert line.startswith("UNKNOWN: ")
    assert "|" not in line
    return line


def read_states(done: CompletedTask) -> list[str]:
    """Return the state, host and database of every line."""
    return [line.partition(":")[0] for line in done.stdout.splitlines()]


# --- flags and settings ---------------------------------------------------------------------------------------------

WRONG_VALUES: dict[str, tuple[list[str], dict[str, str], str]] = {
    "database": (["--database", "none"], {}, "'none'"),
    "empty host": (["--host="], {}, "--host"),
    "option as host": (["--host=-oProxyCommand=touch ran"], {}, "--host"),
    "host with escapes": (["--host", "\x1b[2J"], {}, r"\x1b"),
    "no timeout": (["--timeout", "0"], {}, "--timeout"),
    "timeout": (["--timeout", "soon"], {}, "--timeout"),
    "endless timeout": (["--timeout", "inf"], {}, "--timeout"),
    "no URL": (["--ping"], {}, "ping_file"),
    "no file": (["--prometheus="], {}, "--prometheus"),
    "setting": ([], {"INVOKE_BACKUP_DIR": "relative"}, "backup_dir"),
    "boolean": ([], {"INVOKE_USE_SUDO": "yes"}, "INVOKE_USE_SUDO"),
    "age": ([], {"INVOKE_CHECK_WARN_AGE": "x"}, "warn_age"),
}
WRONG_FLAGS = {
    "unknown": ["--hots", "local"],
    "without value": ["--host"],
    "repeated": ["--host", "local", "--host", "other"],
    "abbreviated": ["--dat", "index"],
    "positional": ["index"],
    "with escapes": ["\x1b[2J|x=1"],
    "not UTF-8": ["\udcff"],
}


@pytest.mark.parametrize(("flags", "changes", "text"), WRONG_VALUES.values(), ids=WRONG_VALUES)
def test_wrong_value_is_unknown(
    plugin: InvRunner, home: Path, flags: list[str], changes: dict[str, str], text: str
) -> None:
    for done in (plugin.run_plugin(*flags, **changes), plugin("check", *flags, **changes)):
        assert text in read_unknown(done)
    assert sorted(path.name for path in home.iterdir()) == ["backups"]


@pytest.mark.parametrize("flags", WRONG_FLAGS.values(), ids=WRONG_FLAGS)
def test_wrong_flag_is_unknown(plugin: InvRunner, flags: list[str]) -> None:
    read_unknown(plugin.run_plugin(*flags))


def test_error_is_one_json_object(plugin: InvRunner) -> None:
    wrong = ["--json", "--database", "none"]
    calls = [
        plugin.run_plugin("--json", "--hots"),
        plugin.run_plugin(*wrong),
        plugin("check", *wrong),
    ]
    for done in calls:
        error = read_json(done, UNKNOWN)
        assert list(error) == ["error", "exit_code"]
        assert error["exit_code"] == UNKNOWN


@pytest.mark.parametrize("flag", ["--help", "-h", "--version", "-V"])
def test_help_is_no_result(plugin: InvRunner, flag: str) -> None:
    done = plugin.run_plugin(flag)
    assert (done.returncode, done.stderr) == (UNKNOWN, "")
    assert "demo-backups-check" in done.stdout


def test_program_has_flags_of_task() -> None:
    (task,) = [context for context in task_reference.load_tasks().to_contexts() if context.name == "check"]
    assert describe_flags(task) == {
        (action.option_strings[0], action.nargs != 0, action.help)
        for action in plugin_main.make_parser()._actions
        if action.dest not in ("help", "version")
    }
    assert vars(plugin_main.parse_options([])) == vars(CheckOptions())


def describe_flags(context: ParserContext) -> set[tuple[str, bool, str | None]]:
    return {(f"--{arg.name}", bool(arg.takes_value), arg.help) for arg in context.args.values()}


def test_unknown_variable_is_named_last(plugin: InvRunner) -> None:
    command = [*PLUGIN, "--database", "index"]
    environment = plugin.environment | {"INVOKE_HOSTS": "x"}
    done = subprocess.run(
        command, env=environment, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, check=False
    )
    result, warning = done.stdout.splitlines()
    assert result.startswith("CRITICAL local/index: ")
    assert "INVOKE_HOSTS" in warning


# --- the environment ------------------------------------------------------------------------------------------------


def run_program(*flags: str, **options: Any) -> CompletedTask:
    return subprocess.run([*PLUGIN, *flags], capture_output=True, text=True, check=False, **options)


def test_program_needs_no_environment() -> None:
    done = run_program("--host", "nowhere.invalid", env={}, cwd="/")
    assert done.returncode == UNKNOWN
    assert read_states(done) == ["UNKNOWN nowhere.invalid/index", "UNKNOWN nowhere.invalid/tracker"]


@pytest.fixture
def other_checkout(tmp_path: Path) -> Path:
    """A copy of this checkout, as far as tasks need it."""
    root = tmp_path / "other"
    shutil.copytree(ROOT / "src", root / "src", ignore=shutil.ignore_patterns("__pycache__"))
    for name in ("tasks.py", "invoke.yaml", "pyproject.toml"):
        shutil.copy(ROOT / name, root / name)
    return root


@pytest.mark.parametrize("change", ["missing", "damaged", "wrong", "no checkout"])
def test_damaged_checkout_is_unknown(other_checkout: Path, home: Path, change: str) -> None:
    file = other_checkout / "invoke.yaml"
    if change == "missing":
        file.unlink()
    elif change == "no checkout":
        (other_checkout / "tasks.py").unlink()
    else:
        file.write_text("host: [" if change == "damaged" else f"{file.read_text()}\nhots: x\n")
    environment = {"HOME": str(home), "PYTHONPATH": str(other_checkout / "src"), "PATH": os.environ["PATH"]}
    program = [sys.executable, *PLUGIN[2:]]
    task = [sys.executable, "-m", "invoke", "--search-root", str(other_checkout), "check"]
    for command in (program, *([] if change == "no checkout" else [task])):
        done = subprocess.run(
            command, env=environment | {"INVOKE_HOST": "local"}, cwd="/", capture_output=True, text=True, check=False
        )
        read_unknown(done)


@pytest.mark.parametrize("error", ["KeyboardInterrupt", "ImportError"])
def test_end_of_first_import_is_unknown(other_checkout: Path, error: str) -> None:
    # Ctrl-C in the first moment; a file of this package that is missing or damaged.
    (other_checkout / "src/demo_backups/project.py").write_text(f"raise {error}")
    command = [sys.executable, *PLUGIN[2:]]
    environment = {"PYTHONPATH": str(other_checkout / "src")}
    done = subprocess.run(command, env=environment, cwd="/", capture_output=True, text=True, check=False)
    assert error in read_unknown(done)


def test_other_checkout_is_refused(other_checkout: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    plugin_main.require_own_checkout()
    monkeypatch.setattr(sys, "prefix", str(other_checkout / ".venv"))
    with pytest.raises(SettingsError, match="is imported from"):
        plugin_main.require_own_checkout()


def test_missing_dependency_is_unknown(home: Path) -> None:
    for name in ("pydantic", "invoke"):
        folder = home / name
        folder.mkdir()
        (folder / f"{name}.py").write_text(f"raise ModuleNotFoundError('no {name}', name='{name}')")
        command = [sys.executable, *PLUGIN[2:]]
        environment = {"HOME": str(home), "PYTHONPATH": str(folder), "INVOKE_HOST": "local"}
        done = subprocess.run(command, env=environment, cwd="/", capture_output=True, text=True, check=False)
        assert name in read_unknown(done)


# --- results --------------------------------------------------------------------------------------------------------


def test_every_database_has_a_line(plugin: InvRunner, home: Path) -> None:
    for done in (plugin.run_plugin(), plugin("check")):
        assert done.returncode == CRITICAL
        assert done.stderr == ""
        assert read_states(done) == ["CRITICAL local/index", "CRITICAL local/tracker"]
    assert read_states(plugin.run_plugin("--database", "tracker")) == ["CRITICAL local/tracker"]
    assert not (home / "evidence").exists()


def test_unreachable_host_hides_no_other(plugin: InvRunner) -> None:
    done = plugin.run_plugin("--host", "nowhere.invalid,local", "--database", "index")
    assert done.returncode == CRITICAL
    assert read_states(done) == ["CRITICAL local/index", "UNKNOWN nowhere.invalid/index"]
    hosts = read_json(plugin.run_plugin("--host", "nowhere.invalid,local", "--json"), CRITICAL)["hosts"]
    assert {name: (host["state"], host["exit_code"]) for name, host in hosts.items()} == {
        "nowhere.invalid": ("UNKNOWN", UNKNOWN),
        "local": ("CRITICAL", CRITICAL),
    }
    assert hosts["nowhere.invalid"]["databases"][0]["findings"][0]["name"] == "host"


def test_one_host_is_one_object(plugin: InvRunner) -> None:
    result = read_json(plugin.run_plugin("--json"), CRITICAL)
    assert list(result) == ["host", "state", "exit_code", "databases"]
    assert [database["database"] for database in result["databases"]] == ["index", "tracker"]


def test_fault_hides_no_other_result(
    project_settings: Settings, home: Path, monkeypatch: pytest.MonkeyPatch, capfdbinary: pytest.CaptureFixture[bytes]
) -> None:
    def fail(work: Any) -> Any:
        if work.database.name == "tracker":
            raise KeyError("x | y=1\n\x1b[2J")
        return check_database(work)

    monkeypatch.setattr("demo_backups.workflows.check_command.check_database", fail)
    settings = project_settings.model_copy(update={"host": "local", "use_sudo": False, "backup_dir": home})
    code = check_command.run_check(settings, CheckOptions())
    output, errors = capfdbinary.readouterr()
    assert code == CRITICAL
    index, tracker = output.decode().splitlines()
    assert index.startswith("CRITICAL local/index: ")
    assert tracker.startswith("UNKNOWN local/tracker: ")
    assert "KeyError" in tracker
    assert b"test_check.py" in errors
    assert not set(b"|\x1b") & set(tracker.partition(" | ")[0].encode() + errors)


# --- metrics and ping -----------------------------------------------------------------------------------------------


def test_metrics_of_unreachable_host_are_written(plugin: InvRunner, home: Path) -> None:
    file = home / "x.prom"
    done = plugin.run_plugin("--host", "local,nowhere.invalid", "--database", "index", "--prometheus", str(file))
    assert done.returncode == CRITICAL
    lines = file.read_text().splitlines()
    assert 'demo_backups_up{host="local",database="index"} 1' in lines
    assert 'demo_backups_up{host="nowhere.invalid",database="index"} 0' in lines


def test_metrics_that_cannot_be_written(plugin: InvRunner, home: Path) -> None:
    flags = ["--host", "nowhere.invalid,local", "--database", "index", "--prometheus", str(home)]
    done = plugin.run_plugin(*flags)
    assert done.returncode == CRITICAL
    assert read_states(done) == ["CRITICAL local/index", "UNKNOWN", "UNKNOWN nowhere.invalid/index"]
    assert str(home) in read_json(plugin.run_plugin(*flags, "--json"), CRITICAL)["error"]


def test_result_is_pinged_without_secret(plugin: InvRunner, home: Path) -> None:
    with serve_pings() as pings:
        (home / "url").write_text(f"{pings.url}?a=b")
        changes = {"INVOKE_CHECK_PING_FILE": str(home / "url")}
        done = plugin("--debug", "check", "--ping", **changes)
        assert pings.requests == [f"GET /{SECRET}/fail?a=b"]
        assert "debug: local" in done.stderr
    failed = plugin.run_plugin("--ping", **changes)
    assert failed.stderr.startswith("warning: the ping failed: ")
    assert (failed.returncode, failed.stdout) == (CRITICAL, plugin.run_plugin().stdout)
    for run in (done, failed, plugin("--debug", "check", "--ping", **changes)):
        assert SECRET not in run.stdout + run.stderr


# --- time limit, Ctrl-C, output -------------------------------------------------------------------------------------


def test_silent_host_is_unknown_in_time(plugin: InvRunner, silent_host: tuple[Path, threading.Event]) -> None:
    flags = ["--host", "silent", "--timeout", "0.5", "--database", "index"]
    done = plugin.run_plugin(*flags, INVOKE_SSH_CONFIG=str(silent_host[0]))
    assert (done.returncode, done.stderr) == (UNKNOWN, "")
    assert done.stdout == "UNKNOWN silent/index: no result within 0.5 s\n"


def test_ctrl_c_is_unknown(plugin: InvRunner, silent_host: tuple[Path, threading.Event]) -> None:
    config, connected = silent_host
    environment = plugin.environment | {"INVOKE_SSH_CONFIG": str(config)}
    process = start_program(*PLUGIN, "--host", "silent", env=environment)
    assert connected.wait(60)
    os.killpg(process.pid, signal.SIGINT)
    assert read_unknown(wait_for_end(process)) == "UNKNOWN: interrupted"


GIVES_UP = """
import os, signal, sys, threading
from demo_backups.errors import CheckTimeoutError
from demo_backups.workflows import time_limit
time_limit.GRACE = 0.1
signal.signal(signal.SIGINT, signal.SIG_IGN)
def give_up():
    print("gave up", flush=True)
    os._exit(3)
with time_limit.time_limit(0.1, give_up):
    threading.Event().wait()
"""


def test_limit_holds_where_sigint_is_ignored() -> None:
    done = subprocess.run([sys.executable, "-c", GIVES_UP], capture_output=True, text=True, check=False, timeout=60)
    assert (done.returncode, done.stdout, done.stderr) == (3, "gave up\n", "")


def test_end_without_result_prints_the_others(
    project_settings: Settings, monkeypatch: pytest.MonkeyPatch, capfdbinary: pytest.CaptureFixture[bytes]
) -> None:
    ended: list[int] = []
    monkeypatch.setattr(os, "_exit", ended.append)
    settings = project_settings.model_copy(update={"host": "local", "use_sudo": False})
    check = check_command._prepare(settings, CheckOptions(host="a,b", database="index", timeout="7"))
    check.add_unknown(SettingsError("wrong"), ["a"])
    check.give_up()
    assert ended == [UNKNOWN]
    assert capfdbinary.readouterr().out == b"UNKNOWN a/index: wrong\nUNKNOWN b/index: no result within 7 s\n"


def test_limit_leaves_ctrl_c_and_results_alone() -> None:
    def give_up() -> None:
        pytest.fail("gave up")

    with pytest.raises(KeyboardInterrupt), time_limit.time_limit(60, give_up):
        signal.raise_signal(signal.SIGINT)
    with time_limit.time_limit(60, give_up):
        pass
    wait_until(lambda: "time limit" not in [thread.name for thread in threading.enumerate()], "the end of the threads")


@pytest.mark.parametrize("redirection", [">&-", ">/dev/full"])
def test_output_that_cannot_be_written(plugin: InvRunner, redirection: str) -> None:
    command = ["sh", "-c", f'exec "$@" {redirection}', "sh", *PLUGIN, "--database", "index"]
    done = subprocess.run(command, env=plugin.environment, capture_output=True, text=True, check=False)
    assert (done.returncode, done.stdout) == (UNKNOWN, "")
    assert done.stderr
    assert "Traceback" not in done.stderr


def test_closed_pipe_is_unknown(plugin: InvRunner) -> None:
    read, write = os.pipe()
    os.close(read)
    command = [*PLUGIN, "--database", "index"]
    done = subprocess.run(command, env=plugin.environment, stdout=write, stderr=subprocess.PIPE, check=False)
    os.close(write)
    assert (done.returncode, done.stderr) == (UNKNOWN, b"")
