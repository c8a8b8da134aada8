"""The check of a backup script: what it finds, and when it cannot tell."""

from __future__ import annotations

from pathlib import Path

import pytest

from demo_backups.backup.script_lint import LintResult, lint
from demo_backups.backup.shell_syntax import MAX_BYTES
from demo_backups.records.check import Outcome

from ..helpers.constants import SCRIPT

BACKUP = 'sqlite3 -batch "$DATABASE_FILE" ".backup $PART"\n'
UNSAFE_SCRIPT = """#!/bin/bash
# Back the database up.
DATABASE_FILE="/srv/database.db"
BACKUP_FILE="/srv/backups/backup_$(date +%Y-%m-%d_%H-%M-%S).db"
cp $DATABASE_FILE "$BACKUP_FILE"
find /srv/backups -type f -name "backup_*.db" -mtime +7 -exec rm -f {} \\;
"""


@pytest.mark.parametrize("path", sorted(SCRIPT.parent.glob("*.sh")), ids=lambda path: path.name)
def test_shipped_scripts_pass(path: Path) -> None:
    assert lint(path.read_text()) == LintResult(Outcome.PASSED)


def test_unsafe_script_has_all_findings() -> None:
    result = lint(UNSAFE_SCRIPT)
    assert result.outcome is Outcome.FAILED
    assert list(result.findings) == ["does not use sqlite3's .backup", "uses cp", "not quoted: $DATABASE_FILE"]


@pytest.mark.parametrize(
    ("code", "uses"),
    [
        (BACKUP, True),
        ("sqlite3 a.db '.backup b.db'\n", True),
        ("if ! sqlite3 a.db \\\n  '.timeout 5000' '.backup b.db'; then exit 1; fi\n", True),
        ("output=\"$(sqlite3 a.db '.backup b.db')\"\n", True),
        ("sqlite3 a.db <<EOF\n.timeout 5000\n.backup b.db\nEOF\n", True),
        ("", False),
        ("# sqlite3 a.db '.backup b.db'\n", False),
        ("sqlite3 a.db 'VACUUM INTO ...'\n# not .backup b.db\n", False),
        ("PART=.backup.part\nsqlite3 a.db .dump\n", False),
        ("PART=a.backup \nsqlite3 a.db .dump\n", False),
        ("mysqlite3 a.db '.backup b.db'\n", False),
        ("sudo -u torrust sqlite3 a.db '.backup b.db'\n", True),
        ("docker exec index sqlite3 a.db '.backup b.db'\n", True),
        ("SQLITE=/usr/bin/sqlite3\n\"$SQLITE\" a.db '.backup b.db'\n", True),
        ("SQLITE=(sqlite3 -batch)\n\"${SQLITE[@]}\" a.db '.backup b.db'\n", True),
        ("\"${SQLITE:-sqlite3}\" a.db '.backup b.db'\n", True),
        ("bash -c 'sqlite3 a.db \".backup b.db\"'\n", True),
        ("echo '.backup b.db' | sqlite3 a.db\n", True),
        ("{ echo '.timeout 5'; echo '.backup b.db'; } | sqlite3 a.db\n", True),
        ("cat <<EOF | sqlite3 a.db\n.backup b.db\nEOF\n", True),
        ("sqlite3 a.db <<< '.backup b.db'\n", True),
        ("sqlite3 a.db < <(echo '.backup b.db')\n", True),
        ("echo sqlite3 a.db '.backup b.db'\n", False),
        ('fail "sqlite3 has no .backup here"\n', False),
        ("sqlite3 a.db .dump | grep '.backup b.db'\n", False),
    ],
)
def test_backup_is_found_as_sqlite3_command(code: str, uses: bool) -> None:
    assert list(lint(code).findings) == ([] if uses else ["does not use sqlite3's .backup"])


@pytest.mark.parametrize(
    "code",
    [
        "cp a b",
        "  cp a b",
        "\tcp a b",
        "/bin/cp a b",
        "/usr/bin/cp --reflink a b",
        "\\cp a b",
        "sudo cp a b",
        "sudo -n cp a b",
        "command cp a b",
        "exec cp a b",
        "nice cp a b",
        "nice -n 19 cp a b",
        "ionice -c 3 nice -n19 cp a b",
        "sudo -u torrust cp a b",
        "timeout 60 cp a b",
        "timeout -k 5 1m cp a b",
        "nohup cp a b",
        "docker cp index:/a b",
        "docker exec index cp a b",
        "ssh host cp a b",
        "setpriv --reuid 1000 cp a b",
        "systemd-run --wait /bin/cp a b",
        "echo a | xargs -I {} cp {} b",
        "env cp a b",
        "LC_ALL=C cp a b",
        "time cp a b",
        "true && cp a b",
        "true&&cp a b",
        "false || cp a b",
        "true; cp a b",
        "if true; then cp a b; fi",
        "if true; then :; else cp a b; fi",
        "if cp a b; then :; fi",
        "while ! cp a b; do :; done",
        "for x in 1 2; do cp a b; done",
        "until cp a b; do :; done",
        "( cp a b )",
        "(cp a b)",
        "{ cp a b; }",
        "case x in x) cp a b ;; esac",
        "echo a | xargs cp -t b",
        "find . -name a -exec cp {} b \\;",
        "output=$(cp a b 2>&1)",
        'output="$(cp a b 2>&1)"',
        'output="$( cp a b 2>&1 )"',
        'fail "it said: $(cp "$A" "$B")"',
        "output=`cp a b`",
        "cp \\\n  a b",
        "sudo \\\n  cp a b",
        'echo "it\'s"; cp a b',
        "echo 'say \"no'; cp a b",
        'echo \\" ; cp a b',
        "echo a#b; cp a b",
        'echo "${#A}"; cp a b',
        "echo $#; cp a b",
        "# it's\ncp a b\n# it's",
        "cat <<EOF\nit's here\nEOF\ncp a b # it's",
        "cp",
        "'cp' a b",
        'c"p" a b',
        "! cp a b",
        "> c cp a b",
        "cp a b &",
        "sort <(cp a b)",
        "cat <<EOF\n$(cp a b)\nEOF",
        "sudo --user torrust cp a b",
        "sudo -uroot cp a b",
        "env -u A B=c cp a b",
        "timeout --signal KILL 60 cp a b",
        "stdbuf -oL setsid cp a b",
        "flock -n a.lock cp a b",
        "flock a.lock -c 'cp a b'",
        "echo a | xargs -P 2 -I{} cp {} b",
        "find . -execdir cp {} b +",
        "find . -exec sh -c 'cp \"$1\" b' _ {} \\;",
        "bash -c 'cp a b'",
        'sudo sh -ec "cp \\"$A\\" b"',
        "su -c 'cp a b' torrust",
        "bash <<'EOF'\ncp a b\nEOF",
        "sudo bash -s <<< 'cp a b'",
        "sh -c \"sh -c 'cp a b'\"",
        "eval 'cp a b'",
        "eval cp a b",
        "trap 'cp a b' EXIT",
        "alias copy='cp -a'",
        'copy() { cp "$1" "$2"; }',
        'run() { "$@"; }\nrun cp a b',
        'retry() { shift; "$@"; }\nretry 3 cp a b',
        'CP=cp\n"$CP" a b',
        'CP=(cp -a)\n"${CP[@]}" a b',
        '"${CP:-/bin/cp}" a b',
    ],
)
def test_cp_is_found_where_shell_runs_it(code: str) -> None:
    assert lint(BACKUP + code + "\n") == LintResult(Outcome.FAILED, ("uses cp",))


@pytest.mark.parametrize(
    "code",
    [
        "# cp a b",
        "true # cp a b",
        "true; # cp a b",
        "  # Not cp, which copies pages. cp a b",
        "echo 'cp a b'",
        'echo "cp a b"',
        'echo "; cp a b"',
        'fail "use no; cp a b"',
        "echo 'two\ncp a b\nlines'",
        'echo "two\ncp a b\nlines"',
        'echo "\\$(cp a b)"',
        "echo '$(cp a b)'",
        "scp a b:",
        "xcp a b",
        "cp.sh a b",
        "./cp2 a b",
        "rm -f cp",
        "command -v cp > /dev/null",
        "sudo -u torrust mv cp b",
        "nice -n 19 sqlite3 cp .tables",
        "cpio -o < a > b",
        "cat <<EOF\ncp a b\nEOF",
        "cat <<'END'\ncp a b\nEND",
        "cat <<-END\n\tcp a b\n\tEND",
        ' cat <<"END" > b || exit\ncp a b\nEND',
        "cat <<'END'\n$(cp a b)\nEND",
        "command -pv cp > /dev/null",
        "sudo -u cp mv a b",
        "timeout 60 mv cp b",
        "find . -name cp -print",
        "grep cp a",
        "flock -n 9 || exit",
        "bash -c 'echo cp a b'",
        'log() { echo "$@"; }\nlog cp a b',
        "trap - EXIT",
        "A='cp a b'",
        "A=(cp a b)",
    ],
)
def test_cp_is_ignored_where_not_run(code: str) -> None:
    assert lint(BACKUP + code + "\n") == LintResult(Outcome.PASSED)


@pytest.mark.parametrize(
    ("code", "names"),
    [
        ("rm $A", "$A"),
        ("rm ${A}", "${A}"),
        ("rm $A $B $A", "$A, $B"),
        ("rm -- $1", "$1"),
        ("rm -- $@", "$@"),
        ("rm a$A", "$A"),
        ("rm a/${A}.db", "${A}"),
        ('rm "$A"/$B', "$B"),
        ("rm \"$A\"$B'$C'", "$B"),
        ("A=$(rm $B)", "$B"),
        ('A="$(rm $B)"', "$B"),
        ('A="$(rm "$(echo $B)")"', "$B"),
        ("A=1 rm $B", "$B"),
        ("A=$B; rm $C", "$C"),
        ("if [ -e $A ]; then :; fi", "$A"),
        ("[[ -e $A ]] && rm $B", "$B"),
        ("((A > 1)) && rm $B", "$B"),
        ("rm a#$A", "$A"),
        ("echo > $A", "$A"),
        ("for A in $B; do :; done", "$B"),
        ("for ((A = $B; A < 3; A++)); do rm $C; done", "$C"),
        ("case $A in $B) rm $C ;; esac", "$C"),
        ("rm ${A:-b}", "${A:-b}"),
        ("rm ${A[@]}", "${A[@]}"),
        ("rm $*", "$*"),
        ("A=(b $C)", "$C"),
        ("cat <<EOF > $A\n$B\nEOF", "$A"),
        ("cat <<EOF\n$(rm $A)\nEOF", "$A"),
    ],
)
def test_unquoted_variable_is_named(code: str, names: str) -> None:
    assert lint(BACKUP + code + "\n") == LintResult(Outcome.FAILED, (f"not quoted: {names}",))


@pytest.mark.parametrize(
    "code",
    [
        'rm "$A"',
        'rm "${A}"',
        'rm "${A:-b}"',
        'rm "a/$A.db"',
        'rm -- "$@"',
        "rm '$A'",
        "rm \\$A",
        "# rm $A",
        "true # rm $A",
        "A=$B",
        "A=${B}",
        "  A=$B",
        "A=$B/c.db",
        "export A=$B",
        "true;A=$B",
        "(A=$B)",
        "[[ -e $A ]]",
        "[[ $A == b && $B == c ]] || exit",
        "[[ $A ==\n b ]]",
        "((A > $B))",
        "A=$((B + $C))",
        'A="$((B + $C))"',
        'echo "$(rm "$A")"',
        'echo "$(echo "$(rm "$A")")"',
        "case $A in b) ;; esac",
        "exit $?",
        "(($# == 2))",
        "cat <<EOF\n$A\nEOF",
        'sqlite3 "$A" <<-EOF\n\t.backup $PART\n\tEOF',
        "exit ${#A}",
        "cat <<< $A",
        'rm "${A:-$B}"',
        "A[$B]=$C",
        "[[ $A =~ ^$B$ ]]",
        "for ((A = $B; A < $C; A++)); do :; done",
    ],
)
def test_unsplit_variable_needs_no_quotes(code: str) -> None:
    assert lint(BACKUP + code + "\n") == LintResult(Outcome.PASSED)


# Invalid scripts, and valid ones that the grammar rejects or reads in another way than bash does.
UNREADABLE = {
    "single quote": "echo 'a",
    "double quote": 'echo "a',
    "substitution": 'echo "$(cp a b',
    "parenthesis": "(cp a b",
    "closing parenthesis": "cp a b )",
    "no fi": "if true; then cp a b",
    "here-document without an end": "cat <<EOF\ncp a b",
    "valid: here-document and &": "cat <<EOF &\na\nEOF\ncp a b",
    "valid: two here-documents": "cat <<A <<B\na\nA\nb\nB\ncp a b",
    "misread: name over two lines": "c\\\np a b",
    "misread: coproc": "coproc A { cp a b; }",
    "misread: backquotes in a here-document": "cat <<EOF\n`cp a b`\nEOF",
    "in a script for a shell": "bash -c 'if true'",
    "NUL byte": "cp a b\0",
    "too long": "#" * MAX_BYTES + "\ncp a b",
    "too deep": "eval " * 5000 + "cp a b",
}


@pytest.mark.parametrize("code", UNREADABLE.values(), ids=UNREADABLE)
def test_unreadable_script_is_unknown(code: str) -> None:
    result = lint(BACKUP + code + "\n")
    assert result.outcome is Outcome.UNKNOWN
    assert len(result.findings) == 1


@pytest.mark.parametrize("code", ["", "SQLITE=sqlite3\nSQLITE=other\n", 'run() { "$@"; }\n'])
def test_backup_by_unknown_program_is_unknown(code: str) -> None:
    assert lint(f"{code}\"$SQLITE\" a.db '.backup b.db'\n").outcome is Outcome.UNKNOWN
    assert lint(f"{code}\"$SQLITE\" a.db '.backup b.db'\n{BACKUP}").outcome is Outcome.PASSED


def test_empty_script_fails() -> None:
    assert lint("").outcome is Outcome.FAILED
