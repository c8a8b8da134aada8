"""A crontab command for the tests, which keeps its table in a folder of the test's own."""

from __future__ import annotations

import shutil
from dataclasses import dataclass
from pathlib import Path

import pytest

from demo_backups.rehearsal.server import CRONTAB

from .programs import write_program


@dataclass
class FakeCrontab:
    """The crontab command of this process and of those that it starts."""

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

    @property
    def previous(self) -> Path:
        return self.state / "crontab.previous"

    def set(self, text: str | None) -> None:
        """Set the table; None leaves it missing."""
        if text is not None:
            self.table.write_bytes(text.encode("utf-8", "surrogateescape"))

    def get(self) -> str | None:
        """Return the table; None if there is none."""
        if not self.table.exists():
            return None
        return self.table.read_bytes().decode("utf-8", "surrogateescape")

    def replace_install(self, body: str) -> None:
        """Run a script in place of `crontab FILE`; `crontab -l` works as before."""
        self.replace_program(f"[ \"$1\" = -l ] && exec cat '{self.table}'\n{body}")

    def replace_program(self, body: str) -> None:
        """Run a script in place of `crontab`."""
        write_program(self.program, f"#!/bin/sh\n{body}\n")


def install_fake_crontab(folder: Path, monkeypatch: pytest.MonkeyPatch) -> FakeCrontab:
    """Put a crontab command before that of this machine, with a home directory of its own."""
    crontab = FakeCrontab(folder)
    crontab.program.parent.mkdir(parents=True)
    write_program(crontab.program, CRONTAB.read_text())
    monkeypatch.setenv("HOME", str(folder))
    monkeypatch.setenv("PATH", f"{crontab.program.parent}:/usr/bin:/bin")
    assert shutil.which("crontab") == str(crontab.program)  # never that of this machine
    return crontab
