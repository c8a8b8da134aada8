"""The address of a repository: what is printed of it, and how restic reaches it."""

from __future__ import annotations

from pathlib import Path

import pytest

from demo_backups.errors import SettingsError
from demo_backups.offsite.location import Location, find_location, mask_addresses
from demo_backups.project import ROOT
from demo_backups.settings.model import OffsiteSettings, Settings

SSH = "ssh -o BatchMode=yes -o ConnectTimeout=30 -o ServerAliveInterval=15 -o ServerAliveCountMax=4"


def locate(settings: Settings, address: str | None, ssh_config: str | None = None) -> Location:
    values = settings.offsite.model_dump() | {"repository": address, "check_parts": "10", "every": "7 d"}
    section = OffsiteSettings.model_validate(values)
    return find_location(settings.model_copy(update={"offsite": section, "ssh_config": ssh_config}))


@pytest.mark.parametrize(
    ("address", "display"),
    [
        ("rest:https://user:secret@host/path", "rest:https://***@host/path"),
        ("rest:http://user:se:cr@et@host:8000/", "rest:http://***@host:8000/"),
        ("rest:https://token@host/", "rest:https://***@host/"),
        ("s3:https://key:secret@host/bucket", "s3:https://***@host/bucket"),
        ("rest:https://user:sec/ret@host/", "rest:https://***@host/"),
        ("rest:https://user:a secret@host/", "rest:https://***@host/"),
        ("sftp://user@host:22//path", "sftp://user@host:22//path"),
        ("sftp:user@host:/path", "sftp:user@host:/path"),
        ("/a/path@with:signs", "/a/path@with:signs"),
    ],
)
def test_password_in_address_is_masked(address: str, display: str) -> None:
    location = Location(address)
    assert location.display == display
    url = address.partition(":")[2]
    masked = location.mask(f"Fatal: {address}: no\nHead {address}/config: parse {url!r}")
    assert "secret" not in masked
    assert "sec/ret" not in masked
    if " " not in address:
        assert mask_addresses(f"see {address} now") == f"see {display} now"


@pytest.mark.parametrize(
    ("address", "end"),
    [
        ("sftp:host:path", " host -s sftp"),
        ("sftp:user@host:/path", " -l user host -s sftp"),
        ("sftp:user@domain@host:/path", " -l user@domain host -s sftp"),
        ("sftp://user@host:2222//path", " -p 2222 -l user host -s sftp"),
        ("sftp://[::1]/path", " ::1 -s sftp"),
    ],
)
def test_ssh_command_follows_address(project_settings: Settings, address: str, end: str) -> None:
    assert locate(project_settings, address).options == ("-o", f"sftp.command={SSH}{end}".replace("''", ""))


def test_ssh_config_of_settings_is_used(project_settings: Settings) -> None:
    location = locate(project_settings, "sftp:host:path", "it's/config")
    assert location.options[1].startswith(f'"sftp.command=ssh -F ""{ROOT}/it\'s/config"" -o')


@pytest.mark.parametrize(
    "address",
    [None, "-x", "sftp:", "sftp:-oProxyCommand=x:/path", "sftp://host:x/", "sftp://-x/", "sftp://user:secret@host/"],
)
def test_unusable_address_is_refused(project_settings: Settings, address: str | None) -> None:
    with pytest.raises(SettingsError) as raised:
        locate(project_settings, address)
    assert "secret" not in str(raised.value)


@pytest.mark.parametrize(
    ("address", "directory"),
    [
        ("/srv/repository", Path("/srv/repository")),
        ("local:/srv/repository", Path("/srv/repository")),
        ("repository", ROOT / "repository"),
        ("./a:b", ROOT / "a:b"),
        ("~/repository", Path.home() / "repository"),
        ("s3:host/bucket", None),
        ("sftp:host:path", None),
        ("rest:http://host/", None),
    ],
)
def test_directories_are_distinguished(project_settings: Settings, address: str, directory: Path | None) -> None:
    assert locate(project_settings, address).directory == directory
