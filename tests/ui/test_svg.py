"""The pictures that `--svg` writes."""

from __future__ import annotations

import html
import re
from pathlib import Path

import pytest

from demo_backups.errors import WRONG_INPUT

from ..helpers.tasks import InvRunner


def test_svg_shows_all_output_and_loads_nothing(run_inv: InvRunner, tmp_path: Path) -> None:
    done = run_inv("rehearse", "--svg", str(tmp_path / "new.svg"), COLUMNS="160")
    assert done.returncode == 0, done.stdout + done.stderr
    svg = (tmp_path / "new.svg").read_text()
    _, *pieces = re.findall(r"<text [^>]*>(.*?)</text>", svg)  # the first is the title
    assert html.unescape(" ".join(pieces)).split() == done.stdout.split()
    assert re.findall(r"url\((?!#)|href(?!=\"#)|@import|@font-face", svg) == []


@pytest.mark.parametrize("place", ["no-such-folder/x.svg", "."])
@pytest.mark.parametrize("task", ["rehearse", "plan"])
def test_unwritable_svg_path_is_refused_first(task: str, place: str, run_inv: InvRunner, home: Path) -> None:
    done = run_inv(task, "--svg", str(home / place))
    assert (done.returncode, done.stdout) == (WRONG_INPUT, "")
    assert "--svg" in done.stderr
    assert not (home / "evidence").exists()
