"""Find the programs that a line of a crontab runs, and whether one of them is a given script."""

from __future__ import annotations

import fnmatch
import posixpath
import re
from collections.abc import Collection, Iterator, Mapping
from dataclasses import dataclass, field
from itertools import pairwise

from .cron_syntax import split_input
from .shell_literals import protect_literals, restore_literals
from .shell_syntax import WRAPPERS, Command, UnreadableScriptError, find_commands, find_constants, parse_script

_SHELLS = ("sh", "bash", "dash", "ash", "ksh", "zsh")
_OTHER_USER = ("su", "sudo", "runuser", "doas")
# They do not run their arguments, or are handled by their operands.
_HARMLESS = frozenset(
    (
        *("test", "[", "[[", "true", "false", ":", "echo", "printf", "logger", "mail", "exit", "return", "export"),
        *("cd", "pushd", "ls", "stat", "cat", "head", "tail", "wc", "file", "grep", "diff", "cmp", "find", "readlink"),
        *("cp", "mv", "rm", "ln", "mkdir", "touch", "chmod", "chown", "chgrp", "sha256sum", "md5sum", "shellcheck"),
    )
)
_REFERENCE = re.compile(r"\$(?:(?P<plain>[A-Za-z_]\w*)|\{(?P<name>[A-Za-z_]\w*)(?::?-(?P<default>[^{}]*))?\})")
_ASSIGNMENT = re.compile(r"(?P<name>[A-Za-z_]\w*)=(?P<value>.*)", re.DOTALL)
# A variable, the output of a command, or a choice of Bash, as in {a,b}.
_UNKNOWN_PART = re.compile(r"(?:\$\{[^{}]*\}|\$\w+|\$\([^()]*\)|`[^`]*`|\{[^{}]*[,.][^{}]*\})+")
_CHANGE_FOLDER = {"env": re.compile("-C|--chdir"), "sudo": re.compile("-D|--chdir")}
_READ_COMMANDS = ("at", "batch", "parallel", "ssh", "xargs")  # from their standard input
_LONGEST_WORD = 4096  # characters; as long as a path can be
_DEEPEST_SCRIPT = 5  # how many `sh -c` inside one another are read


@dataclass
class Programs:
    """The absolute paths that a command runs, and those that it passes to a program that may run them.

    `unclear` says why something that the command runs, and that may be the script, is not known; it contains no text of
    the command. `variables` are those that the command sets.
    """

    run: set[str] = field(default_factory=set)
    passed: set[str] = field(default_factory=set)
    unclear: str = ""
    variables: dict[str, str] = field(default_factory=dict, repr=False)


def find_programs(command: str, environment: Mapping[str, str], script: str) -> Programs:
    """Find the programs of a line's command, as it is in the crontab.

    `environment` has the variables with which cron runs it, HOME and PATH among them; `script` is the absolute path of
    the script in question, whose name decides whether what is not known may be that script.
    """
    program, stdin = split_input(command)
    found = _Reader(environment, script).read(program)
    if posixpath.basename(script) in stdin:
        found.unclear = found.unclear or "its standard input (after '%') names the script"
    return found


def find_programs_of_file(content: str, environment: Mapping[str, str], script: str) -> Programs:
    """Find the programs of a shell script."""
    return _Reader(environment, script).read(content)


class _Reader:
    """Reads the commands of one line, and of the scripts in it, in the order of the text."""

    def __init__(self, environment: Mapping[str, str], script: str) -> None:
        self.environment = environment
        self.script = script
        self.name = posixpath.basename(script)
        self.found = Programs(variables=dict(environment))
        home = environment.get("HOME", "")
        self.folders = [home] if home else []  # in which a relative path may be
        self.unknown_folder = not home
        self.other_user = False  # whose home directory is not known
        self.constants: Mapping[str, str] = environment

    def read(self, text: str, depth: int = 0) -> Programs:
        shell = posixpath.basename(self.environment.get("SHELL") or "/bin/sh")
        outer = self.constants
        try:
            if shell in _SHELLS:
                self._read_commands(text, depth)
            elif self.name in text:
                self._note("SHELL is not a POSIX shell")
        except (UnreadableScriptError, RecursionError):
            if self.name in text:
                self._note("the command cannot be parsed")
        finally:
            self.constants = outer
        return self.found

    def _read_commands(self, text: str, depth: int) -> None:
        root = parse_script(protect_literals(text))
        constants = {name: " ".join(words) for name, words in find_constants(root).items()}
        self.constants = {**self.constants, **constants}
        self.found.variables.update((name, restore_literals(self._expand(value))) for name, value in constants.items())
        for command in find_commands(root):
            words = [self._expand(word) for word in command.words]
            self._read_words(words, command, text)
            if depth < _DEEPEST_SCRIPT:
                for inner in _scripts(command):
                    self.read(restore_literals(inner), depth + 1)

    def _names_script(self, text: str) -> bool:
        """Tell whether a text names the script, also by a pattern in one of the folders so far."""
        return self.name in text or any(map(self._matches_script, re.findall(r"[^\s;|&()'\"]+", text)))

    def _note(self, reason: str) -> None:
        self.found.unclear = self.found.unclear or reason

    # --- one command --------------------------------------------------------------------------------------------------

    def _read_words(self, words: list[str], command: Command, text: str) -> None:
        first, *operands = words
        program = posixpath.basename(first)
        for match in filter(None, map(_ASSIGNMENT.match, operands)):
            self.found.variables[match["name"]] = restore_literals(match["value"])
        if _is_unknown(first) or "{" in first:
            if self._names_script(text) or self._may_be_script(first):
                self._note("the program that it runs is not known")
            return
        self.found.run.update(self._locate(first) if "/" in first else self._search(first))
        self.other_user = self.other_user or program in _OTHER_USER
        if program in ("cd", "pushd"):
            self._change_folder(operands)
        elif program in (*_SHELLS, ".", "source"):
            self._read_shell(program, operands, command)
            script = next((word for word in operands if not word.startswith("-")), "")
            if _is_unknown(script) and self._names_script(text):
                self._note("the script that a shell runs is not known")
        elif program == "run-parts":
            folders = [word for word in operands if not word.startswith("-")]
            self.found.run.update(path for word in folders for path in self._locate(f"{word}/{self.name}"))
        elif program not in _HARMLESS:
            self._pass(operands)
            if program in _CHANGE_FOLDER and any(map(_CHANGE_FOLDER[program].match, operands)):
                self.unknown_folder = True
        if program == "find":
            self._read_find(operands)
        elif program in _READ_COMMANDS and any(map(self._names_script, command.inputs())):
            self._note(f"{program} reads commands that name the script")

    def _read_find(self, operands: list[str]) -> None:
        """Note a `find` that runs what it finds, in a directory above the script."""
        programs = [posixpath.basename(after) for word, after in pairwise(operands) if re.match("-(exec|ok)", word)]
        if all(program in _HARMLESS for program in programs):
            return
        names = [after for word, after in pairwise(operands) if word == "-name"]
        paths = {posixpath.normpath(path) for word in operands for path in self._locate(word)}
        above = any(self.script.startswith(f"{path.rstrip('/')}/") for path in paths if path != "/")
        if above and all(_is_unknown(name) or fnmatch.fnmatchcase(self.name, restore_literals(name)) for name in names):
            self._note("find runs what it finds, and may find the script")

    def _change_folder(self, operands: list[str]) -> None:
        folder = next((word for word in operands if not word.startswith("-")), "~")
        if _is_unknown(folder):
            self.unknown_folder = True
        self.folders += [path for path in self._locate(folder) if path not in self.folders]

    def _read_shell(self, program: str, operands: list[str], command: Command) -> None:
        """Read the operands of a shell: the first is a script, unless that comes from -c or standard input."""
        words = iter(operands)
        rest: list[str] = []
        has_script_text = False
        for word in words:
            if program in _SHELLS and not rest and re.match(r"[-+]", word):
                has_script_text = has_script_text or bool(re.fullmatch("-[A-Za-z]*c", word))
                if re.fullmatch("[-+][A-Za-z]*[oO]", word):
                    next(words, None)
            else:
                rest.append(word)
        if has_script_text:
            self._pass(rest[1:])
        elif rest:
            self.found.run.update(self._locate(rest[0]))
            self.found.run.update(self._search(rest[0]))
            self._pass([word for word in rest[:1] if _is_unknown(word)] + rest[1:])
        elif any(self.name in text for text in command.inputs()):
            self._note("a shell reads commands that name the script")

    def _pass(self, operands: Collection[str]) -> None:
        """Add the operands that a program may run."""
        for word in operands:
            if (_is_unknown(word) and self.name in word) or self._may_be_script(word):
                self._note("a word of the command names the script, and its path is not known")
            elif self.name in word and re.search(r"[\s\"'();]", restore_literals(word)):
                self._note("a word of the command contains commands that name the script")
            elif "/" in word or self.name in word:
                self.found.passed.update(self._locate(word))

    # --- words --------------------------------------------------------------------------------------------------------

    def _expand(self, word: str) -> str:
        """Replace the variables whose values are known, and the home directory."""
        if self.other_user and self.name in word and re.match(r"~|\$\{?HOME\b", word):
            self._note("the command names the script, in the home directory of another user")
        for _ in range(10):
            expanded = _REFERENCE.sub(self._value, word)
            if expanded == word or len(expanded) > _LONGEST_WORD:
                break
            word = expanded
        home = self.constants.get("HOME")
        return home + word[1:] if home and (word == "~" or word.startswith("~/")) else word

    def _value(self, match: re.Match[str]) -> str:
        value = self.constants.get(match["plain"] or match["name"], match["default"])
        return match[0] if value is None or len(value) > _LONGEST_WORD else value

    def _search(self, word: str) -> Iterator[str]:
        """Yield the absolute paths of a name in the search path."""
        if word and "/" not in word and not _is_unknown(word):
            if word == self.name and not all(map(posixpath.isabs, self.constants.get("PATH", "/").split(":"))):
                self._note("the command names the script, and PATH is not known")
            folders = self.constants.get("PATH", "").split(":")
            name = restore_literals(word)
            yield from (posixpath.join(folder, name) for folder in folders if folder.startswith("/"))

    def _locate(self, word: str) -> Iterator[str]:
        """Yield the absolute paths that a word may be, if it is relative: in the folders of the command."""
        if not word or "\0" in word or len(word) > _LONGEST_WORD:
            return
        if self._matches_script(word):
            self._note("a pattern of the command matches the path of the script")
            return
        if _is_unknown(word):
            return
        is_relative = not word.startswith("/")
        if is_relative and (self.unknown_folder or self.other_user) and posixpath.basename(word) == self.name:
            self._note("the command names the script, in a directory that is not known")
        path = restore_literals(word)
        yield from (posixpath.join(folder, path) for folder in (self.folders if is_relative else [""]))

    def _matches_script(self, word: str) -> bool:
        is_pattern = re.search(r"[*?\[]", word) and len(word) <= _LONGEST_WORD
        return bool(is_pattern) and any(
            fnmatch.fnmatchcase(self.script, posixpath.normpath(posixpath.join(folder, word)))
            for folder in self.folders
        )

    def _may_be_script(self, word: str) -> bool:
        """Tell whether a word with unknown parts can be the path of the script, if each part is in one directory."""
        parts = _UNKNOWN_PART.split(word)
        if len(parts) == 1 or len(word) > _LONGEST_WORD or not any(re.search(r"\w", part) for part in parts):
            return False
        for folder in self.folders:
            pattern = posixpath.normpath(posixpath.join(folder, "\0".join(parts)))
            if re.fullmatch("[^/]*".join(map(re.escape, pattern.split("\0"))), self.script):
                return True
        return False


def _is_unknown(word: str) -> bool:
    """Tell whether only the shell of the host knows the value of a word."""
    return bool(re.search(r"[$`]|^~|^[<>]\(", word))


def _scripts(command: Command) -> Iterator[str]:
    """Yield the scripts that a command gets in its words or from a here-document."""
    if command.program == "eval":
        yield " ".join(command.words[1:])
    elif command.program == "trap":
        yield from command.words[1:2]
    elif command.program in (*WRAPPERS, *_SHELLS, "su", "script"):
        yield from command.scripts()
