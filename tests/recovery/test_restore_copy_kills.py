"""A restore to another path that was killed: the live database and its service are not touched when it is continued."""

from __future__ import annotations

from dataclasses import replace
from pathlib import PurePosixPath

import pytest

from demo_backups.recovery.restore_journal import Method, Save

from ..helpers.restores import NEW, OLD, RestoreSetup, read_content


@pytest.mark.parametrize("revert", [False, True])
def test_killed_copy_leaves_service_alone(restore_setup: RestoreSetup, revert: bool) -> None:
    touched = restore_setup.folder / "touched"
    restore_setup.set_service(*[f"touch '{touched}'"] * 3)
    target = restore_setup.folder / "copy.db"
    request = replace(
        restore_setup.request(Method.SWAP, save=Save.NONE),
        target=PurePosixPath(target),
        lock=None,
        stop=None,
        start=None,
        healthy=None,
    )
    path = restore_setup.shadow({"ln": 'case "$*" in *copy.db) kill -9 0 ;; esac; PATH=/usr/bin:/bin exec ln "$@"'})
    restore_setup.restore(request, PATH=path)
    pending = restore_setup.pending()
    assert pending is not None
    done = restore_setup.recover(pending, revert)
    assert done.returncode == 0, done.stdout
    assert not touched.exists()
    assert target.exists() is not revert
    assert revert or read_content(target) == {NEW}
    assert read_content(restore_setup.target) == {OLD}
