"""Deploy a backup script: checked, atomically, and with a copy of the old one."""

from __future__ import annotations

import difflib
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import PurePosixPath

from ..errors import MissingToolError, StepError
from ..remote.answers import END, parse_line, parse_list, parse_time
from ..remote.files import FileWrite, parse_sha256, write_file
from ..remote.host import PROGRAM_NOT_FOUND, Host
from ..remote.shell import CRON_PATH, quote
from ..settings.model import Database
from ..sqlite.command import probe_command
from .script import InstalledScript, Script

# Of the archives of the configuration; GNU tar.
CONFIG_TOOLS = (
    *("bash", "chmod", "chown", "cut", "date", "find", "flock", "head", "ln", "mkdir", "mv", "readlink", "rm", "sed"),
    *("sha256sum", "sort", "stat", "sync", "tail", "tar", "touch", "wc", "xargs"),
)
REQUIRED_TOOLS = ("bash", "sqlite3", "chmod", "date", "env", "find", "flock", "ln", "realpath", "rm", "stat", "sync")


@dataclass(frozen=True)
class Deployment:
    """A script of this checkout, its path on the host, and the script installed at that path, if there is one."""

    script: Script
    target: PurePosixPath
    installed: InstalledScript | None

    @property
    def is_needed(self) -> bool:
        """Tell whether the installed script differs from that of this checkout."""
        return self.installed is None or self.installed.content != self.script.content

    def diff(self) -> str:
        """Compare the installed script with that of this checkout, in the format of `diff -u`."""
        old = self.installed.content if self.installed else b""
        old_lines = old.decode(errors="replace").splitlines()
        new_lines = self.script.content.decode(errors="replace").splitlines()
        old_name = f"{self.target} (installed)" if self.installed else "/dev/null"
        new_name = f"{self.script.path.name} (this checkout)"
        return "\n".join(difflib.unified_diff(old_lines, new_lines, old_name, new_name, lineterm=""))

    def command(self) -> str:
        """Return the command that puts the script in place, and what it gets on its standard input, to be shown."""
        comment = f"# standard input: {len(self.script.content):,} bytes of {self.script.path.name}"
        return f"{comment}\n{self.write.command()}"

    @property
    def write(self) -> FileWrite:
        """How the script is put in place."""
        return FileWrite(
            self.target,
            self.script.sha256,
            replaces=self.installed.sha256 if self.installed else None,
            mode="755",
            keep_previous=True,
        )


def list_tools(config_paths: Sequence[str]) -> tuple[str, ...]:
    """List the programs that a host needs for its backups; `tar` only if the settings name a configuration."""
    return (*REQUIRED_TOOLS, "tar") if config_paths else REQUIRED_TOOLS


def require_tools(host: Host, tools: Iterable[str] = REQUIRED_TOOLS) -> None:
    """Check that the host has the programs that a script calls; raises MissingToolError."""
    action = "look for the programs that the script calls"
    answer = host.query(action, missing_tools_command(tools), root=False)
    missing = host.parse(action, answer, parse_missing_tools)
    if missing:
        elsewhere = [f"{tool} is {path} on the PATH of this login" for tool, path in missing.items() if path]
        raise MissingToolError(
            f"not installed, or not on cron's PATH: {', '.join(missing)}",
            host=host.name,
            output="\n".join(elsewhere),
            advice=_installation_advice(missing),
        )


def _installation_advice(missing: Mapping[str, str]) -> str:
    packages = "install them (Debian packages: bash, coreutils, findutils, sqlite3, util-linux"
    packages += ", sed, tar)" if {"sed", "tar"} & missing.keys() else ")"
    found = {tool: path for tool, path in missing.items() if path}
    if not found:
        return packages
    links = "; ".join(f"sudo ln -s {quote(path)} /usr/bin/{tool}" for tool, path in found.items())
    links = f"cron's PATH is {CRON_PATH}: install the Debian package, or on the host: {links}"
    return links if len(found) == len(missing) else f"{packages}. {links}"


def missing_tools_command(tools: Iterable[str]) -> str:
    """Build the command that prints those programs that a job in a crontab would not find.

    After the name comes its path, if the login finds the program.
    """
    names = " ".join(tools)
    return (
        f'login="$PATH"; for tool in {names}; do PATH={CRON_PATH}; command -v "$tool" >/dev/null || '
        f'{{ PATH="$login"; echo "$tool $(command -v "$tool")"; }}; done; echo {END}'
    )


def parse_missing_tools(output: str) -> dict[str, str]:
    """Parse what `missing_tools_command` printed: the path of each program, or an empty text; raises ValueError."""
    missing = {}
    for line in parse_list(output):
        tool, separator, path = line.partition(" ")
        if tool not in (*REQUIRED_TOOLS, *CONFIG_TOOLS) or not separator or path[:1] not in ("", "/"):
            raise ValueError(f"not a program of the script: {line[:100]!r}")
        missing[tool] = path
    return missing


def probe_sqlite(host: Host) -> str:
    """Run sqlite3 with the options that the script uses; return its version. Raises MissingToolError."""
    result = host.run("try sqlite3", probe_command(), root=False)
    if not result.ok:
        if result.status == PROGRAM_NOT_FOUND:
            raise MissingToolError(
                f"sqlite3 is not installed, or not on cron's PATH ({CRON_PATH})",
                host=host.name,
                output=result.output,
                advice="install it (Debian package: sqlite3)",
            )
        raise MissingToolError(
            "sqlite3 does not support what the script uses",
            host=host.name,
            output=result.output,
            advice="install a newer sqlite3",
        )
    return host.parse("try sqlite3", result.stdout, parse_sqlite_version)


def parse_sqlite_version(output: str) -> str:
    """Parse the version that sqlite3 printed; raises ValueError."""
    version = parse_line(output)
    if not re.fullmatch(r"\d{1,9}(\.\d{1,9}){2,3}", version):
        raise ValueError(f"{version[:50]!r} is not a version")
    return version


def plan_deployment(host: Host, database: Database, script: Script) -> Deployment:
    """Compare a script of this checkout with the installed one; raises CouldNotLookError."""
    return Deployment(script, database.script, read_installed(host, database))


def installed_command(target: PurePosixPath) -> str:
    """Build the command that prints an installed script: mode, change time and zone, then its content.

    It prints `missing` where there is no script, and fails where the folder cannot be entered: every file in such a
    folder would seem to be missing.
    """
    path = quote(target)
    return (
        f"cd -- {quote(target.parent)} && if [ -e {path} ]; then"
        f" find -L {path} -maxdepth 0 -printf '%m %C@ %Tz\\n' && cat -- {path}; else echo missing; fi"
    )


def read_installed(host: Host, database: Database) -> InstalledScript | None:
    """Read a database's script on the host; None where there is none. Raises CouldNotLookError."""
    advice = f"is app_dir correct? The script's folder {database.script.parent} must exist"
    command = installed_command(database.script)
    return host.query_parsed(f"read {database.script}", command, parse_installed, advice=advice)


def parse_installed(output: str) -> InstalledScript | None:
    """Parse what `installed_command` printed; None where there is no script. Raises ValueError."""
    if output == "missing\n":
        return None
    attributes, _, content = output.partition("\n")
    mode, seconds, offset = attributes.split()
    if not re.fullmatch(r"[0-7]{1,4}", mode):
        raise ValueError(f"{mode[:50]!r} is not a mode")
    return InstalledScript(mode, content.encode("utf-8", "surrogateescape"), parse_time(seconds, offset))


def check_deployment(host: Host, deployment: Deployment) -> None:
    """Raise StepError where the deployed script could not run, since it gets the mode of the installed one."""
    installed = deployment.installed
    if installed and not int(installed.mode, 8) & 0o111:
        raise StepError(
            f"{deployment.target} is not executable (mode {installed.mode}), and deploying keeps the mode",
            host=host.name,
            advice=f"on the host: chmod 755 {quote(deployment.target)}",
        )


def deploy_script(host: Host, deployment: Deployment) -> None:
    """Put the script in place, and check that it is installed; raises StepError."""
    action = f"deploy {deployment.script.path.name}"
    write_file(host, action, deployment.write, deployment.script.content)
    if read_installed_sha256(host, deployment.target) != deployment.script.sha256:
        raise StepError(
            f"{deployment.target} differs from the script that was deployed",
            host=host.name,
            advice=f"somebody else may be deploying; the previous script is {deployment.target}.previous",
        )


def read_installed_sha256(host: Host, target: PurePosixPath) -> str | None:
    """Return the SHA-256 of an installed script, in hexadecimal; None if there is none. Raises CouldNotLookError."""
    path = quote(target)
    command = f"cd -- {quote(target.parent)} && if [ -e {path} ]; then sha256sum -- {path}; else echo missing; fi"
    return host.query_parsed(f"read {target}", command, _parse_installed_sha256)


def _parse_installed_sha256(output: str) -> str | None:
    return None if output == "missing\n" else parse_sha256(output)
