"""Tasks on several hosts: in parallel, separated by host, and none hides or stops another."""

from __future__ import annotations

import contextlib
import getpass
import io
import json
import os
import shlex
import signal
import socket
import subprocess
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from demo_backups.errors import (
    COULD_NOT_LOOK,
    FAILED,
    INCOMPLETE,
    INTERRUPTED,
    WRONG_INPUT,
    BackupsError,
    CouldNotLookError,
    HostKeyError,
    HostUnreachableError,
    InterruptedRunError,
    SettingsError,
    UnexpectedError,
    combine_exit_codes,
)
from demo_backups.project import ROOT
from demo_backups.remote import host_threads, terminal
from demo_backups.remote.connection import open_host
from demo_backups.remote.interrupts import watch_interrupts
from demo_backups.remote.terminal import ask_secret
from demo_backups.settings.load import select_host
from demo_backups.settings.model import Settings
from demo_backups.settings.values import SEVERAL_HOSTS
from demo_backups.ui.console import Console, make_console
from demo_backups.workflows import hosts
from demo_backups.workflows.hosts import HostResult, run_on_hosts, split_hosts

from .helpers.backups import make_backup
from .helpers.processes import wait_for_end, wait_until
from .helpers.programs import write_program
from .helpers.records import make_record
from .helpers.ssh_servers import add_alias
from .helpers.task_reference import load_tasks
from .helpers.tasks import INV, DemoServer, InvRunner, assert_exit, assert_success, read_json
from .helpers.terminal import terminal as open_terminal

NAMES = [f"host{number}" for number in range(8)]
PAIR = NAMES[:2]


@pytest.fixture
def aliases(demo_server: DemoServer) -> DemoServer:
    """A throwaway server with eight aliases."""
    for name in NAMES:
        add_alias(demo_server.server, name)
    return demo_server


@pytest.fixture
def closed_port() -> Iterator[int]:
    """A port on which nothing listens."""
    with socket.socket() as unused:
        unused.bind(("127.0.0.1", 0))
        yield unused.getsockname()[1]


@pytest.fixture
def silent_port() -> Iterator[int]:
    """A port that accepts connections and sends nothing."""
    with socket.create_server(("127.0.0.1", 0)) as listening:
        yield listening.getsockname()[1]


class Shown:
    """What was shown, in order."""

    def __init__(self) -> None:
        self.results: list[HostResult[Any]] = []

    def __call__(self, result: HostResult[Any]) -> None:
        """Show the result of a host."""
        self.results.append(result)

    @property
    def names(self) -> list[str]:
        return [result.name for result in self.results]


def run(settings: Settings, names: list[str], work: Callable[[Settings, Console], Any]) -> dict[str, Any]:
    """Run a function on hosts, and show nothing."""
    return run_on_hosts(settings, names, work, make_console(io.StringIO()))


@contextlib.contextmanager
def interrupt_when(condition: Callable[[], Any]) -> Iterator[None]:
    """Press Ctrl-C inside as soon as a condition is true."""

    def press() -> None:
        wait_until(condition, "the moment for Ctrl-C")
        os.kill(os.getpid(), signal.SIGINT)

    thread = threading.Thread(target=press)
    thread.start()
    yield
    thread.join()


# --- names and exit codes -------------------------------------------------------------------------------------------


def test_hosts_are_split_at_commas() -> None:
    assert split_hosts("demo") == ["demo"]
    assert split_hosts("demo,local,root@backup") == ["demo", "local", "root@backup"]


@pytest.mark.parametrize("text", ["", ",", "a,", ",a", "a,,b", "a,a", "a,-v", "a, b", "a,b\n"])
def test_wrong_list_of_hosts_is_refused(text: str) -> None:
    with pytest.raises(SettingsError, match="--host "):
        split_hosts(text)


@pytest.mark.parametrize(
    ("codes", "combined"),
    [
        ([], 0),
        ([0, 0], 0),
        ([0, COULD_NOT_LOOK], COULD_NOT_LOOK),
        ([COULD_NOT_LOOK, INCOMPLETE], INCOMPLETE),
        ([INCOMPLETE, FAILED, COULD_NOT_LOOK], FAILED),
        ([FAILED, WRONG_INPUT], WRONG_INPUT),
        ([WRONG_INPUT, INTERRUPTED, 0], INTERRUPTED),
    ],
)
def test_exit_codes_are_combined(codes: list[int], combined: int) -> None:
    assert combine_exit_codes(codes) == combined


def test_several_hosts_are_refused_elsewhere(project_settings: Settings, run_inv: InvRunner) -> None:
    with pytest.raises(SettingsError, match="names several hosts"):
        select_host(project_settings, "a,b")
    with pytest.raises(SettingsError, match="names several hosts"), open_host(project_settings, "a,b"):
        pass
    assert_exit(run_inv("run", "--host", "a,b"), WRONG_INPUT, "names several hosts", SEVERAL_HOSTS)
    assert_exit(run_inv("list-backups", INVOKE_HOST="a,b"), WRONG_INPUT, "INVOKE_HOST", "names several hosts")


def test_message_names_tasks_with_several_hosts() -> None:
    accepting = {
        str(context.name)
        for context in load_tasks().to_contexts()
        if "host" in context.args and "A,B" in str(context.args["host"].help)
    }
    assert accepting | {"check"} == set(SEVERAL_HOSTS.replace(" and", ",").split(", "))


# --- in parallel ----------------------------------------------------------------------------------------------------


def test_hosts_are_used_at_same_time(aliases: DemoServer, tmp_path: Path) -> None:
    """Each command ends when those of all hosts have started."""
    folder = tmp_path / "meeting"
    folder.mkdir()

    def meet(settings: Settings, console: Console) -> str:
        with open_host(settings) as host:
            command = (
                f"cd {shlex.quote(str(folder))}; touch {settings.host}; until [ $(ls | wc -l) = 8 ]; do sleep 0.1; done"
            )
            return host.run("meet", f"{command}; echo met").stdout

    results = run(aliases.settings, NAMES, meet)
    assert list(results.items()) == [(name, "met\n") for name in NAMES]


def test_result_is_shown_before_later_hosts_end(project_settings: Settings) -> None:
    shown = Shown()

    def work(settings: Settings, console: Console) -> str:
        if settings.host == "b":
            wait_until(lambda: shown.names == ["a"], "the result of the first host")
        console.say(f"text of {settings.host}")
        return settings.host

    run_on_hosts(project_settings, ["a", "b"], work, make_console(io.StringIO()), shown)
    assert [(result.name, result.value, result.text) for result in shown.results] == [
        ("a", "a", "text of a\n"),
        ("b", "b", "text of b\n"),
    ]


def test_bad_hosts_do_not_stop_others(
    aliases: DemoServer, closed_port: int, silent_port: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("demo_backups.remote.connection.BANNER_TIMEOUT", 1)
    server = aliases.server
    add_alias(server, "down", closed_port)
    add_alias(server, "silent", silent_port)
    add_alias(server, "stranger", is_known=False)

    def work(settings: Settings, console: Console) -> str:
        with open_host(settings) as host:
            if settings.host == NAMES[1]:
                raise ZeroDivisionError("a fault of the project")
            if settings.host == NAMES[2]:
                host.query_parsed("count", "echo many", int)
            return host.run("look", "echo good").stdout

    names = ["silent", "down", "no-such-host.invalid", NAMES[0], "stranger", *NAMES[1:4]]
    results = run(aliases.settings, names, work)
    assert list(results) == names
    assert {name: type(value) for name, value in results.items() if isinstance(value, BackupsError)} == {
        "silent": HostUnreachableError,
        "down": HostUnreachableError,
        "no-such-host.invalid": HostUnreachableError,
        "stranger": HostKeyError,
        NAMES[1]: UnexpectedError,
        NAMES[2]: CouldNotLookError,
    }
    assert "ZeroDivisionError" in str(results[NAMES[1]])
    assert [results[NAMES[0]], results[NAMES[3]]] == ["good\n", "good\n"]


def test_failure_to_print_ends_all_hosts(local_host: object, project_settings: Settings) -> None:
    ended = threading.Event()

    def work(settings: Settings, console: Console) -> None:
        if settings.host == "local":
            with open_host(settings, "local") as host, contextlib.suppress(InterruptedRunError):
                host.run("wait", "sleep 600")
            ended.set()

    def show(result: HostResult[None]) -> None:
        raise BrokenPipeError

    with pytest.raises(BrokenPipeError):
        run_on_hosts(project_settings, ["first", "local"], work, make_console(io.StringIO()), show)
    assert ended.is_set()


# --- questions ------------------------------------------------------------------------------------------------------


def test_questions_take_turns_and_name_hosts(project_settings: Settings, monkeypatch: pytest.MonkeyPatch) -> None:
    prompts: list[str] = []

    def answer(prompt: str) -> str:
        assert threading.current_thread() is threading.main_thread()
        prompts.append(prompt)
        if len(prompts) == 1:  # the others have time to disturb
            wait_until(lambda: waiting == {"a", "b", "c"}, "the questions of all hosts")
        return f"answer to {prompt}"

    waiting: set[str] = set()

    def work(settings: Settings, console: Console) -> str | None:
        waiting.add(settings.host)
        return ask_secret("password: ")

    monkeypatch.setattr(terminal, "has_terminal", lambda: True)
    monkeypatch.setattr(getpass, "getpass", answer)
    results = run(project_settings, ["a", "b", "c"], work)
    assert results == {name: f"answer to {name}: password: " for name in ("a", "b", "c")}
    assert len(prompts) == 3


def test_right_passphrase_is_requested_once(project_settings: Settings, monkeypatch: pytest.MonkeyPatch) -> None:
    answers = iter(["wrong", "right"])
    monkeypatch.setattr(terminal, "has_terminal", lambda: True)
    monkeypatch.setattr(getpass, "getpass", lambda prompt: next(answers))
    results = run(project_settings, ["a", "b", "c"], lambda *_: ask_secret("key: ", lambda answer: answer == "right"))
    assert sorted(results.values()) == ["right", "right", "wrong"]


def test_error_of_question_reaches_its_host(project_settings: Settings, monkeypatch: pytest.MonkeyPatch) -> None:
    def answer(prompt: str) -> str:
        if prompt.startswith("a: "):
            raise OSError("the terminal is gone")
        return "secret"

    monkeypatch.setattr(terminal, "has_terminal", lambda: True)
    monkeypatch.setattr(getpass, "getpass", answer)
    results = run(project_settings, ["a", "b"], lambda settings, console: ask_secret("password: "))
    assert "the terminal is gone" in str(results["a"])
    assert results["b"] == "secret"


@pytest.mark.user
def test_ctrl_c_at_question_ends_all_hosts(
    local_host: object, project_settings: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    shown = Shown()

    def answer(prompt: str) -> str:
        raise KeyboardInterrupt

    def work(settings: Settings, console: Console) -> object:
        if settings.host == "a":
            return ask_secret("password: ")
        with open_host(settings) as host:
            return host.run("wait", "sleep 600")

    monkeypatch.setattr(terminal, "has_terminal", lambda: True)
    monkeypatch.setattr(getpass, "getpass", answer)
    with pytest.raises(KeyboardInterrupt):
        run_on_hosts(project_settings, ["a", "local"], work, make_console(io.StringIO()), shown)
    assert {result.name: result.value.exit_code for result in shown.results} == {"a": 130, "local": 130}


def test_ctrl_c_restores_the_terminal(aliases: DemoServer) -> None:
    key = aliases.server.folder / "user_key"
    subprocess.run(["ssh-keygen", "-q", "-p", "-P", "", "-N", "passphrase", "-f", key], check=True)
    command: list[str | Path] = [INV, "--search-root", ROOT, "list-backups", "--host", ",".join(PAIR)]
    with open_terminal(command, aliases.environment) as tty:
        tty.expect(": Passphrase for ")
        wait_until(lambda: not tty.echoes(), "the question to hide what is typed")
        tty.press_ctrl_c()
        assert tty.end() == INTERRUPTED, tty.shown
        assert tty.echoes()
        assert tty.shown.count("Passphrase for ") == 1


# --- Ctrl-C ---------------------------------------------------------------------------------------------------------


@pytest.mark.user
def test_ctrl_c_ends_all_hosts(aliases: DemoServer, silent_port: int, tmp_path: Path) -> None:
    add_alias(aliases.server, "silent", silent_port)
    shown = Shown()
    running: set[str] = set()

    def work(settings: Settings, console: Console) -> object:
        running.add(settings.host)
        with open_host(settings) as host:
            if settings.host == NAMES[0]:
                host.wait(600)
            return host.run("wait", f"touch {shlex.quote(str(tmp_path))}/started; sleep 600")

    begin = time.monotonic()
    names = ["silent", *PAIR]
    with (
        pytest.raises(KeyboardInterrupt),
        interrupt_when(lambda: len(running) == 3 and (tmp_path / "started").exists()),
    ):
        run_on_hosts(aliases.settings, names, work, make_console(io.StringIO()), shown)
    assert shown.names == names
    assert [type(result.value) for result in shown.results] == [InterruptedRunError] * 3
    assert time.monotonic() - begin < host_threads.POLL_INTERVAL + hosts.END_TIMEOUT


@pytest.mark.user
def test_ctrl_c_leaves_stuck_threads(project_settings: Settings, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(hosts, "END_TIMEOUT", 0.2)
    shown = Shown()
    end = threading.Event()
    started = threading.Event()

    def work(settings: Settings, console: Console) -> None:
        started.set()
        if settings.host == "stuck":
            end.wait(60)

    with pytest.raises(KeyboardInterrupt), interrupt_when(lambda: started.is_set() and shown.names == ["quick"]):
        run_on_hosts(project_settings, ["quick", "stuck"], work, make_console(io.StringIO()), shown)
    end.set()
    assert [getattr(result.value, "exit_code", 0) for result in shown.results] == [0, INTERRUPTED]
    assert "did not end" in str(shown.results[1].value)


def test_late_result_is_discarded() -> None:
    """A connection that is established after the Ctrl-C is closed."""
    interrupts = host_threads.SharedInterrupts()
    started, end, discarded = threading.Event(), threading.Event(), threading.Event()

    def connect() -> str:
        started.set()
        end.wait(60)
        return "connection"

    def interrupt() -> None:
        started.wait(60)
        interrupts.interrupt()

    threading.Thread(target=interrupt).start()
    with pytest.raises(KeyboardInterrupt):
        interrupts.call(connect, lambda value: discarded.set() if value == "connection" else None)
    end.set()
    assert discarded.wait(60)


def test_hosts_share_interrupts(project_settings: Settings) -> None:
    def work(settings: Settings, console: Console) -> object:
        with watch_interrupts() as interrupts:
            return interrupts.filenos()

    results = run(project_settings, ["a", "b"], work)
    assert results["a"] == results["b"] != []
    with watch_interrupts() as interrupts:
        assert interrupts.filenos() != results["a"]


# --- the tasks ------------------------------------------------------------------------------------------------------


def test_output_is_that_of_every_host(aliases: DemoServer, closed_port: int) -> None:
    make_backup(aliases.source, aliases.backups)
    add_alias(aliases.server, "down", closed_port)
    names = [NAMES[0], "down", NAMES[1]]
    single = [aliases.inv("list-backups", "--host", name) for name in names]
    done = aliases.inv("list-backups", "--host", ",".join(names))
    assert done.stdout == "".join(task.stdout for task in single)
    assert done.stderr == "".join(task.stderr for task in single)
    assert (done.returncode, single[1].returncode) == (COULD_NOT_LOOK, COULD_NOT_LOOK)


def test_json_has_object_of_every_host(aliases: DemoServer, closed_port: int) -> None:
    make_backup(aliases.source, aliases.backups)
    add_alias(aliases.server, "down", closed_port)
    done = aliases.inv("list-backups", "--json", "--host", f"{NAMES[0]},down,local")
    printed = read_json(done, COULD_NOT_LOOK)
    assert list(printed) == ["hosts"]
    assert list(printed["hosts"]) == [NAMES[0], "down", "local"]
    assert printed["hosts"][NAMES[0]] == read_json(aliases.inv("list-backups", "--json", "--host", NAMES[0]))
    assert printed["hosts"]["down"].keys() == {"error", "exit_code"}
    assert printed["hosts"]["local"]["host"] == "local"
    assert f"{NAMES[0]}: list-backups" in done.stderr


def test_wrong_flags_are_reported_once(aliases: DemoServer) -> None:
    done = aliases.inv("verify", "--host", "a,b", "--database", "no-such", "--json")
    assert read_json(done, WRONG_INPUT).keys() == {"error", "exit_code"}
    assert_exit(aliases.inv("plan", "--host", "a,b", "--svg", "x.svg"), WRONG_INPUT, "one host")


def test_every_verification_has_a_record(aliases: DemoServer) -> None:
    make_backup(aliases.source, aliases.backups)
    done = assert_success(aliases.inv("verify", "--host", ",".join(PAIR)))
    assert done.count("all checks passed") == 2
    records = {record["host"]: record for record in aliases.records()}
    assert {name: record["exit_status"] for name, record in records.items()} == dict.fromkeys(PAIR, 0)
    history = read_json(aliases.inv("history", "--json", "--host", ",".join(PAIR)))
    assert {name: [record["host"] for record in found["records"]] for name, found in history["hosts"].items()} == {
        name: [name] for name in PAIR
    }


def test_failure_after_result_keeps_the_result(aliases: DemoServer) -> None:
    make_backup(aliases.source, aliases.backups)
    Path(aliases.environment["INVOKE_EVIDENCE_DIR"]).touch()
    done = aliases.inv("verify", "--json", "--host", ",".join(PAIR))
    printed = read_json(done, INCOMPLETE)
    assert [printed["hosts"][name]["passed"] for name in PAIR] == [True, True]
    assert done.stderr.count("could not be written") == 2


def test_ctrl_c_detaches_from_every_check(aliases: DemoServer) -> None:
    make_backup(aliases.source, aliases.backups)
    release = aliases.server.folder / "release"
    waiting = aliases.server.folder / "waiting"
    body = f'case "$*" in *integrity_check*) touch {waiting}; until [ -e {release} ]; do sleep 0.1; done;; esac'
    write_program(aliases.server.folder / "bin/sqlite3", f'#!/bin/sh\n{body}\nexec /usr/bin/sqlite3 "$@"\n')
    task = aliases.start("verify", "--host", ",".join(PAIR))
    wait_until(waiting.exists, "the check")
    wait_until(lambda: len(list(aliases.server.home.glob(".demo-backups/*/0*"))) == 1, "the job of the check")
    os.kill(task.pid, signal.SIGINT)
    done = wait_for_end(task)
    assert_exit(done, INTERRUPTED, *(f"./inv attach --host {name} --database index" for name in PAIR))
    assert [record["exit_status"] for record in aliases.records()] == [INTERRUPTED] * 2
    release.touch()
    assert_success(aliases.inv("attach", "--host", PAIR[0]))


def test_history_is_separated_by_host(project_settings: Settings, run_inv: InvRunner, home: Path) -> None:
    folder = home / "evidence"
    folder.mkdir()
    for number, name in enumerate(["a", "b", "c"]):
        record = make_record(host=name, when=f"2026-01-0{number + 1}T00:00:00.000000+00:00")
        (folder / f"{name}.json").write_text(json.dumps(record.as_json()))
    (folder / "invalid.json").write_text("")
    done = assert_success(run_inv("history", "--host", "b,a"))
    assert done.index("b: history") < done.index("2026-01-02") < done.index("a: history") < done.index("2026-01-01")
    assert "2026-01-03" not in done
    assert done.count("invalid record") == 1


def test_plan_of_several_hosts(aliases: DemoServer) -> None:
    done = aliases.inv("plan", "--json", "--exit-code", "--host", f"{NAMES[0]},no-such-host.invalid")
    plans = read_json(done, FAILED)["hosts"]
    marks = {
        name: {step["name"]: step["mark"] for phase in plan["phases"] for step in phase["steps"]}
        for name, plan in plans.items()
    }
    assert [plan["host"] for plan in plans.values()] == [NAMES[0], "no-such-host.invalid"]
    assert marks[NAMES[0]]["index-deploy"] != marks["no-such-host.invalid"]["index-deploy"] == "unknown"
