"""The part of an upload on the host: what has arrived, in a hidden file in the directory of the target."""

from __future__ import annotations

import signal
from dataclasses import dataclass
from pathlib import PurePosixPath

from ..units import format_size
from .files import escape_pattern
from .shell import TRUSTED_OWNER, quote

PREFIX = ".upload."  # of the name of a part
STALE_DAYS = 7  # an older part, of another file, was given up
CHECK_SECONDS = 5  # between two looks at a part that is being written
IDLE_CHECKS = 12  # after so many without a new byte, the receiving command ends: its connection was lost
MISMATCH, MOVED, IDLE, BUSY, UNSAFE = 65, 69, 74, 75, 77  # exit statuses, after sysexits.h


@dataclass(frozen=True)
class Part:
    """The commands on the part of a target. They are scripts of bash: each needs pipefail or `-ef`."""

    target: PurePosixPath

    @property
    def path(self) -> PurePosixPath:
        """The path of the part."""
        return self.target.with_name(PREFIX + self.target.name)

    def locked_command(self) -> str:
        """Build the command that prints `yes` if another command has the part locked, else `no`."""
        return self._script(
            'if [ -e "$part" ] && ! flock --nonblock --shared -- "$part" true; then echo yes; else echo no; fi'
        )

    def hash_command(self, size: int) -> str:
        """Build the command that prints the SHA-256 of the first bytes of the part."""
        return self._script(f'head -c {size} -- "$part" | sha256sum')

    def receive_command(self, offset: int, compress: bool, floor: int) -> str:
        """Build the command that appends its standard input to the part, from an offset on.

        At offset 0 the part is created, or emptied. Exits BUSY if it is locked, and MOVED if it does not end at the
        offset. To the host, a lost connection may be one without data: the command exits IDLE after a while, so that
        the part can be locked again.
        """
        others = f"-name '{PREFIX}*' ! -name {quote(escape_pattern(self.path.name))} -type f -uid \"$EUID\""
        return self._script(
            *self._lock(),
            f"find . -maxdepth 1 {others} -mtime +{STALE_DAYS} -delete || true",
            'size() { stat -c %s -- "$part"; }',
            "free() { df -B1 --output=avail -- . | tail -n 1; }",
            ': > "$part"' if offset == 0 else f"[ $(size) = {offset} ] || exit {MOVED}",
            "exec 3<&0",
            f"{'zstd --decompress --quiet --no-sparse --stdout' if compress else 'cat'} <&3 >&9 & copy=$!",
            "{ old=0; idle=0",
            f"  while sleep {CHECK_SECONDS} 2>/dev/null && kill -0 $copy 2>/dev/null; do",
            '    new=$(size); if [ "$new" = "$old" ]; then idle=$((idle + 1)); else idle=0; fi; old=$new',
            f"    if ((idle >= {IDLE_CHECKS})); then kill -ALRM $copy; break; fi",
            f"    if (($(free) < {floor})); then",
            f"      echo 'less than {format_size(floor)} are free on the disk of the file' >&2; kill $copy; break",
            "    fi",
            "  done; } > /dev/null 3<&- 9>&- & watch=$!",
            "status=0; wait $copy || status=$?",
            "kill $watch 2>/dev/null || true",
            f"[ $status != {128 + signal.SIGALRM} ] || exit {IDLE}",
            "exit $status",
        )

    def publish_command(self, size: int, sha256: str, modified_ns: int) -> str:
        """Build the command that gives the part its final name.

        Exits BUSY if it is locked, MOVED if it has another size, and MISMATCH, after it has emptied the part, if it
        has another SHA-256.
        """
        seconds = f"{modified_ns // 10**9}.{modified_ns % 10**9:09}"
        return self._script(
            *self._lock(),
            f'[ "$(stat -c %s -- "$part")" = {size} ] || exit {MOVED}',
            f'[ "$(sha256sum < "$part")" = "{sha256}  -" ] || {{ : > "$part"; exit {MISMATCH}; }}',
            f'chmod 600 -- "$part"; touch --date=@{seconds} -- "$part"; sync -- "$part"',
            'ln --no-target-directory -- "$part" "$target"; sync -- .; rm -f -- "$part"',
        )

    def remove_command(self) -> str:
        """Build the command that removes the part, unless it is locked."""
        return self._script('if [ -e "$part" ]; then flock --nonblock -- "$part" rm -f -- "$part" || true; fi')

    def free_command(self) -> str:
        """Build the command that prints the free bytes on the disk of the target."""
        return self._script("df -B1 --output=avail -- . | tail -n 1 | tr -d ' '")

    def _script(self, *lines: str) -> str:
        """Build a script that exits UNSAFE where another user can write to the directory, or could write the part."""
        own = '-n "$(find "$part" -maxdepth 0 -type f -links 1 -uid "$EUID")"'
        script = [
            "set -euo pipefail; umask 077",
            f'unsafe() {{ echo "$*" >&2; exit {UNSAFE}; }}',
            f"cd -- {quote(self.target.parent)}",
            # Such a user could put a link in the place of any file in it.
            f'[ -n "$(find . -maxdepth 0 {TRUSTED_OWNER} ! -perm /022)" ] ||',
            '  unsafe "$PWD belongs to another user, or other users can write to it"',
            f"part=./{quote(self.path.name)}; target=./{quote(self.target.name)}",
            # They are the same file if a command was killed between its last two steps.
            f'[ ! -e "$part" ] && [ ! -L "$part" ] || [ "$part" -ef "$target" ] || [ {own} ] ||',
            '  unsafe "$PWD/${part#./} is not a regular file of this user"',
            *lines,
        ]
        return f"exec bash -c {quote(chr(10).join(script))}"

    def _lock(self) -> list[str]:
        """Build the lines that open the part for appending, as descriptor 9, and lock it."""
        return [
            f'[ ! "$part" -ef "$target" ] || exit {MOVED}',
            f'exec 9>> "$part"; flock --nonblock 9 || exit {BUSY}',
            f'[ "$part" -ef /dev/fd/9 ] || exit {MOVED}',  # it was published since it was opened
        ]
