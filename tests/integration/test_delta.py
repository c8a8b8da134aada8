"""`inv fetch --delta` with OpenSSH and sudo: the backups belong to root, and only root can read them."""

from __future__ import annotations

import json
import os
import shutil
from pathlib import Path

import pytest

from demo_backups.settings.values import FABRIC, OPENSSH

from ..helpers.constants import needs_rsync
from ..helpers.copies import change_pages, hash_of, make_large_backup
from .conftest import Server

OLDER, NAME = "backup_2026-01-01_00-00-00.db", "backup_2026-01-02_00-00-00.db"
MEGABYTES = 40


@needs_rsync
@pytest.mark.parametrize("transport", [FABRIC, OPENSSH])
def test_one_percent_of_pages_is_sent(server: Server, home: Path, transport: str) -> None:
    (server.machine.home / ".bashrc").write_text("echo Welcome; echo 'You have mail' >&2\n")
    older = make_large_backup(server.backups, OLDER, MEGABYTES)
    variables = {"INVOKE_FETCH_DIR": str(home / "copies"), "INVOKE_SSH_TRANSPORT": transport}
    done = server.inv("fetch", **variables)
    assert done.returncode == 0, done.stdout + done.stderr
    newer = server.backups / NAME
    shutil.copy2(older, newer)
    newer.chmod(0o600)
    change_pages(newer)
    done = server.inv("fetch", "--delta", "--json", **variables)
    assert done.returncode == 0, done.stdout + done.stderr
    result = json.loads(done.stdout)
    copy = home / "copies/demo" / NAME
    assert hash_of(copy) == hash_of(newer) == result["sha256"]
    print(f"{result['sent_bytes'] / result['bytes']:.2%} of {result['bytes']:,} bytes were sent")
    assert result["bytes"] // 100 < result["sent_bytes"] <= 0.03 * result["bytes"], done.stderr
    assert sorted(os.listdir(copy.parent)) == [OLDER, NAME]  # noqa: PTH208
