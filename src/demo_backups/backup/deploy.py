"""Deploy a backup script: checked, atomically, and with a copy of the old one."""

from __future__ import annotations

import base64
import difflib
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import PurePosixPath

from ..errors import MissingToolError, StepError
from ..remote.files import parse_sha256, parse_time
from ..remote.host import Host
from ..remote.shell import CRON_PATH, quote
from ..settings import Database
from ..sqlite.command import probe_command
from .script import InstalledScript, Script

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

    def command(self, payload: str | None = None) -> str:
        """The command that puts it there; `payload` stands in for the content where it is only shown.

        Staged beside its place, compared by SHA-256, given the owner and mode of the old one, flushed, renamed.
        """
        content = payload or base64.b64encode(self.script.content).decode()
        target, folder, previous = quote(self.target), quote(self.target.parent), quote(f"{self.target}.previous")
        return "\n".join(
            [
                "set -eu; umask 077",
                f"new=$(mktemp -- {quote(self.target.parent / f'.{self.target.name}.XXXXXX')})",
                "trap 'rm -f -- \"$new\"' EXIT; trap 'exit 1' HUP INT TERM",
                f'echo {content} | base64 -d > "$new"',
                f'[ "$(sha256sum < "$new")" = "{self.script.sha256}  -" ] || {{ echo "came damaged" >&2; exit 1; }}',
                *(
                    [
                        f'chown --reference={target} -- "$new"; chmod --reference={target} -- "$new"',
                        f"ln --force --no-target-directory -- {target} {previous}",
                    ]
                    if self.installed
                    else [f'[ "$(id -u)" != 0 ] || chown --reference={folder} -- "$new"', 'chmod 755 -- "$new"']
                ),
                'sync -- "$new"',
                f'mv --force --no-target-directory -- "$new" {target}',
                f"sync -- {folder}",
            ]
        )

    def shown_command(self) -> str:
        """The command, with words in place of the content."""
        return self.command(payload=f"<{len(self.script.content):,} bytes of {self.script.path.name}, base64>")


def require_tools(host: Host) -> None:
    """Check that the host has the programs that the script calls; raises MissingToolError."""
    action = "look for the programs that the script calls"
    missing = host.query(action, missing_tools_command(REQUIRED_TOOLS), root=False).splitlines()
    if missing:
        raise MissingToolError(
            f"not installed, or not on cron's PATH: {', '.join(missing)}",
            host=host.name,
            advice="install them (Debian packages: bash, coreutils, findutils, sqlite3, util-linux)",
        )


def missing_tools_command(tools: Iterable[str]) -> str:
    """Build the command that prints those programs that a job in a crontab would not find."""
    names = " ".join(tools)
    return f'PATH={CRON_PATH}; for tool in {names}; do command -v "$tool" >/dev/null || echo "$tool"; done'


def probe_sqlite(host: Host) -> str:
    """Run sqlite3 with the options that the script uses; return its version. Raises MissingToolError."""
    result = host.run("try sqlite3", probe_command(), root=False)
    if not result.ok:
        raise MissingToolError(
            "sqlite3 does not support what the script uses",
            host=host.name,
            output=result.output,
            advice="install a newer sqlite3",
        )
    return result.stdout.strip()


def plan_deployment(host: Host, database: Database, script: Script) -> Deployment:
    """Compare a script of this checkout with the installed one; raises CouldNotLookError."""
    return Deployment(script, database.script, read_installed(host, database))


def installed_command(target: PurePosixPath) -> str:
    """Build the command that prints an installed script: mode, change time and zone, then its content in base64.

    It prints `missing` where there is no script, and fails where the folder cannot be entered: every file in such a
    folder would seem to be missing.
    """
    path = quote(target)
    return (
        f"cd -- {quote(target.parent)} && if [ -e {path} ]; then"
        f" find -L {path} -maxdepth 0 -printf '%m %C@ %Tz\\n' && base64 -w 0 -- {path}; else echo missing; fi"
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
    int(mode, 8)
    return InstalledScript(mode, base64.b64decode(content, validate=True), parse_time(seconds, offset))


def check_deployment(host: Host, deployment: Deployment) -> None:
    """Raise StepError where the deployed script could not run, since it gets the mode of the installed one."""
    installed = deployment.installed
    if installed and not int(installed.mode, 8) & 0o111:
        raise StepError(
            f"{deployment.target} is not executable (mode {installed.mode}), and deploying keeps the mode",
            host=host.name,
            advice=f"on the host: chmod 755 {quote(deployment.target)}",
        )


def deploy_script(host: Host, change: Deployment) -> None:
    """Put the script in its place and look that it stands there; raises StepError."""
    host.execute(f"put {change.script.path.name} in its place", change.command(), display=change.shown_command())
    if installed_sha256(host, change.target) != change.script.sha256:
        raise StepError(
            f"{change.target} is not what was put there",
            host=host.name,
            advice="is somebody else deploying? The old one is beside it: NAME.previous",
        )


def installed_sha256(host: Host, target: PurePosixPath) -> str | None:
    """Return the SHA-256 of an installed script, in hexadecimal; None where it cannot be read."""
    result = host.run(f"read {target}", f"sha256sum -- {quote(target)}", root=True)
    return parse_sha256(result.stdout) if result.ok else None
