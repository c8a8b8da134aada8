"""The application's own checkout on the server after the merge: the deployed scripts stay as they are."""

from __future__ import annotations

import shutil
import subprocess
from pathlib import Path, PurePosixPath

import pytest

from demo_backups.project import ROOT
from demo_backups.release.actions import update_commands
from demo_backups.settings.model import Settings

from ..helpers.release_repository import INDEX, SCRIPTS, ReleaseRepository, empty_repository, release_repository

pytestmark = pytest.mark.user

__all__ = ["empty_repository", "release_repository"]  # fixtures


@pytest.fixture
def checkout(release_repository: ReleaseRepository, tmp_path: Path) -> Path:
    """A checkout of the old commit, into which the scripts were deployed, while the base branch has the release."""
    path = tmp_path / "the application"
    release_repository.git("clone", "-q", str(release_repository.remote), str(path))
    for script in SCRIPTS:
        shutil.copy(ROOT / script, path / f"{script}.new")
        (path / f"{script}.new").replace(path / script)
    release_repository.git("add", "-A")
    release_repository.git("commit", "-q", "-m", "feat: merged as one commit (#90)")
    release_repository.git("push", "-q", "origin", "main")
    with pytest.raises(subprocess.CalledProcessError) as caught:
        release_repository.git("pull", "--ff-only", cwd=path)
    assert "would be overwritten" in caught.value.stderr
    return path


def identities(checkout: Path) -> list[tuple[int, int, int]]:
    """Return what changes if a file is replaced, written or touched, however shortly."""
    stats = [(checkout / script).stat() for script in SCRIPTS]
    return [(stat.st_ino, stat.st_mtime_ns, stat.st_ctime_ns) for stat in stats]


def run(checkout: Path, settings: Settings, *scripts: str) -> subprocess.CompletedProcess[str]:
    commands = update_commands(settings.model_copy(update={"app_dir": PurePosixPath(checkout)}), scripts)
    return subprocess.run(
        ["sh", "-ec", "\n".join(commands)],
        cwd="/",
        capture_output=True,
        text=True,
        check=False,
        stdin=subprocess.DEVNULL,
    )


def test_update_leaves_deployed_scripts_alone(
    checkout: Path, release_repository: ReleaseRepository, project_settings: Settings
) -> None:
    before = identities(checkout)
    done = run(checkout, project_settings, *SCRIPTS)
    assert done.returncode == 0, done.stderr
    assert identities(checkout) == before
    for command in ("HEAD", "origin/main"):
        assert release_repository.git("rev-parse", command, cwd=checkout) == release_repository.git("rev-parse", "HEAD")
    assert release_repository.git("status", "--porcelain", cwd=checkout) == ""
    assert (checkout / "docs/backups.md").exists()


def test_script_that_was_not_deployed_is_updated(
    checkout: Path, release_repository: ReleaseRepository, project_settings: Settings
) -> None:
    release_repository.git("checkout", "-q", "--", SCRIPTS[1], cwd=checkout)
    before = identities(checkout)[0]
    assert run(checkout, project_settings, INDEX).returncode == 0
    assert identities(checkout)[0] == before
    assert (checkout / SCRIPTS[1]).read_bytes() == (ROOT / SCRIPTS[1]).read_bytes()


def test_update_stops_if_scripts_differ(
    checkout: Path, release_repository: ReleaseRepository, project_settings: Settings
) -> None:
    release_repository.commit_file(INDEX, "#!/bin/bash\n# newer\n", "feat: newer")
    release_repository.git("push", "-q", "origin", "main")
    before = identities(checkout), release_repository.git("status", "--porcelain", cwd=checkout)
    done = run(checkout, project_settings, *SCRIPTS)
    assert done.returncode != 0
    assert before == (identities(checkout), release_repository.git("status", "--porcelain", cwd=checkout))
