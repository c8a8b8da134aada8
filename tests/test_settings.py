"""The settings: what invoke.yaml may say, what the environment may change, and how every mistake is named."""

from __future__ import annotations

import os
import shutil
import subprocess
from collections.abc import Callable
from pathlib import Path, PurePosixPath
from typing import Any

import pytest
from invoke import Config

from demo_backups.errors import SettingsError
from demo_backups.project import FILE, ROOT, plain, read_project_file
from demo_backups.settings import DatabaseSettings, Settings, check_host, load_settings, validate_settings

from .helpers.tasks import INV, Inv


def as_shipped() -> dict[str, Any]:
    """The values of invoke.yaml, in dictionaries that a test may change."""
    return read_project_file()


def set_at(values: dict[str, Any], key: str, value: Any) -> None:
    *sections, last = key.split(".")
    for section in sections:
        values = values[section]
    values[last] = value


def complaint(values: dict[str, Any]) -> str:
    """What is said about wrong values: one line a mistake."""
    with pytest.raises(SettingsError) as caught:
        validate_settings(values)
    assert caught.value.exit_code == 2
    assert str(FILE) in caught.value.advice
    return caught.value.output


# --- the file as it is shipped --------------------------------------------------------------------------------------


def test_the_shipped_settings_are_right_and_are_the_published_ones(project_settings: Settings) -> None:
    index, tracker = (project_settings.database(name) for name in ("index", "tracker"))
    app = PurePosixPath("/home/torrust/github/torrust/torrust-demo")
    assert (project_settings.host, project_settings.ssh_config, project_settings.use_sudo) == ("demo", None, True)
    assert project_settings.size_tolerance == 0.1
    assert index.source == app / "storage/index/lib/database/sqlite3.db"
    assert tracker.source == app / "storage/tracker/lib/database/sqlite3.db"
    assert index.script == app / "share/bin/index-db-backup.sh"
    assert index.local_script == ROOT / "share/bin/index-db-backup.sh"
    assert index.backup_dir == tracker.backup_dir == PurePosixPath("/home/torrust/backups")
    assert (index.backup_prefix, tracker.backup_prefix) == ("backup_", "tracker_backup_")


def test_every_setting_stands_in_the_file() -> None:
    values = as_shipped()
    assert set(values) == set(Settings.model_fields)
    for database in values["databases"].values():
        assert set(database) == set(DatabaseSettings.model_fields)


# --- every mistake is named with its key ----------------------------------------------------------------------------

WRONG = [
    ("host", 5, "must be text, not 5"),
    ("host", None, "must be text, not None"),
    ("host", "", "is empty"),
    ("host", "-oProxyCommand=id", "'-oProxyCommand=id' is no SSH alias: it starts with '-' or holds a blank"),
    ("host", "two words", "'two words' is no SSH alias: it starts with '-' or holds a blank"),
    ("host", "demo\n", r"holds a control character: 'demo\n'"),
    ("ssh_config", False, "must be text, not False"),
    ("ssh_config", "", "is empty"),
    ("ssh_config", "~no-such-user/config", "'~no-such-user/config' begins with the home of a user who is not here"),
    ("use_sudo", "false", "must be true or false, not 'false'"),
    ("use_sudo", 1, "must be true or false, not 1"),
    ("use_sudo", None, "must be true or false, not None"),
    ("app_dir", "app", "'app' is not an absolute path"),
    ("app_dir", "~/app", "'~/app' is not an absolute path"),
    ("app_dir", "/srv/../etc", "'/srv/../etc' is not an absolute path"),
    ("app_dir", ["/srv"], "must be text, not ['/srv']"),
    ("backup_dir", "", "is empty"),
    ("backup_dir", "/srv/\nbackups", r"holds a control character: '/srv/\nbackups'"),
    ("backup_dir", "/srv/\udcff", r"holds a control character: '/srv/\udcff'"),
    ("cron_log", "cron.log", "'cron.log' is not an absolute path"),
    ("size_tolerance", "ten", "'ten' is not a share such as 10% or 0.1"),
    ("size_tolerance", "-1%", "'-1%' is not a share such as 10% or 0.1"),
    ("size_tolerance", "101%", "'101%' is not a share such as 10% or 0.1"),
    ("size_tolerance", 10, "10 is not a share such as 10% or 0.1"),
    ("size_tolerance", "nan", "'nan' is not a share such as 10% or 0.1"),
    ("size_tolerance", "1e-3", "'1e-3' is not a share such as 10% or 0.1"),
    ("size_tolerance", True, "True is not a share such as 10% or 0.1"),
    ("size_tolerance", None, "None is not a share such as 10% or 0.1"),
    ("evidence_dir", 3, "must be text, not 3"),
    ("evidence_dir", "~no-such-user/x", "'~no-such-user/x' begins with the home of a user who is not here"),
    ("databases", None, "must be a section of databases, not None"),
    ("databases", "index", "must be a section of databases, not 'index'"),
    ("databases.index", None, "must be a section of settings, not None"),
    ("databases.index", "sqlite3.db", "must be a section of settings, not 'sqlite3.db'"),
    ("databases.index.file", "/abs.db", "'/abs.db' is not a relative path"),
    ("databases.index.file", "../x.db", "'../x.db' is not a relative path"),
    ("databases.index.file", ".", "'.' is not a relative path"),
    ("databases.index.script", 7, "must be text, not 7"),
    ("databases.index.script", "a/../../b.sh", "'a/../../b.sh' is not a relative path"),
    ("release.branch", "-x", "'-x' is no name that git allows"),
    ("release.commits.index", "feat: x ", "'feat: x ' begins or ends with a blank"),
    ("release.branch", "a b", "'a b' is no name that git allows"),
    ("release.remote", "a:b", "'a:b' is no name that git allows"),
    ("release.docs", "", "'' is no list of paths: is empty"),
    ("release.docs", [], "names no file"),
    ("release.docs", ["a.md", 5], "must be text, not 5"),
    ("release.docs", "''", "is empty"),
    ("release.docs", "a ../b", "'../b' is not a relative path"),
    ("release.docs", "it's", '"it\'s" is no list of paths: No closing quotation'),
    ("release.repository", "~nobody-here/x", "'~nobody-here/x' begins with the home of a user who is not here"),
    ("release.commits.docs", "two\nlines", "holds a control character: 'two\\nlines'"),
    ("databases.index.backup_prefix", "back*", "'back*' is not made of letters, digits, '_' and '-'"),
    ("databases.index.backup_prefix", "-n", "'-n' is not made of letters, digits, '_' and '-'"),
    ("databases.index.backup_prefix", "a/b", "'a/b' is not made of letters, digits, '_' and '-'"),
    ("databases.index.backup_prefix", ".hidden", "'.hidden' is not made of letters, digits, '_' and '-'"),
    ("databases.index.query", ".shell id", "'.shell id' is not a SELECT"),
    ("databases.index.query", "SELECTED", "'SELECTED' is not a SELECT"),
    ("databases.index.query", " SELECT 1", "' SELECT 1' is not a SELECT"),
    ("databases.index.query", "DELETE FROM t", "'DELETE FROM t' is not a SELECT"),
    ("databases.index.query", "SELECT 1\n.shell id", r"holds a control character: 'SELECT 1\n.shell id'"),
    ("databases.index.query", 1, "must be text, not 1"),
]


@pytest.mark.parametrize(("key", "value", "words"), WRONG, ids=[f"{key}={value!r}" for key, value, _ in WRONG])
def test_a_wrong_value_is_named_with_its_key(key: str, value: Any, words: str) -> None:
    values = as_shipped()
    set_at(values, key, value)
    assert complaint(values) == f"{key}: {words}"


def test_a_release_on_its_own_base_is_refused() -> None:
    values = as_shipped()
    set_at(values, "release.branch", "main")
    assert complaint(values) == (
        "release: branch and base are both 'main': the commits would go there without a review"
    )


@pytest.mark.parametrize("part", ["tracker", "docs"])
def test_two_commits_of_one_message_are_refused(part: str) -> None:
    values = as_shipped()
    set_at(values, f"release.commits.{part}", values["release"]["commits"]["index"])
    words = "two messages are the same: the plan tells the commits apart by them"
    assert complaint(values) == f"release.commits: {words}"


@pytest.mark.parametrize(
    ("wrong", "environ", "advice"),
    [
        ({"host": ""}, {"INVOKE_HOST": ""}, "correct the variable"),
        ({"host": ""}, {}, f"correct {FILE}"),
        ({"host": "", "cron_log": "x"}, {"INVOKE_HOST": ""}, f"correct {FILE} and the variable"),
    ],
)
def test_the_way_out_is_where_the_mistake_was_made(wrong: dict[str, Any], environ: dict[str, str], advice: str) -> None:
    with pytest.raises(SettingsError) as caught:
        validate_settings(as_shipped() | wrong, environ)
    assert caught.value.advice == advice


@pytest.mark.parametrize("key", [*Settings.model_fields, *(f"databases.index.{key}" for key in ("file", "query"))])
def test_a_missing_key_is_named(key: str) -> None:
    values = as_shipped()
    section = values["databases"]["index"] if "." in key else values
    del section[key.rsplit(".", 1)[-1]]
    assert complaint(values) == f"{key}: is missing"


@pytest.mark.parametrize("key", ["hots", "databases.index.retention"])
def test_an_unknown_key_is_named(key: str) -> None:
    values = as_shipped()
    set_at(values, key, "x")
    assert complaint(values) == f"{key}: is not a setting"


def test_all_mistakes_are_named_at_once() -> None:
    values = as_shipped() | {"host": "", "use_sudo": "yes", "hots": 1}
    values["databases"]["tracker"]["query"] = "PRAGMA x"
    said = complaint(values).splitlines()
    assert [line.split(":")[0] for line in said] == ["host", "use_sudo", "databases.tracker.query", "hots"]


# --- what is right --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("written", "share"),
    [("10%", 0.1), ("10 %", 0.1), (" 2.5% ", 0.025), (0.1, 0.1), ("0.1", 0.1), (0, 0), ("0%", 0), (1, 1), ("100%", 1)],
)
def test_a_share_is_a_percentage_or_a_fraction(written: Any, share: float) -> None:
    assert validate_settings(as_shipped() | {"size_tolerance": written}).size_tolerance == share


@pytest.mark.parametrize("path", ["/", "/a b/it's", '/"/\\t/%/?/#', "/-x", "/ünï/…", "/a..b"])
def test_any_printable_absolute_path_is_taken_as_it_is(path: str) -> None:
    assert str(validate_settings(as_shipped() | {"backup_dir": path}).backup_dir) == path


@pytest.mark.parametrize("query", ["SELECT 1", "select 1", "WITH t AS (SELECT 1) SELECT * FROM t", "VALUES(1)"])
def test_a_query_only_reads(query: str) -> None:
    values = as_shipped()
    set_at(values, "databases.index.query", query)
    assert validate_settings(values).database("index").query == query


def test_another_database_can_be_added() -> None:
    values = as_shipped()
    values["databases"]["extra"] = values["databases"]["index"] | {"backup_prefix": "extra_"}
    assert validate_settings(values).database("extra").backup_prefix == "extra_"


def test_a_database_that_is_not_there_is_refused_with_those_that_are(project_settings: Settings) -> None:
    with pytest.raises(SettingsError, match="no database 'Index' in the settings; there are: index, tracker"):
        project_settings.database("Index")


@pytest.mark.parametrize("name", ["demo", "local", "user@host.example", "[::1]", "ünï"])
def test_a_host_on_the_command_line_is_taken_as_it_is(name: str) -> None:
    assert check_host(name) == name


@pytest.mark.parametrize("name", ["", "-v", "--", "a b", "a\tb", "a\n", "\x1b[2J", "a\u00a0b"])
def test_a_host_on_the_command_line_that_can_be_none_is_refused(name: str) -> None:
    with pytest.raises(SettingsError, match="--host ") as caught:
        check_host(name)
    assert caught.value.exit_code == 2


# --- the environment, as Invoke merges it ---------------------------------------------------------------------------


@pytest.fixture
def merge(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Callable[..., Settings]:
    """Load the shipped settings with variables in the environment, through Invoke's own reader."""
    for name in os.environ:
        if name.startswith("INVOKE_"):
            monkeypatch.delenv(name)
    monkeypatch.setenv("HOME", str(tmp_path))

    def with_variables(**variables: str) -> Settings:
        for name, value in variables.items():
            monkeypatch.setenv(name, value)
        merged = Config(project_location=ROOT)
        merged.load_project()
        merged.load_shell_env()
        return load_settings(as_shipped(), merged)

    return with_variables


def test_every_setting_can_come_from_the_environment(merge: Callable[..., Settings]) -> None:
    seen = merge(
        INVOKE_HOST="other",
        INVOKE_SSH_CONFIG="/tmp/config",
        INVOKE_USE_SUDO="0",
        INVOKE_APP_DIR="/srv/app",
        INVOKE_BACKUP_DIR="/srv/back ups",
        INVOKE_CRON_LOG="/srv/log",
        INVOKE_SIZE_TOLERANCE="0.2",
        INVOKE_WRITER_TIMEOUT="2.5 s",
        INVOKE_FREE_SPACE_FLOOR="3 GB",
        INVOKE_EVIDENCE_DIR="seen",
        INVOKE_DATABASES_INDEX_FILE="index.db",
        INVOKE_DATABASES_INDEX_SCRIPT="bin/x.sh",
        INVOKE_DATABASES_INDEX_BACKUP_PREFIX="i_",
        INVOKE_DATABASES_INDEX_QUERY="SELECT 2",
        INVOKE_DATABASES_TRACKER_QUERY="SELECT 3",
        INVOKE_RELEASE_REPOSITORY="/srv/checkout",
        INVOKE_RELEASE_REMOTE="upstream",
        INVOKE_RELEASE_BASE="develop",
        INVOKE_RELEASE_BRANCH="86-x",
        INVOKE_RELEASE_TITLE="Another",
        INVOKE_RELEASE_COMMITS_INDEX="feat: i",
        INVOKE_RELEASE_COMMITS_TRACKER="feat: t",
        INVOKE_RELEASE_COMMITS_DOCS="docs: d",
        INVOKE_RELEASE_DOCS="README.md 'docs/a b.md'",
    )
    values = seen.model_dump(mode="json")
    databases, release = values.pop("databases"), values.pop("release")
    assert values == {
        "host": "other",
        "ssh_config": "/tmp/config",
        "use_sudo": False,
        "app_dir": "/srv/app",
        "backup_dir": "/srv/back ups",
        "cron_log": "/srv/log",
        "size_tolerance": 0.2,
        "writer_timeout": 2.5,
        "free_space_floor": 3_000_000_000,
        "evidence_dir": "seen",
    }
    assert databases["index"] == {
        "file": "index.db",
        "script": "bin/x.sh",
        "backup_prefix": "i_",
        "query": "SELECT 2",
    }
    assert databases["tracker"] == as_shipped()["databases"]["tracker"] | {"query": "SELECT 3"}
    assert release == {
        "repository": "/srv/checkout",
        "remote": "upstream",
        "base": "develop",
        "branch": "86-x",
        "title": "Another",
        "commits": {"index": "feat: i", "tracker": "feat: t", "docs": "docs: d"},
        "docs": ["README.md", "docs/a b.md"],
    }
    assert seen.repository == Path("/srv/checkout")
    assert seen.database("index").local_script == Path("/srv/checkout/bin/x.sh")


@pytest.mark.parametrize(("word", "value"), [("0", False), ("1", True)])
def test_a_boolean_in_the_environment_is_0_or_1(merge: Callable[..., Settings], word: str, value: bool) -> None:
    assert merge(INVOKE_USE_SUDO=word).use_sudo is value


@pytest.mark.parametrize("word", ["false", "no", "off", "true", "yes", "", " 0", "2"])
def test_every_other_word_for_a_boolean_is_refused_and_not_taken_for_true(
    merge: Callable[..., Settings], word: str
) -> None:
    with pytest.raises(SettingsError, match="INVOKE_USE_SUDO is ") as caught:
        merge(INVOKE_USE_SUDO=word)
    assert caught.value.advice == "say 0 or 1"


def test_a_mistake_that_comes_from_a_variable_is_named_with_it(merge: Callable[..., Settings]) -> None:
    with pytest.raises(SettingsError) as caught:
        merge(INVOKE_BACKUP_DIR="here", INVOKE_DATABASES_INDEX_QUERY=".shell", INVOKE_HOST="right")
    assert caught.value.output.splitlines() == [
        "backup_dir (from INVOKE_BACKUP_DIR): 'here' is not an absolute path",
        "databases.index.query (from INVOKE_DATABASES_INDEX_QUERY): '.shell' is not a SELECT",
    ]


def test_the_keys_of_invoke_and_of_the_user_are_left_alone() -> None:
    project = as_shipped() | {"run": {"echo": True}, "sudo": {"user": "x"}}
    merged = project | {"something": {"of": "the user"}, "tasks": {"dedupe": False}}
    merged["databases"] = project["databases"] | {"of_the_user": {"query": 5}}
    assert load_settings(project, merged, environ={}) == validate_settings(as_shipped())


def test_plain_makes_dictionaries_of_what_invoke_merged() -> None:
    merged = plain(Config(defaults={"a": {"b": [1, {"c": None}]}}, lazy=True))
    assert merged["a"] == {"b": [1, {"c": None}]}
    assert type(merged) is type(merged["a"]) is dict


# --- the file itself, read by the real `inv` ------------------------------------------------------------------------


class Checkout:
    """A copy of this checkout whose invoke.yaml a test may break, and `inv` in it."""

    def __init__(self, folder: Path, inv: Inv) -> None:
        self.file = folder / "invoke.yaml"
        self._inv = inv
        for name in ("src", "share"):
            shutil.copytree(ROOT / name, folder / name)
        for name in ("tasks.py", "invoke.yaml"):
            shutil.copy(ROOT / name, folder / name)

    def __call__(self, *arguments: str, **changes: str) -> subprocess.CompletedProcess[str]:
        # PYTHONPATH comes before the checkout that is installed.
        environment = self._inv.environment | {"PYTHONPATH": str(self.file.parent / "src")} | changes
        words = [str(INV), "--search-root", str(self.file.parent), *arguments]
        return subprocess.run(words, env=environment, cwd="/", capture_output=True, text=True, check=False)

    def replace(self, old: str, new: str) -> None:
        text = self.file.read_text()
        assert text.count(old) == 1
        self.file.write_text(text.replace(old, new))


@pytest.fixture
def checkout(tmp_path: Path, inv: Inv) -> Checkout:
    (tmp_path / "checkout").mkdir()
    return Checkout(tmp_path / "checkout", inv)


@pytest.mark.parametrize(
    ("content", "words"),
    [
        (b"host: [demo\n", "invoke.yaml cannot be read"),
        (b"host: demo\n\tuse_sudo: 1\n", "invoke.yaml cannot be read"),
        (b"only words\n", "invoke.yaml cannot be read"),
        (b"- host\n- demo\n", "invoke.yaml cannot be read"),
        (b"\xff\xfe\x00h", "invoke.yaml cannot be read"),
        (b"5: a number\nhost: demo\n", "invoke.yaml cannot be read"),
        (b"", "invoke.yaml is missing or empty"),
        (b"# a comment\n", "invoke.yaml is missing or empty"),
        (None, "invoke.yaml is missing or empty"),
    ],
    ids=["yaml", "tab", "words", "list", "bytes", "number", "empty", "comment", "missing"],
)
def test_a_file_that_cannot_be_read_is_said_in_words(checkout: Checkout, content: bytes | None, words: str) -> None:
    checkout.file.unlink()
    if content is not None:
        checkout.file.write_bytes(content)
    done = checkout("verify", "--host", "local")
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr.startswith(f"{words}\n")
    assert str(checkout.file) in done.stderr
    assert "Traceback" not in done.stderr


def test_a_wrong_file_stops_every_task_before_anything_is_done(checkout: Checkout) -> None:
    checkout.replace("backup_dir: /home/torrust/backups", "backup_dir: backups\nretention: 7")
    done = checkout("deploy-index-backup", "--host", "local")
    assert done.returncode == 2
    assert done.stdout == ""
    assert done.stderr == (
        "wrong settings\n"
        "  | backup_dir: 'backups' is not an absolute path\n"
        "  | retention: is not a setting\n"
        f"  -> correct {checkout.file}\n"
    )


def test_a_key_that_is_missing_is_not_found_in_the_environment(checkout: Checkout) -> None:
    text = checkout.file.read_text()
    checkout.file.write_text("".join(line for line in text.splitlines(True) if not line.startswith("evidence_dir:")))
    for task in ("list-backups", "rehearse"):
        done = checkout(task, INVOKE_EVIDENCE_DIR="/tmp")
        assert done.returncode == 2
        assert "  | evidence_dir: is missing\n" in done.stderr


def test_a_variable_that_does_not_fit_the_file_is_said_in_words(checkout: Checkout) -> None:
    checkout.replace("size_tolerance: 10%", "size_tolerance: 0.1")
    assert checkout("verify", "--database", "none", INVOKE_SIZE_TOLERANCE="0.2").returncode == 2  # the database's name
    done = checkout("verify", "--database", "none", INVOKE_SIZE_TOLERANCE="20%")
    assert done.returncode == 2
    assert "an environment variable INVOKE_... does not fit its setting" in done.stderr
    assert "'20%'" in done.stderr


def test_what_the_user_set_for_all_projects_is_left_alone(inv: Inv, home: Path) -> None:
    (home / ".invoke.yaml").write_text(
        "run: {echo: true, shell: /nowhere, dry: false}\n"
        "sudo: {user: nobody}\n"
        "host: elsewhere\n"
        "mine: {key: [1, 2]}\n"
        "databases: {index: {query: 5}, mine: {query: 6}}\n"
    )
    backups = home / "back ups"
    backups.mkdir()
    done = inv("list-backups", "--host", "local", INVOKE_BACKUP_DIR=str(backups))
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout.startswith("local: list-backups (index database)\n")


@pytest.mark.parametrize("word", ["false", "true", ""])
def test_a_word_for_a_boolean_is_refused_by_the_real_inv(inv: Inv, word: str) -> None:
    done = inv("list-backups", "--host", "local", INVOKE_USE_SUDO=word)
    assert done.returncode == 2
    assert done.stderr == f"INVOKE_USE_SUDO is {word!r}\n  -> say 0 or 1\n"
