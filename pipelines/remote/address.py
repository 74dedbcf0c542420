"""Addresses of data that lie elsewhere: which paths are meant as such, and how they are shown.

A command line's `Path` has lost a slash: `s3://bucket/key` arrives as `s3:/bucket/key`. That the
address can be reached, and what lies there, `store` knows.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import unquote, urlsplit, urlunsplit

from pipelines.errors import UsageError

_ADDRESS = re.compile(r"([A-Za-z][A-Za-z0-9+.-]+):(?:/(.*))?", re.DOTALL)
_EXAMPLE = "an address such as s3://bucket/photos"


@dataclass(frozen=True, slots=True)
class Scheme:
    """One kind of address.

    Attributes:
        protocol: fsspec's name of it.
        library: the package that speaks it; empty: fsspec alone.
        extra: the extra of fastft that installs that.
        holder: the first part of an address; empty where there is none.
    """

    protocol: str
    library: str = ""
    extra: str = ""
    holder: str = "bucket"

    @property
    def is_web(self) -> bool:
        """Whether addresses name a server, and may end in a query."""
        return self.protocol in ("http", "https")


#: Scheme -> what it is.
SCHEMES = {
    "s3": Scheme("s3", "s3fs", "s3"),
    "s3a": Scheme("s3", "s3fs", "s3"),
    "gs": Scheme("gcs", "gcsfs", "gcs"),
    "gcs": Scheme("gcs", "gcsfs", "gcs"),
    "hf": Scheme("hf", "huggingface_hub", "hf", "repository"),
    "http": Scheme("http", "aiohttp", "http", "server"),
    "https": Scheme("https", "aiohttp", "http", "server"),
    "memory": Scheme("memory"),
    "file": Scheme("file", holder=""),
}
_NAMED = "s3://, gs://, hf://, https:// or http://"


def remote_address(path: Path | str) -> str | None:
    """The address that is meant by a path; None if it is one of this machine.

    A file or folder that is here by that name stays here.

    Raises:
        UsageError: it is an address, but none that data can be read from.
    """
    found = _ADDRESS.fullmatch(str(path))
    if found is None or _is_here(path):
        return None
    name, rest = found[1].lower(), found[2] or ""
    if name not in SCHEMES:
        # A file's name may end in a colon, as may that of a folder in which something is to be.
        if found[2] is None or _is_here(f"{found[1]}:"):
            return None
        remedy = "name a local path by its absolute path"
        where = f"{found[1]}://{rest.lstrip('/').rpartition('@')[2]}"
        raise UsageError(where, f"begins with {found[1]}", _NAMED, remedy)
    scheme = SCHEMES[name]
    if scheme.holder:
        rest = rest.removeprefix("/")
    else:
        rest = "/" + rest.lstrip("/")  # file:///folder arrives as file:/folder
    address = f"{name}://{rest}"
    _check(address, scheme)
    return address


def show(path: Path | str) -> str:
    """A path or address as messages show it: without login and query, which may be passwords."""
    text = str(path)
    found = _ADDRESS.fullmatch(text)
    if found is None or found[1].lower() not in SCHEMES:
        return text
    name = found[1].lower()
    rest = (found[2] or "").lstrip("/")
    holder, slash, key = rest.partition("/")
    if SCHEMES[name].is_web:
        key = re.split("[?#]", key, maxsplit=1)[0]
        holder = re.split("[?#]", holder, maxsplit=1)[0]
    holder = holder.rpartition("@")[2]
    return f"{name}://{'' if SCHEMES[name].holder else '/'}{holder}{slash}{key}"


def scheme_of(address: str) -> Scheme:
    """The kind of an address."""
    return SCHEMES[address.partition("://")[0]]


def join(address: str, name: str) -> str:
    """The address of what lies in a folder."""
    return f"{address.rstrip('/')}/{name}"


def beside(address: str, ending: str) -> str:
    """The address of a file whose name is this one's with an ending, in place before a query."""
    if not scheme_of(address).is_web:
        return address + ending
    parts = urlsplit(address)
    return urlunsplit(parts._replace(path=parts.path + ending))


def name_of(address: str) -> str:
    """The last part of an address, as a file here may be called; empty if there is none."""
    path = address.partition("://")[2]
    if scheme_of(address).is_web:
        path = unquote(urlsplit(address).path, errors="replace")
    name = path.rstrip("/").rpartition("/")[2]
    name = "".join(c if c.isprintable() and c not in "/\\" else "_" for c in name)
    # File systems take names of 255 bytes; some are left for the files written beside it.
    return name.encode("utf-8", "replace")[-180:].decode("utf-8", "ignore").lstrip(".-")


def _is_here(path: Path | str) -> bool:
    try:
        return Path(path).exists()
    except (OSError, ValueError):  # too long for a file's name, or with a NUL
        return False


def _check(address: str, scheme: Scheme) -> None:
    """Raise UsageError unless an address names a place, and nothing but that."""
    rest = address.partition("://")[2]
    where = show(address)
    if any(not c.isprintable() for c in rest):
        raise UsageError(where, "holds characters that cannot be printed", _EXAMPLE)
    holder, _, key = rest.partition("/")
    if "@" in re.split("[?#]", holder, maxsplit=1)[0]:
        remedy = "give it as the library does that reads it, as by environment variables"
        raise UsageError(where, "is an address with a login", "one without", remedy)
    if scheme.holder and not holder:
        raise UsageError(where, f"names no {scheme.holder}", _EXAMPLE)
    if scheme.protocol == "hf" and len([part for part in rest.split("/") if part]) < 2:
        raise UsageError(where, "names no repository", "hf://datasets/owner/name/folder")
    if scheme.is_web:
        try:
            parts = urlsplit(address)
            parts.port, (parts.hostname or "").encode("idna")  # both raise on nonsense
        except ValueError as error:
            raise UsageError(where, f"is no address ({error})", _EXAMPLE) from None
        if not parts.hostname or " " in parts.netloc:
            raise UsageError(where, "names no server", _EXAMPLE)
        key = parts.path
    if any(part in (".", "..") for part in (holder, *key.split("/"))):
        raise UsageError(where, "holds . or .. as a name", _EXAMPLE)
