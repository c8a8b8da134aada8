"""A Host over SSH and on this machine: what goes in, what comes back, and what happens when it does not."""

from __future__ import annotations

import contextlib
import os
import shlex
import signal
import subprocess
import sys
import threading
import weakref
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import fabric.runners
import pytest
from invoke.runners import Runner

from demo_backups.backup.deploy import probe_sqlite, require_tools
from demo_backups.errors import (
    COULD_NOT_LOOK,
    ConnectionLostError,
    CouldNotLookError,
    InterruptedRunError,
    SettingsError,
    StepError,
)
from demo_backups.remote.connection import open_host
from demo_backups.remote.host import LARGEST_ARGUMENT, Host
from demo_backups.settings import Settings

from ..helpers.processes import wait_until
from ..helpers.tasks import Demo


@pytest.fixture(params=["ssh", "local"])
def either(request: pytest.FixtureRequest) -> Host:
    """A Host over SSH, and this machine."""
    return request.getfixturevalue("host" if request.param == "ssh" else "here")  # type: ignore[no-any-return]


def executable(path: Path, text: str) -> Path:
    """Write a program."""
    path.write_text(text)
    path.chmod(0o755)
    return path


def login_shell(demo: Demo, text: str) -> None:
    """Give the server's user another login shell: a script, called with -c and the command."""
    demo.server.shell = str(executable(demo.server.folder / "login-shell", f"#!/bin/sh\n{text}\n"))


# --- commands -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("command", "status", "stdout", "stderr"),
    [
        ("echo out; echo err >&2", 0, "out\n", "err\n"),
        ("echo half; exit 3", 3, "half\n", ""),
        ("exit 255", 255, "", ""),
        ("cat", 0, "", ""),  # its input is empty: nothing waits for what nobody types
        ('echo "$LC_ALL"', 0, "C\n", ""),
        ('printf \'%s\' "it\'s \\"quoted\\" \\\\ # % ! \\$x"', 0, 'it\'s "quoted" \\ # % ! $x', ""),
        ("printf 'no line end'", 0, "no line end", ""),
        ("printf '\\n\\n'", 0, "\n\n", ""),
        ("printf 'a\\r\\nb'", 0, "a\r\nb", ""),
        ("echo ünï…", 0, "ünï…\n", ""),
    ],
)
def test_a_command_says_what_it_says(either: Host, command: str, status: int | None, stdout: str, stderr: str) -> None:
    done = either.run("try", command)
    assert (done.status, done.stdout, done.stderr) == (status, stdout, stderr)
    assert done.ok == (status == 0)


def test_what_was_run_is_kept_once_each_in_order_with_words_for_what_is_long(here: Host) -> None:
    assert here.commands == []
    here.run("try", "echo a")
    here.execute("try", "echo secret", display="echo <6 bytes>")
    here.run("try", "exit 3", root=True)
    here.query("try", "echo a")
    assert here.commands == ["echo a", "echo <6 bytes>", "exit 3"]
    here.run("try", ": " + "x" * 50_000)
    assert here.commands[3:] == [": " + "x" * 1998 + "... <50,002 characters in all>"]


def test_only_so_many_commands_are_kept(here: Host, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("demo_backups.remote.host.MOST_COMMANDS", 3)
    for number in (1, 2, 3, 1, 4, 5):
        here.run("try", f": {number}")
    assert here.commands == [": 1", ": 2", ": 3", "<more than 3 commands>"]


def test_a_missing_program_is_no_lost_connection(either: Host) -> None:
    done = either.run("try", "no-such-program")
    assert done.status == 127
    assert "no-such-program" in done.output


@pytest.mark.parametrize(
    ("command", "printed"),
    [
        ("echo out; echo err >&2; false", "err\nout"),
        ("exit 4", "exit status 4"),
        ("kill -9 $$", "Killed"),
    ],
)
def test_there_is_always_something_to_show(either: Host, command: str, printed: str) -> None:
    assert either.run("try", command).output == printed


def test_a_signal_is_told_where_the_login_shell_leaves_it_to_the_server(demo: Demo, host: Host) -> None:
    demo.server.shell = "/bin/bash"  # has the command in its own place
    done = host.run("try", "kill -9 $$")
    assert (done.status, done.ok, done.output) == (None, False, "it was killed by a signal")


def test_every_byte_comes_back(either: Host, tmp_path: Path) -> None:
    content = bytes(range(256)) * 300
    (tmp_path / "bytes").write_bytes(content)
    done = either.run("read", f"cat '{tmp_path}/bytes'; cat '{tmp_path}/bytes' >&2")
    assert done.stdout.encode("utf-8", "surrogateescape") == content
    assert done.stderr.encode("utf-8", "surrogateescape") == content


def test_every_byte_gets_there(either: Host) -> None:
    # The embedded server takes UTF-8 only; OpenSSH takes what there is.
    odd = bytes(set(range(1, 256 if either.name == "local" else 128))).decode("utf-8", "surrogateescape") + "…"
    done = either.run("write", f"printf '%s' {shlex.quote(odd)}")
    assert done.stdout == odd


def test_much_on_both_outputs_at_once(either: Host) -> None:
    count = 2_000_000
    much = f"head -c {count} /dev/zero | tr '\\0' x"
    done = either.run("print much", f"({much}) & {much} >&2; wait")
    assert (len(done.stdout), len(done.stderr)) == (count, count)


def test_a_command_that_is_too_long_is_refused_before_it_goes_out(either: Host) -> None:
    with pytest.raises(StepError, match=r"could not send it: more than 126976 bytes for one command"):
        either.run("send it", "true #" + "x" * LARGEST_ARGUMENT)
    # The largest that is let through does arrive; quotes count as what they become.
    longest = "true #" + "x" * (LARGEST_ARGUMENT - 300)
    assert either.run("send it", longest).ok
    with pytest.raises(StepError):
        either.run("send it", "true #" + "'" * (LARGEST_ARGUMENT // 4))


def test_no_answer_in_time_is_told_at_once_and_the_next_command_works(either: Host, tmp_path: Path) -> None:
    pid = tmp_path / "pid"
    with pytest.raises(CouldNotLookError) as caught:
        either.run("wait", f"sleep 600 & echo $! >'{pid}'; wait", timeout=1)
    os.kill(int(pid.read_text()), signal.SIGKILL)  # it did go on
    assert f"{either.name}: could not wait: no answer within 1 s" in str(caught.value)
    assert f"it may still be running on {either.name}" in caught.value.advice
    assert either.run("go on", "echo on").stdout == "on\n"


def test_a_command_is_given_up_quietly_where_its_connection_is_gone(
    host: Host, monkeypatch: pytest.MonkeyPatch
) -> None:
    close = fabric.runners.Remote.kill

    def kill(runner: Any) -> None:
        close(runner)
        raise EOFError  # as Paramiko does where there is no connection to close the command's channel on

    monkeypatch.setattr(fabric.runners.Remote, "kill", kill)
    with pytest.raises(ConnectionLostError, match="no answer within 1 s"):  # and no thread that ends in a traceback
        host.run("wait", "sleep 600", timeout=1)


def test_asking_and_acting_raise_what_they_mean(either: Host) -> None:
    assert either.query("look", "echo seen") == "seen\n"
    assert either.execute("do it", "echo done") == "done\n"
    with pytest.raises(CouldNotLookError) as looked:
        either.query("look", "echo why >&2; exit 2")
    assert str(looked.value) == f"{either.name}: could not look\n  | why"
    with pytest.raises(StepError) as acted:
        either.execute("do it", "echo why >&2; exit 2")
    assert str(acted.value) == f"{either.name}: could not do it\n  | why"
    assert (looked.value.exit_code, acted.value.exit_code) == (3, 1)


def test_a_permission_that_is_missing_without_sudo_says_how_to_use_it(either: Host) -> None:
    with pytest.raises(CouldNotLookError) as caught:
        either.query("look", "echo 'cat: /x: Permission denied' >&2; false")
    assert "set use_sudo to true (INVOKE_USE_SUDO=1)" in caught.value.advice


# --- the way there --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "greeting",
    [
        "echo 'Welcome!'",
        "printf 'no line end'",
        "echo out; echo err >&2",
        "head -c 100000 /dev/zero",
        "printf '\\377\\n'",
    ],
)
def test_a_login_shell_that_prints_does_no_harm(demo: Demo, host: Host, greeting: str) -> None:
    login_shell(demo, f'{greeting}\nexec /bin/sh "$@"')
    done = host.run("try", "echo out; echo err >&2; exit 3")
    assert (done.status, done.stdout, done.stderr) == (3, "out\n", "err\n")


@pytest.mark.parametrize(
    ("shell", "printed"),
    [
        ("echo 'This account is currently not available.'; exit 1", "This account is currently not available."),
        ("echo 'no such command: /bin/sh' >&2; exit 0", "no such command: /bin/sh"),
        ("exit 0", ""),
    ],
)
def test_a_login_shell_that_runs_nothing_is_no_empty_answer(demo: Demo, host: Host, shell: str, printed: str) -> None:
    login_shell(demo, shell)
    with pytest.raises(CouldNotLookError, match="could not look: the command did not start") as caught:
        host.run("look", "true")
    assert caught.value.output == printed
    assert "this must print 'ok': ssh rehearsal" in caught.value.advice


@pytest.fixture
def mortal(tmp_path: Path) -> Iterator[tuple[Path, subprocess.Popen[str]]]:
    """A server in a process of its own, which can be killed: its SSH configuration, and the process."""
    folder = tmp_path / "mortal"
    folder.mkdir()
    program = (
        "import pathlib, sys; from demo_backups.rehearsal.server import serve\n"
        "with serve(pathlib.Path(sys.argv[1])): print('ready', flush=True); sys.stdin.read()"
    )
    with subprocess.Popen(
        [sys.executable, "-c", program, folder], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as process:
        assert process.stdout
        assert process.stdout.readline() == "ready\n"
        yield folder / "ssh_config", process
        process.kill()


def in_a_finalizer() -> None:
    """Get a Ctrl-C while an object is taken away."""

    class Dying:
        def __del__(self) -> None:
            signal.raise_signal(signal.SIGINT)

    Dying()


def in_a_weak_reference() -> None:
    """Get a Ctrl-C while a set of weak references forgets one."""

    class Telling(list[Any]):
        def append(self, item: Any) -> None:
            signal.raise_signal(signal.SIGINT)

    held: Any = weakref.WeakSet()
    item = threading.Event()
    held.add(item)
    held._iterating, held._pending_removals = {1}, Telling()
    del item


@pytest.mark.parametrize("get", [in_a_finalizer, in_a_weak_reference])
def test_a_ctrl_c_that_python_would_lose_is_heeded_and_leaves_no_traceback(
    either: Host, monkeypatch: pytest.MonkeyPatch, get: Callable[[], None]
) -> None:
    lost: list[Any] = []
    with monkeypatch.context() as patched:
        patched.setattr(sys, "unraisablehook", lost.append)
        get()
    assert lost == []
    with pytest.raises(InterruptedRunError, match="interrupted while trying to look"):
        either.run("look", "true")


def test_a_ctrl_c_that_meets_invoke_half_set_up_is_told_as_one(either: Host, monkeypatch: pytest.MonkeyPatch) -> None:
    def interrupted(runner: Any, kwargs: Any) -> None:
        signal.raise_signal(signal.SIGINT)

    monkeypatch.setattr(Runner, "_unify_kwargs_with_config", interrupted)
    with pytest.raises(InterruptedRunError, match="interrupted while trying to look"):
        either.run("look", "true")


@contextlib.contextmanager
def when(path: Path, act: Callable[[], object]) -> Iterator[None]:
    """Act as soon as a file is there, while something else is done inside."""
    thread = threading.Thread(target=lambda: (wait_until(path.exists, str(path)), act()))
    thread.start()
    try:
        yield
    finally:
        thread.join()


def test_a_server_that_is_gone_in_the_middle_is_told_at_once(
    mortal: tuple[Path, subprocess.Popen[str]], project_settings: Settings, tmp_path: Path
) -> None:
    config, process = mortal
    settings = project_settings.model_copy(update={"host": "rehearsal", "ssh_config": str(config), "use_sudo": False})
    started = tmp_path / "started"
    with open_host(settings) as host:
        with pytest.raises(CouldNotLookError) as caught, when(started, process.kill):
            host.run("copy", f"echo half; echo $$ >'{started}'; exec sleep 600 >/dev/null 2>&1")
        assert "rehearsal: the connection was lost while trying to copy" in str(caught.value)
        assert "it may still be running on rehearsal" in caught.value.advice
        with pytest.raises(CouldNotLookError, match="the connection was lost while trying to look"):
            host.run("look", "true")
    os.kill(int(started.read_text()), signal.SIGKILL)


def test_a_connection_lost_after_the_last_word_is_no_success(demo: Demo, host: Host, tmp_path: Path) -> None:
    """The exit status never came: that is neither 0 nor a signal."""
    started = tmp_path / "started"
    cut = host._context.transport.sock.close
    with pytest.raises(CouldNotLookError, match="the connection was lost"), when(started, cut):
        host.run("copy", f"echo all; touch '{started}'; sleep 600")


@pytest.mark.parametrize("name", ["", "-oProxyCommand=touch x", "two words", "new\nline"])
def test_what_can_be_no_host_is_refused_before_anything_is_run(project_settings: Settings, name: str) -> None:
    with pytest.raises(SettingsError, match="--host") as caught, open_host(project_settings, name or "\t"):
        pass
    assert "local" in caught.value.advice


def test_the_connection_is_closed_when_the_host_is(demo: Demo) -> None:
    with open_host(demo.settings) as host:
        assert host.run("try", "true").ok
        transport = host._context.transport
    wait_until(lambda: not transport.is_alive(), "the end of the connection")


def test_commands_here_are_free_of_what_the_user_set_for_other_tasks(
    project_settings: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name, value in (("INVOKE_RUN_DRY", "1"), ("INVOKE_RUN_ECHO", "1"), ("INVOKE_RUN_SHELL", "/bin/false")):
        monkeypatch.setenv(name, value)
    with open_host(project_settings, "local") as host:
        assert host.run("try", "echo ok").stdout == "ok\n"


# --- root -----------------------------------------------------------------------------------------------------------

REFUSES = "echo 'sudo: a password is required' >&2; exit 1"
WANTS_A_TERMINAL = "echo 'sudo: sorry, you must have a tty to run sudo' >&2; exit 1"
ALLOWS = 'while [ "$1" != -- ] && [ "$1" != true ]; do shift; done; [ "$1" = true ] || shift; AS_ROOT=1 exec "$@"'


@pytest.fixture
def as_user(demo: Demo) -> Iterator[Callable[[str | None], Host]]:
    """Open the server as a user who is not root, with a sudo of the test's own, or with none."""
    programs = demo.server.folder / "bin"
    executable(programs / "id", '#!/bin/sh\n[ "$*" = -u ] && echo 1000 || exec /usr/bin/id "$@"\n')

    def opened(sudo: str | None) -> Host:
        if sudo is None:
            # Not on this PATH, wherever it may be here.
            for tool in ("sh", "echo", "cat", "env", "true"):
                (programs / tool).symlink_to(f"/bin/{tool}")
            demo.server.environment["PATH"] = str(programs)
        else:
            executable(programs / "sudo", f"#!/bin/sh\n{sudo}\n")
        return stack.enter_context(open_host(demo.settings.model_copy(update={"use_sudo": True})))

    with contextlib.ExitStack() as stack:
        yield opened


def test_root_is_asked_of_sudo_where_the_user_is_not_root(as_user: Callable[[str | None], Host]) -> None:
    host = as_user(ALLOWS)
    assert host.run("look", "echo $AS_ROOT", root=True).stdout == "1\n"
    assert host.run("look", "echo $AS_ROOT").stdout == "\n"


def test_root_needs_no_sudo(demo: Demo) -> None:
    executable(demo.server.folder / "bin/id", "#!/bin/sh\necho 0\n")
    executable(demo.server.folder / "bin/sudo", f"#!/bin/sh\n{REFUSES}\n")
    with open_host(demo.settings.model_copy(update={"use_sudo": True})) as host:
        assert host.run("look", "echo fine", root=True).stdout == "fine\n"


@pytest.mark.parametrize(
    ("sudo", "tried", "printed", "advice"),
    [
        (REFUSES, "there is no terminal to ask for it", "a password is required", "sudoers"),
        (
            WANTS_A_TERMINAL,
            "there is no terminal to ask for it",
            "must have a tty",
            "INVOKE_USE_SUDO=0",
        ),
        (None, "sudo is not installed", "", "log in as root, or set use_sudo to false"),
    ],
)
def test_without_a_way_to_become_root_nothing_is_looked_at(
    as_user: Callable[[str | None], Host], sudo: str | None, tried: str, printed: str, advice: str
) -> None:
    host = as_user(sudo)
    for _ in range(2):
        with pytest.raises(CouldNotLookError) as caught:
            host.run("look", "echo should not be seen", root=True)
        assert tried in caught.value.action
        assert printed in caught.value.output
        assert advice in caught.value.advice
        assert caught.value.exit_code == COULD_NOT_LOOK


def test_sudo_that_refuses_later_is_no_empty_answer(as_user: Callable[[str | None], Host]) -> None:
    host = as_user(f'[ "$*" = "-n true" ] || {{ {REFUSES}; }}')
    with pytest.raises(CouldNotLookError, match="could not look: the command did not start") as caught:
        host.run("look", "true", root=True)
    assert "sudoers" in caught.value.advice


# --- what a server may lack -----------------------------------------------------------------------------------------


def farm(folder: Path, *without: str) -> Path:
    """A folder of links to all programs of this machine but some."""
    folder.mkdir()
    for place in ("/usr/bin", "/bin"):
        for program in Path(place).iterdir():
            link = folder / program.name
            if program.name not in without and not link.exists() and os.access(program, os.X_OK):
                link.symlink_to(program)
    return folder


@pytest.mark.parametrize("missing", [("sqlite3",), ("bash",), ("flock", "realpath")])
def test_programs_that_cron_would_not_find_are_named(
    demo: Demo, host: Host, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, missing: tuple[str, ...]
) -> None:
    monkeypatch.setattr("demo_backups.backup.deploy.CRON_PATH", str(farm(tmp_path / "farm", *missing)))
    with pytest.raises(CouldNotLookError) as caught:
        require_tools(host)
    assert f"not installed, or not on cron's PATH: {', '.join(missing)}" in str(caught.value)
    assert "Debian packages" in caught.value.advice


def test_an_sqlite3_that_is_too_old_is_told_with_its_own_words(
    demo: Demo, host: Host, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    programs = farm(tmp_path / "farm", "sqlite3")
    executable(programs / "sqlite3", "#!/bin/sh\necho 'sqlite3: Error: unknown option: -readonly' >&2; exit 1\n")
    monkeypatch.setattr("demo_backups.sqlite.command.CRON_PATH", str(programs))
    with pytest.raises(CouldNotLookError) as caught:
        probe_sqlite(host)
    assert "unknown option: -readonly" in caught.value.output


def test_this_machine_has_all_that_the_script_calls(either: Host) -> None:
    require_tools(either)
    assert probe_sqlite(either).startswith("3.")
