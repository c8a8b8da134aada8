"""What is known about the merge of a release."""

from __future__ import annotations

import enum
import hashlib
from collections.abc import Mapping
from dataclasses import dataclass, field


class MergeState(enum.Enum):
    """Whether the base branch has the contents of the release."""

    MERGED = "merged"
    NOT_MERGED = "not merged"
    UNKNOWN = "unknown"


@dataclass(frozen=True)
class Merge:
    """Whether the release is merged; `reason` says why it is unknown.

    `edited_files` have contents in the work tree that neither the base branch nor the branch of the release ever had.
    `outdated_files` are unchanged in the work tree, but older than in the base branch. `released` has, for each file of
    a merged release, what git calls its contents in the release and in the base branch since.
    """

    state: MergeState
    reason: str = ""
    edited_files: frozenset[str] = frozenset()
    outdated_files: frozenset[str] = frozenset()
    released: Mapping[str, frozenset[str]] = field(default_factory=dict)


def is_object(content: bytes, name: str) -> bool:
    """Tell whether git calls a content by this name (git-hash-object(1)), in a SHA-1 or SHA-256 repository."""
    algorithm = "sha1" if len(name) == 40 else "sha256"
    return hashlib.new(algorithm, b"blob %d\0" % len(content) + content, usedforsecurity=False).hexdigest() == name
