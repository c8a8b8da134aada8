"""An empty repository of restic, whose password is cheap to check: restic itself makes keys that take a second of CPU.

The format is that of restic's design document: files are encrypted with AES-256 in counter mode and signed with
Poly1305-AES; a key file has the parameters of scrypt.
"""

from __future__ import annotations

import base64
import hashlib
import json
import os
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from cryptography.hazmat.primitives.ciphers import Cipher, algorithms, modes
from cryptography.hazmat.primitives.poly1305 import Poly1305

POLYNOMIAL = "376238e296e0b9"  # by which files are divided; it must be irreducible
COST = {"N": 2, "r": 8, "p": 1}  # of scrypt


@dataclass(frozen=True)
class Key:
    """A key that encrypts and signs."""

    encrypt: bytes
    mac_k: bytes
    mac_r: bytes

    @classmethod
    def of(cls, material: bytes) -> Key:
        mask = {**dict.fromkeys((3, 7, 11, 15), 15), **dict.fromkeys((4, 8, 12), 252)}  # as Poly1305 demands
        mac_r = bytes(byte & mask.get(index, 255) for index, byte in enumerate(material[48:64]))
        return cls(material[:32], material[32:48], mac_r)

    def seal(self, content: dict[str, Any]) -> bytes:
        nonce = os.urandom(16)
        sealed = _aes(self.encrypt, modes.CTR(nonce), json.dumps(content).encode())
        return nonce + sealed + Poly1305.generate_tag(self.mac_r + _aes(self.mac_k, modes.ECB(), nonce), sealed)

    def as_json(self) -> dict[str, Any]:
        return {"mac": {"k": _text(self.mac_k), "r": _text(self.mac_r)}, "encrypt": _text(self.encrypt)}


def _aes(key: bytes, mode: Any, data: bytes) -> bytes:
    encryptor = Cipher(algorithms.AES(key), mode).encryptor()
    return encryptor.update(data) + encryptor.finalize()


def _text(data: bytes) -> str:
    return base64.b64encode(data).decode()


def make_repository(folder: Path, password: str) -> Path:
    """Make an empty repository in a directory that does not exist; return the directory."""
    for name in ("index", "keys", "locks", "snapshots", *(f"data/{byte:02x}" for byte in range(256))):
        (folder / name).mkdir(parents=True, mode=0o700)
    master, salt = Key.of(os.urandom(64)), os.urandom(64)
    config = {"version": 2, "id": os.urandom(32).hex(), "chunker_polynomial": POLYNOMIAL}
    (folder / "config").write_bytes(master.seal(config))
    derived = hashlib.scrypt(password.encode(), salt=salt, n=COST["N"], r=COST["r"], p=COST["p"], dklen=64)
    origin = {"created": "2026-01-01T00:00:00Z", "username": "test", "hostname": "test"}
    sealed = _text(Key.of(derived).seal(master.as_json()))
    key = json.dumps(origin | {"kdf": "scrypt", **COST, "salt": _text(salt), "data": sealed}).encode()
    (folder / "keys" / hashlib.sha256(key).hexdigest()).write_bytes(key)
    return folder
