"""The private parts of libraries that are used: with the versions that they were written for."""

from __future__ import annotations

from importlib.metadata import version

import pytest

from demo_backups.project import ROOT
from demo_backups.remote.private_api import VERSIONS


@pytest.mark.parametrize("library", VERSIONS)
def test_installed_version_is_the_expected_one(library: str) -> None:
    assert version(library).startswith(f"{VERSIONS[library]}.")


@pytest.mark.parametrize("part", ["_weakrefset", "auth_handler", "_send_message", "status_event", "_thread_join"])
def test_private_parts_are_used_in_one_module(part: str) -> None:
    users = {path.name for path in (ROOT / "src").rglob("*.py") if part in path.read_text()}
    assert users <= {"private_api.py"}
