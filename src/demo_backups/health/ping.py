"""The ping at the end of a check: one request of a URL, by which a service elsewhere notices that checks stop.

Anyone who knows the URL can report success, so it is a secret: no error contains it, nor what was printed or answered
on the way.
"""

from __future__ import annotations

import contextlib
import os
import signal
import ssl
import subprocess
import threading
import time
import urllib.error
import urllib.request
from http.client import HTTPException
from pathlib import Path
from typing import Any
from urllib.parse import SplitResult, urlsplit, urlunsplit

from ..errors import PingError, SettingsError
from ..project import ROOT
from ..settings.model import CheckSettings

TIMEOUT = 10.0  # seconds for everything: the command, the name of the host, the connection, the answer
LONGEST_URL = 2000
SCHEMES = ("http", "https")


def require_ping_settings(settings: CheckSettings) -> None:
    """Raise SettingsError unless the settings say where the URL comes from."""
    if settings.ping_file is None and settings.ping_command is None:
        raise SettingsError("--ping needs check.ping_file or check.ping_command", advice="set one of them")


def ping(settings: CheckSettings, success: bool, timeout: float = TIMEOUT) -> None:
    """Request the URL of the settings, with /fail at the end of its path unless it was a `success`.

    Raises PingError, after `timeout` seconds at the latest: a thread makes the request, because the timeout of a socket
    begins again with each byte, and the lookup of a name has none.
    """
    deadline = time.monotonic() + timeout
    url = validate_url(_read_url(settings, timeout))
    errors: list[PingError] = []
    thread = threading.Thread(
        target=_request, args=(url if success else add_fail(url), timeout, errors), name="ping", daemon=True
    )
    thread.start()
    thread.join(max(deadline - time.monotonic(), 0))
    if thread.is_alive():
        raise PingError(f"the ping failed: no answer within {timeout:g} s")
    if errors:
        raise errors[0]


def validate_url(text: str) -> str:
    """Return the URL that a file or command contains, alone; raises PingError."""
    url = text.strip()
    with contextlib.suppress(ValueError):
        parts = urlsplit(url)
        is_plain = url.isascii() and url.isprintable() and " " not in url and len(url) <= LONGEST_URL
        has_host = bool(parts.hostname) and parts.username is None and (parts.port is None or parts.port > 0)
        if is_plain and has_host and parts.scheme in SCHEMES:
            return url
    raise PingError(
        "the ping failed: its file or command does not contain an http or https URL, alone, without a user name"
    )


def add_fail(url: str) -> str:
    """Return the URL that reports a failure: /fail is appended to the path, before a query."""
    scheme, host, path, query, _ = urlsplit(url)
    return urlunsplit(SplitResult(scheme, host, f"{path.rstrip('/')}/fail", query, ""))


def _read_url(settings: CheckSettings, timeout: float) -> str:
    if settings.ping_command is not None:
        return _run_command(settings.ping_command, timeout)
    path = ROOT / Path(settings.ping_file or "").expanduser()
    try:
        if path.exists() and not path.is_file():
            raise PingError("the ping failed: check.ping_file is not a regular file")  # to open a pipe may never end
        with path.open(encoding="utf-8") as file:
            return file.read(LONGEST_URL + 100)
    except (OSError, ValueError) as error:
        reason = error.strerror if isinstance(error, OSError) else "it is not text"
        # Without the path: somebody may have set ping_file to the URL.
        raise PingError(f"the ping failed: check.ping_file cannot be read: {reason}") from None


def _run_command(command: str, timeout: float) -> str:
    """Run check.ping_command and return what it printed; raises PingError."""
    process = subprocess.Popen(
        ["/bin/sh", "-c", command],
        cwd=ROOT,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        start_new_session=True,
    )
    try:
        output, _ = process.communicate(timeout=timeout)
    except subprocess.TimeoutExpired:
        raise PingError(f"the ping failed: check.ping_command did not end within {timeout:g} s") from None
    finally:
        with contextlib.suppress(ProcessLookupError):  # what it left in the background too
            os.killpg(process.pid, signal.SIGKILL)
        process.wait()
    if process.returncode:
        raise PingError(f"the ping failed: exit status {process.returncode} of check.ping_command")
    return output.decode(errors="replace")


# --- the request ----------------------------------------------------------------------------------------------------


class _RedirectHandler(urllib.request.HTTPRedirectHandler):
    """Follow a redirect to http or https only, and none from https to http."""

    def redirect_request(
        self, req: urllib.request.Request, fp: Any, code: int, msg: str, headers: Any, newurl: str
    ) -> urllib.request.Request | None:
        """Return the request that follows; raises PingError."""
        scheme = urlsplit(newurl).scheme
        if scheme not in SCHEMES or (req.type == "https" and scheme != "https"):
            raise PingError("the ping failed: it is redirected to a URL that is not followed")
        return super().redirect_request(req, fp, code, msg, headers, newurl)


def _request(url: str, timeout: float, errors: list[PingError]) -> None:
    """Make the request; an error, of whatever kind, is added to `errors` without its text, which contains the URL."""
    opener = urllib.request.OpenerDirector()  # not build_opener, which adds handlers for file:, ftp: and data:
    for handler in (
        urllib.request.ProxyHandler(),
        urllib.request.HTTPHandler(),
        urllib.request.HTTPSHandler(),
        urllib.request.HTTPDefaultErrorHandler(),
        urllib.request.HTTPErrorProcessor(),
        _RedirectHandler(),
    ):
        opener.add_handler(handler)
    opener.addheaders = [("User-Agent", "demo-backups")]
    try:
        with opener.open(url, timeout=timeout):
            return
    except PingError as error:
        errors.append(error)
    except Exception as error:
        errors.append(PingError(f"the ping failed: {describe_failure(error)}"))


def describe_failure(error: BaseException) -> str:
    """Describe why a request failed, by nothing that can contain a part of the URL."""
    if isinstance(error, urllib.error.URLError) and isinstance(error.reason, BaseException):
        error = error.reason
    match error:
        case urllib.error.HTTPError():
            text = f"HTTP status {error.code}"
        case ssl.SSLCertVerificationError():
            text = f"the certificate is not accepted (code {error.verify_code})"
        case ssl.SSLError():
            text = "no TLS connection"
        case OSError() if error.errno is not None and error.strerror:
            text = error.strerror
        case HTTPException():
            text = "the answer is not HTTP"
        case _:
            text = type(error).__name__
    return text
