"""The errors of stores in one line each, whichever library raises them; which of them may mend.

Libraries are not imported for it: errors are known by their names and by the status they bear.
"""

from __future__ import annotations

import re
import socket
import ssl
from collections.abc import Iterator
from http import HTTPStatus

from pipelines.errors import DataError
from pipelines.remote.address import SCHEMES, show

#: Names of errors that another attempt may mend, of the standard library, botocore, aiohttp, httpx.
_MENDS = frozenset(
    {
        "ClientConnectionError",
        "ClientPayloadError",
        "ConnectionError",
        "HTTPClientError",
        "IncompleteRead",
        "IncompleteReadError",
        "ProtocolError",
        "ResponseStreamingError",
        "TimeoutError",
        "TransportError",
    }
)
#: Names of errors for want of a login.
_NO_LOGIN = frozenset(
    {
        "CredentialRetrievalError",
        "DefaultCredentialsError",
        "NoCredentialsError",
        "PartialCredentialsError",
        "ProfileNotFound",
        "RefreshError",
        "TokenRetrievalError",
    }
)
#: Statuses below 500 that another attempt may mend, and codes of S3 that come with others.
_PASSING = (HTTPStatus.REQUEST_TIMEOUT, HTTPStatus.TOO_EARLY, HTTPStatus.TOO_MANY_REQUESTS)
_PASSING_CODES = ("RequestTimeout", "SlowDown", "Throttling", "ThrottlingException")
#: Statuses from 500 on that no other attempt mends.
_LASTING = (HTTPStatus.NOT_IMPLEMENTED, HTTPStatus.HTTP_VERSION_NOT_SUPPORTED)
_LOGINS = {
    "s3": "set AWS_PROFILE or AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY, or, where everybody may"
    " read, FSSPEC_S3_ANON=true",
    "gcs": "run gcloud auth application-default login",
    "hf": "run hf auth login",
}
_DENIED = "check the address and what your login may do"
_MOST_CHARACTERS = 300


class StoreError(DataError):
    """A store did not do what it was asked."""


class Missing(StoreError):
    """There is nothing at an address."""


class Denied(StoreError):
    """A store refuses, for want of a login or of a right."""


class ShortRead(ConnectionError):
    """Fewer or more bytes came than were asked for."""


def explain(address: str, error: Exception) -> tuple[StoreError, bool]:
    """An error of a store in one line, and whether another attempt may mend it."""
    where = show(address)
    protocol = SCHEMES[address.partition("://")[0]].protocol
    chain = list(_causes(error))
    names = {kind.__name__ for each in chain for kind in type(each).__mro__}
    status, code = next(filter(any, map(_status, chain)), (0, ""))
    if names & _NO_LOGIN:
        return Denied(where, "no login was found", "", _LOGINS.get(protocol, "")), False
    if status in (401, 403):
        found = f"access is denied{f' ({code})' if code and not code.isdigit() else ''}"
        return Denied(where, found, "", _DENIED), False
    if status in (404, 410):
        found = "no such bucket" if code == "NoSuchBucket" else "no such file or folder"
        return Missing(where, found, "", "check the address"), False
    if status:
        mends = status in _PASSING or code in _PASSING_CODES
        mends = mends or (status >= 500 and status not in _LASTING)
        found = f"HTTP status {status}{f' ({code})' if code and code != str(status) else ''}"
        remedy = "try it later" if mends else "check the address"
        return StoreError(where, found, "", remedy), mends
    if any(isinstance(each, ssl.SSLCertVerificationError) for each in chain):
        return StoreError(where, "its certificate cannot be verified", "", _said(error)), False
    if any(isinstance(each, socket.gaierror) for each in chain):
        return StoreError(where, "its server is not known", "", "check the address"), False
    if any(isinstance(each, ShortRead) for each in chain):
        return StoreError(where, _said(error), "", "try it again"), True
    if names & _MENDS:
        slow = "TimeoutError" in names and not isinstance(error, ConnectionError)
        found = "no answer in time" if slow else "the connection failed"
        remedy = "check the address and the connection, then try it again"
        return StoreError(where, f"{found} ({_said(error)})", "", remedy), True
    if isinstance(error, PermissionError):
        return Denied(where, "access is denied", "", _DENIED), False
    # Last: fsspec says so, too, where a web server did not answer at all.
    if isinstance(error, FileNotFoundError):
        return Missing(where, "no such file or folder", "", "check the address"), False
    return StoreError(where, _said(error), "", "check the address"), False


def _causes(error: BaseException) -> Iterator[BaseException]:
    """An error and what it came of in turn, each once."""
    seen: set[int] = set()
    each: BaseException | None = error
    while each is not None and id(each) not in seen:
        seen.add(id(each))
        yield each
        each = each.__cause__ or each.__context__


def _status(error: BaseException) -> tuple[int, str]:
    """The HTTP status and the store's own word for it that an error bears; 0 and '' if none."""
    response: object = getattr(error, "response", None)
    if isinstance(response, dict):  # botocore's
        told, about = response.get("ResponseMetadata"), response.get("Error")
        status = told.get("HTTPStatusCode") if isinstance(told, dict) else None
        code = about.get("Code") if isinstance(about, dict) else ""
        return _number(status), str(code or "")
    for holder, name in ((response, "status_code"), (error, "status"), (error, "code")):
        if status := _number(getattr(holder, name, None)):
            return status, ""
    return 0, ""


def _number(status: object) -> int:
    """A status of HTTP that tells of an error, from a number or digits; 0 if it is none."""
    if isinstance(status, str) and re.fullmatch("[1-5][0-9]{2}", status):
        status = int(status)
    is_error = isinstance(status, int) and not isinstance(status, bool) and 300 <= status <= 599
    return int(status) if is_error and isinstance(status, int) else 0


def _said(error: BaseException) -> str:
    """The first line of what an error says, without the queries of addresses, or its name."""
    lines = str(error).strip().splitlines()
    text = re.sub(r"\?[^\s'\")>]+", "", lines[0]) if lines else ""
    return text[:_MOST_CHARACTERS] or type(error).__name__
