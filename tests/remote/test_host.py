"""A Host over SSH and on this machine: what a command gets and prints, and what happens when that fails."""

from __future__ import annotations

import contextlib
import io
import logging
import os
import shlex
import shutil
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from demo_backups.errors import (
    COULD_NOT_LOOK,
    BackupsError,
    ConnectionLostError,
    CouldNotLookError,
    InterruptedRunError,
    SettingsError,
    StepError,
)
from demo_backups.remote.connection import open_host
from demo_backups.remote.exchange import OUTPUT_LIMIT
from demo_backups.remote.host import LARGEST_ARGUMENT, Host, Result
from demo_backups.remote.runners import SshRunner
from demo_backups.settings.model import Settings

from ..helpers.processes import wait_until
from ..helpers.programs import set_login_shell, write_program
from ..helpers.tasks import DemoServer


@pytest.fixture(params=["ssh", "local"])
def either(request: pytest.FixtureRequest) -> Host:
    """A Host over SSH, and this machine."""
    return request.getfixturevalue("host" if request.param == "ssh" else "local_host")  # type: ignore[no-any-return]


def runner_of(host: Host) -> SshRunner:
    """The runner of a Host over SSH."""
    assert isinstance(host._runner, SshRunner)
    return host._runner


# --- results --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("command", "status", "stdout", "stderr"),
    [
        ("echo out; echo err >&2", 0, "out\n", "err\n"),
        ("echo half; exit 3", 3, "half\n", ""),
        ("exit 255", 255, "", ""),
        ("cat", 0, "", ""),  # the input is empty, so nothing waits for it
        ('echo "$LC_ALL"', 0, "C\n", ""),
        ('printf \'%s\' "it\'s \\"quoted\\" \\\\ # % ! \\$x"', 0, 'it\'s "quoted" \\ # % ! $x', ""),
        ("printf 'no line end'", 0, "no line end", ""),
        ("printf '\\n\\n'", 0, "\n\n", ""),
        ("printf 'a\\r\\nb'", 0, "a\r\nb", ""),
        ("echo ünï…", 0, "ünï…\n", ""),
    ],
)
def test_result_has_status_and_outputs(either: Host, command: str, status: int, stdout: str, stderr: str) -> None:
    result = either.run("try", command)
    assert (result.status, result.stdout, result.stderr) == (status, stdout, stderr)
    assert result.ok == (status == 0)


def test_missing_program_is_status_127(either: Host) -> None:
    result = either.run("try", "no-such-program")
    assert result.status == 127
    assert "no-such-program" in result.output


@pytest.mark.parametrize(
    ("command", "output"),
    [
        ("echo out; echo err >&2; false", "err\nout"),
        ("exit 4", "exit status 4"),
        ("kill -9 $$", "killed by a signal"),
    ],
)
def test_output_is_never_empty(either: Host, command: str, output: str) -> None:
    assert either.run("try", command).output == output


def test_signal_has_no_exit_status(demo_server: DemoServer, host: Host) -> None:
    demo_server.server.shell = "/bin/bash"  # replaces itself by the command, so the server reports the signal
    result = host.run("try", "kill -9 $$")
    assert (result.status, result.ok, result.output) == (None, False, "killed by a signal")


def test_every_byte_is_returned(either: Host, tmp_path: Path) -> None:
    content = bytes(range(256)) * 300
    (tmp_path / "bytes").write_bytes(content)
    result = either.run("read", f"cat '{tmp_path}/bytes'; head -c 60000 '{tmp_path}/bytes' >&2")
    assert result.stdout.encode("utf-8", "surrogateescape") == content
    assert result.stderr.encode("utf-8", "surrogateescape") == content[:60000]


def test_every_byte_arrives_in_command(either: Host) -> None:
    # The embedded server takes UTF-8 only; OpenSSH takes everything.
    odd = bytes(set(range(1, 256 if either.name == "local" else 128))).decode("utf-8", "surrogateescape") + "…"
    assert either.run("write", f"printf '%s' {shlex.quote(odd)}").stdout == odd


@pytest.mark.parametrize("shell", ["bash", "dash", "tcsh", "fish"])
def test_any_login_shell_passes_commands(demo_server: DemoServer, host: Host, shell: str) -> None:
    path = shutil.which(shell)
    if path is None:
        pytest.skip(f"{shell} is not installed")
    demo_server.server.shell = path
    odd = "a!b 'c' \"d\" `e` $HOME %h ~ {f,g} \\\\ \\0101 (h) * [i] # ;&|<>\r\nü !!"
    assert host.run("write", f"printf '%s' {shlex.quote(odd)}").stdout == odd
    assert host.stream("count", "wc -c\nexit 3", source=io.BytesIO(bytes(5_000_000))).result == Result(
        3, "5000000\n", ""
    )
    assert host.run("try", "kill -9 $$").status is None


def test_both_outputs_at_once(either: Host) -> None:
    much = "head -c 2000000 /dev/zero | tr '\\0' x"
    result = either.run("print much", f"({much}) & {much} >&2; wait")
    assert len(result.stdout) == 2_000_000
    assert result.stderr.startswith("xxx")
    assert "bytes ..." in result.stderr
    assert len(result.stderr) < 100_000


def test_too_much_output_is_no_answer(either: Host) -> None:
    exactly = f"head -c {OUTPUT_LIMIT} /dev/zero"
    assert len(either.run("read", exactly).stdout) == OUTPUT_LIMIT
    with pytest.raises(CouldNotLookError, match="could not read: the command printed more than 8,388,608 bytes"):
        either.run("read", f"{exactly}; echo; sleep 600")
    assert either.run("read", "echo next").stdout == "next\n"


def test_output_is_read_in_linear_time(either: Host) -> None:
    """Sixteen times as much takes sixteen times as long, not 256 times; small pieces are the worst case."""

    def seconds(lines: int) -> float:
        begin = time.perf_counter()
        assert either.run("read", f"yes | head -n {lines}").stdout == "y\n" * lines
        return time.perf_counter() - begin

    seconds(1000)
    assert seconds(4_000_000) < 16 * 6 * max(seconds(250_000), 0.05)


def test_commands_are_recorded_once(local_host: Host) -> None:
    assert local_host.commands == []
    local_host.run("try", "echo a")
    local_host.execute("try", "echo secret", display="echo <6 bytes>")
    local_host.run("try", "exit 3", root=True)
    local_host.query("try", "echo a")
    assert local_host.commands == ["echo a", "echo <6 bytes>", "exit 3"]
    local_host.run("try", ": " + "x" * 50_000)
    assert local_host.commands[3:] == [": " + "x" * 1998 + "... <50,002 characters in all>"]


def test_number_of_recorded_commands_is_limited(local_host: Host, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("demo_backups.remote.host.MOST_COMMANDS", 3)
    for number in (1, 2, 3, 1, 4, 5):
        local_host.run("try", f": {number}")
    assert local_host.commands == [": 1", ": 2", ": 3", "<more than 3 commands>"]


def test_each_command_is_logged(local_host: Host, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.DEBUG, "demo_backups.remote")
    local_host.run("try", "echo a; exit 3")
    local_host.execute("try", "echo secret", display="echo <6 bytes>")
    with pytest.raises(BackupsError):
        local_host.run("wait", "sleep 600", timeout=0.1)
    lines = [record.getMessage() for record in caplog.records]
    assert [line.split(" s: ")[1] for line in lines] == ["echo a; exit 3", "echo <6 bytes>", "sleep 600"]
    assert lines[0].startswith("local: exit status 3, 0.")
    assert lines[2].startswith("local: could not wait: no answer within 0.1 s, 0.")


# --- failures -------------------------------------------------------------------------------------------------------


def test_too_long_command_is_refused(either: Host) -> None:
    with pytest.raises(StepError, match=r"could not send it: more than 126976 bytes for one command"):
        either.run("send it", "true #" + "x" * LARGEST_ARGUMENT)
    # The longest that is accepted does arrive; quotes count as what they become.
    longest = "true #" + "x" * (LARGEST_ARGUMENT - 300)
    assert either.run("send it", longest).ok
    with pytest.raises(StepError):
        either.run("send it", "true #" + "'" * (LARGEST_ARGUMENT // 4))


def test_timeout_ends_waiting(either: Host, tmp_path: Path) -> None:
    pid = tmp_path / "pid"
    with pytest.raises(ConnectionLostError) as caught:
        either.run("wait", f"sleep 600 & echo $! >'{pid}'; wait", timeout=1)
    os.kill(int(pid.read_text()), signal.SIGKILL)  # it was still running
    assert f"{either.name}: could not wait: no answer within 1 s" in str(caught.value)
    assert f"it may still be running on {either.name}" in caught.value.advice
    assert either.run("continue", "echo next").stdout == "next\n"


def test_interrupted_query_only_reads(either: Host, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Host.run, "__kwdefaults__", {**(Host.run.__kwdefaults__ or {}), "timeout": 0.5})
    with pytest.raises(ConnectionLostError) as caught:
        either.query("wait", "exec sleep 600", root=False)
    assert "still be running" not in caught.value.advice


def test_query_and_execute_raise_different_errors(either: Host) -> None:
    assert either.query("look", "echo answer") == "answer\n"
    assert either.execute("do it", "echo done") == "done\n"
    with pytest.raises(CouldNotLookError) as query:
        either.query("look", "echo why >&2; exit 2")
    assert str(query.value) == f"{either.name}: could not look\n  | why"
    with pytest.raises(StepError) as execution:
        either.execute("do it", "echo why >&2; exit 2")
    assert str(execution.value) == f"{either.name}: could not do it\n  | why"
    assert (query.value.exit_code, execution.value.exit_code) == (3, 1)


@pytest.mark.parametrize("answer", ["", "many", "1\n2"])
def test_unparsable_answer_is_no_answer(local_host: Host, answer: str) -> None:
    assert local_host.query_parsed("count", "echo 7", int) == 7
    with pytest.raises(CouldNotLookError, match="could not count: the answer cannot be parsed"):
        local_host.query_parsed("count", f"printf %s {shlex.quote(answer)}", int)


def test_missing_permission_suggests_sudo(either: Host) -> None:
    with pytest.raises(CouldNotLookError) as caught:
        either.query("look", "echo 'cat: /x: Permission denied' >&2; false")
    assert "set use_sudo to true (INVOKE_USE_SUDO=1)" in caught.value.advice


@pytest.mark.parametrize(
    ("message", "advice"),
    [
        ("cat: write error: No space left on device", "df -i"),
        ("cat: write error: Disk quota exceeded", "df -i"),
        ("touch: cannot touch 'x': Read-only file system", "dmesg"),
    ],
)
def test_full_or_read_only_disk_is_explained(local_host: Host, message: str, advice: str) -> None:
    with pytest.raises(StepError) as caught:
        local_host.execute("write x", f"echo {shlex.quote(message)} >&2; false")
    assert advice in caught.value.advice


# --- the login shell ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "greeting",
    [
        "echo 'Welcome!'",
        "printf 'no line end'",
        "echo out; echo err >&2",
        "head -c 200000 /dev/zero",
        "printf '\\377\\n'",
        "read -r line",  # it gets the end of the input, and nothing of it
    ],
)
def test_output_of_login_shell_is_dropped(demo_server: DemoServer, host: Host, greeting: str) -> None:
    set_login_shell(demo_server, f'{greeting}\nexec /bin/sh "$@"')
    result = host.run("try", "echo out; echo err >&2; exit 3")
    assert (result.status, result.stdout, result.stderr) == (3, "out\n", "err\n")


@pytest.mark.parametrize(
    ("shell", "output"),
    [
        ("echo 'This account is currently not available.'; exit 1", "This account is currently not available."),
        ("echo 'no such command: /bin/sh' >&2; exit 0", "no such command: /bin/sh"),
        ("exit 0", ""),
    ],
)
def test_login_shell_that_runs_nothing(demo_server: DemoServer, host: Host, shell: str, output: str) -> None:
    set_login_shell(demo_server, shell)
    with pytest.raises(CouldNotLookError, match="could not look: the command did not start") as caught:
        host.run("look", "true")
    assert caught.value.output == output
    assert "this must print 'ok': ssh rehearsal" in caught.value.advice


# --- the connection -------------------------------------------------------------------------------------------------


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


@contextlib.contextmanager
def when(path: Path, act: Callable[[], object]) -> Iterator[None]:
    """Act as soon as a file exists, while something else is done inside."""
    thread = threading.Thread(target=lambda: (wait_until(path.exists, str(path)), act()))
    thread.start()
    try:
        yield
    finally:
        thread.join()


def test_server_killed_during_command(
    mortal: tuple[Path, subprocess.Popen[str]], project_settings: Settings, tmp_path: Path
) -> None:
    config, process = mortal
    settings = project_settings.model_copy(update={"host": "rehearsal", "ssh_config": str(config), "use_sudo": False})
    started = tmp_path / "started"
    with open_host(settings) as host:
        with pytest.raises(ConnectionLostError) as caught, when(started, process.kill):
            host.run("copy", f"echo half; echo $$ >'{started}'; exec sleep 600 >/dev/null 2>&1")
        assert "rehearsal: the connection was lost while trying to copy" in str(caught.value)
        assert "it may still be running on rehearsal" in caught.value.advice
        with pytest.raises(CouldNotLookError, match="no SSH connection"):
            host.run("look", "true")
    os.kill(int(started.read_text()), signal.SIGKILL)


def test_cut_after_last_output_is_no_success(host: Host, tmp_path: Path) -> None:
    """The exit status never came: that is neither 0 nor a signal."""
    started = tmp_path / "started"
    cut = runner_of(host).connection.transport.sock.close
    with pytest.raises(ConnectionLostError, match="the connection was lost"), when(started, cut):
        host.run("copy", f"echo all; touch '{started}'; sleep 600")


def test_lost_connection_is_replaced_before_next_command(host: Host) -> None:
    first = runner_of(host).connection
    first.transport.close()
    assert host.run("continue", "echo next").stdout == "next\n"
    assert runner_of(host).connection is not first


@pytest.mark.parametrize("name", ["", "-oProxyCommand=touch x", "two words", "new\nline"])
def test_impossible_host_name_is_refused(project_settings: Settings, name: str) -> None:
    with pytest.raises(SettingsError, match="--host") as caught, open_host(project_settings, name or "\t"):
        pass
    assert "local" in caught.value.advice


def test_connection_is_closed_with_host(demo_server: DemoServer) -> None:
    with open_host(demo_server.settings) as host:
        assert host.run("try", "true").ok
        transport = runner_of(host).connection.transport
    wait_until(lambda: not transport.is_alive(), "the end of the connection")


def test_local_commands_ignore_settings_of_invoke(project_settings: Settings, monkeypatch: pytest.MonkeyPatch) -> None:
    for name, value in (("INVOKE_RUN_DRY", "1"), ("INVOKE_RUN_ECHO", "1"), ("INVOKE_RUN_SHELL", "/bin/false")):
        monkeypatch.setenv(name, value)
    with open_host(project_settings, "local") as host:
        assert host.run("try", "echo ok").stdout == "ok\n"


@pytest.mark.user
def test_ctrl_c_ends_waiting(either: Host, tmp_path: Path) -> None:
    started = tmp_path / "started"
    main = threading.main_thread().ident
    assert main is not None
    interrupt = lambda: signal.pthread_kill(main, signal.SIGINT)  # noqa: E731
    begin = time.monotonic()
    with pytest.raises(InterruptedRunError, match="interrupted while trying to wait"), when(started, interrupt):
        either.run("wait", f"echo $$ >'{started}.new'; mv '{started}.new' '{started}'; exec sleep 600")
    assert time.monotonic() - begin < 20
    with pytest.raises(InterruptedRunError):  # and nothing else is run
        either.run("look", "true")
    with contextlib.suppress(ProcessLookupError):
        os.kill(int(started.read_text()), signal.SIGKILL)


# --- root -----------------------------------------------------------------------------------------------------------

REFUSES = "echo 'sudo: a password is required' >&2; exit 1"
WANTS_TERMINAL = "echo 'sudo: sorry, you must have a tty to run sudo' >&2; exit 1"
# Programs in place of sudo, called with its options. `run` drops the options and runs the rest as root.
RUN = (
    'run() { while [ "$1" != -- ] && [ "$1" != true ]; do shift; done; [ "$1" = true ] || shift; AS_ROOT=1 exec "$@"; }'
)
ALLOWS = f'{RUN}\nrun "$@"'
ASKS = f"""{RUN}
[ "$1" != -n ] || {{ {REFUSES}; }}
printf %s "$3" >&2; read -r password
if [ "$password" != "$(cat "$HOME/password")" ]; then
  echo 'Sorry, try again.' >&2; printf %s "$3" >&2; read -r password; exit 1
fi
run "$@"
"""
ASKS_ONCE = f"""{RUN}
if [ "$1" = -n ]; then {REFUSES}; fi
if [ ! -e "$HOME/asked" ]; then : > "$HOME/asked"; printf %s "$3" >&2; read -r password; fi
run "$@"
"""
EXPIRES = f"""{RUN}
if [ "$1" = -n ]; then
  if [ ! -e "$HOME/expired" ]; then [ "$2" != true ] || exec true; : > "$HOME/expired"; fi
  {REFUSES}
fi
printf %s "$3" >&2; read -r password; run "$@"
"""


@pytest.fixture
def as_user(demo_server: DemoServer) -> Iterator[Callable[[str | None], Host]]:
    """Open the server as a user who is not root, with a sudo of the test's own, or without one."""
    programs = demo_server.server.folder / "bin"
    write_program(programs / "id", '#!/bin/sh\n[ "$*" = -u ] && echo 1000 || exec /usr/bin/id "$@"\n')

    def open_with(sudo: str | None) -> Host:
        if sudo is None:
            # Not on this PATH, wherever it is installed.
            for tool in ("sh", "echo", "cat", "env", "true"):
                (programs / tool).symlink_to(f"/bin/{tool}")
            demo_server.server.environment["PATH"] = str(programs)
        else:
            write_program(programs / "sudo", f"#!/bin/sh\n{sudo}\n")
        return stack.enter_context(open_host(demo_server.settings.model_copy(update={"use_sudo": True})))

    with contextlib.ExitStack() as stack:
        yield open_with


@pytest.fixture
def typed(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Type a password whenever one is asked for; lists the questions."""
    questions: list[str] = []

    def answer(prompt: str) -> str:
        questions.append(prompt)
        return "correct hörse"

    monkeypatch.setattr("demo_backups.remote.host.ask_secret", answer)
    return questions


def test_sudo_runs_commands_as_root(as_user: Callable[[str | None], Host]) -> None:
    host = as_user(ALLOWS)
    assert host.run("look", "echo $AS_ROOT", root=True).stdout == "1\n"
    assert host.run("look", "echo $AS_ROOT").stdout == "\n"


def test_root_login_needs_no_sudo(demo_server: DemoServer) -> None:
    write_program(demo_server.server.folder / "bin/id", "#!/bin/sh\necho 0\n")
    write_program(demo_server.server.folder / "bin/sudo", f"#!/bin/sh\n{REFUSES}\n")
    with open_host(demo_server.settings.model_copy(update={"use_sudo": True})) as host:
        assert host.run("look", "echo fine", root=True).stdout == "fine\n"


@pytest.mark.parametrize(
    ("sudo", "action", "output", "advice"),
    [
        (REFUSES, "there is no terminal to ask for it", "a password is required", "sudoers"),
        (WANTS_TERMINAL, "requiretty is set in sudoers", "must have a tty", "INVOKE_USE_SUDO=0"),
        (None, "sudo is not installed", "", "log in as root, or set use_sudo to false"),
    ],
)
def test_without_root_access_nothing_is_run(
    as_user: Callable[[str | None], Host], sudo: str | None, action: str, output: str, advice: str
) -> None:
    host = as_user(sudo)
    for _ in range(2):
        with pytest.raises(CouldNotLookError) as caught:
            host.run("look", "echo never", root=True)
        assert action in caught.value.action
        assert output in caught.value.output
        assert advice in caught.value.advice
        assert caught.value.exit_code == COULD_NOT_LOOK


def test_later_refusal_is_no_empty_answer(as_user: Callable[[str | None], Host]) -> None:
    host = as_user(f'[ "$*" = "-n true" ] || {{ {REFUSES}; }}')
    with pytest.raises(CouldNotLookError, match="could not look: the command did not start") as caught:
        host.run("look", "true", root=True)
    assert "sudoers" in caught.value.advice


def test_password_is_asked_for_once(
    demo_server: DemoServer, as_user: Callable[[str | None], Host], typed: list[str]
) -> None:
    (demo_server.server.home / "password").write_text("correct hörse")
    host = as_user(ASKS)
    for _ in range(2):
        assert host.run("look", "echo $AS_ROOT; cat", root=True).stdout == "1\n"
    data = b"\0data\n" * 10_000
    sink = io.BytesIO()
    transfer = host.stream("copy", "cat", root=True, source=io.BytesIO(data), sink=sink)
    assert (transfer.result.ok, sink.getvalue()) == (True, data)
    assert typed == ["sudo password on rehearsal (asked once, not stored): "]
    assert not any("hörse" in command for command in host.commands)


def test_unasked_password_is_not_sent(as_user: Callable[[str | None], Host], typed: list[str]) -> None:
    """A sudo with a valid timestamp does not ask; what was sent for it would be the command's data."""
    host = as_user(ASKS_ONCE)
    assert host.run("look", "cat", root=True).stdout == ""
    for data in (b"", b"data"):
        sink = io.BytesIO()
        host.stream("copy", "cat", root=True, source=io.BytesIO(data), sink=sink)
        assert sink.getvalue() == data


def test_expired_timestamp_asks_for_password(as_user: Callable[[str | None], Host], typed: list[str]) -> None:
    host = as_user(EXPIRES)
    assert host.run("look", "echo $AS_ROOT", root=True).stdout == "1\n"
    assert len(typed) == 1


def test_wrong_password_is_not_sent_again(
    demo_server: DemoServer, as_user: Callable[[str | None], Host], typed: list[str]
) -> None:
    (demo_server.server.home / "password").write_text("another")
    host = as_user(f'echo >> "$HOME/calls"\n{ASKS}')
    for _ in range(2):
        with pytest.raises(CouldNotLookError, match="could not look: sudo refused the password"):
            host.run("look", "true", root=True)
    assert len((demo_server.server.home / "calls").read_text()) == 2  # the probe, and one try
    assert len(typed) == 1
