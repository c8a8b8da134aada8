"""Settings: what invoke.yaml accepts, what the environment changes, and how mistakes are reported."""

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
from demo_backups.settings.load import check_host, load_settings, validate_settings
from demo_backups.settings.model import DatabaseSettings, Settings

from .helpers.tasks import INV, InvRunner


def as_shipped() -> dict[str, Any]:
    """The values of invoke.yaml, in dictionaries that a test may change."""
    return read_project_file()


def set_at(values: dict[str, Any], key: str, value: Any) -> None:
    *sections, last = key.split(".")
    for section in sections:
        values = values[section]
    values[last] = value


def complaint(values: dict[str, Any]) -> str:
    """Return the error on wrong values: one line for each mistake."""
    with pytest.raises(SettingsError) as caught:
        validate_settings(values)
    assert caught.value.exit_code == 2
    assert str(FILE) in caught.value.advice
    return caught.value.output


# --- the file as it is shipped --------------------------------------------------------------------------------------


def test_shipped_settings_are_published_ones(project_settings: Settings) -> None:
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


def test_every_setting_is_in_file() -> None:
    values = as_shipped()
    assert set(values) == set(Settings.model_fields)
    for database in values["databases"].values():
        assert set(database) == set(DatabaseSettings.model_fields)


# --- every mistake is named with its key ----------------------------------------------------------------------------

WRONG = [
    ("host", 5),
    ("host", None),
    ("host", ""),
    ("host", "-oProxyCommand=id"),
    ("host", "two words"),
    ("host", "demo\n"),
    ("ssh_config", False),
    ("ssh_config", ""),
    ("ssh_config", "~no-such-user/config"),
    ("use_sudo", "false"),
    ("use_sudo", 1),
    ("use_sudo", None),
    ("app_dir", "app"),
    ("app_dir", "~/app"),
    ("app_dir", "/srv/../etc"),
    ("app_dir", ["/srv"]),
    ("backup_dir", ""),
    ("backup_dir", "/srv/\nbackups"),
    ("backup_dir", "/srv/\udcff"),
    ("cron_log", "cron.log"),
    ("size_tolerance", "ten"),
    ("size_tolerance", "-1%"),
    ("size_tolerance", "101%"),
    ("size_tolerance", 10),
    ("size_tolerance", "nan"),
    ("size_tolerance", "1e-3"),
    ("size_tolerance", True),
    ("size_tolerance", None),
    ("evidence_dir", 3),
    ("evidence_dir", "~no-such-user/x"),
    ("fetch_limit", "fast"),
    ("fetch_limit", "1 B"),
    ("service_timeout", "-1"),
    ("keep_verified", "yes"),
    ("drill_dir", "drill"),
    ("drill_command", "two\nlines"),
    ("drill_every", "a month"),
    ("drill_timeout", "5 y"),
    ("copies.daily", "-1"),
    ("copies", None),
    ("fetch_every", "daily"),
    ("verify_every", None),
    ("check.warn_age", "soon"),
    ("databases.index.warn_age", "soon"),
    ("check.size_change", "150%"),
    ("check.ping_file", "~nobody-has-this-name/x"),
    ("check", None),
    ("databases.index", {**as_shipped()["databases"]["index"], "start": None}),
    ("databases.index.owner", "root"),
    ("databases.index.mode", "rw"),
    ("databases", None),
    ("databases", "index"),
    ("databases.index", None),
    ("databases.index", "sqlite3.db"),
    ("databases.index.file", "/abs.db"),
    ("databases.index.file", "../x.db"),
    ("databases.index.file", "."),
    ("databases.index.script", 7),
    ("databases.index.script", "a/../../b.sh"),
    ("release.branch", "-x"),
    ("release.commits.index", "feat: x "),
    ("release.branch", "a b"),
    ("release.remote", "a:b"),
    ("release.base_remote", ""),
    *(("release.closes", value) for value in (0, -1, True, 1.5, "x", "1\n", "٣", [85])),
    ("release.docs", ""),
    ("release.docs", []),
    ("release.docs", ["a.md", 5]),
    ("release.docs", "''"),
    ("release.docs", "a ../b"),
    ("release.docs", "it's"),
    ("release.repository", "~nobody-here/x"),
    ("release.commits.docs", "two\nlines"),
    ("databases.index.backup_prefix", "back*"),
    ("databases.index.backup_prefix", "-n"),
    ("databases.index.backup_prefix", "a/b"),
    ("databases.index.backup_prefix", ".hidden"),
    ("databases.index.query", ".shell id"),
    ("databases.index.query", "SELECTED"),
    ("databases.index.query", " SELECT 1"),
    ("databases.index.query", "DELETE FROM t"),
    ("databases.index.query", "SELECT 1\n.shell id"),
    ("databases.index.query", 1),
]


@pytest.mark.parametrize(("key", "value"), WRONG, ids=[f"{key}={value!r}" for key, value in WRONG])
def test_wrong_value_is_reported_with_key(key: str, value: Any) -> None:
    values = as_shipped()
    set_at(values, key, value)
    (line,) = complaint(values).splitlines()
    assert line.startswith(f"{key}: ")
    assert line.isprintable()


@pytest.mark.parametrize(
    ("value", "number"), [(None, None), ("", None), (85, 85), ("85", 85), ("#85", 85), ("9999999999", 9_999_999_999)]
)
def test_issue_number_is_optional(value: Any, number: int | None) -> None:
    values = as_shipped()
    set_at(values, "release.closes", value)
    assert validate_settings(values).release.closes == number


def test_release_branch_must_differ_from_base() -> None:
    values = as_shipped()
    set_at(values, "release.branch", "main")
    assert complaint(values).startswith("release: branch and base are both 'main'")


@pytest.mark.parametrize("part", ["tracker", "docs"])
def test_equal_commit_messages_are_refused(part: str) -> None:
    values = as_shipped()
    set_at(values, f"release.commits.{part}", values["release"]["commits"]["index"])
    assert complaint(values).startswith("release.commits: two messages are equal")


@pytest.mark.parametrize(
    ("wrong", "environ", "advice"),
    [
        ({"host": ""}, {"INVOKE_HOST": ""}, "correct the variable"),
        ({"host": ""}, {}, f"correct {FILE}"),
        ({"host": "", "cron_log": "x"}, {"INVOKE_HOST": ""}, f"correct {FILE} and the variable"),
    ],
)
def test_advice_names_place_of_mistake(wrong: dict[str, Any], environ: dict[str, str], advice: str) -> None:
    with pytest.raises(SettingsError) as caught:
        validate_settings(as_shipped() | wrong, environ)
    assert caught.value.advice == advice


@pytest.mark.parametrize("key", [*Settings.model_fields, *(f"databases.index.{key}" for key in ("file", "query"))])
def test_missing_key_is_reported(key: str) -> None:
    values = as_shipped()
    section = values["databases"]["index"] if "." in key else values
    del section[key.rsplit(".", 1)[-1]]
    assert complaint(values) == f"{key}: is missing"


@pytest.mark.parametrize("key", ["hots", "databases.index.retention"])
def test_unknown_key_is_reported(key: str) -> None:
    values = as_shipped()
    set_at(values, key, "x")
    assert complaint(values) == f"{key}: is not a setting"


def test_all_mistakes_are_reported_together() -> None:
    values = as_shipped() | {"host": "", "use_sudo": "yes", "hots": 1}
    values["databases"]["tracker"]["query"] = "PRAGMA x"
    lines = complaint(values).splitlines()
    assert [line.split(":")[0] for line in lines] == ["host", "use_sudo", "databases.tracker.query", "hots"]


# --- what is right --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("written", "share"),
    [("10%", 0.1), ("10 %", 0.1), (" 2.5% ", 0.025), (0.1, 0.1), ("0.1", 0.1), (0, 0), ("0%", 0), (1, 1), ("100%", 1)],
)
def test_fraction_accepts_percentage(written: Any, share: float) -> None:
    assert validate_settings(as_shipped() | {"size_tolerance": written}).size_tolerance == share


@pytest.mark.parametrize("path", ["/", "/a b/it's", '/"/\\t/%/?/#', "/-x", "/ünï/…", "/a..b"])
def test_printable_absolute_paths_are_accepted(path: str) -> None:
    assert str(validate_settings(as_shipped() | {"backup_dir": path}).backup_dir) == path


@pytest.mark.parametrize("query", ["SELECT 1", "select 1", "WITH t AS (SELECT 1) SELECT * FROM t", "VALUES(1)"])
def test_read_only_queries_are_accepted(query: str) -> None:
    values = as_shipped()
    set_at(values, "databases.index.query", query)
    assert validate_settings(values).database("index").query == query


def test_further_database_is_accepted() -> None:
    values = as_shipped()
    values["databases"]["extra"] = values["databases"]["index"] | {"backup_prefix": "extra_"}
    assert validate_settings(values).database("extra").backup_prefix == "extra_"


def test_unknown_database_is_refused(project_settings: Settings) -> None:
    with pytest.raises(SettingsError, match="no database 'Index' in the settings"):
        project_settings.database("Index")


def test_unknown_series_names_the_configuration(project_settings: Settings) -> None:
    with pytest.raises(SettingsError) as raised:
        project_settings.series("Index")
    assert "config" in raised.value.advice


@pytest.mark.parametrize("name", ["demo", "local", "user@host.example", "[::1]", "ünï"])
def test_host_flag_is_accepted(name: str) -> None:
    assert check_host(name) == name


@pytest.mark.parametrize("name", ["", "-v", "--", "a b", "a\tb", "a\n", "\x1b[2J", "a\u00a0b"])
def test_invalid_host_flag_is_refused(name: str) -> None:
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


def test_every_setting_has_a_variable(merge: Callable[..., Settings]) -> None:
    settings = merge(
        INVOKE_HOST="other",
        INVOKE_SSH_CONFIG="/tmp/config",
        INVOKE_SSH_TRANSPORT="openssh",
        INVOKE_USE_SUDO="0",
        INVOKE_APP_DIR="/srv/app",
        INVOKE_BACKUP_DIR="/srv/back ups",
        INVOKE_CRON_LOG="/srv/log",
        INVOKE_CONFIG_PATHS=".env 'proxy/a b'",
        INVOKE_SIZE_TOLERANCE="0.2",
        INVOKE_WRITER_TIMEOUT="2.5 s",
        INVOKE_FREE_SPACE_FLOOR="3 GB",
        INVOKE_EVIDENCE_DIR="seen",
        INVOKE_FETCH_DIR="copies",
        INVOKE_FETCH_LIMIT="40 MB",
        INVOKE_FETCH_EVERY="2 d",
        INVOKE_SERVICE_TIMEOUT="30 s",
        INVOKE_KEEP_VERIFIED="1",
        INVOKE_VERIFY_EVERY="6 h",
        INVOKE_DRILL_DIR="/srv/drill",
        INVOKE_DRILL_COMMAND="check {file}",
        INVOKE_DRILL_TIMEOUT="90 s",
        INVOKE_DRILL_EVERY="7 d",
        INVOKE_COPIES_DAILY="1",
        INVOKE_COPIES_WEEKLY="2",
        INVOKE_COPIES_MONTHLY="3",
        INVOKE_OFFSITE_REPOSITORY="sftp:store:backups",
        INVOKE_OFFSITE_PASSWORD_FILE="",
        INVOKE_OFFSITE_PASSWORD_COMMAND="pass show restic",
        INVOKE_OFFSITE_CHECK_PARTS="4",
        INVOKE_OFFSITE_EVERY="1 d",
        INVOKE_CHECK_WARN_AGE="2 h",
        INVOKE_CHECK_CRITICAL_AGE="4 h",
        INVOKE_CHECK_SIZE_CHANGE="20%",
        INVOKE_CHECK_PING_FILE="",
        INVOKE_CHECK_PING_COMMAND="pass show ping",
        INVOKE_DATABASES_INDEX_FILE="index.db",
        INVOKE_DATABASES_INDEX_SCRIPT="bin/x.sh",
        INVOKE_DATABASES_INDEX_BACKUP_PREFIX="i_",
        INVOKE_DATABASES_INDEX_QUERY="SELECT 2",
        INVOKE_DATABASES_INDEX_STOP="",
        INVOKE_DATABASES_INDEX_START="",
        INVOKE_DATABASES_INDEX_HEALTHY="/bin/healthy",
        INVOKE_DATABASES_INDEX_OWNER="torrust:www-data",
        INVOKE_DATABASES_INDEX_MODE="640",
        INVOKE_DATABASES_INDEX_WARN_AGE="2 d",
        INVOKE_DATABASES_INDEX_CRITICAL_AGE="3 d",
        INVOKE_DATABASES_TRACKER_QUERY="SELECT 3",
        INVOKE_RELEASE_REPOSITORY="/srv/checkout",
        INVOKE_RELEASE_REMOTE="upstream",
        INVOKE_RELEASE_BASE_REMOTE="upstream",
        INVOKE_RELEASE_BASE="develop",
        INVOKE_RELEASE_BRANCH="86-x",
        INVOKE_RELEASE_TITLE="Another",
        INVOKE_RELEASE_CLOSES="#86",
        INVOKE_RELEASE_COMMITS_INDEX="feat: i",
        INVOKE_RELEASE_COMMITS_TRACKER="feat: t",
        INVOKE_RELEASE_COMMITS_DOCS="docs: d",
        INVOKE_RELEASE_DOCS="README.md 'docs/a b.md'",
    )
    values = settings.model_dump(mode="json")
    databases, release = values.pop("databases"), values.pop("release")
    assert values == {
        "host": "other",
        "ssh_config": "/tmp/config",
        "ssh_transport": "openssh",
        "use_sudo": False,
        "app_dir": "/srv/app",
        "backup_dir": "/srv/back ups",
        "cron_log": "/srv/log",
        "config_paths": [".env", "proxy/a b"],
        "size_tolerance": 0.2,
        "writer_timeout": 2.5,
        "free_space_floor": 3_000_000_000,
        "evidence_dir": "seen",
        "fetch_dir": "copies",
        "fetch_limit": 40_000_000,
        "fetch_every": 2 * 86400.0,
        "service_timeout": 30.0,
        "keep_verified": True,
        "verify_every": 6 * 3600.0,
        "drill_dir": "/srv/drill",
        "drill_command": "check {file}",
        "drill_timeout": 90.0,
        "drill_every": 7 * 86400.0,
        "copies": {"daily": 1, "weekly": 2, "monthly": 3},
        "offsite": {
            "repository": "sftp:store:backups",
            "password_file": None,
            "password_command": "pass show restic",
            "check_parts": 4,
            "every": 86400.0,
        },
        "check": {
            "warn_age": 7200.0,
            "critical_age": 14400.0,
            "size_change": 0.2,
            "ping_file": None,
            "ping_command": "pass show ping",
        },
    }
    assert databases["index"] == {
        "file": "index.db",
        "script": "bin/x.sh",
        "backup_prefix": "i_",
        "query": "SELECT 2",
        "stop": None,
        "start": None,
        "healthy": "/bin/healthy",
        "owner": "torrust:www-data",
        "mode": "640",
        "warn_age": 2 * 86400.0,
        "critical_age": 3 * 86400.0,
    }
    assert databases["tracker"] == as_shipped()["databases"]["tracker"] | {"query": "SELECT 3"}
    assert release == {
        "repository": "/srv/checkout",
        "remote": "upstream",
        "base_remote": "upstream",
        "base": "develop",
        "branch": "86-x",
        "title": "Another",
        "closes": 86,
        "commits": {"index": "feat: i", "tracker": "feat: t", "docs": "docs: d"},
        "docs": ["README.md", "docs/a b.md"],
    }
    assert settings.repository == Path("/srv/checkout")
    assert settings.database("index").local_script == Path("/srv/checkout/bin/x.sh")


@pytest.mark.parametrize(("word", "value"), [("0", False), ("1", True)])
def test_boolean_variable_is_0_or_1(merge: Callable[..., Settings], word: str, value: bool) -> None:
    assert merge(INVOKE_USE_SUDO=word).use_sudo is value


@pytest.mark.parametrize("word", ["false", "no", "off", "true", "yes", "", " 0", "2"])
def test_other_boolean_variables_are_refused(merge: Callable[..., Settings], word: str) -> None:
    with pytest.raises(SettingsError, match="INVOKE_USE_SUDO is ") as caught:
        merge(INVOKE_USE_SUDO=word)
    assert "0 or 1" in caught.value.advice


def test_wrong_variable_is_named(merge: Callable[..., Settings]) -> None:
    with pytest.raises(SettingsError) as caught:
        merge(INVOKE_BACKUP_DIR="here", INVOKE_DATABASES_INDEX_QUERY=".shell", INVOKE_HOST="right")
    assert caught.value.output.splitlines() == [
        "backup_dir (from INVOKE_BACKUP_DIR): 'here' is not an absolute path",
        "databases.index.query (from INVOKE_DATABASES_INDEX_QUERY): '.shell' is not a SELECT",
    ]


def test_keys_of_invoke_are_ignored() -> None:
    project = as_shipped() | {"run": {"echo": True}, "sudo": {"user": "x"}}
    merged = project | {"something": {"of": "the user"}, "tasks": {"dedupe": False}}
    merged["databases"] = project["databases"] | {"of_the_user": {"query": 5}}
    assert load_settings(project, merged, environ={}) == validate_settings(as_shipped())


def test_plain_converts_invoke_objects() -> None:
    merged = plain(Config(defaults={"a": {"b": [1, {"c": None}]}}, lazy=True))
    assert merged["a"] == {"b": [1, {"c": None}]}
    assert type(merged) is type(merged["a"]) is dict


# --- the file itself, read by the real `inv` ------------------------------------------------------------------------


class Checkout:
    """A copy of this checkout whose invoke.yaml a test may break, and `inv` in it."""

    def __init__(self, folder: Path, run_inv: InvRunner) -> None:
        self.file = folder / "invoke.yaml"
        self._inv = run_inv
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
def checkout(tmp_path: Path, run_inv: InvRunner) -> Checkout:
    (tmp_path / "checkout").mkdir()
    return Checkout(tmp_path / "checkout", run_inv)


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
def test_unreadable_file_is_an_error(checkout: Checkout, content: bytes | None, words: str) -> None:
    checkout.file.unlink()
    if content is not None:
        checkout.file.write_bytes(content)
    done = checkout("verify", "--host", "local")
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr.startswith(f"{words}\n")
    assert str(checkout.file) in done.stderr
    assert "Traceback" not in done.stderr


def test_wrong_file_stops_task_at_start(checkout: Checkout) -> None:
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


def test_variable_does_not_replace_missing_key(checkout: Checkout) -> None:
    text = checkout.file.read_text()
    checkout.file.write_text("".join(line for line in text.splitlines(True) if not line.startswith("evidence_dir:")))
    for task in ("list-backups", "rehearse"):
        done = checkout(task, INVOKE_EVIDENCE_DIR="/tmp")
        assert done.returncode == 2
        assert "  | evidence_dir: is missing\n" in done.stderr


def test_variable_of_wrong_type_is_an_error(checkout: Checkout) -> None:
    checkout.replace("size_tolerance: 10%", "size_tolerance: 0.1")
    assert checkout("verify", "--database", "none", INVOKE_SIZE_TOLERANCE="0.2").returncode == 2  # the database's name
    done = checkout("verify", "--database", "none", INVOKE_SIZE_TOLERANCE="20%")
    assert done.returncode == 2
    assert "INVOKE_* variable" in done.stderr
    assert "'20%'" in done.stderr


@pytest.mark.user
def test_user_invoke_file_is_ignored(run_inv: InvRunner, home: Path) -> None:
    (home / ".invoke.yaml").write_text(
        "run: {echo: true, shell: /nowhere, dry: false}\n"
        "sudo: {user: nobody}\n"
        "host: elsewhere\n"
        "mine: {key: [1, 2]}\n"
        "databases: {index: {query: 5}, mine: {query: 6}}\n"
    )
    backups = home / "back ups"
    backups.mkdir()
    done = run_inv("list-backups", "--host", "local", INVOKE_BACKUP_DIR=str(backups), INVOKE_USE_SUDO="0")
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout.startswith("local: list-backups (index database)\n")


@pytest.mark.parametrize("word", ["false", "true", ""])
def test_wrong_boolean_variable_exits_with_2(run_inv: InvRunner, word: str) -> None:
    done = run_inv("list-backups", "--host", "local", INVOKE_USE_SUDO=word)
    assert done.returncode == 2
    assert done.stderr.startswith(f"INVOKE_USE_SUDO is {word!r}\n")
