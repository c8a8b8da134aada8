"""Who can write to the script, to the backup directory and to its lock: nobody but root and the login account may."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import PurePosixPath
from typing import TypeAlias

from ..errors import CouldNotLookError, Problem, UnsafePathError
from ..remote.answers import END, parse_count, parse_list, parse_yes_no
from ..remote.host import Host
from ..remote.shell import quote
from ..settings.model import BackupSeries, Database

ROOT_UID = 0
GROUP_WRITE, OTHERS_WRITE, STICKY = 0o020, 0o002, 0o1000
MOST_LINKS = 40  # symbolic links in one path, as in Linux (path_resolution(7))


@dataclass(frozen=True)
class Entry:
    """A file or directory on a host: its type as `find -printf %y` prints it, owner, group, mode, links and target."""

    path: PurePosixPath
    type: str
    uid: int
    user: str
    gid: int
    group: str
    mode: int
    links: int
    target: str = ""
    has_acl: bool = False  # then the mode's bits for the group are the most that the ACL gives to anybody (acl(5))


Entries: TypeAlias = Mapping[PurePosixPath, Entry | None]  # None: there is no such file


@dataclass(frozen=True)
class Users:
    """The user who runs the backups, root with `use_sudo`, and the login account."""

    effective: int
    login: int

    @property
    def trusted(self) -> frozenset[int]:
        """The users who may write: root, the one who runs the backups, and the login account."""
        return frozenset((ROOT_UID, self.effective, self.login))

    @property
    def accepted_by_script(self) -> frozenset[int]:
        """The users who may own the backup directory: the script accepts root and the user who runs it."""
        return frozenset((ROOT_UID, self.effective))


@dataclass(frozen=True)
class Accounts:
    """The accounts of a host, as far as they can be listed: the names of each user, and the members of each group."""

    names: Mapping[int, frozenset[str]] = field(default_factory=dict)
    members: Mapping[int, frozenset[str]] = field(default_factory=dict)


@dataclass(frozen=True)
class Access:
    """Who can write to the paths of a backup.

    `script` and `backup_dir` are the entries on the way from / to the path, with symbolic links followed. That of a
    missing script ends at its directory, and that of a missing backup directory is empty. `lock` is None where there is
    none.
    """

    users: Users
    accounts: Accounts
    script: Sequence[Entry]
    backup_dir: Sequence[Entry]
    lock: Entry | None


# --- decisions ------------------------------------------------------------------------------------------------------


def find_script_problems(access: Access) -> list[Problem]:
    """Find what lets another user replace or edit the script: its owner and mode, and those of every directory."""
    return _find_path_problems(access, access.script)


def find_backup_dir_problems(access: Access, strict: bool = False) -> list[Problem]:
    """Find what lets another user write to the backup directory or replace it, and a lock that is not ours.

    With `strict`, also what only the script refuses: a directory of the login account where root runs the backups,
    and one to which a group without other members can write.
    """
    problems = _find_path_problems(access, access.backup_dir)
    owners = access.users.accepted_by_script if strict else access.users.trusted
    if strict and not problems and access.backup_dir:
        problems = list(_strict_problems(access.backup_dir[-1], owners))
    if access.lock and (access.lock.type != "f" or access.lock.links != 1 or access.lock.uid not in owners):
        text = f"{access.lock.path} is not a regular file of root or of this user: find out who created it"
        problems.append(Problem(text, f"rm -r -- {quote(access.lock.path)}"))
    return problems


def describe_script_owner(access: Access) -> str | None:
    """Say which account other than root can change the script that root runs; None if there is none."""
    others = {entry.user for entry in access.script if entry.uid != ROOT_UID}
    if access.users.effective != ROOT_UID or not others:
        return None
    return f"root runs the script, and {', '.join(sorted(others))} can change it: protect that account like root's"


def _strict_problems(directory: Entry, owners: Collection[int]) -> Iterator[Problem]:
    if directory.uid not in owners:
        yield _wrong_owner(directory)
    elif directory.mode & (GROUP_WRITE | OTHERS_WRITE):
        yield _wrong_mode(directory, f"the group {directory.group}")


def _find_path_problems(access: Access, entries: Sequence[Entry]) -> list[Problem]:
    # In a directory such as /tmp (sticky), only the owner of a file can rename it, and that is checked too. In the
    # directory of the script or of the backups, others must not create files either.
    directories = [entry.path for entry in entries if entry.type == "d"]
    found = (_find_problem(entry, access, sticky_is_safe=entry.path not in directories[-1:]) for entry in entries)
    return [problem for problem in found if problem]


def _find_problem(entry: Entry, access: Access, sticky_is_safe: bool) -> Problem | None:
    if entry.uid not in access.users.trusted:
        return _wrong_owner(entry)
    if entry.type == "l" or (entry.type == "d" and entry.mode & STICKY and sticky_is_safe):
        return None
    if entry.mode & OTHERS_WRITE:
        return _wrong_mode(entry, "every user")
    if entry.mode & GROUP_WRITE and entry.has_acl:
        return Problem(f"an ACL lets others write to {entry.path}", f"setfacl -b -- {quote(entry.path)}")
    if entry.mode & GROUP_WRITE and not _is_private_group(entry, access):
        return _wrong_mode(entry, f"the group {entry.group}")
    return None


def _is_private_group(entry: Entry, access: Access) -> bool:
    """Tell whether a group is the one of root or the login account alone, as most systems create it for each user."""
    trusted = frozenset[str]().union(*(access.accounts.names.get(uid, ()) for uid in access.users.trusted))
    members = access.accounts.members.get(entry.gid)
    return entry.group in trusted and members is not None and members <= trusted


def _wrong_owner(entry: Entry) -> Problem:
    text = f"{entry.path} belongs to {entry.user} (if that is the maintainers' account, log in as {entry.user})"
    return Problem(text, f"chown -h root -- {quote(entry.path)}")


def _wrong_mode(entry: Entry, who: str) -> Problem:
    return Problem(f"{who} can write to {entry.path} (mode {entry.mode:o})", f"chmod go-w -- {quote(entry.path)}")


# --- facts ----------------------------------------------------------------------------------------------------------


def users_command() -> str:
    """Build the command that prints the user of a command, and the account that sudo was called from (sudo(8))."""
    return 'echo "$(id -u) ${SUDO_UID:-$(id -u)}"'


def parse_users(output: str) -> Users:
    """Parse what `users_command` printed; raises ValueError."""
    effective, login = map(parse_count, output.split())
    return Users(effective, login)


def entries_command(paths: Iterable[PurePosixPath]) -> str:
    """Build the command that prints the owners and modes of those paths that exist; it fails if one does not."""
    names = " ".join(quote(path) for path in paths)
    return f"find {names} -maxdepth 0 -printf '%p\\0%y %U %u %G %g %m %n %l\\0'"


def parse_entries(output: str) -> dict[PurePosixPath, Entry]:
    """Parse what `entries_command` printed; raises ValueError."""
    *texts, rest = output.split("\0")
    if rest or len(texts) % 2:
        raise ValueError("the list of owners is not complete")
    entries = {}
    for name, text in zip(texts[::2], texts[1::2], strict=True):
        kind, uid, user, gid, group, mode, links, target = text.split(" ", 7)
        path = PurePosixPath(name)
        numbers = [parse_count(number) for number in (uid, gid, links)]
        entries[path] = Entry(path, kind, numbers[0], user, numbers[1], group, int(mode, 8), numbers[2], target)
    return entries


def accounts_command(gids: Iterable[int]) -> str:
    """Build the command that prints all users, and the groups with these numbers, as in passwd(5) and group(5)."""
    groups = " ".join(map(str, gids))
    return f"set -e; getent passwd | cut -d : -f 1,3,4; echo; getent group {groups} | cut -d : -f 1,3,4; echo {END}"


def parse_accounts(output: str) -> Accounts:
    """Parse what `accounts_command` printed; raises ValueError."""
    users, separator, groups = output.partition("\n\n")
    if not separator or not groups.endswith(f"{END}\n"):
        raise ValueError("the list of accounts is not complete")
    names: dict[int, set[str]] = {}
    members: dict[int, set[str]] = {}
    for line in groups.splitlines()[:-1]:
        _, gid, listed = line.split(":")
        members[parse_count(gid)] = set(filter(None, listed.split(",")))
    for line in users.splitlines():
        name, uid, gid = line.split(":")
        names.setdefault(parse_count(uid), set()).add(name)
        if parse_count(gid) in members:
            members[parse_count(gid)].add(name)
    return Accounts(_freeze(names), _freeze(members))


def acls_command(paths: Iterable[PurePosixPath]) -> str:
    """Build the command that prints whether each path has an ACL (ls(1): a `+` after the mode)."""
    names = " ".join(map(quote, paths))
    check = 'case "$(ls -ld -- "$path")" in ??????????+*) echo yes ;; ??????????[\\ .]*) echo no ;; esac'
    return f"for path in {names}; do {check}; done; echo {END}"


def parse_acls(output: str) -> list[bool]:
    """Parse what `acls_command` printed; raises ValueError."""
    return [parse_yes_no(f"{line}\n") for line in parse_list(output)]


def _freeze(sets: Mapping[int, set[str]]) -> dict[int, frozenset[str]]:
    return {number: frozenset(names) for number, names in sets.items()}


def observe_access(host: Host, series: BackupSeries, *, with_script: bool = True) -> Access:
    """Observe who can write to the script, the backup directory and its lock; raises CouldNotLookError.

    Without `with_script`, the script is not looked at: a login that only reads backups need not see it.
    """
    users = _read_users(host)
    scripts = [series.script] if with_script and isinstance(series, Database) else []
    entries = _read_entries(host, (*scripts, series.backup_dir, series.lock))
    script = [entry for path in scripts for entry in _follow(path, entries).passed if entry]
    backup_dir = [entry for entry in _follow(series.backup_dir, entries).passed if entry]
    if entries[series.backup_dir] is None:
        backup_dir = []
    gids = _list_groups((*script, *backup_dir))
    accounts = Accounts()
    if gids:
        script, backup_dir = (_add_acls(host, path) for path in (script, backup_dir))
        accounts = _read_accounts(host, gids)
    return Access(users, accounts, script, backup_dir, entries.get(series.lock))


def _read_users(host: Host) -> Users:
    return host.query_parsed("see which users run commands", users_command(), parse_users)


def _list_groups(entries: Iterable[Entry]) -> set[int]:
    """List the groups whose members can write to an entry, or that an ACL may stand for."""
    return {entry.gid for entry in entries if entry.type != "l" and entry.mode & GROUP_WRITE}


def _read_accounts(host: Host, gids: Iterable[int]) -> Accounts:
    return host.query_parsed("list the members of groups", accounts_command(sorted(gids)), parse_accounts)


def access_commands(database: Database) -> list[str]:
    """List the commands that `observe_access` runs without the script, unless there are links or writable groups."""
    return [users_command(), entries_command(_list_parts((database.backup_dir, database.lock)))]


def _list_parts(paths: Iterable[PurePosixPath]) -> list[PurePosixPath]:
    """List some paths and the directories on the way to them."""
    return list(dict.fromkeys(part for path in paths for part in (*reversed(path.parents), path)))


def _add_acls(host: Host, entries: Sequence[Entry]) -> list[Entry]:
    """Find out which entries have an ACL."""
    if not entries:
        return []
    paths = [entry.path for entry in entries]
    acls = host.query_parsed("look for ACLs", acls_command(paths), parse_acls)
    if len(acls) != len(entries):
        raise CouldNotLookError(f"could not look for ACLs of {paths[-1]}", host=host.name)
    return [replace(entry, has_acl=acl) for entry, acl in zip(entries, acls, strict=True)]


def _read_entries(host: Host, paths: Sequence[PurePosixPath]) -> Entries:
    """Read the entries on the way to some paths, also through symbolic links, each of which takes another query."""
    entries: dict[PurePosixPath, Entry | None] = {}
    unread = list(paths)
    for _ in range(MOST_LINKS):
        entries |= _query_entries(host, [path for path in _list_parts(unread) if path not in entries])
        followed = [_follow(path, entries) for path in paths]
        unread = [path.unread for path in followed if path.unread]
        if not unread:
            return entries
    raise CouldNotLookError(f"there are too many symbolic links in {unread[0]}", host=host.name)


def _query_entries(host: Host, paths: Sequence[PurePosixPath]) -> dict[PurePosixPath, Entry | None]:
    action = f"see who can write to {paths[-1]}"
    command = entries_command(paths)
    result = host.run(action, command, root=True)
    complaints = result.stderr.splitlines()
    only_missing = complaints and all(line.endswith("No such file or directory") for line in complaints)
    # What has failed for another reason fails again, with an advice.
    answer = result.stdout if result.ok or only_missing else host.query(action, command)
    entries = host.parse(action, answer, parse_entries)
    return {path: entries.get(path) for path in paths}


@dataclass(frozen=True)
class _Followed:
    """The entries on the way to a path, the last one None if it is missing; and what must be read to continue."""

    passed: Sequence[Entry | None]
    unread: PurePosixPath | None = None


def _follow(path: PurePosixPath, entries: Entries) -> _Followed:
    """Follow a path from / through its symbolic links, as far as the entries are known."""
    place = PurePosixPath("/")
    passed = {place: entries[place]}
    remaining = list(path.parts[1:])
    for _ in range(MOST_LINKS * len(path.parts)):
        if not remaining:
            break
        name = remaining.pop(0)
        place = place.parent if name == ".." else place / name
        if place not in entries:
            return _Followed([], place.joinpath(*(part for part in remaining if part != "..")))
        entry = passed[place] = entries[place]
        if entry is None:
            break
        if entry.type == "l":
            target = PurePosixPath(entry.target)
            remaining = [*(target.parts[1:] if target.is_absolute() else target.parts), *remaining]
            place = PurePosixPath("/") if target.is_absolute() else place.parent
    return _Followed(list(passed.values()))


# --- the check ------------------------------------------------------------------------------------------------------


def require_safe_paths(host: Host, series: BackupSeries, *, with_script: bool = False, strict: bool = False) -> None:
    """Check that only root and the login account can write to the backup directory; raises UnsafePathError.

    With `with_script`, also to the script. With `strict`, the backup directory must be one that the script accepts.
    """
    access = observe_access(host, series, with_script=with_script)
    problems = find_script_problems(access) if with_script else []
    refuse_problems(host, [*problems, *find_backup_dir_problems(access, strict)])


def require_safe_directory(host: Host, directory: PurePosixPath) -> None:
    """Check that no user but root and the login account can replace what is created in a directory.

    A sticky directory such as /tmp is safe for that. Raises UnsafePathError.
    """
    users = _read_users(host)
    entries = [entry for entry in _follow(directory, _read_entries(host, [directory])).passed if entry]
    gids = _list_groups(entries)
    accounts = Accounts()
    if gids:
        entries, accounts = _add_acls(host, entries), _read_accounts(host, gids)
    access = Access(users, accounts, [], [], None)
    problems = [problem for entry in entries if (problem := _find_problem(entry, access, sticky_is_safe=True))]
    if problems:
        raise UnsafePathError(
            f"refused: other users than root and the login account could replace what is created in {directory}",
            host=host.name,
            output="\n".join(problem.text for problem in problems),
            advice="use another directory, or as root on the host: "
            + "; ".join(problem.advice for problem in problems),
        )


def refuse_problems(host: Host, problems: Sequence[Problem]) -> None:
    """Raise UnsafePathError if there are problems."""
    if problems:
        unique = list(dict.fromkeys(problems))
        raise UnsafePathError(
            "refused: other users than root and the login account could change a backup or its script",
            host=host.name,
            output="\n".join(problem.text for problem in unique),
            advice="see what they have changed. Then, as root on the host: "
            + "; ".join(problem.advice for problem in unique),
        )
