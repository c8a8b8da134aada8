"""Crontabs: how their text is changed, and how they are replaced on a host."""

from __future__ import annotations

import os
import random
import shutil
import subprocess
from dataclasses import dataclass, replace
from pathlib import Path, PurePosixPath

import pytest

from demo_backups.backup.crontab import (
    PUBLISHED,
    CrontabJob,
    add_job,
    check_log_writable,
    diff_crontabs,
    escape_command,
    find_schedule,
    has_job,
    install_command,
    install_crontab,
    make_job,
    read_crontab,
    remove_job,
    split_line,
    unescape_command,
)
from demo_backups.backup.script import read_script
from demo_backups.errors import CouldNotLookError, StepError
from demo_backups.rehearsal.server import CRONTAB
from demo_backups.remote.files import send
from demo_backups.remote.host import Host
from demo_backups.settings import Settings, validate_settings

from ..helpers.constants import ODD_NAMES, SCRIPT

WHEN = "0  * * * * "
PATH = "/home/torrust/github/torrust/torrust-demo/share/bin/index-db-backup.sh"
PUBLISHED_LINE = f"{WHEN}{PATH} >> /var/log/cron.log 2>&1"
JOB = CrontabJob("index", WHEN, PATH, PurePosixPath("/var/log/cron.log"), PurePosixPath(PATH))


# --- lines ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("line", "when", "command"),
    [
        (PUBLISHED_LINE, WHEN, f"{PATH} >> /var/log/cron.log 2>&1"),
        ("*/5 1-3,7 * jan sun x --y  z ", "*/5 1-3,7 * jan sun ", "x --y  z "),
        ("  \t0\t*\t*\t*\t*\tx", "  \t0\t*\t*\t*\t*\t", "x"),
        ("@hourly x", "@hourly ", "x"),
        ("\t@reboot\tx y", "\t@reboot\t", "x y"),
        ("0 * * * * A=1 x", "0 * * * * ", "A=1 x"),
        ("0 * * * * x\r", "0 * * * * ", "x\r"),
    ],
)
def test_active_line_is_split(line: str, when: str, command: str) -> None:
    assert split_line(line) == (when, command)
    assert when + command == line


@pytest.mark.parametrize(
    "line",
    [
        "",
        "   ",
        "# a comment",
        f"#{PUBLISHED_LINE}",
        f"  # {PUBLISHED_LINE}",
        "PATH=/bin",
        "MAILTO = root",
        "A=0 * * * * x",
        "0 * * * *",
        "0 * * * x",
        "@hourly",
        "@hourly ",
        'X="0 * * * * y"',
    ],
)
def test_inactive_line_is_not_split(line: str) -> None:
    assert split_line(line) is None


def as_cron_reads(command: str) -> str:
    r"""What cron hands to the shell: measured with Debian's (3.0pl1), where `\%` is `%`, and `\\` is `\` as well."""
    read, rest = "", command
    while rest and not rest.startswith("%"):
        length = 2 if rest.startswith(("\\%", "\\\\")) else 1
        read, rest = read + rest[length - 1], rest[length:]
    return read


@pytest.mark.parametrize("command", ["x", "date +%F", "%", r"a\b", r"a\\b", r"\%", r"100\\%\\", *ODD_NAMES.values()])
def test_escaped_command_is_unescaped_by_cron(command: str) -> None:
    assert as_cron_reads(escape_command(command)) == command
    assert unescape_command(escape_command(command)) == command


@pytest.mark.parametrize(
    ("written", "read"), [(r"a\b", r"a\b"), (r"a\\b", r"a\b"), (r"a\\\%b", r"a\%b"), (r"a\\\\\%b", r"a\\%b")]
)
def test_command_is_read_like_debian_cron(written: str, read: str) -> None:
    assert unescape_command(written) == as_cron_reads(written) == read


# --- the job --------------------------------------------------------------------------------------------------------


def test_shipped_settings_give_published_line(project_settings: Settings) -> None:
    job = make_job(project_settings, project_settings.database("index"), read_script(SCRIPT))
    assert job.line == PUBLISHED_LINE
    assert job.line in PUBLISHED.read_text().splitlines()
    assert job.block == f"# demo-backups: index database (inv enable-index-backup)\n{PUBLISHED_LINE}\n"


@pytest.mark.parametrize(
    ("changes", "variables"),
    [
        ({}, ""),
        ({"backup_dir": "/b"}, "BACKUP_DIR=/b "),
        ({"app_dir": "/app"}, "DATABASE_FILE=/app/storage/index/lib/database/sqlite3.db "),
        (
            {"app_dir": "/app", "backup_dir": "/it's 100%"},
            "DATABASE_FILE=/app/storage/index/lib/database/sqlite3.db BACKUP_DIR='/it'\"'\"'s 100\\%' ",
        ),
        ({"backup_dir": "/home/torrust/backups/"}, ""),  # the same folder in other words
    ],
    ids=["as shipped", "folder", "application", "both", "slash"],
)
def test_line_sets_only_changed_paths(project_settings: Settings, changes: dict[str, str], variables: str) -> None:
    settings = validate_settings(project_settings.model_dump(mode="json") | changes)
    job = make_job(settings, settings.database("index"), read_script(SCRIPT))
    script = settings.app_dir / "share/bin/index-db-backup.sh"
    assert job.line == f"{WHEN}{variables}{script} >> /var/log/cron.log 2>&1"


def test_script_without_defaults_gets_all_variables(project_settings: Settings, tmp_path: Path) -> None:
    path = tmp_path / "other.sh"
    path.write_text("#!/bin/bash\n")
    path.chmod(0o755)
    job = make_job(project_settings, project_settings.database("index"), read_script(path))
    assert job.command == (
        "DATABASE_FILE=/home/torrust/github/torrust/torrust-demo/storage/index/lib/database/sqlite3.db "
        f"BACKUP_DIR=/home/torrust/backups {PATH}"
    )


@pytest.mark.parametrize("name", [name for key, name in ODD_NAMES.items() if key != "newline"])
def test_command_passes_odd_paths_unchanged(project_settings: Settings, tmp_path: Path, name: str) -> None:
    folder = tmp_path / name
    changes = {"app_dir": str(folder), "backup_dir": str(folder / "backups"), "cron_log": str(folder / "log")}
    settings = validate_settings(project_settings.model_dump(mode="json") | changes)
    script = Path(settings.database("index").script)
    script.parent.mkdir(parents=True)
    script.write_text('#!/bin/sh\nprintf "%s\\n" "$DATABASE_FILE" "$BACKUP_DIR"\n')
    script.chmod(0o755)
    job = make_job(settings, settings.database("index"), read_script(SCRIPT))
    split = split_line(job.line)
    assert split is not None
    subprocess.run(["/bin/sh", "-c", unescape_command(split[1])], check=True)
    assert (folder / "log").read_text() == f"{settings.database('index').source}\n{settings.backup_dir}\n"


def test_unpublished_database_has_no_schedule(project_settings: Settings) -> None:
    text = PUBLISHED.read_text()
    assert find_schedule(project_settings.database("index"), text) == WHEN
    with pytest.raises(StepError, match="tracker"):
        find_schedule(project_settings.database("tracker"), text)


@pytest.mark.parametrize(
    "line",
    [f"# {PUBLISHED_LINE}", f"{WHEN}/bin/x {PATH}", f"{WHEN}{PATH}.old", f"{WHEN}/x/other-{Path(PATH).name}", ""],
)
def test_line_of_other_script_is_ignored(project_settings: Settings, line: str) -> None:
    with pytest.raises(StepError):
        find_schedule(project_settings.database("index"), f"{line}\n")


# --- enable, disable ------------------------------------------------------------------------------------------------

PIECES = [
    "",
    "\n",
    "\n\n",
    "# a comment\n",
    "MAILTO=root@example.org\nPATH=/usr/bin:/bin\n",
    "SHELL=/bin/bash\n",
    '0 3 * * * tar cf "/b/$(date +\\%F).tar" /srv\n',
    "@hourly /usr/bin/thing\n",
    "@reboot   x\t\n",
    "*/5 * * * * /usr/bin/check >/dev/null 2>&1\n",
    "5 * * * * /usr/bin/other-index-db-backup.sh\n",
    f"#{PUBLISHED_LINE}\n",
    f"# {PATH} ran here before\n",
    "0 * * * * windows\r\n",
    "# form\x0cfeed, next\x85line and \u2028 are no line ends to cron\n",
    "# ünï and a byte that is none: \udcff\n",
    "  \t \n",
    "A_REF=x\n",
]
ENDS = ["", "# no newline at the end", "0 1 * * * also none", "\r\n"]


def crontabs() -> list[str]:
    """Crontabs of every kind: each piece alone, each end, and 200 mixtures, the same at each call."""
    random_ = random.Random(85)
    mixtures = ["".join(random_.choices(PIECES, k=random_.randint(2, 8))) + random_.choice(ENDS) for _ in range(200)]
    return [*PIECES, *ENDS, *(piece + end for piece in PIECES for end in ENDS), *mixtures]


def test_job_is_added_at_top() -> None:
    for text in crontabs():
        enabled = add_job(text, JOB)
        assert enabled == JOB.block + text
        assert has_job(enabled, JOB)
        assert not has_job(text, JOB)


def test_adding_job_twice_changes_nothing() -> None:
    for text in crontabs():
        enabled = add_job(text, JOB)
        assert add_job(enabled, JOB) == enabled


def test_removing_job_restores_crontab() -> None:
    for text in crontabs():
        assert remove_job(add_job(text, JOB), JOB) == text
        assert remove_job(text, JOB) == text


def test_moved_job_is_removed() -> None:
    for number, text in enumerate(crontabs()):
        lines = text.split("\n")
        place = number % len(lines)
        before, after = ("".join(f"{line}\n" for line in lines[:place]), "\n".join(lines[place:]))
        assert remove_job(before + JOB.block + after, JOB) == before + after


@pytest.mark.parametrize("blanks", [("", ""), ("  ", ""), ("\t", " \t")])
def test_line_without_comment_is_active(blanks: tuple[str, str]) -> None:
    text = f"A=1\n{PUBLISHED_LINE.join(blanks)}\n# end"
    assert has_job(text, JOB)
    assert add_job(text, JOB) == text


@pytest.mark.parametrize(
    "line",
    [f"#{PUBLISHED_LINE}", f"# {PUBLISHED_LINE}", f"{PUBLISHED_LINE}\r", f"{PUBLISHED_LINE} || x", PUBLISHED_LINE[1:]],
    ids=["commented out", "commented out with a blank", "Windows line end", "more behind it", "less before it"],
)
def test_different_line_is_not_active(line: str) -> None:
    assert not has_job(f"{line}\n", JOB)


def test_commented_job_is_added_again() -> None:
    text = f"{JOB.comment}\n#{PUBLISHED_LINE}\n"
    enabled = add_job(text, JOB)
    assert enabled == JOB.block + text
    assert remove_job(enabled, JOB) == text


@pytest.mark.parametrize(
    "line",
    [
        f"30 * * * * {PATH}",
        f"@hourly {PATH} >> /var/log/cron.log 2>&1",
        f"0 * * * * cd / && BACKUP_DIR=/x {PATH}",
        f"{PUBLISHED_LINE}\r",
        f"0 * * * * flock /tmp/x {PATH}",
    ],
)
def test_script_run_by_other_line_is_refused(line: str) -> None:
    with pytest.raises(StepError, match="another line of the crontab runs this script already") as caught:
        add_job(f"A=1\n{line}\n", JOB)
    assert caught.value.output == line.strip()


def test_escaped_path_is_found_in_other_line() -> None:
    odd = replace(JOB, command="'/100% sure.sh'", script=PurePosixPath("/100% sure.sh"))
    with pytest.raises(StepError, match="another line"):
        add_job("5 * * * * '/100\\% sure.sh'\n", odd)
    assert remove_job(add_job("A=1\n", odd), odd) == "A=1\n"


EDITED = {
    "at another time": JOB.block.replace("0  *", "30  *"),
    "commented out": JOB.block.replace("0  *", "#0  *"),
    "only the comment": f"{JOB.comment}\n",
    "apart": f"{JOB.comment}\n\n{PUBLISHED_LINE}\n",
    "comment of the comment": f"#{JOB.block}",
    "indented": f" {JOB.block}",
    "cut off": JOB.block.rstrip("\n"),
    "Windows line ends": JOB.block.replace("\n", "\r\n"),
    "by hand": f"{PUBLISHED_LINE}\n",
    "by hand too": f"{JOB.block}{PUBLISHED_LINE}\n",
    "twice": JOB.block * 2,
}


@pytest.mark.parametrize("text", EDITED.values(), ids=EDITED)
def test_edited_job_is_not_removed(text: str) -> None:
    around = f"5 * * * * before\n{text}"
    with pytest.raises(StepError, match="was edited") as caught:
        remove_job(around, JOB)
    assert "crontab -e" in caught.value.advice
    assert PATH in caught.value.output or JOB.comment in caught.value.output


def test_diff_has_unified_format() -> None:
    assert diff_crontabs("A=1\n", JOB.block + "A=1\n").splitlines()[2:] == [
        "@@ -1 +1,3 @@",
        f"+{JOB.comment}",
        f"+{JOB.line}",
        " A=1",
    ]
    assert diff_crontabs(None, JOB.block).count("\n+") == 3  # the heading has one
    assert diff_crontabs("A=1\n", None).endswith("\n-A=1")


# --- on a host ------------------------------------------------------------------------------------------------------


@dataclass
class FakeCrontab:
    """A crontab command whose table is a file, for this process and its children."""

    folder: Path

    @property
    def program(self) -> Path:
        return self.folder / "bin/crontab"

    @property
    def table(self) -> Path:
        return self.folder / "crontab"

    @property
    def state(self) -> Path:
        return self.folder / ".demo-backups"

    def set(self, text: str | None) -> None:
        if text is not None:
            self.table.write_bytes(text.encode("utf-8", "surrogateescape"))

    def get(self) -> str | None:
        return self.table.read_bytes().decode("utf-8", "surrogateescape") if self.table.exists() else None

    def replace_program(self, text: str) -> None:
        self.program.write_text(f"#!/bin/sh\n{text}\n")


@pytest.fixture
def crontab(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> FakeCrontab:
    fake = FakeCrontab(tmp_path / "home of root")
    fake.program.parent.mkdir(parents=True)
    shutil.copyfile(CRONTAB, fake.program)
    fake.program.chmod(0o755)
    monkeypatch.setenv("HOME", str(fake.folder))
    monkeypatch.setenv("PATH", f"{fake.program.parent}:/usr/bin:/bin")
    assert shutil.which("crontab") == str(fake.program)  # never this machine's own
    return fake


@pytest.mark.parametrize("old", [None, "", "A=1\n", *PIECES[-8:], "A=1\r\n\\n %s ' \" $HOME `id`\n"])
def test_crontab_is_replaced_and_restored(here: Host, crontab: FakeCrontab, old: str | None) -> None:
    crontab.set(old)
    assert read_crontab(here) == old
    new = add_job(old or "", JOB)
    install_crontab(here, old, new)
    assert crontab.get() == new
    assert (crontab.state / "crontab.previous").read_bytes() == (old or "").encode("utf-8", "surrogateescape")

    install_crontab(here, new, remove_job(new, JOB) or None)
    assert crontab.get() == (old or None)
    assert (crontab.state / "crontab.previous").read_bytes() == new.encode("utf-8", "surrogateescape")
    assert list(crontab.state.iterdir()) == [crontab.state / "crontab.previous"]


def test_previous_crontab_is_private(here: Host, crontab: FakeCrontab) -> None:
    crontab.set("PASSWORD=x\n")
    install_crontab(here, "PASSWORD=x\n", JOB.block + "PASSWORD=x\n")
    assert crontab.state.stat().st_mode & 0o777 == 0o700
    assert (crontab.state / "crontab.previous").stat().st_mode & 0o777 == 0o600


@pytest.mark.parametrize("old", [None, "A=1\n"])
def test_changed_crontab_is_not_replaced(here: Host, crontab: FakeCrontab, old: str | None) -> None:
    crontab.set("B=2\n")
    with pytest.raises(StepError, match="could not install the crontab") as caught:
        install_crontab(here, old, JOB.block)
    assert "changed" in caught.value.output
    assert crontab.get() == "B=2\n"
    assert list(crontab.state.iterdir()) == []


def test_refused_table_keeps_crontab(here: Host, crontab: FakeCrontab) -> None:
    crontab.set("A=1\n")
    crontab.replace_program(f"[ \"$1\" = -l ] && exec cat '{crontab.table}'\necho 'bad minute' >&2; exit 1")
    with pytest.raises(StepError, match="could not install the crontab") as caught:
        install_crontab(here, "A=1\n", JOB.block + "A=1\n")
    assert caught.value.output == "bad minute"
    assert crontab.get() == "A=1\n"
    assert list(crontab.state.iterdir()) == [crontab.state / "crontab.previous"]


def test_dropped_table_is_detected(here: Host, crontab: FakeCrontab) -> None:
    crontab.set("A=1\n")
    crontab.replace_program(f"[ \"$1\" = -l ] && exec cat '{crontab.table}'\nexit 0")
    with pytest.raises(StepError, match="the crontab in force is not the one that was installed") as caught:
        install_crontab(here, "A=1\n", JOB.block + "A=1\n")
    assert "crontab.previous" in caught.value.advice


def test_missing_state_directory_changes_nothing(here: Host, crontab: FakeCrontab) -> None:
    crontab.set("A=1\n")
    crontab.state.write_text("a file in its way")
    with pytest.raises(StepError, match="could not install the crontab"):
        install_crontab(here, "A=1\n", JOB.block)
    assert crontab.get() == "A=1\n"


@pytest.mark.parametrize(
    ("program", "message"),
    [
        ("echo 'no crontab for somebody' >&2; exit 1", None),
        ("echo 'You (nobody) are not allowed to use this program (crontab)' >&2; exit 1", "are not allowed"),
        ("exit 1", "exit status 1"),
        ("exit 127", "cron is not installed"),
    ],
)
def test_unreadable_crontab_is_not_missing(here: Host, crontab: FakeCrontab, program: str, message: str | None) -> None:
    crontab.replace_program(program)
    if message is None:
        assert read_crontab(here) is None
        return
    with pytest.raises(CouldNotLookError) as caught:
        read_crontab(here)
    assert message in str(caught.value)


def test_command_contains_no_crontab_line() -> None:
    command = install_command("PASSWORD=a secret\n", add_job("PASSWORD=a secret\n", JOB))
    assert "secret" not in command
    assert PATH not in command


def test_crontab_may_exceed_argument_limit(here: Host, crontab: FakeCrontab) -> None:
    old = "".join(f"{number % 60} * * * * /usr/bin/job {number}\n" for number in range(11_000))
    assert len(old) > 300_000
    crontab.set(old)
    install_crontab(here, old, add_job(old, JOB))
    assert crontab.get() == JOB.block + old
    install_crontab(here, JOB.block + old, old)
    assert crontab.get() == old


def test_damaged_transfer_is_not_installed(here: Host, crontab: FakeCrontab) -> None:
    crontab.set("A=1\n")
    with pytest.raises(StepError) as caught:
        send(here, "install the crontab", install_command("A=1\n", JOB.block + "A=1\n"), b"B=2\n")
    assert "damaged" in caught.value.output
    assert crontab.get() == "A=1\n"
    assert list(crontab.state.iterdir()) == []


@pytest.mark.parametrize("mode", [0o770, 0o702, 0o1777])
def test_writable_state_directory_is_refused(here: Host, crontab: FakeCrontab, mode: int) -> None:
    crontab.set("A=1\n")
    crontab.state.mkdir()
    crontab.state.chmod(mode)
    assert_state_directory_refused(here, crontab)


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can give a folder away")
def test_state_directory_of_other_user_is_refused(here: Host, crontab: FakeCrontab) -> None:
    crontab.set("A=1\n")
    crontab.state.mkdir(0o755)
    os.chown(crontab.state, 65534, 65534)
    assert_state_directory_refused(here, crontab)


def assert_state_directory_refused(here: Host, crontab: FakeCrontab) -> None:
    with pytest.raises(StepError, match="could not install the crontab") as caught:
        install_crontab(here, "A=1\n", JOB.block + "A=1\n")
    assert caught.value.output == f"{crontab.state} belongs to another user, or others can write in it"
    assert crontab.get() == "A=1\n"
    assert list(crontab.state.iterdir()) == []


def test_unwritable_log_is_refused(here: Host, tmp_path: Path) -> None:
    (tmp_path / "it's a log").touch()
    (tmp_path / "folder").mkdir()
    for log in ("it's a log", "not yet there", "folder/log"):
        check_log_writable(here, PurePosixPath(tmp_path / log))
    for log in ("folder", "missing/log", "it's a log/log"):
        with pytest.raises(StepError, match="could not write its log") as caught:
            check_log_writable(here, PurePosixPath(tmp_path / log))
        assert "cron_log" in caught.value.advice
