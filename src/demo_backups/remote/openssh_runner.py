"""Start commands through the OpenSSH client: slower to start, but with all that its configuration can do.

A master connection is opened once, in the background; each command is a session of it (ssh_config(5), ControlMaster).
OpenSSH itself logs in and checks the host keys, on jump hosts too: a configuration file is put before the user's, and
its first lines override what would accept an unknown key.
"""

from __future__ import annotations

import contextlib
import os
import shlex
import shutil
import stat
import subprocess
import tempfile
from collections.abc import Iterator
from pathlib import Path

from ..errors import CouldNotLookError, HostKeyError, HostUnreachableError, LoginError, SettingsError
from .exchange import ConnectionBrokenError
from .interrupts import Interrupts
from .openssh import INSTALL
from .runners import LocalCommand
from .ssh_config import Hop, parse_destination, resolve
from .terminal import SHARED_TERMINAL, has_terminal

OPEN_TIMEOUT = 60  # seconds without a terminal; on one, the user may take any time to type a passphrase
CONTROL_TIMEOUT = 10  # seconds for a request to the master, which is on this machine
IDLE = 60  # seconds after which a master without a session ends, in case this process was killed
FAILED = 255  # exit status of ssh for its own errors, and for a command that was ended by a signal (ssh(1))
SOCKETS = "/tmp"  # TMPDIR may be too long for the path of a socket
USER_FILES = ["~/.ssh/config", "/etc/ssh/ssh_config"]  # of OpenSSH; neither need exist
# Before the user's configuration, since ssh takes the first value of each option.
OVERRIDES = f"""\
IgnoreUnknown SessionType,StdinNull,ForkAfterAuthentication
StrictHostKeyChecking yes
VerifyHostKeyDNS no
NoHostAuthenticationForLocalhost no
UpdateHostKeys no
ForwardAgent no
ForwardX11 no
ClearAllForwardings yes
PermitLocalCommand no
RequestTTY no
RemoteCommand none
SessionType default
StdinNull no
ForkAfterAuthentication no
ControlPersist {IDLE}
LogLevel ERROR
"""
# After it: for what it does not set.
DEFAULTS = """\
Host *
ConnectTimeout 10
ServerAliveInterval 30
"""


class OpenSshRunner:
    """Start commands over a connection of the OpenSSH client, which is opened again where it was lost."""

    def __init__(self, hop: Hop, folder: Path, ssh_config: Path | None) -> None:
        self._hop = hop
        self._ssh_config = ssh_config
        self._config = folder / "config"
        self._config.write_text(_configuration(ssh_config))
        self._socket = folder / "master"
        options = resolve(hop, self._config)
        self._has_proxy = any(options.get(name, "none") != "none" for name in ("proxyjump", "proxycommand"))
        control_path = str(options.get("controlpath", "none"))
        # Where the user has a master open, use it: it may be the only way in. Not where another user could have put it:
        # a master gets all commands and a sudo password, and its host key was checked when it was opened.
        self._options = ["-o", "ControlMaster=no"]
        self._has_own_master = (
            control_path.lower() == "none" or not _is_private(Path(control_path).parent) or not self._is_open()
        )
        if self._has_own_master:
            self._options += ["-o", f"ControlPath={self._socket}"]
            self._open()

    def start(self, command: str) -> OpenSshCommand:
        """Start a command of the login shell."""
        if self._has_own_master and not self._socket.exists():
            self._open()
        # As bytes: the name of a file need not be UTF-8.
        words = [os.fsencode(word) for word in self._command("-T", "-o", "BatchMode=yes")]
        words.append(command.encode("utf-8", "surrogateescape"))
        # In a session of its own: Ctrl-C is for this process, which decides what to do about the command.
        process = subprocess.Popen(
            words,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            bufsize=0,
            start_new_session=True,
        )
        return OpenSshCommand(process, self)

    def require_open(self) -> None:
        """Raise ConnectionBrokenError unless the master is connected."""
        if not self._is_open():
            raise ConnectionBrokenError("the connection of the OpenSSH client has ended")

    def close(self) -> None:
        """End the master, unless it is the user's."""
        if self._has_own_master and self._socket.exists():
            self._control("exit")

    def _command(self, *options: str) -> list[str]:
        return self._hop.ssh_command(self._config, *options, *self._options)

    def _is_open(self) -> bool:
        return self._control("check")

    def _control(self, request: str) -> bool:
        with contextlib.suppress(subprocess.TimeoutExpired):
            done = subprocess.run(
                self._command("-O", request),
                stdin=subprocess.DEVNULL,
                capture_output=True,
                timeout=CONTROL_TIMEOUT,
                check=False,
            )
            return done.returncode == 0
        return False

    def _open(self) -> None:
        """Open the master connection; a passphrase or password is requested on the terminal only, by ssh itself.

        Where several hosts share the terminal, all first try to log in without it; those that need it then take turns.
        """
        shared = SHARED_TERMINAL.get()
        if shared is None:
            self._open_master(has_terminal())
            return
        try:
            self._open_master(False, without_terminal=True)
        except (LoginError, HostUnreachableError) as error:
            # OpenSSH does not say that a jump host has refused the login.
            if not has_terminal() or (isinstance(error, HostUnreachableError) and not self._has_proxy):
                raise
            shared.use_by_program("ssh", lambda: self._open_master(True))

    def _open_master(self, is_interactive: bool, without_terminal: bool = False) -> None:
        """Open the master connection; `without_terminal`, the ssh of a jump host cannot ask either."""
        batch = "no" if is_interactive else "yes"
        # -f: ssh goes to the background, into a session of its own, as soon as it has logged in.
        command = self._command("-f", "-N", "-M", "-o", f"BatchMode={batch}")
        command[command.index("ControlMaster=no")] = "ControlMaster=yes"
        self._socket.unlink(missing_ok=True)
        with tempfile.TemporaryFile() as errors:
            try:
                timeout = None if is_interactive else OPEN_TIMEOUT
                done = subprocess.run(
                    command,
                    stdin=subprocess.DEVNULL,
                    stdout=errors,
                    stderr=errors,
                    timeout=timeout,
                    check=False,
                    start_new_session=without_terminal,
                    env=os.environ | {"SSH_ASKPASS_REQUIRE": "never"} if without_terminal else None,
                )
            except subprocess.TimeoutExpired:
                raise HostUnreachableError(f"no connection within {OPEN_TIMEOUT} s", host=self._hop.alias) from None
            errors.seek(0)
            printed = errors.read(10_000).decode(errors="replace").strip()
        if done.returncode:
            raise self._refused(printed)

    def _refused(self, printed: str) -> CouldNotLookError:
        command = [*self._hop.ssh_command(self._ssh_config), "true"]
        advice = f"this command must work without a question: {shlex.join(command)}"
        if "Host key verification failed" in printed or "HOST IDENTIFICATION HAS CHANGED" in printed:
            return HostKeyError("OpenSSH refused the host key", host=self._hop.alias, output=printed, advice=advice)
        if "Permission denied" in printed or "Too many authentication failures" in printed:
            return LoginError("OpenSSH could not log in", host=self._hop.alias, output=printed, advice=advice)
        return HostUnreachableError("OpenSSH could not connect", host=self._hop.alias, output=printed, advice=advice)


class OpenSshCommand(LocalCommand):
    """A command that runs on a server, in a session of the master connection."""

    def __init__(self, process: subprocess.Popen[bytes], runner: OpenSshRunner) -> None:
        super().__init__(process)
        self._runner = runner

    def exit_status(self) -> int | None:
        """The exit status; None if a signal ended the command. Raises ConnectionBrokenError if there is none."""
        status = super().exit_status()
        if status is None or status == FAILED:
            self._runner.require_open()
            return None
        return status


@contextlib.contextmanager
def open_openssh(name: str, ssh_config: Path | None, interrupts: Interrupts) -> Iterator[OpenSshRunner]:
    """Open a connection of the OpenSSH client; `ssh_config` replaces the user's and the system's files.

    Raises SettingsError and CouldNotLookError.
    """
    hop = parse_destination(name)
    if shutil.which("ssh") is None:
        raise SettingsError("ssh is not installed on this machine", host=name, advice=INSTALL)

    def open_runner() -> OpenSshRunner:
        resolve(hop, ssh_config)  # for the error of a configuration that is missing or wrong
        return OpenSshRunner(hop, Path(folder), ssh_config)

    with tempfile.TemporaryDirectory(prefix="demo-backups-", dir=SOCKETS) as folder:
        runner = interrupts.call(open_runner, OpenSshRunner.close)
        try:
            yield runner
        finally:
            runner.close()


def _is_private(folder: Path) -> bool:
    """Tell whether only this user and root can put a file into a directory."""
    try:
        attributes = folder.stat()
    except OSError:
        return False
    return attributes.st_uid in (0, os.geteuid()) and not attributes.st_mode & (stat.S_IWGRP | stat.S_IWOTH)


def _configuration(ssh_config: Path | None) -> str:
    # ssh itself finds the home directory, which need not be that of HOME.
    files = [f'"{_escape_pattern(str(ssh_config.absolute()))}"'] if ssh_config else USER_FILES
    return "".join([OVERRIDES, *(f"Include {file}\n" for file in files), DEFAULTS])


def _escape_pattern(path: str) -> str:
    """Escape a path for Include, which takes a pattern of glob(7)."""
    return "".join(f"[{character}]" if character in "*?[" else character for character in path)
