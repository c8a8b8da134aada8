"""Secrets in a line of a crontab are not shown."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from demo_backups.backup.masking import mask_command, mask_line

from ..helpers.crontab_texts import JOB, PUBLISHED_LINE, SCRIPT_PATH

SECRET = "s3cr3t"
BEFORE = ["x", "é", "'a b'", '"c"', ";", "&&", "|", "sudo", "$Y", "(", ")", "\\", "{", "\n"]


@pytest.mark.parametrize(
    "line",
    [
        "TOKEN=s3cr3t",
        "  MAIL_PASSWORD = 's3cr3t x'\r",
        f"#0 * * * * TOKEN=s3cr3t {SCRIPT_PATH}",
        "0 * * * * PGPASSWORD=s3cr3t x",
        "@hourly PGPASSWORD='s3cr3t s3cr3t' x",
        '0 * * * * A="s3cr3t" B=b"s3cr3t"c x',
        "0 * * * * A=$(echo s3cr3t) x",
        "0 * * * * A+=s3cr3t x",
        "0 * * * * A[0]=s3cr3t x",
        "0 * * * * A=(s3cr3t b) x",
        "0 * * * * env -i A=s3cr3t x",
        "0 * * * * export A=s3cr3t; x",
        "0 * * * * sudo A=s3cr3t x",
        "0 * * * * sh -c 'A=s3cr3t x'",
        '0 * * * * sh -c "cd /; A=s3cr3t x"',
        "0 * * * * docker run -e TOKEN=s3cr3t image",
        "0 * * * * docker run -eTOKEN=s3cr3t image",
        "0 * * * * java -Dpassword=s3cr3t x",
        "0 * * * * x --password=s3cr3t",
        "0 * * * * x --password s3cr3t",
        "0 * * * * x --db-passwd='s3cr3t'",
        "0 * * * * x --api-key s3cr3t",
        "0 * * * * x --token s3cr3t y",
        "0 * * * * mysqldump -ps3cr3t db",
        "0 * * * * sudo mysqldump -ps3cr3t",
        "0 * * * * docker exec db nice mysqldump -u root -p s3cr3t db",
        "0 * * * * mysqldump '-ps3cr3t' db",
        "0 * * * * 'mysqldump' \"-ps3cr3t\"",
        "0 * * * * sshpass -p s3cr3t ssh x",
        "0 * * * * sshpass -ps3cr3t ssh x",
        "0 * * * * mysqldump -pMyPassword-s3cr3t db",
        "0 * * * * zip -P s3cr3t f",
        "0 * * * * redis-cli -a s3cr3t save",
        "0 * * * * mongodump -u me -p s3cr3t",
        "0 * * * * sh -c 'mysqldump -ps3cr3t db'",
        "0 * * * * sh -c 'x && curl -u me:s3cr3t https://h'",
        '0 * * * * bash -c "cd / && gpg --passphrase s3cr3t f"',
        "0 * * * * su - me -c 'sh -c \"x --password s3cr3t\"'",
        '0 * * * * x "--token=s3cr3t"',
        '0 * * * * x "--token" "s3cr3t"',
        "0 * * * * x '--token=a s3cr3t'",
        '0 * * * * x --password "s3cr3t$(A=b y)s3cr3t"',
        "0 * * * * x --storage-key=s3cr3t",
        "0 * * * * x ${PASSWORD:-s3cr3t}",
        "0 * * * * x # the password is s3cr3t",
        "#0 * * * * mysqldump -ps3cr3t db",
        "## 0 * * * * curl -u me:s3cr3t https://h",
        "# password: s3cr3t",
        "0 * * * * curl -ume:s3cr3t https://h",
        "0 * * * * curl --user=me:s3cr3t https://h",
        "0 * * * * curl --header='Authorization: Basic s3cr3t' h",
        "0 * * * * curl --header 'Authorization: Basic s3cr3t' h",
        """0 * * * * curl -d '{"a": 1, "token": "s3cr3t"}' h""",
        """0 * * * * curl -d "{\\"password\\":\\"s3cr3t\\"}" h""",
        "0 * * * * lftp -u me,s3cr3t h",
        "0 * * * * smbclient //h/s -U 'me\\%s3cr3t'",
        "0 * * * * curl -u me:s3cr3t https://h",
        "0 * * * * curl -H 'Authorization: Bearer s3cr3t' https://h",
        "0 * * * * curl -H X-Auth-Token:s3cr3t https://h",
        "0 * * * * curl https://me:s3cr3t@h/x",
        "0 * * * * curl 'postgres://s3cr3t@h/x'",
        "0 * * * * curl 'https://h/?a=1&token=s3cr3t'",
        "0 * * * * x%s3cr3t",
        "0 * * * * x <<< s3cr3t",
        "0 * * * * A=s3cr3t ((",
        "* * * * A=s3cr3t x",
        "A=s3cr3t x",
        "0 * * * * $(A=s3cr3t y)",
        "0 * * * * é=s3cr3t; ü A=s3cr3t",
        "0 * * * * \\ A='s3cr3t'",
        "A='s3cr3t' (",
    ],
)
def test_secret_is_masked(line: str) -> None:
    masked = mask_line(line)
    assert SECRET not in masked
    assert "***" in masked


@pytest.mark.parametrize(
    "line",
    [
        "",
        PUBLISHED_LINE,
        JOB.comment,
        "PATH=/usr/bin:/bin",
        "CRON_TZ=Europe/Madrid",
        f"@hourly DATABASE_FILE=/x BACKUP_DIR='/it'\"'\"'s 100\\%' {SCRIPT_PATH} >> /l 2>&1",
        f"0 * * * * cd /app && nice -n 19 ./{SCRIPT_PATH} --compress=9",
        f"0 * * * * date +\\%F; {SCRIPT_PATH}",
        "0 * * * * curl https://hc.example.org/ping",
        "# a comment",
    ],
)
def test_line_without_secret_is_unchanged(line: str) -> None:
    assert mask_line(line) == line


@settings(derandomize=True, database=None, deadline=None, max_examples=300)
@given(
    before=st.lists(st.sampled_from(BEFORE), max_size=5),
    name=st.from_regex(r"[A-Z_][A-Z0-9_]{0,8}", fullmatch=True),
    value=st.sampled_from(["{}", "'{}'", '"{}"', "a{}", "$X{}", "$({})", "'a b {}'", "\\ {}"]),
    after=st.sampled_from(["", " x", "; y", " | z", ")", "'", '"']),
)
def test_assignment_is_masked_anywhere(before: list[str], name: str, value: str, after: str) -> None:
    if name in ("PATH", "SHELL", "HOME", "TZ", "CRON_TZ", "DATABASE_FILE", "BACKUP_DIR"):
        return
    command = " ".join([*before, f"{name}={value.format(SECRET)}"]) + after
    assert SECRET not in mask_command(command)


@settings(derandomize=True, database=None, deadline=None, max_examples=200)
@given(text=st.text("0*@ \t=#'\"abA%\\\r-\udcff\x85é$(){};&|<>:/", max_size=30))
def test_any_line_is_masked(text: str) -> None:
    assert isinstance(mask_line(text), str)
