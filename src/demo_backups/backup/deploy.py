"""Deploy a backup script: checked, atomically, the old one kept."""

from __future__ import annotations

import difflib
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import PurePosixPath

from ..errors import CouldNotLookError, StepError
from ..remote.files import FileWrite, parse_sha256, parse_time, send
from ..remote.host import Host
from ..remote.shell import CRON_PATH, quote
from ..settings import Database
from ..sqlite.inspect import sqlite_features_command
from .script import InstalledScript, Script

REQUIRED_TOOLS = ("bash", "sqlite3", "chmod", "date", "env", "find", "flock", "ln", "realpath", "rm", "stat", "sync")


@dataclass(frozen=True)
class Deployment:
    """What deploying a script would change: the one here, and the one there, if there is one."""

    script: Script
    target: PurePosixPath
    there: InstalledScript | None

    @property
    def needed(self) -> bool:
        """Tell whether the two differ."""
        return self.there is None or self.there.content != self.script.content

    def diff(self) -> str:
        """Compare what is there with what would be, as `diff -u` does."""
        old = self.there.content if self.there else b""
        there, here = (each.decode(errors="replace").splitlines() for each in (old, self.script.content))
        name = f"{self.target} (there)" if self.there else "/dev/null"
        return "\n".join(difflib.unified_diff(there, here, name, f"{self.script.path.name} (here)", lineterm=""))

    def command(self) -> str:
        """The command that puts it in place; it reads the script from its standard input."""
        return (
            f"# standard input: {len(self.script.content):,} bytes of {self.script.path.name}\n{self._write.command()}"
        )

    @property
    def _write(self) -> FileWrite:
        return FileWrite(
            self.target,
            self.script.sha256,
            replaces=self.there.sha256 if self.there else None,
            mode="755",
            keep_previous=True,
        )


def check_tools(host: Host) -> str:
    """See that the host has what the script calls; return the version of its sqlite3. Raises CouldNotLookError."""
    missing = host.query(
        "look for the programs that the script calls", missing_tools_command(REQUIRED_TOOLS), root=False
    ).split()
    if missing:
        raise CouldNotLookError(
            f"not installed, or not on cron's PATH: {', '.join(missing)}",
            host=host.name,
            advice="install them (Debian's packages: bash, coreutils, findutils, sqlite3, util-linux)",
        )
    result = host.run("try sqlite3", sqlite_features_command(), root=False)
    if not result.ok:
        raise CouldNotLookError(
            "its sqlite3 cannot do what the script asks",
            host=host.name,
            output=result.output,
            advice="install a newer sqlite3",
        )
    return result.stdout.strip()


def plan_deployment(host: Host, database: Database, script: Script) -> Deployment:
    """Look at the script that stands on the host, and say what deploying this one would change."""
    return Deployment(script, database.script, read_installed(host, database))


def read_installed(host: Host, database: Database) -> InstalledScript | None:
    """Look at a database's script on the host; None where there is none. Raises CouldNotLookError."""
    target = quote(database.script)
    # The folder first: in one that cannot be entered, every file would seem to be missing.
    look = (
        f"cd -- {quote(database.script.parent)} && if [ -e {target} ]; then"
        f" find -L {target} -maxdepth 0 -printf '%m %C@ %Tz\\n' && cat -- {target}; fi"
    )
    advice = f"is app_dir right? The script goes into {database.script.parent}, which must be there"
    return host.query_parsed(f"look at {database.script}", look, parse_installed, advice=advice)


def parse_installed(printed: str) -> InstalledScript | None:
    """A script, from its mode, the time of its change, and its content; raises ValueError."""
    if not printed:
        return None
    about, _, content = printed.partition("\n")
    mode, seconds, offset = about.split()
    int(mode, 8)
    return InstalledScript(mode, content.encode("utf-8", "surrogateescape"), parse_time(seconds, offset))


def check_deployment(host: Host, push: Deployment) -> None:
    """Refuse what would not run; raises StepError."""
    if push.there and not int(push.there.mode, 8) & 0o111:
        raise StepError(
            f"{push.target} is not executable there (mode {push.there.mode}), and deploying keeps its mode",
            host=host.name,
            advice=f"there: chmod 755 {quote(push.target)}",
        )


def deploy_script(host: Host, change: Deployment) -> None:
    """Put the script in its place and look that it stands there; raises StepError."""
    send(host, f"put {change.script.path.name} in its place", change.command(), change.script.content)
    if installed_sha256(host, change.target) != change.script.sha256:
        raise StepError(
            f"{change.target} is not what was put there",
            host=host.name,
            advice="is somebody else deploying? The old one is beside it: NAME.previous",
        )


def installed_sha256(host: Host, target: PurePosixPath) -> str | None:
    """SHA-256 of the script that stands on the host, in hexadecimal; None where it cannot be read.

    Raises CouldNotLookError for an answer that is no SHA-256.
    """
    action = f"read {target}"
    result = host.run(action, f"sha256sum -- {quote(target)}", root=True)
    return host.parse(action, result.stdout, parse_sha256) if result.ok else None


def missing_tools_command(tools: Iterable[str]) -> str:
    """Ask which of some programs a job in a crontab would not find."""
    return f'PATH={CRON_PATH}; for tool in {" ".join(tools)}; do command -v "$tool" >/dev/null || echo "$tool"; done'
