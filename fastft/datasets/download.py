"""One file by HTTP, resumed where it stopped.

Knows addresses, requests and what answers mean; the unfinished file is `part`'s, what its
hash should be and what becomes of it `fetch`'s.

Source: RFC 9110, 13.1.5 (If-Range), 14 (Range, 206, 416).
"""

from __future__ import annotations

import hashlib
import re
import time
from http.client import HTTPException, HTTPResponse
from typing import cast
from urllib import request
from urllib.error import HTTPError, URLError
from urllib.parse import quote, unquote, urlsplit, urlunsplit

from fastft import __version__
from fastft.datasets.part import CHUNK, Part, Report, require_space
from pipelines.errors import DataError, UsageError

#: Bytes of a file's name; file systems take 255, and `.part.json` is still to come.
_NAME_BYTES = 180
_EXPECTED = "an address such as http://host/photos.zip"


class _Lost(Exception):
    """The connection or the server failed in a way that another attempt may mend."""

    def __init__(self, reason: str, *, reached: bool) -> None:
        super().__init__(reason)
        self.reached = reached


# --- addresses ---------------------------------------------------------------------------------


def check_url(text: str) -> str:
    """The address to ask for: without fragment, and with what it may not contain quoted.

    Raises:
        UsageError: it is no http or https address of a file.
    """
    try:
        parts = urlsplit(text.strip())
        host = parts.hostname or ""
        parts.port, host.encode("idna")  # both raise on nonsense
    except ValueError as error:
        raise UsageError(text, f"not an address ({error})", _EXPECTED) from None
    if parts.scheme not in ("http", "https"):
        raise UsageError(text, f"begins with {parts.scheme or 'no scheme'}", "http:// or https://")
    if not host or any(c.isspace() or not c.isprintable() for c in parts.netloc):
        raise UsageError(text, "no name of a server", _EXPECTED)
    if "@" in parts.netloc:
        raise UsageError(show_url(text), "an address with a login", _EXPECTED)
    path = quote(parts.path, safe="/%:@!$&'()*+,;=~") or "/"
    query = quote(parts.query, safe="/%:@!$&'()*+,;=~?")
    url = urlunsplit((parts.scheme, parts.netloc, path, query, ""))
    if not file_name(url):
        raise UsageError(text, "an address that ends without a file's name", _EXPECTED)
    return url


def show_url(url: str) -> str:
    """The address without its query and login, either of which may be a password."""
    parts = urlsplit(url)
    return urlunsplit((parts.scheme, parts.netloc.rpartition("@")[2], parts.path, "", ""))


def origin(url: str) -> str:
    """A name for this address in files, without its password."""
    return hashlib.sha256(url.encode()).hexdigest()


def file_name(url: str) -> str:
    """A name for the file that is safe in any folder; empty if the address gives none."""
    name = unquote(urlsplit(url).path.rpartition("/")[2], errors="replace")
    name = "".join(c if c.isalnum() or c in "._+-" else "_" for c in name)
    name = name.encode()[-_NAME_BYTES:].decode(errors="ignore")
    # Neither `..`, a hidden file, nor anything that a command takes for an option.
    return name.lstrip("._-").rstrip(".")


# --- requests ----------------------------------------------------------------------------------


def download(
    url: str, part: Part, *, timeout_s: float, retries: int, backoff_s: float, report: Report
) -> None:
    """Ask until `part` is whole.

    Args:
        url: from `check_url`.
        part: what is there already; it keeps what comes, whatever happens.
        timeout_s: longest silence of the server.
        retries: attempts after the first, for connections lost and servers out of order.
        backoff_s: pause before the first of them; each next is twice as long.
        report: called after every block.

    Raises:
        DataError: the server cannot be reached, does not have the file, or does not finish it.
        OSError: the part cannot be written.
    """
    lost = 0
    while True:
        try:
            if _attempt(url, part, timeout_s, report):
                return
        except _Lost as loss:
            # A server that was never reached is rather misspelt than having a bad moment.
            if lost == retries or not (loss.reached or part.size):
                raise _give_up(url, part, str(loss)) from loss
            time.sleep(backoff_s * 2**lost)
            lost += 1


def _attempt(url: str, part: Part, timeout_s: float, report: Report) -> bool:
    """Ask once, for what is missing; False if the part was dropped and is to be asked for anew."""
    wanted = {}
    resumes = bool(part.size and part.validator)
    if resumes:
        wanted = {"Range": f"bytes={part.size}-", "If-Range": part.validator}
    try:
        answer = _ask(url, wanted, timeout_s)
    except HTTPError as error:
        with error:
            if error.code == 416 and resumes:
                whole = re.fullmatch(r"bytes \*/(\d{1,18})", error.headers.get("Content-Range", ""))
                if whole and int(whole[1]) == part.size and part.agrees(error.headers, whole[1]):
                    return True
                part.forget()
                return False
        text = f"HTTP status {error.code} {error.reason}".splitlines()[0].strip()
        if error.code == 429 or error.code >= 500:
            raise _Lost(text, reached=True) from error
        raise DataError(show_url(url), text, "a file", "check the address") from error
    except (OSError, HTTPException, ValueError) as error:  # ValueError: sent to a broken address
        raise _Lost(_reason(error), reached=not isinstance(error, URLError)) from error
    with answer:
        if answer.status == 206 and resumes:
            found = re.fullmatch(
                r"bytes (\d{1,18})-\d+/(\d{1,18}|\*)", answer.headers.get("Content-Range", "")
            )
            if not (found and int(found[1]) == part.size and part.agrees(answer.headers, found[2])):
                part.forget()
                return False
        elif answer.status == 200:
            part.begin(answer.headers, answer.length)
        else:
            raise DataError(show_url(url), f"HTTP status {answer.status}", "200 OK")
        _receive(answer, part, report)
    return True


def _receive(answer: HTTPResponse, part: Part, report: Report) -> None:
    """Append the answer's body; `_Lost` if it ends before the file does."""
    end = part.total if answer.length is None else part.size + answer.length
    if end is not None:
        require_space(part.path.parent, end - part.size)
    while end is None or part.size < end:
        try:
            block = answer.read1(CHUNK if end is None else min(CHUNK, end - part.size))
        except (OSError, HTTPException, ValueError) as error:
            raise _Lost(f"connection lost ({_reason(error)})", reached=True) from error
        if not block:
            break
        part.write(block)
        report("downloading", part.size, part.total)
    if part.total is not None and part.size < part.total:
        raise _Lost("connection lost", reached=True)


def _ask(url: str, headers: dict[str, str], timeout_s: float) -> HTTPResponse:
    # Not urlopen: it would follow a redirection to ftp, and open files if ever handed one.
    opener = request.OpenerDirector()
    for handler in (
        request.ProxyHandler,
        request.UnknownHandler,
        request.HTTPHandler,
        request.HTTPSHandler,
        request.HTTPDefaultErrorHandler,
        request.HTTPRedirectHandler,
        request.HTTPErrorProcessor,
    ):
        opener.add_handler(handler())
    asked = request.Request(url, headers={"User-Agent": f"fastft/{__version__}", **headers})
    return cast(HTTPResponse, opener.open(asked, timeout=timeout_s))


def _give_up(url: str, part: Part, reason: str) -> DataError:
    if not part.size:
        remedy = "check the address and the connection, then run it again"
        return DataError(show_url(url), reason, "", remedy)
    of_all = "" if part.total is None else f" of {part.total:,}"
    remedy = "run it again to continue there"
    if not part.validator:
        remedy = "run it again; this server can only begin anew"
    return DataError(show_url(url), f"{reason} after {part.size:,}{of_all} bytes", "", remedy)


def _reason(error: Exception) -> str:
    cause = error.reason if isinstance(error, URLError) else error
    return getattr(cause, "strerror", None) or str(cause) or type(cause).__name__
