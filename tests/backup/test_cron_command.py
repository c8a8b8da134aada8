"""The programs that a line of a crontab runs, in the spellings that administrators use."""

from __future__ import annotations

import posixpath
import shlex
import subprocess

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from demo_backups.backup.cron_command import Programs, find_programs, find_programs_of_file
from demo_backups.backup.cron_syntax import default_environment, escape_command

from ..helpers.constants import ODD_NAMES

SCRIPT = "/srv/app/share/bin/index-db-backup.sh"
NAME = posixpath.basename(SCRIPT)
BOUNDED = settings(derandomize=True, database=None, deadline=None, max_examples=200)


def read(command: str, **environment: str) -> Programs:
    """Read the command of a line of root's crontab."""
    return find_programs(command, default_environment("/root", "root") | environment, SCRIPT)


def runs_script(programs: Programs) -> bool:
    return SCRIPT in map(posixpath.normpath, programs.run)


@pytest.mark.parametrize(
    "command",
    [
        SCRIPT,
        f"{SCRIPT} >> /var/log/cron.log 2>&1",
        f"  {SCRIPT}  ",
        f"{SCRIPT};",
        f"{SCRIPT} &",
        f">/dev/null {SCRIPT}",
        "/srv//app/share/./bin/index-db-backup.sh",
        "/srv/app/share/bin/../bin/index-db-backup.sh",
        "'/srv/app'/share/bin/\"index-db-backup.sh\"",
        f"BACKUP_DIR=/b {SCRIPT}",
        f"env -i BACKUP_DIR=/b {SCRIPT}",
        f"export A=1; {SCRIPT}",
        f"/bin/bash {SCRIPT}",
        f"bash -o pipefail -x -- {SCRIPT}",
        f". {SCRIPT}",
        f"source {SCRIPT}",
        f"exec {SCRIPT}",
        f"sudo -u root {SCRIPT}",
        f"sudo {SCRIPT}",
        f"nice -n 19 ionice -c 3 timeout 30m {SCRIPT}",
        f"flock -n /run/lock/x {SCRIPT}",
        f"flock /run/lock/x -c '{SCRIPT}'",
        f"/bin/sh -c '{SCRIPT} || exit 1'",
        f'bash -lc "cd /srv && app/share/bin/{NAME}"',
        f"su - torrust -c {SCRIPT}",
        f"cd /srv/app && share/bin/{NAME}",
        f"cd /srv/app/share/bin; ./{NAME}",
        f"cd /srv/app/share/bin && bash {NAME}",
        f"cd /srv; cd app/share && bin/{NAME}",
        f"[ -x {SCRIPT} ] && {SCRIPT}",
        f"test -e /x || ({SCRIPT} | logger -t backup)",
        f"if cd /srv/app; then ./share/bin/{NAME}; fi",
        f"DIR=/srv/app; $DIR/share/bin/{NAME}",
        f'S=/srv/app/share/bin/{NAME}; "$S"',
        f"A=/srv; B=$A/app; ${{B}}/share/bin/{NAME}",
        f"${{APP:-/srv/app}}/share/bin/{NAME}",
        f'echo "$({SCRIPT})"',
        f"eval '{SCRIPT}'",
        f"trap '{SCRIPT}' EXIT",
        f"find /srv -name x -exec {SCRIPT} {{}} ;".replace(" ;", r" \;"),
        "run-parts /srv/app/share/bin",
        f"bash <<< '{SCRIPT}'",
        r"date +\%F; " + SCRIPT,
    ],
)
def test_command_runs_script(command: str) -> None:
    assert runs_script(read(command))


@pytest.mark.parametrize(
    ("command", "environment"),
    [
        (f"$APP/share/bin/{NAME}", {"APP": "/srv/app"}),
        (f"~/share/bin/{NAME}", {"HOME": "/srv/app"}),
        (f"$HOME/share/bin/{NAME}", {"HOME": "/srv/app"}),
        (f"share/bin/{NAME}", {"HOME": "/srv/app"}),
        (f"cd share && bin/{NAME}", {"HOME": "/srv/app"}),
        (NAME, {"PATH": "/usr/bin:/srv/app/share/bin"}),
        (f"bash {NAME}", {"PATH": "/usr/bin:/srv/app/share/bin"}),
        (f"DIR=$APP/share; $DIR/bin/{NAME}", {"APP": "/srv/app"}),
    ],
)
def test_environment_of_crontab_is_used(command: str, environment: dict[str, str]) -> None:
    assert runs_script(read(command, **environment))
    assert not runs_script(read(command))


@pytest.mark.parametrize(
    "command",
    [
        f"$APP/share/bin/{NAME}",
        f"$(dirname /srv/app/x)/share/bin/{NAME}",
        f"`echo {SCRIPT}`",
        f"cd $APP && share/bin/{NAME}",
        f"for s in {SCRIPT}; do $s; done",
        "for s in /srv/app/share/bin/*.sh; do $s; done",
        f"echo {SCRIPT} | sh",
        f"bash%{SCRIPT}",
        f"su - torrust -c 'cd app && share/bin/{NAME}'",
        f"su - torrust -c '~/app/share/bin/{NAME}'",
        f"if {SCRIPT}",  # cannot be parsed
        "/srv/app/share/bin/index*.sh",
        f"A=1; A=2; $A/{NAME}",
        "cd /srv/app/share/bin; for s in *.sh; do bash $s; done",
        "for s in /srv/app/share/bin/*.sh; do bash $s; done",
        "cd /srv/app/share/bin && ./index*",
        "for n in index tracker; do /srv/app/share/bin/$n-db-backup.sh; done",
        "for n in index tracker; do bash /srv/app/share/bin/${n}-db-backup.sh; done",
        "cd /srv/app; for n in index tracker; do nice share/bin/$n-db-backup.sh; done",
        "while read -r s; do bash /srv/app/share/bin/$s; done",
        "/srv/app/share/bin/{index,tracker}-db-backup.sh",
        "/srv/app/share/bin/$(echo index)-db-backup.sh",
        "ls /srv/app/share/bin/*.sh | xargs -n1 bash",
        "find /srv/app/share/bin -name '*.sh' -exec {} \\;",
        "find /srv/app -type f -exec bash {} +",
        "cd /srv/app/share/bin && find . -name 'index*' -exec sh {} \\;",
        f"echo {SCRIPT} | at now",
        f"ssh localhost 'cd /srv/app/share/bin && ./{NAME}'",
        f"python3 -c 'import os; os.system(\"{SCRIPT}\")'",
        f"env -S '{SCRIPT} -x'",
        f"env -C /srv/app/share/bin ./{NAME}",
        f"cd /srv/app/share/bin && PATH=. {NAME}",
    ],
)
def test_undecidable_command_is_unclear(command: str) -> None:
    found = read(command)
    assert found.unclear or runs_script(found)
    if not runs_script(found):
        assert SCRIPT not in found.unclear


@pytest.mark.parametrize(
    "command", [f"root {SCRIPT}", f"ssh other {SCRIPT}", f"my-wrapper -x {SCRIPT}", f"sh -c 'exec \"$@\"' _ {SCRIPT}"]
)
def test_argument_of_other_program_may_run(command: str) -> None:
    found = read(command)
    assert SCRIPT in found.passed
    assert not runs_script(found)


@pytest.mark.parametrize(
    "command",
    [
        "/usr/bin/other",
        f"/usr/bin/other-{NAME}",
        f"{SCRIPT}.old",
        f"/opt/{NAME}",
        f"ls -l {SCRIPT}",
        f"echo {NAME} $(date) failed",
        f"test -x {SCRIPT}",
        f"x # {SCRIPT}",
        f"x >> /var/log/{NAME}.log",
        f"logger '{NAME} is late'",
        "x $UNKNOWN $(id)",
        "if x",
        "/srv/app/share/bin/*.txt",
        "find /srv/app -name '*.log' -exec gzip {} +",
        "find /srv/app -exec chmod g-w {} +",
        "find /srv/app/share/bin -mtime +7",
        "tar czf /b/$(date +\\%F).tgz /srv/app",
        "rsync -a /srv/$APP host:",
        "/srv/app/share/bin/tracker-$X.sh",
        "/usr/bin/{a,b}",
        "$A/$B",
        "bash /srv/app/share/bin/other.sh $X",
        "for d in a b; do x /srv/app/$d; done",
        "",
        "%",
    ],
)
def test_command_does_not_run_script(command: str) -> None:
    found = read(command)
    assert (runs_script(found), found.unclear) == (False, "")
    assert SCRIPT not in found.passed


def test_other_shell_is_unclear() -> None:
    assert read(SCRIPT, SHELL="/usr/bin/python3").unclear
    assert not read("/usr/bin/x", SHELL="/usr/bin/python3").unclear


def test_script_of_run_parts_is_read() -> None:
    text = f"#!/bin/sh\n# runs {NAME}\nset -e\ncd /srv/app\nexec share/bin/{NAME}\n"
    environment = default_environment("/root", "root")
    assert runs_script(find_programs_of_file(text, environment, SCRIPT))
    comment = find_programs_of_file(f"#!/bin/sh\n# not {SCRIPT}\nx\n", environment, SCRIPT)
    assert (runs_script(comment), comment.unclear) == (False, "")


@pytest.mark.parametrize(
    "command",
    ["BACKUP_DIR=/b A=s x", "export BACKUP_DIR=/b; x", "env BACKUP_DIR=/b x", "D=/b; BACKUP_DIR=$D x"],
)
def test_variables_of_command_are_found(command: str) -> None:
    assert read(command).variables["BACKUP_DIR"] == "/b"


@pytest.mark.parametrize("name", [name for key, name in ODD_NAMES.items() if key != "newline"])
def test_quoted_path_is_literal(name: str) -> None:
    script = f"/srv/{name}/{NAME}"
    command = escape_command(f"BACKUP_DIR={shlex.quote(name)} {shlex.quote(script)}")
    found = find_programs(command, default_environment("/root", "root") | {"HOME": "/h"}, script)
    assert script in found.run
    assert found.variables["BACKUP_DIR"] == name
    assert not found.unclear


# --- any text -------------------------------------------------------------------------------------------------------

SIGNS = [*"'\"`);|\n \\%~*=/}{\r", "$(", "$X", "${", "&&", "<<E", "\udcff", "é"]
WORDS = ["bash -c ", "A=1", "cd ", SCRIPT, NAME, "sudo ", "su - x -c ", "eval ", "if ", "fi", "for x in "]
PIECES = st.sampled_from(SIGNS + WORDS)
ODD_PATHS = st.lists(st.text("ab $'\"\\*~`%é#=-", min_size=1, max_size=6), min_size=1, max_size=3)


@BOUNDED
@given(pieces=st.lists(PIECES, max_size=12))
@example([*["bash -c '"] * 8, SCRIPT])
def test_any_command_is_read(pieces: list[str]) -> None:
    found = read("".join(pieces))
    assert all(path.startswith("/") for path in found.run | found.passed)
    assert NAME not in found.unclear


@settings(BOUNDED, max_examples=60)
@given(words=ODD_PATHS, start=st.sampled_from(["", "exec ", "A=1 ", "bash "]))
def test_program_is_the_one_that_shell_runs(
    tmp_path_factory: pytest.TempPathFactory, words: list[str], start: str
) -> None:
    folder = tmp_path_factory.getbasetemp() / "shell"
    script = folder / "/".join(words) / NAME
    script.parent.mkdir(parents=True, exist_ok=True)
    script.write_text('#!/bin/sh\nprintf %s "$0"\n')
    script.chmod(0o755)
    command = start + shlex.quote(str(script))
    assert subprocess.run(["/bin/sh", "-c", command], capture_output=True, check=True).stdout.decode() == str(script)
    found = find_programs(escape_command(command), default_environment("/root", "root"), str(script))
    assert posixpath.normpath(script) in map(posixpath.normpath, found.run)


def test_expansion_is_bounded() -> None:
    doubling = "; ".join(f"A{number}=$A{number - 1}$A{number - 1}$A{number - 1}" for number in range(1, 40))
    assert not runs_script(read(f"A0=/srv/app; {doubling}; $A39/x"))
