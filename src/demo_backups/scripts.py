"""Put a backup script on a host: checked, in one step, with the old one kept."""

from __future__ import annotations

import base64
import difflib
import hashlib
import os
import re
import subprocess
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path, PurePosixPath

from .errors import CouldNotLookError, StepError
from .facts import missing_tools_command, parse_sha256, parse_time, quote, sqlite_ability_command
from .hosts import Host
from .settings import Database

TOOLS = ("bash", "sqlite3", "chmod", "date", "env", "find", "flock", "ln", "realpath", "rm", "stat", "sync")


@dataclass(frozen=True)
class Script:
    """A backup script of this checkout."""

    path: Path
    content: bytes

    @property
    def sha256(self) -> str:
        """SHA-256 of its content, in hexadecimal."""
        return hashlib.sha256(self.content).hexdigest()

    def default(self, variable: str) -> str | None:
        """The value that is built in for a variable which the environment may set; None where there is none."""
        match = re.search(
            rf'^{variable}="\$\{{{variable}:-([^}}"]*)\}}"$', self.content.decode(errors="replace"), re.MULTILINE
        )
        return match[1] if match else None


@dataclass(frozen=True)
class Deployed:
    """The script that stands on the host: its mode in octal, its content.

    `since` is when it was put there, by the clock of the host: the change of its inode, which a renamed file has too.
    """

    mode: str
    content: bytes
    since: datetime

    @property
    def sha256(self) -> str:
        """SHA-256 of its content, in hexadecimal."""
        return hashlib.sha256(self.content).hexdigest()


@dataclass(frozen=True)
class Push:
    """What deploying a script would change: the one here, and the one there, if there is one."""

    script: Script
    target: PurePosixPath
    there: Deployed | None

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
                    if self.there
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


def flaws(text: str) -> list[str]:
    """Name what the text of a script has of the old way: no `.backup`, a `cp`, variables that are not quoted.

    As far as a reader sees it who knows quotes, comments and `$(...)`; ShellCheck (SC2086) sees more.
    """
    code, bare = _split(_HERE_DOCUMENT.sub(r"\g<start>", text))
    typed = "".join(match["body"] for match in _HERE_DOCUMENT.finditer(text))  # what a shell does not split
    unquoted = re.findall(r"\$\{?\w+\}?|\$@", _ASSIGNMENT.sub("", _ONE_WORD.sub("", bare)))
    return [
        *([] if re.search(r"\bsqlite3\s.*\.backup\s", code + typed, re.DOTALL) else ["does not use sqlite3's .backup"]),
        *(["uses cp"] if _CP.search(bare) else []),
        *([f"not quoted: {', '.join(dict.fromkeys(unquoted))}"] if unquoted else []),
    ]


_HERE_DOCUMENT = re.compile(
    r"""(?P<start>(?<!<)<<-?[ \t]*(?P<quote>["']?)(?P<end>\w+)(?P=quote)[^\n]*\n)(?P<body>.*?^)\t*(?P=end)$""",
    re.DOTALL | re.MULTILINE,
)
_ONE_WORD = re.compile(r"\[\[.*?\]\]|\(\(.*?\)\)|\bcase\s+\S+\s+in\b", re.DOTALL)  # in these nothing is split
_ASSIGNMENT = re.compile(r"(?:(?<=[\s;&|(])|^)\w+=\S*", re.MULTILINE)
_CP = re.compile(
    r"""(?:^|[;&|(){!`]|\s\w+=\S*\s|^\w+=\S*\s
    |(?:\b(?:then|do|else|elif|if|while|until|time|timeout|exec|command|nohup|nice|ionice|env|sudo|xargs)|\s-exec)
        (?:\s+(?:-(?!v\b)\S+(?:\s+[A-Za-z{]\S*)??|\d\S*))*\s)  # command -v cp only asks where it is
    \s*\\?(?:\S*/)?cp\s""",
    re.MULTILINE | re.VERBOSE,
)
_BARE = re.compile(r"""\\.|'[^']*'|(?<![^\s;&|()])\#[^\n]*|\$\(|.""", re.DOTALL)
_QUOTED = re.compile(r"""\\.|\$\(|.""", re.DOTALL)


def _split(text: str) -> tuple[str, str]:
    """Return a shell script's code without comments, and what of it is not within quotes.

    What a `$(...)` within double quotes runs is code again, as in a shell.
    """
    code, bare, within, place = "", "", [""], 0
    while place < len(text):
        quoted = within[-1] == '"'
        match = (_QUOTED if quoted else _BARE).match(text, place)
        assert match  # each ends in "."
        token, place = match[0], match.end()
        if token.startswith("#") and not quoted:
            continue
        code += token
        if token == '"':
            within.pop() if quoted else within.append(token)
            bare += "" if quoted else '""'
        elif token == "$(" or (token == "(" and not quoted):
            within.append("(")
            bare += token
        elif not quoted:
            bare += "''" if token.startswith("'") or token == "\\$" else token
            if token == ")" and within[-1] == "(":
                within.pop()
    return code, bare


def read_script(path: Path) -> Script:
    """Read a script of this checkout; raises StepError where it could not run on a server."""
    try:
        if not path.is_file():
            raise StepError(
                f"there is no script {path}",
                advice="restore it: git checkout -- share/bin; or correct release.repository",
            )
        script = Script(path, path.read_bytes())
    except OSError as error:
        raise StepError(f"{path} cannot be read", printed=str(error)) from error
    if b"\r" in script.content:
        raise StepError(
            f"{path} has Windows line ends (CRLF): bash would not run it",
            advice=f"sed -i 's/\\r$//' {quote(str(path))}",
        )
    if not os.access(path, os.X_OK):
        raise StepError(f"{path} is not executable: cron could not run it", advice=f"chmod +x {quote(str(path))}")
    checked = subprocess.run(
        ["bash", "-n", "--", path], capture_output=True, text=True, stdin=subprocess.DEVNULL, check=False
    )
    if checked.returncode:
        raise StepError(f"bash cannot read {path}", printed=checked.stderr, advice="correct the script")
    return script


def check_tools(host: Host) -> str:
    """See that the host has what the script calls; return the version of its sqlite3. Raises CouldNotLookError."""
    missing = host.ask("look for the programs that the script calls", missing_tools_command(TOOLS), root=False).split()
    if missing:
        raise CouldNotLookError(
            f"not installed, or not on cron's PATH: {', '.join(missing)}",
            host=host.name,
            advice="install them (Debian's packages: bash, coreutils, findutils, sqlite3, util-linux)",
        )
    result = host.run("try sqlite3", sqlite_ability_command(), root=False)
    if not result.ok:
        raise CouldNotLookError(
            "its sqlite3 cannot do what the script asks",
            host=host.name,
            printed=result.printed,
            advice="install a newer sqlite3",
        )
    return result.stdout.strip()


def plan_push(host: Host, database: Database, script: Script) -> Push:
    """Look at the script that stands on the host, and say what deploying this one would change."""
    return Push(script, database.script, look_there(host, database))


def look_there(host: Host, database: Database) -> Deployed | None:
    """Look at a database's script on the host; None where there is none. Raises CouldNotLookError."""
    target = quote(database.script)
    # The folder first: in one that cannot be entered, every file would seem to be missing.
    look = (
        f"cd -- {quote(database.script.parent)} && if [ -e {target} ]; then"
        f" find -L {target} -maxdepth 0 -printf '%m %C@ %Tz\\n' && base64 -w 0 -- {target}; fi"
    )
    advice = f"is app_dir right? The script goes into {database.script.parent}, which must be there"
    return host.learn(f"look at {database.script}", look, parse_deployed, advice=advice)


def parse_deployed(printed: str) -> Deployed | None:
    """A script, from its mode, the time of its change, and its content in base64; raises ValueError."""
    if not printed:
        return None
    about, _, content = printed.partition("\n")
    mode, seconds, offset = about.split()
    int(mode, 8)
    return Deployed(mode, base64.b64decode(content, validate=True), parse_time(seconds, offset))


def check_push(host: Host, push: Push) -> None:
    """Refuse what would not run; raises StepError."""
    if push.there and not int(push.there.mode, 8) & 0o111:
        raise StepError(
            f"{push.target} is not executable there (mode {push.there.mode}), and deploying keeps its mode",
            host=host.name,
            advice=f"there: chmod 755 {quote(push.target)}",
        )


def push(host: Host, change: Push) -> None:
    """Put the script in its place and look that it stands there; raises StepError."""
    host.act(f"put {change.script.path.name} in its place", change.command(), shown=change.shown_command())
    if sha256_there(host, change.target) != change.script.sha256:
        raise StepError(
            f"{change.target} is not what was put there",
            host=host.name,
            advice="is somebody else deploying? The old one is beside it: NAME.previous",
        )


def sha256_there(host: Host, target: PurePosixPath) -> str | None:
    """SHA-256 of the script that stands on the host, in hexadecimal; None where it cannot be read."""
    result = host.run(f"read {target}", f"sha256sum -- {quote(target)}", root=True)
    return parse_sha256(result.stdout) if result.ok else None
