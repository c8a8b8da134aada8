"""Host keys, lines of known_hosts, and an SSH server that has these keys and lets everybody in."""

from __future__ import annotations

import asyncio
import base64
import contextlib
import hashlib
import hmac
import re
import threading
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import asyncssh

KINDS = {
    "GOOD": "ssh-ed25519",
    "OTHER": "ssh-ed25519",
    "THIRD": "ssh-ed25519",
    "RSA": "ssh-rsa",
    "ECDSA": "ecdsa-sha2-nistp256",
    "ECDSA_384": "ecdsa-sha2-nistp384",
}
KEYS = {name: asyncssh.generate_private_key(kind) for name, kind in KINDS.items()}
CERTIFICATE = KEYS["THIRD"].generate_host_certificate(KEYS["GOOD"], "id", principals=["demo.example"])


def public(key: asyncssh.SSHKey) -> str:
    """Return the public half of a key as a line of text."""
    return key.export_public_key().decode().strip()


def offer(name: str) -> Any:
    """Return a key in the form in which Paramiko hands a host's key to its policy."""
    return SimpleNamespace(asbytes=lambda: KEYS[name].public_data)


def with_keys(text: str) -> str:
    """Replace the names of keys by the keys: they differ in every process, and tests are named by their parameters."""
    lines = {name: public(key) for name, key in KEYS.items()}
    lines["CERTIFICATE"] = CERTIFICATE.export_certificate().decode().strip()
    return re.sub(rf"\b({'|'.join(lines)})\b", lambda match: lines[match[1]], text)


def hashed(name: str) -> str:
    """Hash a host name as `ssh-keygen -H` does."""
    salt = b"01234567890123456789"
    parts = (salt, hmac.new(salt, name.encode(), hashlib.sha1).digest())
    return "|1|" + "|".join(base64.b64encode(part).decode() for part in parts)


def write(path: Path, text: str) -> Path:
    """Write a text file and return its path."""
    path.write_text(text)
    return path


def program(folder: Path, script: str) -> str:
    """Write a program for /bin/sh and return its path."""
    path = write(folder / "program", f"#!/bin/sh\n{script}\n")
    path.chmod(0o755)
    return str(path)


class OpenServer(asyncssh.SSHServer):
    """Let everybody in."""

    def begin_auth(self, username: str) -> bool:
        """Ask for no authentication."""
        return False


@contextlib.contextmanager
def open_server(*keys: str) -> Iterator[int]:
    """Run a server on 127.0.0.1 that has the named host keys and runs no command; yields its port."""
    loop = asyncio.new_event_loop()
    thread = threading.Thread(target=loop.run_forever, daemon=True)
    thread.start()

    async def listen() -> asyncssh.SSHAcceptor:
        host_keys = [KEYS[name] for name in keys]
        return await asyncssh.listen(
            "127.0.0.1",
            0,
            server_factory=OpenServer,
            server_host_keys=host_keys,
            process_factory=lambda process: process.exit(0),
        )

    async def close(acceptor: asyncssh.SSHAcceptor) -> None:
        acceptor.close()
        others = asyncio.all_tasks() - {asyncio.current_task()}
        for task in others:
            task.cancel()
        await asyncio.gather(*others, return_exceptions=True)

    acceptor = asyncio.run_coroutine_threadsafe(listen(), loop).result()
    try:
        yield acceptor.get_port()
    finally:
        asyncio.run_coroutine_threadsafe(close(acceptor), loop).result()
        loop.call_soon_threadsafe(loop.stop)
        thread.join()
        loop.close()
