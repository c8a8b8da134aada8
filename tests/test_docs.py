"""The docs say what the code does: tasks, flags, settings, commands, links, and the picture."""

from __future__ import annotations

import html
import json
import re
import shlex
import sqlite3
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from invoke import Collection
from invoke.exceptions import Exit, ParseError
from invoke.loader import FilesystemLoader
from invoke.parser.context import to_flag
from invoke.program import Program

from demo_backups.errors import COULD_NOT_LOOK, FAILED, INTERRUPTED, WRONG_INPUT
from demo_backups.project import ROOT, read_project_file
from demo_backups.release.actions import ACTIONS, BY_HAND
from demo_backups.release.plan import PHASES, Mark

from .helpers.constants import SCRIPT
from .helpers.databases import is_consistent
from .helpers.tasks import Demo, Inv, clean_environment

README = ROOT / "README.md"
BACKUPS = ROOT / "docs/backups.md"
PLAN = ROOT / "docs/release-plan.md"
SETTINGS = ROOT / "docs/settings.md"
PICTURE = ROOT / "docs/rehearsal.svg"
PLAN_PICTURE = ROOT / "docs/plan.svg"
ARCHITECTURE = ROOT / "docs/architecture.svg"
DOCS = [README, ROOT / "AGENTS.md", ROOT / "CHANGELOG.md", *sorted((ROOT / "docs").glob("*.md"))]

# What the quick start says and the tests do not run, with the reason.
NOT_RUN = {"./inv test": "runs these very tests; .ci/run calls it"}


# --- reading Markdown -----------------------------------------------------------------------------------------------


def blocks(text: str, language: str = "bash") -> list[str]:
    """The fenced code blocks of a language, their indentation taken away."""
    found = re.findall(rf"^( *)```{language}\n(.*?)^ *```$", text, re.MULTILINE | re.DOTALL)
    return [re.sub(rf"^{indent}", "", body, flags=re.MULTILINE) for indent, body in found]


def section(text: str, title: str) -> str:
    """What stands below a heading, up to the next one of its level or above."""
    match = re.search(rf"^(##+) {re.escape(title)}\n(.*?)(?=^##?#? |\Z)", text, re.MULTILINE | re.DOTALL)
    assert match, f"no heading {title!r}"
    return match[2]


def table(text: str) -> list[list[str]]:
    """The cells of a text's first table, without its heading."""
    rows = []
    for line in text[text.index("\n|") + 1 :].splitlines():
        if not line.startswith("|"):
            break
        rows.append([cell.strip() for cell in line.strip("|").split("|")])
    return rows[2:]


def code(cell: str) -> list[str]:
    """What stands in backticks."""
    return re.findall(r"`([^`]+)`", cell)


def prose(text: str) -> str:
    """The text without its fenced blocks."""
    return re.sub(r"^ *```.*?^ *```$", "", text, flags=re.MULTILINE | re.DOTALL)


def calls(text: str) -> Iterator[list[str]]:
    """The words after `inv` of every call of a task, in blocks and in backticks."""
    for line in [*"\n".join(blocks(text)).splitlines(), *code(" ".join(prose(text).split()))]:
        call = re.match(r"(?:[A-Z_]+=\S* )*(?:\./)?inv (.+)", line)
        if call:
            yield shlex.split(call[1], comments=True)


ALL_CALLS = [
    pytest.param(words, id=f"{doc.name} inv {shlex.join(words)}") for doc in DOCS for words in calls(doc.read_text())
]


# --- tasks ----------------------------------------------------------------------------------------------------------


def test_the_readme_s_table_has_every_task_with_every_flag_and_no_other() -> None:
    tasks = Collection.from_module(FilesystemLoader(start=str(ROOT)).load("tasks")[0])
    rows = table(section(README.read_text(), "Tasks"))
    said = {code(row[0])[0]: code(row[2]) for row in rows}
    there = {context.name: [to_flag(str(arg.name)) for arg in context.args.values()] for context in tasks.to_contexts()}
    assert said == there


def parse(words: list[str]) -> list[str]:
    """Let Invoke itself take a command line as far as it goes without running a task; return the tasks it names."""
    program = Program()
    program.create_config()
    program.parse_core(["inv", "--search-root", str(ROOT), *words])
    program.parse_collection()
    program.parse_tasks()
    try:
        program.parse_cleanup()
    except Exit:  # after --list or --help TASK
        return [program.args["help"].value or "--list"]
    return [str(context.name) for context in program.tasks]


@pytest.mark.parametrize("words", ALL_CALLS)
def test_every_command_in_the_docs_parses(words: list[str]) -> None:
    assert parse(words)


@pytest.mark.parametrize(
    "words",
    [["no-such-task"], ["verify", "--no-such-flag"], ["--help", "no-such-task"], ["verify", "--host"]],
    ids=shlex.join,
)
def test_a_command_that_is_wrong_does_not_parse(words: list[str]) -> None:
    with pytest.raises(ParseError):
        parse(words)


def test_the_commands_of_the_docs_are_found() -> None:
    text = "Call `inv a`:\n\n  ```bash\n  X=1 ./inv b --c 'd e'  # f\n  invent\n  ```\n\nor `./inv\ng`, not `inv`."
    assert list(calls(text)) == [["b", "--c", "d e"], ["a"], ["g"]]


# --- settings -------------------------------------------------------------------------------------------------------


def flat(values: Any, path: tuple[str, ...] = ()) -> dict[tuple[str, ...], Any]:
    """Every setting by the keys that lead to it."""
    if not isinstance(values, dict):
        return {path: values}
    return {key: each for name, value in values.items() for key, each in flat(value, (*path, name)).items()}


def said(value: Any) -> str:
    """A value as YAML has it."""
    return {None: "null", True: "true", False: "false"}.get(value, value) if not isinstance(value, str) else value


def test_the_settings_page_has_every_setting_with_its_default_and_variable_and_no_other() -> None:
    rows = {code(row[0])[0]: row for row in table(SETTINGS.read_text())}
    there = {".".join(keys): (keys, value) for keys, value in flat(read_project_file()).items()}
    assert list(rows) == list(there)
    for name, (keys, value) in there.items():
        _, default, unit, variable, meaning = rows[name]
        assert code(default) == [said(value)], name
        assert code(variable) == ["INVOKE_" + "_".join(keys).upper()], name
        assert unit, name
        assert meaning, name


def test_every_variable_of_the_settings_page_reaches_its_setting(monkeypatch: pytest.MonkeyPatch) -> None:
    from invoke import Config

    settings = flat(read_project_file())
    for keys in settings:
        monkeypatch.setenv("INVOKE_" + "_".join(keys).upper(), "0" if keys == ("use_sudo",) else f"/x/{keys[-1]}")
    config = Config(lazy=True)
    config.set_project_location(ROOT)
    config.load_project()
    config.load_shell_env()
    for keys, default in settings.items():
        value: Any = config
        for key in keys:
            value = value[key]
        assert value != default, keys


def test_the_readme_and_the_settings_page_call_the_environment_only_by_variables_that_are_there() -> None:
    there = {"INVOKE_" + "_".join(keys).upper() for keys in flat(read_project_file())}
    for doc in DOCS:
        assert set(re.findall(r"INVOKE_[A-Z_]+", doc.read_text())) <= there, doc.name


# --- commands that are run ------------------------------------------------------------------------------------------

QUICK_START = [line for block in blocks(section(README.read_text(), "Quick start")) for line in block.splitlines()]


def run(script: str, folder: Path, home: Path) -> subprocess.CompletedProcess[str]:
    """Run lines of the docs as a user's shell would; nothing is raised for a failure."""
    environment = clean_environment(home) | {"COLUMNS": "160"}
    words = ["bash", "-c", script]
    return subprocess.run(
        words, cwd=folder, env=environment, stdin=subprocess.DEVNULL, capture_output=True, text=True, check=False
    )


def picture_words(picture: Path, title: str = "./inv rehearse") -> list[str]:
    """The words in a picture, below its title; each piece of one style is a text of its own there."""
    first, *pieces = re.findall(r"<text [^>]*>(.*?)</text>", picture.read_text())
    assert html.unescape(first).split() == title.split()
    return html.unescape(" ".join(pieces)).split()


def comparable(words: list[str]) -> list[str]:
    """Words of a rehearsal without what differs from one to the next: its folder, its numbers, the tables' widths."""
    return [
        re.sub(r"[0-9a-f]{12}|[\d,]+", "0", re.sub(r"\S*/demo-backups-\w+", "FOLDER", word))
        for word in words
        if word.strip("─")
    ]


def test_the_picture_of_the_plan_shows_every_step_with_a_mark() -> None:
    words = " ".join(picture_words(PLAN_PICTURE, "./inv plan"))
    marks = "|".join(mark.value for mark in Mark)
    steps = [
        rf"{step.name}{re.escape(' (optional)') if step.optional else ''} ({marks}) "
        for steps in PHASES.values()
        for step in steps
    ]
    assert re.search(".*? ".join(steps), words), "the picture is old: ./inv plan --svg docs/plan.svg"


def without_progress(printed: str) -> str:
    """What was printed, without the lines that say how far a copy is: a slow moment of the machine makes one."""
    return re.sub(r"^[\d,]+ of [\d,]+ bytes, .*\n", "", printed, flags=re.MULTILINE)


@pytest.mark.parametrize("command", [each for each in QUICK_START if each not in NOT_RUN])
def test_the_quick_start_runs_and_prints_what_the_picture_shows(command: str, home: Path) -> None:
    done = run(command, ROOT, home)
    assert done.returncode == 0, done.stdout + done.stderr
    assert comparable(without_progress(done.stdout).split()) == comparable(picture_words(PICTURE)), (
        "the picture is old: ./inv rehearse --svg docs/rehearsal.svg"
    )


def test_what_is_not_run_of_the_quick_start_is_what_ci_runs() -> None:
    for command in NOT_RUN:
        assert command in QUICK_START
        assert command in (ROOT / ".ci/run").read_text().splitlines()


PUBLISHED_APP, PUBLISHED_BACKUPS = "/home/torrust/github/torrust/torrust-demo", "/home/torrust/backups"


def install(folder: Path, journal: str, statements: str) -> tuple[Path, Path, Path, sqlite3.Connection]:
    """Lay a server's folders out: returns that of the app, of the backups, the live database, and its service."""
    app, backups = folder / "app", folder / "backups"
    live = app / "storage/index/lib/database/sqlite3.db"
    live.parent.mkdir(parents=True)
    backups.mkdir()
    service = sqlite3.connect(live)
    service.execute(f"PRAGMA journal_mode = {journal}")
    service.executescript(statements)
    return app, backups, live, service


@pytest.mark.parametrize("journal", ["wal", "delete"])
def test_restoring_by_hand_as_the_docs_say(journal: str, tmp_path: Path, home: Path) -> None:
    statements = "CREATE TABLE t (word TEXT); INSERT INTO t VALUES ('good')"
    app, backups, live, service = install(tmp_path, journal, statements)
    paths = {"DATABASE_FILE": str(live), "BACKUP_DIR": str(backups)}
    subprocess.run([SCRIPT], env={"PATH": "/usr/bin:/bin"} | paths, check=True)
    [backup] = backups.glob("backup_*.db")
    service.executemany("INSERT INTO t VALUES (?)", [("bad " * 500,)] * 200)
    service.commit()
    live.chmod(0o640)

    def follow(block: str) -> str:
        for published, here in (
            (f"{PUBLISHED_BACKUPS}/backup_2026-01-31_12-00-00.db", backup),
            (PUBLISHED_APP, app),
        ):
            block = block.replace(published, str(here))
        # `sudo -s` opens a shell, and there is no Docker here.
        lines = [line for line in block.splitlines() if not line.startswith("sudo") and "docker compose" not in line]
        done = run("\n".join(["set -e", *lines]), live.parent, home)
        assert done.returncode == 0, done.stderr
        return done.stdout

    copy, swap = blocks(section(BACKUPS.read_text(), "Restoring, by hand"))
    assert follow(copy) == "ok\n"
    # The service stops as one that dies does: a -wal is left, and belongs to the old database only.
    left = {path: path.read_bytes() for path in live.parent.iterdir() if path.name != "sqlite3.db.new"}
    service.close()
    for path, content in left.items():
        path.write_bytes(content)
    assert live.with_name("sqlite3.db-wal").exists() == (journal == "wal")
    follow(swap)

    assert live.read_bytes() == backup.read_bytes()
    assert live.stat().st_mode & 0o777 == 0o640
    old = {path.with_name(path.name.replace("sqlite3.db", "sqlite3.db.old")) for path in left}
    assert set(live.parent.iterdir()) == {live} | old
    assert is_consistent(live)
    replaced = sqlite3.connect(live.with_name("sqlite3.db.old"))
    assert replaced.execute("SELECT count(*) FROM t").fetchone() == (201,)
    replaced.close()


@pytest.mark.parametrize("journal", ["wal", "delete"])
def test_backing_up_and_checking_by_hand_as_the_docs_say(journal: str, tmp_path: Path, home: Path) -> None:
    statements = "CREATE TABLE torrust_torrents (torrent_id, info_hash); INSERT INTO torrust_torrents VALUES (7, 'abc')"
    app, backups, live, service = install(tmp_path, journal, statements)
    (app / "share/bin").mkdir(parents=True)
    (app / "share/bin" / SCRIPT.name).symlink_to(SCRIPT)
    with_paths = f"DATABASE_FILE={live} BACKUP_DIR={backups} {app}/share/bin/"
    _, by_script, by_one_line = blocks(section(BACKUPS.read_text(), "Making one"))
    _, by_hand = blocks(section(BACKUPS.read_text(), "Checking one"))

    def follow(block: str, name: str) -> str:
        text = re.sub(r"^sudo( -s$)? ?", "", block, flags=re.MULTILINE).replace("backup_2026-01-31_12-00-00.db", name)
        text = text.replace(PUBLISHED_APP, str(app)).replace(PUBLISHED_BACKUPS, str(backups))
        done = run(f"set -e\n{text.replace(f'{app}/share/bin/', with_paths)}", backups, home)
        assert (done.returncode, done.stderr) == (0, "")
        return done.stdout

    assert follow(by_script, "") == ""
    assert follow(by_one_line, "") == ""
    made = sorted(path.name for path in backups.glob("*.db"))
    assert len(made) == 2
    before = {path for folder in (backups, live.parent) for path in folder.iterdir()}
    for name in made:
        listed, ok, row, size, tables, *of_source = follow(by_hand, name).splitlines()
        assert listed.split()[-1] == name
        assert (ok, row, tables) == ("ok", "7|abc", "torrust_torrents")
        assert listed.split()[4] == size == str((backups / name).stat().st_size)
        assert of_source == [size, tables]
    assert {path for folder in (backups, live.parent) for path in folder.iterdir()} == before
    service.close()


# --- tables that name what is in the code ---------------------------------------------------------------------------


def test_the_backups_strategy_is_that_of_the_settings_the_scripts_and_the_published_crontab() -> None:
    page, settings = BACKUPS.read_text(), read_project_file()
    rows = {row[0]: row[1:] for row in table(section(page, "Strategy"))}
    databases = settings["databases"].values()
    assert [code(cell) for cell in rows["By what"]] == [[each["script"]] for each in databases]
    [where] = [row for row in rows if settings["backup_dir"] in row]
    names = [[f"{each['backup_prefix']}YYYY-MM-DD_HH-MM-SS.db"] for each in databases]
    assert [code(cell) for cell in rows[where]] == names
    crontab = (ROOT / "share/container/default/config/crontab.conf").read_text()
    hourly = ["every hour" in cell for cell in rows["How often"]]
    assert [bool(re.search(rf"^0 +\* \* \* \* .*/{each['script']} ", crontab, re.M)) for each in databases] == hourly
    assert "`find -mtime +7`" in section(page, "Retention")
    for each in databases:
        assert re.search(
            rf"^find .*'{each['backup_prefix']}\*\.db' -mtime \+7 -delete$", (ROOT / each["script"]).read_text(), re.M
        )


def test_the_five_checks_of_the_docs_are_those_that_are_made(demo: Demo) -> None:
    seen = json.loads(demo.inv("verify", "--json").stdout)
    rows = table(section(BACKUPS.read_text(), "Checking one"))
    assert [code(row[0])[0] for row in rows] == [check["name"] for check in seen["checks"]]


def test_every_line_that_the_docs_give_a_reason_for_is_in_the_script() -> None:
    script = SCRIPT.read_text()
    for row in table(section(BACKUPS.read_text(), "The method")):
        for words in code(row[0]):
            assert re.search(rf"(?<![\w-]){re.escape(words)}(?!\w)", script), words


def test_every_message_that_the_readme_explains_is_one_that_can_come() -> None:
    sources = [path for path in (ROOT / "src").rglob("*") if path.suffix in (".py", ".sh")]
    ours = "\n".join(path.read_text() for path in [*sources, SCRIPT])
    sqlite = "database is locked, attempt to write a readonly database (8)"  # rescode.html
    for row in table(section(README.read_text(), "When things go wrong")):
        for words in code(row[0]):
            assert re.search(re.escape(words).replace(re.escape("..."), ".+"), f"{ours}\n{sqlite}"), words


def test_the_readme_s_exit_codes_are_those_of_the_code() -> None:
    rows = table(section(README.read_text(), "Tasks").split("object is all that goes")[1])
    assert [int(row[0]) for row in rows] == [0, FAILED, WRONG_INPUT, COULD_NOT_LOOK, INTERRUPTED]


@pytest.mark.parametrize(("number", "name"), [*enumerate(PHASES, 1)])
def test_the_steps_of_the_plan_s_page_are_those_of_the_plan(number: int, name: str) -> None:
    rows = table(section(PLAN.read_text(), f"Phase {number}: {name}"))
    steps = [(step.name, step.title + " (optional)" * step.optional, [*step.needs]) for step in PHASES[name]]
    assert [(code(row[0])[0], row[1], code(row[2])) for row in rows] == steps
    for row in rows:
        step, by = code(row[0])[0], row[3]
        if step in ACTIONS:
            assert by == f"`./inv {ACTIONS[step].task}`"
        else:
            assert by.startswith("hand")
            assert (by == "hand") == (step in BY_HAND)


def test_the_plan_s_page_has_as_many_steps_as_it_says() -> None:
    words = f"{sum(len(steps) for steps in PHASES.values())} steps"
    assert words in PLAN.read_text()
    assert words in section(README.read_text(), "The release plan")


def test_the_marks_of_the_plan_s_page_are_those_of_the_plan() -> None:
    assert [row[0] for row in table(section(PLAN.read_text(), "The marks"))] == [mark.value for mark in Mark]


def test_the_exit_codes_of_the_plan_s_page_are_those_of_the_code() -> None:
    rows = table(section(PLAN.read_text(), "Exit codes"))
    assert [int(row[0]) for row in rows] == [0, FAILED, WRONG_INPUT, COULD_NOT_LOOK, INTERRUPTED]


def test_the_architecture_names_every_module_and_no_other() -> None:
    named = set(re.findall(r"[\w/*]+\.(?:py|sh)\b|\b\w+/(?=<)", ARCHITECTURE.read_text()))
    sources = ROOT / "src/demo_backups"
    there = {path.name for path in sources.iterdir() if path.suffix in (".py", ".sh") and path.name != "__init__.py"}
    packages = {f"{path.parent.name}/" for path in sources.glob("*/__init__.py")}
    assert named == there | packages | {"tasks.py", "share/bin/*.sh"}


def test_the_architecture_s_rows_import_downwards() -> None:
    """A module stands above those that it imports, or in their row."""
    words = re.findall(r'<text class="name" x="\d+" y="(\d+)">([^<]+)</text>', ARCHITECTURE.read_text())
    rows = {name: int(y) for y, names in words for name in names.split(" · ") if name.endswith(".py")}
    for name, row in rows.items():
        path = ROOT / ("tasks.py" if name == "tasks.py" else f"src/demo_backups/{name}")
        for line in re.findall(r"^from \.(\w*) import (.+)$", path.read_text(), re.MULTILINE) if path.exists() else []:
            for imported in [line[0]] if line[0] else line[1].split(", "):
                assert row <= rows.get(f"{imported}.py", row), (name, imported)


# --- links and names ------------------------------------------------------------------------------------------------


def anchors(text: str) -> set[str]:
    """The anchors of a page's headings, as GitHub makes them."""
    headings = re.findall(r"^#+ (.+)$", prose(text), re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings}


LOADS = re.compile(r"url\((?!#)|href(?!=\"#)|@import|@font-face")  # what makes a picture ask another server
LINKS = [
    pytest.param(doc, link, id=f"{doc.name} {link}")
    for doc in DOCS
    for link in re.findall(r"\]\(([^)\s]+)\)", prose(doc.read_text()))
    if not link.startswith("https://")
]


@pytest.mark.parametrize(("doc", "link"), LINKS)
def test_every_link_within_the_docs_leads_somewhere(doc: Path, link: str) -> None:
    path, _, anchor = link.partition("#")
    target = doc.parent / path if path else doc
    assert target.is_file()
    assert not anchor or anchor in anchors(target.read_text())


@pytest.mark.parametrize(
    "doc", [*DOCS, PICTURE, PLAN_PICTURE, ARCHITECTURE, ROOT / "invoke.yaml"], ids=lambda path: path.name
)
def test_no_page_names_a_place_on_the_machine_it_was_written_on(doc: Path) -> None:
    text = doc.read_text().replace("/home/torrust/", "").replace("/tmp/demo-backups-", "")
    assert re.findall(r"/(?:root|home|work|Users|tmp|mnt|opt|srv)/\S+", text) == []


@pytest.mark.parametrize("picture", sorted((ROOT / "docs").glob("*.svg")), ids=lambda path: path.name)
def test_a_picture_loads_nothing(picture: Path) -> None:
    assert LOADS.findall(picture.read_text()) == []


def test_a_rehearsal_draws_all_that_it_prints_within_the_picture(inv: Inv, tmp_path: Path) -> None:
    done = inv("rehearse", "--svg", str(tmp_path / "new.svg"), COLUMNS="160")
    assert done.returncode == 0, done.stdout + done.stderr
    assert picture_words(tmp_path / "new.svg") == done.stdout.split()
    svg = (tmp_path / "new.svg").read_text()
    assert LOADS.findall(svg) == []
    width = re.search(r'viewBox="0 0 (\d+)', svg)
    ends = [float(x) + float(length) for x, length in re.findall(r' x="([\d.]+)"[^>]* textLength="([\d.]+)"', svg)]
    assert width
    assert 0 < max(ends) <= float(width[1])


@pytest.mark.parametrize("place", ["no-such-folder/x.svg", "."])
def test_a_picture_that_cannot_be_written_is_refused_before_the_rehearsal(place: str, inv: Inv, home: Path) -> None:
    done = inv("rehearse", "--svg", str(home / place))
    assert (done.returncode, done.stdout) == (WRONG_INPUT, "")
    assert "--svg" in done.stderr
    assert not (home / "evidence").exists()
