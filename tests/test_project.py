"""The files of the project keep its rules."""

from __future__ import annotations

import ast
import os
import re
import subprocess
from graphlib import CycleError, TopologicalSorter
from pathlib import Path

import pytest

from demo_backups.development import find_shell_scripts
from demo_backups.project import ROOT, read_project_file

LOCKS = (ROOT / "requirements.lock", ROOT / "requirements-test.lock")


def files() -> list[Path]:
    """The files of the project: what git knows or would take."""
    if not (ROOT / ".git").exists():
        pytest.skip("this is no git checkout")
    words = ["git", "ls-files", "--cached", "--others", "--exclude-standard", "-z"]
    listed = subprocess.run(words, cwd=ROOT, capture_output=True, text=True, check=True)
    return [path for name in listed.stdout.split("\0")[:-1] if (path := ROOT / name).is_file()]


def read_pins(lock: Path) -> dict[str, list[str]]:
    """Return the requirements of a lock file, each with its hashes."""
    text = lock.read_text().replace("\\\n", " ")
    lines = [line.split(" --hash=") for line in text.splitlines() if line.strip() and not line.startswith("#")]
    return {pin.strip(): [value.strip() for value in hashes] for pin, *hashes in lines}


def normalize(requirement: str) -> str:
    """Return the name in a requirement, as package indexes compare names."""
    name = re.split(r"[^A-Za-z0-9._-]", requirement, maxsplit=1)[0]
    return re.sub(r"[-_.]+", "-", name.lower())


@pytest.mark.parametrize("lock", LOCKS, ids=lambda lock: lock.name)
def test_lock_pins_versions_with_hashes(lock: Path) -> None:
    pins = read_pins(lock)
    assert pins
    for pin, hashes in pins.items():
        assert re.fullmatch(r"[a-z0-9][a-z0-9._-]*==[0-9][a-z0-9.]*( ; [a-z_]+ [^:]+)?", pin), pin
        assert hashes, pin
        assert all(re.fullmatch(r"sha256:[0-9a-f]{64}", value) for value in hashes), pin


@pytest.mark.parametrize("lock", LOCKS, ids=lambda lock: lock.name)
def test_lock_contains_no_registry_address(lock: Path) -> None:
    text = lock.read_text()
    assert "://" not in text
    assert not re.search(r"--(extra-)?index-url|--find-links|--trusted-host|^-", text, re.MULTILINE)


@pytest.mark.parametrize(
    ("lock", "section", "example"),
    [(LOCKS[0], "[project]\n", "invoke"), (LOCKS[1], "[dependency-groups]\n", "pytest")],
    ids=["user", "test"],
)
def test_lock_pins_every_dependency(lock: Path, section: str, example: str) -> None:
    text = (ROOT / "pyproject.toml").read_text().partition(section)[2].partition("\n[")[0]
    dependencies = {normalize(name) for name in re.findall(r'^    "([^"]+[><=][^"]+)"', text, re.MULTILINE)}
    assert example in dependencies
    assert dependencies <= {normalize(pin) for pin in read_pins(lock)}


def test_locks_agree_on_shared_packages() -> None:
    user, test = ({normalize(pin): pin for pin in read_pins(lock)} for lock in LOCKS)
    assert {name: user[name] for name in user.keys() & test} == {name: test[name] for name in user.keys() & test}


def test_files_are_utf8_with_unix_newlines() -> None:
    for path in files():
        content = path.read_bytes()
        if b"\0" in content:
            continue
        assert b"\r" not in content, path
        assert not content or content.endswith(b"\n"), path
        content.decode()


@pytest.mark.parametrize("pattern", ["inv", ".ci/run", "share/bin/*.sh"])
def test_programs_are_executable_bash_scripts(pattern: str) -> None:
    found = list(ROOT.glob(pattern))
    assert found
    for path in found:
        assert os.access(path, os.X_OK), path
        assert path.read_text().startswith("#!/usr/bin/env bash\n"), path


def test_shellcheck_covers_every_script() -> None:
    scripts = {str(path.relative_to(ROOT)) for path in files() if re.match(rb"#!.*sh\n", path.read_bytes()[:100])}
    assert {"inv", ".ci/run", "share/bin/index-db-backup.sh", "src/demo_backups/rehearsal/crontab"} <= scripts
    assert scripts == set(find_shell_scripts(ROOT))


def test_shipped_scripts_match_their_settings() -> None:
    settings = read_project_file()
    scripts = {Path(database["script"]).name: database for database in settings["databases"].values()}
    for path in (ROOT / "share/bin").iterdir():
        assert f'"{scripts[path.name]["backup_prefix"]}$(date ' in path.read_text()


def test_published_crontab_is_unchanged() -> None:
    lines = (ROOT / "share/container/default/config/crontab.conf").read_text().splitlines()
    assert [line for line in lines if line and not line.startswith("#")] == [
        "0  * * * * /home/torrust/github/torrust/torrust-demo/share/bin/index-db-backup.sh >> /var/log/cron.log 2>&1"
    ]


# From the bottom up: a package may import those before it, and its own modules.
PACKAGES = [
    *("units", "errors", "local_files", "project", "settings"),
    *("remote", "sqlite", "records", "backup", "recovery", "offsite", "health", "ui", "workflows"),
    *("rehearsal", "release", "development"),
]
MOST_LEVELS = 10
SOURCES = ROOT / "src/demo_backups"
MODULES = {
    ".".join(path.relative_to(SOURCES).with_suffix("").parts): path
    for path in sorted(SOURCES.rglob("*.py"))
    if path.name != "__init__.py"
}


def imports(module: str, tree: ast.AST) -> set[str]:
    """Return the modules of this package that a module imports, when it is loaded or later, but not only for types."""
    for_types = {id(node) for block in ast.walk(tree) if _is_for_types(block) for node in ast.walk(block)}
    found = set()
    for node in ast.walk(tree):
        if isinstance(node, ast.ImportFrom) and node.level and id(node) not in for_types:
            package = module.split(".")[: -node.level]
            source = [*package, *(node.module.split(".") if node.module else [])]
            for alias in node.names:
                name = ".".join([*source, alias.name])
                found.add(name if name in MODULES else ".".join(source))
    return found


def levels(graph: dict[str, set[str]]) -> dict[str, int]:
    """Count for each module the modules of its longest import chain; raises CycleError where imports form a cycle."""
    found: dict[str, int] = {}
    for module in TopologicalSorter(graph).static_order():
        found[module] = 1 + max((found[name] for name in graph[module]), default=0)
    return found


@pytest.fixture(scope="module")
def graph() -> dict[str, set[str]]:
    """Which modules each module imports."""
    return {module: imports(module, ast.parse(path.read_text())) for module, path in MODULES.items()}


@pytest.mark.parametrize("module", MODULES)
def test_imports_run_downwards(graph: dict[str, set[str]], module: str) -> None:
    package = module.split(".", maxsplit=1)[0]
    allowed = set(PACKAGES[: PACKAGES.index(package) + 1])
    assert {name.split(".")[0] for name in graph[module]} <= allowed


def test_imports_have_few_levels(graph: dict[str, set[str]]) -> None:
    found = levels(graph)
    assert max(found.values()) <= MOST_LEVELS, found


def test_import_cycle_is_detected() -> None:
    with pytest.raises(CycleError):
        levels({"a": {"b"}, "b": {"a"}})


def test_imports_of_every_form_are_found() -> None:
    text = "from ..errors import X\nfrom . import catalog\nfrom .deploy import y\n"
    text += "if TYPE_CHECKING:\n    from .f import z\n"
    assert imports("backup.run", ast.parse(text)) == {"errors", "backup.catalog", "backup.deploy"}


# Tasks on several hosts have threads: what belongs to the whole process is changed by the main thread only.
PROCESS_STATE = re.compile(
    r"os\.(environ\[[^]]*\] = |environ\.(pop|update|setdefault|clear)|putenv|unsetenv|chdir|umask)|signal\.signal\("
    r"|warnings\.(catch|simple|filter)|socket\.setdefaulttimeout|locale\.setlocale"
)
IN_MAIN_THREAD = {"ui.streams", "remote.interrupts", "workflows.check_command"}


@pytest.mark.parametrize("module", MODULES)
def test_threads_change_no_process_state(module: str) -> None:
    if module.split(".", maxsplit=1)[0] not in ("rehearsal", "development") and module not in IN_MAIN_THREAD:
        assert PROCESS_STATE.search(MODULES[module].read_text()) is None


def test_modules_are_small() -> None:
    assert len(list(SOURCES.glob("*.py"))) <= 7  # with __init__.py
    assert {name: count for name, path in MODULES.items() if (count := path.read_text().count("\n")) > 450} == {}


def _is_for_types(node: ast.AST) -> bool:
    return isinstance(node, ast.If) and isinstance(node.test, ast.Name) and node.test.id == "TYPE_CHECKING"
