"""The values of settings: each is parsed and validated by one function. They raise ValueError."""

from __future__ import annotations

import re
import shlex
from pathlib import Path, PurePosixPath
from typing import Annotated, Any

from pydantic import AfterValidator, BeforeValidator, ByteSize, TypeAdapter

SEVERAL_HOSTS = "preflight, list-backups, verify, check, plan and history"  # the tasks that take several hosts
MOST_PARTS = 256  # in which restic can divide the data of a repository
FABRIC, OPENSSH = "fabric", "openssh"  # ssh_transport


def parse_text(value: Any) -> str:
    """Accept printable text that is not empty."""
    if not isinstance(value, str):
        raise ValueError(f"must be text, not {value!r}")
    if not value or not value.isprintable():
        raise ValueError("must not be empty" if not value else f"must not contain control characters: {value!r}")
    return value


def parse_host_name(name: str) -> str:
    """Accept an SSH alias."""
    if "," in name:
        raise ValueError(f"{name!r} names several hosts: only --host of {SEVERAL_HOSTS} takes them")
    # The user and the host: an option of ssh in either of them could run a command here.
    if any(part.startswith("-") for part in name.removeprefix("ssh://").split("@")) or re.search(r"\s", name):
        raise ValueError(f"{name!r} is not an SSH alias: it starts with '-' or contains whitespace")
    return name


def _absolute(value: Any) -> PurePosixPath:
    path = PurePosixPath(parse_text(value))
    if not path.is_absolute() or ".." in path.parts:
        raise ValueError(f"{value!r} is not an absolute path")
    return path


def _relative(value: Any) -> PurePosixPath:
    path = PurePosixPath(parse_text(value))
    if path.is_absolute() or ".." in path.parts or not path.name:
        raise ValueError(f"{value!r} is not a relative path")
    return path


def parse_local_path(text: str) -> str:
    """Accept a path of this machine, which may start with `~`."""
    try:
        Path(text).expanduser()
    except RuntimeError as error:
        raise ValueError(f"{text!r} starts with the home directory of an unknown user") from error
    return text


def _paths(value: Any) -> tuple[str, ...]:
    """Accept a list of paths, or text that is split as a shell does: an environment variable can only be text."""
    try:
        paths = list(value) if isinstance(value, (list, tuple)) else shlex.split(parse_text(value))
    except ValueError as error:
        raise ValueError(f"{value!r} is not a list of paths: {error}") from error
    if not paths:
        raise ValueError("must name at least one file")
    for path in paths:
        _relative(path)
    return tuple(paths)


def _message(text: str) -> str:
    if text != text.strip():  # git strips it, and the plan would not find the commit by its message
        raise ValueError(f"{text!r} starts or ends with whitespace")
    return text


def _git_name(text: str) -> str:
    if not re.fullmatch(r"[^-\s][^\s~^:?*\[\\]*", text):
        raise ValueError(f"{text!r} is not a valid name for git")
    return text


def _issue_number(value: Any) -> int | None:
    if value is None or value == "":  # the text is for the environment variable
        return None
    match = re.fullmatch(r"#?([1-9][0-9]{0,9})", str(value))
    if match is None:
        raise ValueError(f"{value!r} is not the number of an issue")
    return int(match[1])


def _prefix(text: str) -> str:
    if not re.fullmatch(r"[A-Za-z0-9][A-Za-z0-9_-]*", text):
        raise ValueError(f"{text!r} must consist of letters, digits, '_' and '-'")
    return text


def _query(text: str) -> str:
    # Text that starts with '.' is a command of the sqlite3 shell, and such commands can run programs.
    if not re.match(r"(SELECT|WITH|VALUES)\b", text, re.IGNORECASE):
        raise ValueError(f"{text!r} is not a SELECT")
    return text


def _transport(value: Any) -> str:
    if value not in (FABRIC, OPENSSH):
        raise ValueError(f"{value!r} is neither {FABRIC} nor {OPENSSH}")
    return str(value)


def _share(value: Any) -> float:
    match = re.fullmatch(r"(\d+(?:\.\d+)?)\s*(%?)", str(value).strip())
    share = float(match[1]) / (100 if match[2] else 1) if match else -1
    if not 0 <= share <= 1:
        raise ValueError(f"{value!r} is not a fraction such as 10% or 0.1")
    return share


def parse_seconds_value(value: Any) -> float:
    """Accept a number of seconds, with or without the unit."""
    match = re.fullmatch(r"(\d+(?:\.\d+)?)\s*s?", str(value).strip())
    if not match:
        raise ValueError(f"{value!r} is not a number of seconds such as 5 s")
    return float(match[1])


def _command(value: Any) -> str | None:
    """Accept a shell command; null or an empty text, for the environment variable, is none."""
    return None if value is None or value == "" else parse_text(value)


def _duration(value: Any) -> float:
    """Accept seconds, minutes, hours or days; return seconds."""
    match = re.fullmatch(r"(\d+(?:\.\d+)?)\s*(s?|min|h|d)", str(value).strip())
    if not match:
        raise ValueError(f"{value!r} is not a duration such as 90 s, 10 min, 12 h or 30 d")
    return float(match[1]) * {"": 1, "s": 1, "min": 60, "h": 3600, "d": 86400}[match[2]]


def parse_rate_value(value: Any) -> int | None:
    """Accept bytes per second with a unit; null or an empty text is none."""
    if value is None or value == "":
        return None
    rate = int(TypeAdapter(ByteSize).validate_python(str(value).strip().removesuffix("/s")))
    if rate < 1024:
        raise ValueError(f"{value!r} is not a rate of at least 1 KiB per second, such as 40 MB")
    return rate


def _count(value: Any) -> int:
    match = re.fullmatch(r"[0-9]{1,4}", str(value))
    if not match:
        raise ValueError(f"{value!r} is not a number of copies")
    return int(match[0])


def _parts(value: Any) -> int:
    match = re.fullmatch(r"[1-9][0-9]{0,2}", str(value))
    if not match or int(match[0]) > MOST_PARTS:
        raise ValueError(f"{value!r} is not a number of parts from 1 to {MOST_PARTS}")
    return int(match[0])


def _owner(value: Any) -> str | None:
    text = _command(value)
    if text is not None and not re.fullmatch(r"[A-Za-z0-9_][A-Za-z0-9_.-]*:[A-Za-z0-9_][A-Za-z0-9_.-]*", text):
        raise ValueError(f"{value!r} is not an owner such as torrust:torrust")
    return text


def _mode(value: Any) -> str | None:
    text = _command(value)
    if text is not None and not re.fullmatch(r"0?[0-7]{3}", text):
        raise ValueError(f"{value!r} is not a mode such as '644', in quotes")
    return text


Text = Annotated[str, BeforeValidator(parse_text)]
Command = Annotated[str | None, BeforeValidator(_command)]
DurationText = Annotated[float, BeforeValidator(_duration)]
OptionalDuration = Annotated[
    float | None, BeforeValidator(lambda value: None if value is None or value == "" else _duration(value))
]
Rate = Annotated[int | None, BeforeValidator(parse_rate_value)]
OptionalText = Annotated[str | None, BeforeValidator(lambda value: parse_text(value) if value else None)]
Parts = Annotated[int, BeforeValidator(_parts)]
Count = Annotated[int, BeforeValidator(_count)]
OptionalPath = Annotated[PurePosixPath | None, BeforeValidator(lambda value: _absolute(value) if value else None)]
Owner = Annotated[str | None, BeforeValidator(_owner)]
Mode = Annotated[str | None, BeforeValidator(_mode)]
HostName = Annotated[Text, AfterValidator(parse_host_name)]
AbsolutePath = Annotated[PurePosixPath, BeforeValidator(_absolute)]
RelativePath = Annotated[PurePosixPath, BeforeValidator(_relative)]
LocalPath = Annotated[Text, AfterValidator(parse_local_path)]
OptionalLocalPath = Annotated[
    str | None, BeforeValidator(lambda value: parse_local_path(parse_text(value)) if value else None)
]
Share = Annotated[float, BeforeValidator(_share)]
Seconds = Annotated[float, BeforeValidator(parse_seconds_value)]
Paths = Annotated[tuple[str, ...], BeforeValidator(_paths)]
OptionalPaths = Annotated[tuple[str, ...], BeforeValidator(lambda value: _paths(value) if value else ())]
Message = Annotated[Text, AfterValidator(_message)]
GitName = Annotated[Text, AfterValidator(_git_name)]
IssueNumber = Annotated[int | None, BeforeValidator(_issue_number)]
Prefix = Annotated[Text, AfterValidator(_prefix)]
Query = Annotated[Text, AfterValidator(_query)]
Transport = Annotated[str, BeforeValidator(_transport)]
