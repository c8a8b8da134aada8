"""Look up host keys in known_hosts files and in lists of revoked keys, with `ssh-keygen` (sshd(8), ssh-keygen(1)).

Names are matched and keys are parsed by OpenSSH itself: wildcards, negation, hashed names, ports, case, markers, and
malformed lines, which it skips.
"""

from __future__ import annotations

import base64
import hashlib
import itertools
import re
import stat
import tempfile
from collections.abc import Iterable
from dataclasses import dataclass
from enum import Enum
from pathlib import Path

from ..errors import CouldNotLookError
from .openssh import OUTPUT_LIMIT, run_openssh


class Marker(Enum):
    """The marker of a line in known_hosts, as `ssh-keygen -F` prints it."""

    NONE = ""
    AUTHORITY = "CA"
    REVOKED = "REVOKED"


class KeyStatus(Enum):
    """What known_hosts says about the key that a host offers."""

    KNOWN = "known"
    CHANGED = "changed"  # other keys are known for the host
    UNKNOWN = "unknown"
    REVOKED = "revoked"


@dataclass(frozen=True)
class KnownKey:
    """A key in a known_hosts file.

    `kind` is OpenSSH's short name of its type (ED25519, RSA, ECDSA; with -CERT, a certificate), `curve` that of an
    ECDSA key (nistp256, nistp384, nistp521).
    """

    marker: Marker
    kind: str
    fingerprint: str
    file: Path
    line: int
    curve: str = ""

    def __str__(self) -> str:
        return f"{self.kind} {self.fingerprint}, {self.file}:{self.line}"


def fingerprint(blob: bytes) -> str:
    """Return the fingerprint of a public key in SSH's wire format as `ssh-keygen -l` prints it."""
    return "SHA256:" + base64.b64encode(hashlib.sha256(blob).digest()).decode().rstrip("=")


def evaluate(keys: Iterable[KnownKey], offered: str) -> KeyStatus:
    """Decide on the fingerprint of an offered key by the keys that are known for its host.

    As in OpenSSH's hostfile.c, a revoked key is never known, and a key of another type counts as a change.
    """
    keys = list(keys)
    if any(key.marker is Marker.REVOKED and key.fingerprint == offered for key in keys):
        return KeyStatus.REVOKED
    plain = [key for key in keys if key.marker is Marker.NONE]
    if any(key.fingerprint == offered and not key.kind.endswith("-CERT") for key in plain):
        return KeyStatus.KNOWN
    return KeyStatus.CHANGED if plain else KeyStatus.UNKNOWN


def read_error(file: Path) -> str | None:
    """Return why a file cannot be read, None if it can; only regular files and /dev/null are read."""
    try:
        mode = file.stat().st_mode
        if not stat.S_ISREG(mode) and file != Path("/dev/null"):
            return f"{file} is not a regular file"
        file.open("rb").close()
    except OSError as error:
        return str(error)
    return None


def find_keys(name: str, file: Path, host: str) -> list[KnownKey]:
    """Find the keys of a name in a known_hosts file, as OpenSSH reads it.

    Raises CouldNotLookError if `ssh-keygen` fails or prints anything else than such keys.
    """
    output = _find(name, file, host, "-l", "-E", "sha256")
    keys = parse_keys(output, file, host)
    if not any(key.kind.startswith("ECDSA") for key in keys):
        return keys
    # With -l, ssh-keygen does not print the curve; without, it prints the lines of the file.
    curves = parse_curves(_find(name, file, host))
    return [KnownKey(**{**vars(key), "curve": curves.get(key.line, "")}) for key in keys]


def _find(name: str, file: Path, host: str, *options: str) -> str:
    result = run_openssh("ssh-keygen", *options, "-F", name, "-f", str(file), host=host)
    if result.returncode not in (0, 1) or (result.returncode and result.stderr):
        raise CouldNotLookError(
            f"ssh-keygen -F {name} -f {file} failed (exit status {result.returncode})", host=host, output=result.stderr
        )
    return result.stdout


_HEADER = re.compile(r"# Host .* found: line (?P<line>\d+) (?P<marker>CA|REVOKED|)")
_KEY = re.compile(r".*? (?P<kind>[A-Z0-9-]+) (?P<fingerprint>SHA256:[A-Za-z0-9+/]{43})(?: .*)?")


def parse_keys(output: str, file: Path, host: str) -> list[KnownKey]:
    """Parse the output of `ssh-keygen -l -F`: lines with headers and keys alternate. Raises CouldNotLookError."""
    keys = []
    lines = output.removesuffix("\n").split("\n") if output else []
    for header, key in zip(lines[::2], [*lines[1::2], ""], strict=False):
        found, described = _HEADER.fullmatch(header), _KEY.fullmatch(key)
        if not found or not described:
            raise CouldNotLookError(
                f"ssh-keygen printed an unexpected line for {file}", host=host, output=f"{header}\n{key}"[:500]
            )
        marker = Marker(found["marker"])
        keys.append(KnownKey(marker, described["kind"], described["fingerprint"], file, int(found["line"])))
    return keys


def parse_curves(output: str) -> dict[int, str]:
    """Parse the output of `ssh-keygen -F`: the curves of ECDSA keys, by line number."""
    curves = {}
    for header, line in itertools.pairwise(output.split("\n")):
        found, curve = _HEADER.fullmatch(header), re.search(r"\secdsa-sha2-(nistp\d+)\S*\s", line)
        if found and curve:
            curves[int(found["line"])] = curve[1]
    return curves


def is_revoked(file: Path, public_key: str, offered: str, host: str) -> bool:
    """Look a key up in a file of RevokedHostKeys: a list of public keys, or a KRL of ssh-keygen(1).

    `public_key` is its line of text, `offered` its fingerprint. Raises CouldNotLookError for a file that cannot be read
    or has a malformed line: OpenSSH refuses every key then.
    """
    if error := read_error(file):
        raise _not_checked(file, error, host)
    with tempfile.TemporaryDirectory(prefix="demo-backups-") as folder:
        path = Path(folder, "keys")
        if is_krl(file):
            path.write_text(f"{public_key}\n")
            return _is_in_krl(file, path, host)
        lines = _read_key_lines(file, host)
        # As lines of a known_hosts file, they are parsed by OpenSSH too.
        path.write_bytes(b"".join(b"@revoked * %b\n" % line for line in lines))
        keys = find_keys("host", path, host)
    if len(keys) != len(lines):
        raise _not_checked(file, "a line is not a public key", host)
    return evaluate(keys, offered) is KeyStatus.REVOKED


def is_krl(file: Path) -> bool:
    """Return whether a file is a key revocation list in OpenSSH's binary format."""
    with file.open("rb") as stream:
        return stream.read(8) == b"SSHKRL\n\0"


def _read_key_lines(file: Path, host: str) -> list[bytes]:
    """Read the lines of a file without blank lines and comments."""
    with file.open("rb") as stream:
        content = stream.read(OUTPUT_LIMIT)
    if len(content) == OUTPUT_LIMIT:
        raise _not_checked(file, f"it has {OUTPUT_LIMIT} bytes or more", host)
    lines = [line.lstrip(b" \t") for line in content.split(b"\n")]
    return [line for line in lines if line and not line.startswith(b"#")]


def _is_in_krl(krl: Path, key: Path, host: str) -> bool:
    result = run_openssh("ssh-keygen", "-Q", "-f", str(krl), str(key), host=host)
    if result.returncode == 0 and result.stdout.endswith(": ok\n"):
        return False
    if result.returncode == 1 and result.stdout.endswith(": REVOKED\n"):
        return True
    raise _not_checked(krl, result.stderr or result.stdout, host)


def _not_checked(file: Path, reason: str, host: str) -> CouldNotLookError:
    return CouldNotLookError(
        f"the host key cannot be checked against RevokedHostKeys {file}: refused",
        host=host,
        output=reason,
        advice="correct that file; it is a list of public keys, one a line, or a KRL of ssh-keygen(1)",
    )
