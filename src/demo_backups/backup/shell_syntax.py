"""Read a shell script by tree-sitter-bash: the commands that it runs, and the variables that it does not quote.

Nothing of the script is run. UnreadableScriptError is raised if the grammar cannot read it.
"""

from __future__ import annotations

import itertools
import re
from collections.abc import Collection, Iterator, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from tree_sitter import Node

# The time to parse can grow faster than the text: 16 KiB of "a|a|a|" took 5 s, 64 KiB took 190 s.
MAX_BYTES = 32 * 1024

# As the name of a command, these show that the grammar missed a compound command, such as that of coproc.
_RESERVED_WORDS = ("{", "}", "then", "elif", "else", "fi", "do", "done", "in", "esac", "case", "for")

SHELLS = ("sh", "bash", "dash", "ash", "ksh", "zsh", "su", "runuser", "flock", "script")  # -c takes a script
# Commands that run their operands: the options that take a value, and the number of operands before the command.
WRAPPERS = {
    "builtin": ("", 0),
    "busybox": ("", 0),
    "chronic": ("", 0),
    "chroot": ("", 1),
    "chrt": ("TPD", 1),
    "command": ("", 0),
    "coproc": ("", 0),
    "doas": ("Cu", 0),
    "env": ("CSu", 0),
    "exec": ("a", 0),
    "flock": ("wE", 1),
    "ionice": ("cnpPu", 0),
    "nice": ("n", 0),
    "nohup": ("", 0),
    "runuser": ("ugGw", 0),
    "setsid": ("", 0),
    "stdbuf": ("ioe", 0),
    "sudo": ("CDghpRrTtUu", 0),
    "taskset": ("", 1),
    "time": ("fo", 0),
    "timeout": ("ks", 1),
    "xargs": ("adEILnPs", 0),
}
_LONG_OPTION_WITH_VALUE = re.compile(
    "--(adjustment|arg-file|chdir|chroot|class|classdata|delimiter|error|format|group|host|input|kill-after|max-args"
    "|max-chars|max-lines|max-procs|other-user|output|prompt|replace|role|signal|timeout|type|unset|user|wait)"
)
_VARIABLE = re.compile(r'"?\$(?:(?P<plain>\w+)|\{(?P<name>\w+)(?:\[[@*]\])?(?::?-(?P<default>[^{}]*))?\})"?')
_PARENTS_PASSING_INPUT = (
    *("redirected_statement", "heredoc_redirect", "pipeline", "negated_command"),
    *("compound_statement", "subshell", "list"),
)
_SPLITTING = ("command_substitution", "process_substitution", "array")
_NOT_SPLITTING = (
    *("string", "heredoc_body", "herestring_redirect", "variable_assignment", "subscript"),
    *("expansion", "arithmetic_expansion"),
)


class UnreadableScriptError(Exception):
    """A script, or a script in it, cannot be read reliably; the message says why."""


@dataclass(frozen=True)
class Command:
    """A command of a script: its words without quotes, and what it reads from here-documents and pipes."""

    words: list[str]
    node: Node

    @property
    def program(self) -> str:
        """The name of the program, without its folder."""
        return program_name(self.words[0])

    def inputs(self) -> Iterator[str]:
        """Yield the source of what it may read: here-documents, redirections, and the commands piped into it."""
        return map(_source, _inputs(self.node))

    def scripts(self) -> Iterator[str]:
        """Yield the script that a shell gets by -c or from a here-document."""
        options = [number for number, word in enumerate(self.words) if re.fullmatch("-[A-Za-z]*c|--command", word)]
        if options:
            yield next((word for word in self.words[options[0] + 1 :] if not word.startswith("-")), "")
        elif all(word.startswith("-") for word in self.words[1:]):
            for node in _inputs(self.node):
                if node.type == "heredoc_body":
                    yield _source(node)
                elif node.type == "herestring_redirect":
                    yield _unquote(node.children[-1])


def program_name(word: str) -> str:
    """Return the last part of a path."""
    return word.rpartition("/")[2]


# --- parsing --------------------------------------------------------------------------------------------------------


def parse_script(text: str) -> Node:
    """Parse a script; raises UnreadableScriptError unless the grammar reads all of it."""
    import tree_sitter
    import tree_sitter_bash

    # The grammar reads a newline before a backslash as a part of the next word, so `\cp` would be an argument.
    content = re.sub(r"^([ \t]*)\\(?=[A-Za-z])", r"\1", text, flags=re.MULTILINE).encode(errors="replace")
    if len(content) > MAX_BYTES:
        raise UnreadableScriptError(f"it is longer than {MAX_BYTES:,} bytes")
    if b"\0" in content:
        raise UnreadableScriptError("it contains a NUL byte")
    root = tree_sitter.Parser(tree_sitter.Language(tree_sitter_bash.language())).parse(content).root_node
    for node in _descendants(root):
        if node.is_error or node.is_missing or _is_misread(node, content):
            raise UnreadableScriptError(f"line {node.start_point.row + 1} cannot be parsed")
    return root


def _is_misread(node: Node, content: bytes) -> bool:
    """Tell whether bash reads a node in another way than the grammar, which reports no error."""
    if node.type == "command_name":
        return _source(node) in _RESERVED_WORDS
    if node.type == "heredoc_redirect":  # without quotes, bash runs `...` in a here-document
        start, body = (_source_of(node, kind) for kind in ("heredoc_start", "heredoc_body"))
        return not re.search(r"[\\'\"]", start) and bool(re.search(r"(?<!\\)`", body))
    if node.type in ("command", "concatenation") and not (node.parent and node.parent.type == "expansion"):
        words = [_source(child) for child in node.children if child.type == "word"]
        return any(re.search(r"(?<!\\)\s", word) for word in words) or _has_split_word(node, content)
    return False


def _has_split_word(node: Node, content: bytes) -> bool:
    """Tell whether a line continuation inside a word separates two nodes."""
    for left, right in itertools.pairwise(node.children):
        gap = content[left.end_byte : right.start_byte]
        around = content[left.end_byte - 1 : left.end_byte] + content[right.start_byte : right.start_byte + 1]
        if re.fullmatch(rb"(\\\n)+", gap) and not re.search(rb"[\s;&|()<>]", around):
            return True
    return False


def _descendants(root: Node) -> Iterator[Node]:
    """Yield a node and all nodes below it, in the order of the text."""
    stack = [root]
    while stack:
        node = stack.pop()
        yield node
        stack.extend(reversed(node.children))


def _source(node: Node) -> str:
    return (node.text or b"").decode(errors="replace")


def _source_of(node: Node, kind: str) -> str:
    return "".join(_source(child) for child in node.children if child.type == kind)


def _unquote(node: Node) -> str:
    """Remove the quotes from a word; what the shell expands in it remains as it is written."""
    text = _source(node).strip()
    if node.type in ("command_name", "concatenation", "translated_string"):
        return "".join(_unquote(child) for child in node.children if child.type != "$")
    if node.type == "raw_string":
        return text[1:-1]
    if node.type == "ansi_c_string":
        return text[2:-1].replace("\\n", "\n")
    if node.type == "string":
        return re.sub(r'\\(["\\$`]|\n)', lambda match: match[1].strip("\n"), text[1:-1])
    if node.type == "word":
        return re.sub(r"\\(.)", lambda match: match[1].strip("\n"), text, flags=re.DOTALL)
    return text


# --- commands -------------------------------------------------------------------------------------------------------


def find_commands(root: Node) -> Iterator[Command]:
    """Yield all commands of a script; for `sudo nice cp a b` also `nice cp a b` and `cp a b`."""
    variables = find_constants(root)
    functions = _find_forwarding_functions(root)
    for node in _descendants(root):
        if node.type == "command":
            for words in _unwrap(_words(node, variables), functions):
                yield Command(words, node)


def _unwrap(words: list[str], functions: Collection[str]) -> Iterator[list[str]]:
    pending = [words]
    while pending:
        words = pending.pop()
        if not words:
            continue
        yield words
        program = program_name(words[0])
        if program == "find":
            starts = (number for number, word in enumerate(words) if re.fullmatch("-(exec|ok)(dir)?", word))
            pending.extend(words[start + 1 :] for start in starts)
        elif program in WRAPPERS or program in functions:
            pending.append(_drop_wrapper(words, *WRAPPERS.get(program, ("", 0))))


def _drop_wrapper(words: list[str], options_with_value: str, operands: int) -> list[str]:
    """Drop a wrapper, its options, assignments, and the operands before the command that it runs."""
    program, *rest = words
    while rest:
        word, *rest = rest
        if program == "command" and re.match("-p?[vV]", word):
            return []  # it prints the path of the command
        if word.startswith("-"):
            short = f"-[^-{options_with_value}]*[{options_with_value}]"
            if (options_with_value and re.fullmatch(short, word)) or _LONG_OPTION_WITH_VALUE.fullmatch(word):
                rest = rest[1:]
        elif operands:
            operands -= 1
        elif not (word.isdigit() or re.match(r"\w+=", word)):
            return [word, *rest]
    return []


def _words(command: Node, variables: Mapping[str, list[str]]) -> list[str]:
    nodes = [
        node for node in command.children if node.type != "variable_assignment" and not node.type.endswith("_redirect")
    ]
    return [word for node in nodes for word in _resolve(node, variables)]


def _resolve(node: Node, variables: Mapping[str, list[str]]) -> list[str]:
    """Return the words of a node; a variable is replaced by its value or default, if that is known."""
    source = _source(node).strip()
    match = _VARIABLE.fullmatch(source)
    if not match:
        return [_unquote(node)]
    values = variables.get(match["plain"] or match["name"])
    if values is None:
        values = [match["default"]] if match["default"] else [source.strip('"')]
    return values if source.startswith('"') else " ".join(values).split()


def find_constants(root: Node) -> dict[str, list[str]]:
    """Find the variables that are only ever set to one value; an array has a value for each element."""
    found: dict[str, list[list[str]]] = {}
    for node in _descendants(root):
        name, value = node.child_by_field_name("name"), node.child_by_field_name("value")
        if node.type == "variable_assignment" and name and value:
            elements = value.named_children if value.type == "array" else [value]
            words = [word for element in elements for word in _resolve(element, {})]
            found.setdefault(_source(name), []).append(words)
    return {name: values[0] for name, values in found.items() if all(value == values[0] for value in values)}


def _find_forwarding_functions(root: Node) -> frozenset[str]:
    """Find the functions that run their arguments as a command."""
    names = set()
    for node in _descendants(root):
        name = node.child_by_field_name("name")
        if node.type == "function_definition" and name:
            commands = (_source(child).strip() for child in _descendants(node) if child.type == "command_name")
            if any(re.fullmatch(r'"?\$\{?[@*1]\}?"?', command) for command in commands):
                names.add(_source(name))
    return frozenset(names)


def _inputs(command: Node) -> Iterator[Node]:
    yield from (node for node in command.children if node.type == "herestring_redirect")
    node, parent = command, command.parent
    while parent and parent.type in _PARENTS_PASSING_INPUT:
        for sibling in parent.children:
            if sibling.type == "heredoc_redirect":
                yield from (child for child in sibling.children if child.type == "heredoc_body")
                continue
            is_piped = parent.type == "pipeline" and sibling.end_byte <= node.start_byte
            if is_piped or sibling.type in ("heredoc_body", "herestring_redirect", "file_redirect"):
                yield sibling
        node, parent = parent, parent.parent


# --- quoting --------------------------------------------------------------------------------------------------------


def find_unquoted(root: Node) -> Iterator[str]:
    """Yield the expansions whose values the shell splits into words; those that are always numbers do not count."""
    stack = [(root, True)]
    while stack:
        node, is_split = stack.pop()
        if is_split and node.type in ("simple_expansion", "expansion"):
            source = _source(node).strip()
            if not re.fullmatch(r"\$[?#$!-]|\$\{(#.*|[?$!-])\}", source):
                yield source
        stack.extend(reversed([(child, _is_split(node, child, is_split)) for child in node.children]))


def _is_split(parent: Node, child: Node, inherited: bool) -> bool:
    """Tell whether the shell splits the value of an expansion in this place (bash(1), Word Splitting)."""
    if parent.type in _SPLITTING:
        return True
    if parent.type in _NOT_SPLITTING or parent.children[0].type in ("[[", "(("):
        return False
    if parent.type == "c_style_for_statement":
        return child.type in ("do_group", "compound_statement")
    if parent.type == "case_statement":
        return child.type == "case_item"
    if parent.type == "case_item":
        return child not in parent.children_by_field_name("value")
    return inherited
