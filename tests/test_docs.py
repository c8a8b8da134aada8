"""The docs agree with the code: tasks, flags, settings, exit codes, commands, links."""

from __future__ import annotations

import dataclasses
import json
import re
import shlex
import shutil
import sqlite3
import subprocess
from dataclasses import MISSING, fields
from pathlib import Path
from typing import Any

import pytest
from invoke import Config
from invoke.exceptions import Exit, ParseError
from invoke.program import Program

from demo_backups.backup.preflight import Verdict
from demo_backups.errors import COULD_NOT_LOOK, FAILED, INCOMPLETE, INTERRUPTED, WRONG_INPUT
from demo_backups.project import ROOT, read_project_file
from demo_backups.records.record import SCHEMA, Details, Record, new_record
from demo_backups.records.store import read_records, write_record
from demo_backups.release.actions import ACTIONS, MANUAL_STEPS
from demo_backups.release.plan import PHASES, Mark

from .helpers import task_reference
from .helpers.constants import SCRIPT
from .helpers.databases import is_consistent
from .helpers.markdown import (
    DOCS,
    README,
    anchors,
    code_blocks,
    code_spans,
    links,
    page,
    section,
    table,
    tables,
    task_calls,
)
from .helpers.tasks import DemoServer, clean_environment

PUBLISHED_APP, PUBLISHED_BACKUPS = "/home/torrust/github/torrust/torrust-demo", "/home/torrust/backups"
EXAMPLE_BACKUP = "backup_2026-01-31_12-00-00.db"
# What the quick start says and the tests do not run, with the reason.
NOT_RUN = {"./inv test": "runs these very tests"}
QUICK_START = [line for block in code_blocks(section(README.read_text(), "Quick start")) for line in block.splitlines()]


# --- tasks ----------------------------------------------------------------------------------------------------------


def test_task_reference_is_up_to_date() -> None:
    text = task_reference.PAGE.read_text()
    reference = task_reference.render(task_reference.load_tasks())
    assert text == task_reference.replace_generated(text, reference), f"run {task_reference.__name__}"


def test_task_reference_has_every_task_once() -> None:
    tasks = [str(context.name) for context in task_reference.load_tasks().to_contexts()]
    assert sorted(name for names in task_reference.GROUPS.values() for name in names) == sorted(tasks)


def test_every_flag_has_help() -> None:
    for context in task_reference.load_tasks().to_contexts():
        for argument in context.args.values():
            assert argument.help, (context.name, argument.name)


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


ALL_CALLS = [
    pytest.param(words, id=f"{doc.name} inv {shlex.join(words)}")
    for doc in DOCS
    for words in task_calls(doc.read_text())
]


@pytest.mark.parametrize("words", ALL_CALLS)
def test_command_in_docs_parses(words: list[str]) -> None:
    # TASK stands for any task, and --install is read by the bootstrap.
    assert parse(["verify" if word == "TASK" else word for word in words if word != "--install"])


@pytest.mark.parametrize(
    "words",
    [["no-such-task"], ["verify", "--no-such-flag"], ["--help", "no-such-task"], ["verify", "--host"]],
    ids=shlex.join,
)
def test_wrong_command_does_not_parse(words: list[str]) -> None:
    with pytest.raises(ParseError):
        parse(words)


def test_commands_in_docs_are_found() -> None:
    text = "Call `inv a`:\n\n  ```bash\n  X=1 ./inv b --c 'd e'  # f\n  invent\n  ```\n\nor `./inv\ng`, not `inv`."
    assert list(task_calls(text)) == [["b", "--c", "d e"], ["a"], ["g"]]


def top_level_keys(task: str) -> list[str]:
    """Return the keys of a task's JSON output, from the task reference."""
    rows = table(section(page("reference/tasks.md"), "JSON output"))
    return next(code_spans(row[1]) for row in rows if row[0].startswith(task) or task in code_spans(row[0]))


@pytest.mark.parametrize("task", ["list-backups", "preflight", "plan", "history", "check"])
def test_json_output_has_documented_keys(task: str, demo_server: DemoServer) -> None:
    done = demo_server.inv(task, "--json")
    assert list(json.loads(done.stdout)) == top_level_keys(task), done.stderr


def test_json_error_has_documented_keys(demo_server: DemoServer) -> None:
    done = demo_server.inv("list-backups", "--json", INVOKE_BACKUP_DIR="/no/such/directory")
    assert list(json.loads(done.stdout)) == top_level_keys("any of them")


# --- settings -------------------------------------------------------------------------------------------------------


def flatten(values: Any, path: tuple[str, ...] = ()) -> dict[tuple[str, ...], Any]:
    """Return every setting by the keys that lead to it."""
    if not isinstance(values, dict):
        return {path: values}
    return {keys: setting for name, value in values.items() for keys, setting in flatten(value, (*path, name)).items()}


def project_settings_by_key() -> dict[tuple[str, ...], Any]:
    """Return the settings of this project, without the sections that are Invoke's own."""
    own = {key: value for key, value in read_project_file().items() if key not in Config.global_defaults()}
    return flatten(own)


def variable_of(keys: tuple[str, ...]) -> str:
    """Name the environment variable of a setting."""
    return "INVOKE_" + "_".join(keys).upper()


def as_yaml(value: Any) -> str:
    """Write a value as YAML does."""
    return {None: "null", True: "true", False: "false"}.get(value, value) if not isinstance(value, str) else value


def test_settings_page_has_every_setting() -> None:
    rows = {code_spans(row[0])[0]: row for row in table(page("reference/settings.md"))}
    settings = {".".join(keys): (keys, value) for keys, value in project_settings_by_key().items()}
    assert list(rows) == list(settings)
    for name, (keys, value) in settings.items():
        _, default, unit, variable, meaning = rows[name]
        assert code_spans(default) == [as_yaml(value)], name
        assert code_spans(variable) == [variable_of(keys)], name
        assert unit, name
        assert meaning, name


def test_variables_reach_their_settings(monkeypatch: pytest.MonkeyPatch) -> None:
    settings = project_settings_by_key()
    for keys, default in settings.items():
        monkeypatch.setenv(
            variable_of(keys), "0" if keys == ("use_sudo",) else "1" if default is False else f"/x/{keys[-1]}"
        )
    config = Config(lazy=True)
    config.set_project_location(ROOT)
    config.load_project()
    config.load_shell_env()
    for keys, default in settings.items():
        value: Any = config
        for key in keys:
            value = value[key]
        assert value != default, keys


def test_variables_in_docs_exist() -> None:
    variables = {variable_of(keys) for keys in project_settings_by_key()}
    for doc in DOCS:
        assert set(re.findall(r"INVOKE_[A-Z][A-Z_]*", doc.read_text())) <= variables, doc.name


# --- exit codes, checks, preflight, plan, jobs ----------------------------------------------------------------------


def test_exit_codes_are_documented() -> None:
    rows = table(page("reference/exit-codes.md"))
    assert [int(row[0]) for row in rows] == [0, FAILED, WRONG_INPUT, COULD_NOT_LOOK, INCOMPLETE, INTERRUPTED]


def test_checks_and_their_json_are_documented(demo_server: DemoServer) -> None:
    verification = json.loads(demo_server.inv("verify", "--json").stdout)
    checks = [check["name"] for check in verification["checks"]]
    assert list(verification) == top_level_keys("verify")
    assert [code_spans(row[0])[0] for row in table(page("reference/checks.md"))] == checks
    by_hand = tables(section(page("how-to/verify-and-restore.md"), "Verify a backup"))[0]
    assert sorted(code_spans(row[0])[0] for row in by_hand) == sorted(checks)


def test_findings_of_check_are_documented() -> None:
    sources = "".join(path.read_text() for path in (ROOT / "src/demo_backups/health").glob("judge*.py"))
    names = set(re.findall(r'(?:Finding|unavailable|Subject)\(\s*"(\w+)"', sources))
    assert len(names) >= 14
    table = (ROOT / "docs/reference/check.md").read_text().partition("## Findings")[2].partition("\n- ")[0]
    assert set(re.findall(r"^\| `(\w+)`", table, re.MULTILINE)) == names


def test_preflight_lines_and_verdicts_are_documented(demo_server: DemoServer) -> None:
    text = page("reference/preflight.md")
    output = demo_server.inv("preflight").stdout
    lines = [row[0] for row in table(section(text, "Lines"))]
    printed = re.findall(r"^ (\w+(?: \w+)?)  +\S", output, re.MULTILINE)
    assert printed == lines
    verdicts = {code_spans(row[0])[0] for row in table(section(text, "Verdict"))}
    assert verdicts == {verdict.value for verdict in Verdict}


@pytest.mark.parametrize(("number", "name"), [*enumerate(PHASES, 1)])
def test_steps_of_phase_are_documented(number: int, name: str) -> None:
    rows = table(section(page("reference/plan.md"), f"Phase {number}: {name}"))
    steps = [(step.name, step.title + " (optional)" * step.optional, [*step.needs]) for step in PHASES[name]]
    assert [(code_spans(row[0])[0], row[1], code_spans(row[2])) for row in rows] == steps
    for row in rows:
        step, task = code_spans(row[0])[0], row[3]
        if step in ACTIONS:
            assert task == f"`./inv {ACTIONS[step].task}`"
        else:
            assert task.startswith("manual")
            assert (task == "manual") == (step in MANUAL_STEPS)


@pytest.mark.parametrize("name", ["reference/plan.md", "how-to/release.md"])
def test_number_of_steps_is_documented(name: str) -> None:
    assert set(re.findall(r"(\d+) steps", page(name))) == {str(sum(map(len, PHASES.values())))}


def test_marks_are_documented() -> None:
    rows = table(section(page("reference/plan.md"), "Marks"))
    assert [row[0] for row in rows] == [mark.value for mark in Mark]


def test_files_of_a_job_are_documented(demo_server: DemoServer) -> None:
    for task in ("deploy-index-backup", "run-index-backup"):
        done = demo_server.inv(task)
        assert done.returncode == 0, done.stderr
    (state,) = (demo_server.server.home / ".demo-backups").glob("index-backup-*/0*")
    rows = table(section(page("reference/jobs.md"), "State"))
    assert {code_spans(row[0])[0] for row in rows} == {path.name for path in state.iterdir()}


def test_messages_in_troubleshooting_exist() -> None:
    sources = [path for path in (ROOT / "src").rglob("*") if path.suffix in (".py", ".sh")]
    own = "\n".join(path.read_text() for path in [*sources, SCRIPT])
    sqlite = "database is locked, attempt to write a readonly database (8)"  # rescode.html
    for rows in tables(page("how-to/troubleshooting.md")):
        for message in (span for row in rows for span in code_spans(row[0])):
            pattern = re.escape(message).replace(re.escape("..."), ".+")
            assert re.search(pattern, f"{own}\n{sqlite}"), message


# --- the scripts ----------------------------------------------------------------------------------------------------


def test_schedule_agrees_with_settings_and_crontab() -> None:
    settings = read_project_file()
    databases = settings["databases"].values()
    rows = {row[0]: row[1:] for row in table(section(page("backups.md"), "Schedule"))}
    assert [code_spans(cell) for cell in rows["Script"]] == [[database["script"]] for database in databases]
    names = [[f"{database['backup_prefix']}YYYY-MM-DD_HH-MM-SS.db"] for database in databases]
    assert [code_spans(cell) for cell in rows[f"Files in `{settings['backup_dir']}`"]] == names
    crontab = (ROOT / "share/container/default/config/crontab.conf").read_text()
    hourly = [bool(re.search(rf"^0 +\* \* \* \* .*/{each['script']} ", crontab, re.MULTILINE)) for each in databases]
    assert ["every hour" in cell for cell in rows["How often"]] == hourly


def test_documented_retention_is_that_of_the_scripts() -> None:
    assert "`find -mtime +7`" in section(page("backups.md"), "Retention")
    for database in read_project_file()["databases"].values():
        script = (ROOT / database["script"]).read_text()
        pattern = rf"^(?:if ! )?find .*'{database['backup_prefix']}\*\.db' -mtime \+7 -delete(?:; then)?$"
        assert re.search(pattern, script, re.MULTILINE)


def test_explained_lines_are_in_the_script() -> None:
    script = SCRIPT.read_text()
    for row in table(section(page("backups.md"), "Each line of the script")):
        for words in code_spans(row[0]):
            assert re.search(rf"(?<![\w-]){re.escape(words)}(?!\w)", script), words


def test_another_database_as_documented(tmp_path: Path, home: Path) -> None:
    text = page("how-to/another-database.md")
    shutil.copytree(ROOT / "share", tmp_path / "share")
    (commands,) = [block for block in code_blocks(text) if "sed" in block]
    done = run(commands, tmp_path, home)  # diff exits 1, since the two differ
    assert (done.returncode, done.stderr) == (1, "")
    settings = code_blocks(text, "yaml")[0]
    script, prefix = (re.search(rf"{key}: (\S+)", settings)[1] for key in ("script", "backup_prefix"))  # type: ignore[index]
    assert "index" not in (tmp_path / script).read_text()

    app, backups = tmp_path / "app", tmp_path / "backups"
    live = app / re.search(r"file: (\S+)", settings)[1]  # type: ignore[index]
    service = install_database(live, "delete", "CREATE TABLE dashboard (id); INSERT INTO dashboard VALUES (1)")
    backups.mkdir()
    name = prefix.rstrip("_")
    assert f'PART=".{name}.part"' in (tmp_path / script).read_text()
    paths = {"DATABASE_FILE": str(live), "BACKUP_DIR": str(backups)}
    subprocess.run([tmp_path / script], env={"PATH": "/usr/bin:/bin"} | paths, check=True)
    service.close()
    assert sorted(re.sub(r"[\d-]+_[\d-]+(?=\.db)", "", path.name) for path in backups.iterdir()) == [
        f".{name}.lock",
        f"{prefix}.db",
    ]


# --- records --------------------------------------------------------------------------------------------------------


def test_records_page_has_every_field() -> None:
    rows = {code_spans(row[0])[0]: row for row in table(section(page("reference/records.md"), "Schema"))}
    assert list(rows) == [field.name for field in fields(Record)]
    for field in fields(Record):
        _, kind, _, default, since, meaning = rows[field.name]
        assert kind, field.name
        assert meaning, field.name
        assert 1 <= int(since) <= SCHEMA, field.name
        assert code_spans(default) == default_as_json(field), field.name


def default_as_json(field: dataclasses.Field[Any]) -> list[str]:
    """Return the default that a field has where a record is read, as a list of at most one JSON text."""
    if field.name in ("when", "schema"):  # a record that is read must have them
        return []
    default = field.default if field.default_factory is MISSING else field.default_factory()
    if isinstance(default, Details):
        default = default.model_dump(exclude_unset=True)
    return [] if default is MISSING else [json.dumps(default)]


def test_documented_schema_is_the_current_one() -> None:
    assert f"This is schema {SCHEMA}." in page("reference/records.md")


def test_example_is_a_valid_record(tmp_path: Path) -> None:
    (example,) = code_blocks(page("reference/records.md"), "json")
    (tmp_path / "example.json").write_text(example)
    ((record,), invalid) = read_records(tmp_path)
    assert invalid == []
    assert list(json.loads(example).items()) == list(record.as_json().items())


def test_documented_record_file_name_is_valid(tmp_path: Path) -> None:
    record = new_record("verification", "demo", "index", when="2026-01-31T12:00:00.123456+00:00")
    assert f"`{write_record(tmp_path, record).name}`" in page("reference/records.md")


# --- commands that are run ------------------------------------------------------------------------------------------


def run(script: str, folder: Path, home: Path) -> subprocess.CompletedProcess[str]:
    """Run lines of the docs as a user's shell would; nothing is raised for a failure."""
    environment = clean_environment(home) | {"COLUMNS": "160"}
    words = ["bash", "-c", script]
    return subprocess.run(
        words, cwd=folder, env=environment, stdin=subprocess.DEVNULL, capture_output=True, text=True, check=False
    )


@pytest.mark.parametrize("command", [line for line in QUICK_START if line not in NOT_RUN])
def test_quick_start_succeeds(command: str, home: Path) -> None:
    done = run(command, ROOT, home)
    assert done.returncode == 0, done.stdout + done.stderr


def test_skipped_commands_are_in_quick_start() -> None:
    assert set(NOT_RUN) <= set(QUICK_START)


def install_database(live: Path, journal: str, statements: str) -> sqlite3.Connection:
    """Create a live database and the directories above it; return the connection of its service."""
    live.parent.mkdir(parents=True)
    service = sqlite3.connect(live)
    service.execute(f"PRAGMA journal_mode = {journal}")
    service.executescript(statements)
    return service


def without_sudo_and_docker(block: str) -> str:
    """Leave out what opens a root shell or controls the service: the test has neither."""
    lines = [re.sub(r"^sudo( -s$)? ?", "", line) for line in block.splitlines()]
    return "\n".join(["set -e", *(line for line in lines if "docker compose" not in line)])


@pytest.mark.parametrize("journal", ["wal", "delete"])
def test_restore_by_hand_as_documented(journal: str, tmp_path: Path, home: Path) -> None:
    app, backups = tmp_path / "app", tmp_path / "backups"
    live = app / "storage/index/lib/database/sqlite3.db"
    service = install_database(live, journal, "CREATE TABLE t (word TEXT); INSERT INTO t VALUES ('good')")
    backups.mkdir()
    paths = {"DATABASE_FILE": str(live), "BACKUP_DIR": str(backups)}
    subprocess.run([SCRIPT], env={"PATH": "/usr/bin:/bin"} | paths, check=True)
    [backup] = backups.glob("backup_*.db")
    service.executemany("INSERT INTO t VALUES (?)", [("bad " * 500,)] * 200)
    service.commit()
    live.chmod(0o640)

    def follow(block: str) -> str:
        text = block.replace(f"{PUBLISHED_BACKUPS}/{EXAMPLE_BACKUP}", str(backup)).replace(PUBLISHED_APP, str(app))
        done = run(without_sudo_and_docker(text), live.parent, home)
        assert done.returncode == 0, done.stderr
        return done.stdout

    copy, swap = code_blocks(section(page("how-to/verify-and-restore.md"), "Restore a backup"))
    assert follow(copy) == "ok\n"
    # The service ends without a checkpoint: its -wal stays, and belongs to the old database only.
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
def test_backup_and_verify_by_hand_as_documented(journal: str, tmp_path: Path, home: Path) -> None:
    app, backups = tmp_path / "app", tmp_path / "backups"
    live = app / "storage/index/lib/database/sqlite3.db"
    statements = "CREATE TABLE torrust_torrents (torrent_id, info_hash); INSERT INTO torrust_torrents VALUES (7, 'abc')"
    service = install_database(live, journal, statements)
    backups.mkdir()
    (app / "share/bin").mkdir(parents=True)
    (app / "share/bin" / SCRIPT.name).symlink_to(SCRIPT)
    with_paths = f"DATABASE_FILE={live} BACKUP_DIR={backups} {app}/share/bin/"
    text = page("how-to/verify-and-restore.md")
    by_script, by_one_line = code_blocks(section(text, "Make a backup"))
    (by_hand,) = code_blocks(section(text, "Verify a backup"))

    def follow(block: str, name: str) -> str:
        text = block.replace(EXAMPLE_BACKUP, name).replace(PUBLISHED_APP, str(app))
        text = text.replace(PUBLISHED_BACKUPS, str(backups)).replace(f"{app}/share/bin/", with_paths)
        done = run(without_sudo_and_docker(text), backups, home)
        assert (done.returncode, done.stderr) == (0, "")
        return done.stdout

    assert follow(by_script, "") == ""
    assert follow(by_one_line, "") == ""
    names = sorted(path.name for path in backups.glob("*.db"))
    assert len(names) == 2
    before = {path for folder in (backups, live.parent) for path in folder.iterdir()}
    for name in names:
        listed, integrity, row, size, schema, *of_source = follow(by_hand, name).splitlines()
        assert listed.split()[-1] == name
        assert (integrity, row, schema) == ("ok", "7|abc", "torrust_torrents")
        assert listed.split()[4] == size == str((backups / name).stat().st_size)
        assert of_source == [size, schema]
    assert {path for folder in (backups, live.parent) for path in folder.iterdir()} == before
    service.close()


# --- links and names ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("doc", "link"),
    [pytest.param(doc, link, id=f"{doc.name} {link}") for doc in DOCS for link in links(doc.read_text())],
)
def test_link_in_docs_resolves(doc: Path, link: str) -> None:
    path, _, anchor = link.partition("#")
    target = doc.parent / path if path else doc
    assert target.is_file()
    assert not anchor or anchor in anchors(target.read_text())


def test_security_page_names_existing_tests() -> None:
    tests = "".join(path.read_text() for path in (ROOT / "tests").rglob("test_*.py"))
    names = set(re.findall(r"`(test_\w+)`", page("security.md")))
    assert names
    assert [name for name in sorted(names) if f"def {name}(" not in tests] == []


def test_every_page_is_linked_from_readme() -> None:
    linked = {(ROOT / link.partition("#")[0]).resolve() for link in links(README.read_text())}
    assert set(DOCS) - {README} <= linked


def layout_rows() -> list[list[str]]:
    """Return the rows of the contributors' tables that name a path of this project."""
    text = (ROOT / "AGENTS.md").read_text()
    return table(section(text, "Layout")) + [row[1:] for row in table(section(text, "Where to find what"))]


@pytest.mark.parametrize("row", layout_rows(), ids=lambda row: row[0])
def test_path_in_layout_exists(row: list[str]) -> None:
    (path,) = code_spans(row[0])
    assert (ROOT / path).exists()
    for name in code_spans(row[1]) if path.endswith(".py") else []:
        if name.isidentifier():
            assert re.search(rf"^ *def {name}\(", (ROOT / path).read_text(), re.MULTILINE), name


def test_layout_has_every_package() -> None:
    sources = ROOT / "src/demo_backups"
    modules = {path for path in sources.glob("*.py") if path.name != "__init__.py"}
    packages = {path.parent for path in sources.glob("*/__init__.py")}
    assert modules | packages <= {ROOT / code_spans(row[0])[0] for row in layout_rows()}


PICTURES = sorted((ROOT / "docs").glob("*.svg"))


@pytest.mark.parametrize("path", [*DOCS, *PICTURES, ROOT / "invoke.yaml"], ids=lambda path: path.name)
def test_no_path_of_a_developer_machine(path: Path) -> None:
    text = re.sub(r"/home/(?:torrust|backup-reader)\b|/opt/demo-backups\b|/tmp/demo-backups-", "", path.read_text())
    assert re.findall(r"/(?:root|home|work|Users|tmp|mnt|opt|srv)/\S+", text) == []


@pytest.mark.parametrize("picture", PICTURES, ids=lambda path: path.name)
def test_picture_loads_nothing(picture: Path) -> None:
    loads = r"url\((?!#)|href(?!=\"#)|@import|@font-face"
    assert re.findall(loads, picture.read_text()) == []
