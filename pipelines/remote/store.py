"""One store, as this process sees it: what lies there, its bytes, and putting files there.

A thin layer over fsspec's file systems. What another attempt may mend is tried again; each error
is told in one line, see `faults`. fsspec's asynchronous file systems cannot cross a fork: they are
opened in the process that uses them.
"""

from __future__ import annotations

import datetime
import os
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from importlib import import_module
from pathlib import Path
from typing import Any, TypeVar

from pipelines.errors import FastftError, UsageError
from pipelines.remote.address import join, scheme_of, show
from pipelines.remote.checksums import Kind, checksums_of, checksums_of_head, is_in_parts
from pipelines.remote.faults import Missing, ShortRead, StoreError, explain

T = TypeVar("T")
#: Connections at once; botocore's own 10 are fewer than what reads ahead.
_CONNECTIONS = 64
#: Parts of an upload: bytes of each, or more where the parts would be too many; parts at most;
#: parts at once. S3 takes 10,000 parts of at least 5 MiB.
_PART_BYTES, _MOST_PARTS, _PARTS_AT_ONCE = 16 << 20, 10_000, 4
#: Seconds until a web server must have been reached, and between two blocks of its answer.
_CONNECT_S, _SILENCE_S = 30, 60
_STREAM_BYTES = 1 << 20
#: Fields that tell a version of a file from others; the first that a store has counts.
_VERSIONS = ("ETag", "etag", "md5Hash", "blob_id", "xet_hash", "generation")
_TIMES = ("LastModified", "Last-Modified", "updated", "mtime", "created")


class NoRanges(StoreError):
    """A web server hands out files whole or not at all."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Patience:
    """The number of attempts at a request, and the pauses between them.

    Attributes:
        attempts: in all.
        first_s: the pause behind the first; each next is twice as long.
        wait: waits for so many seconds.
    """

    attempts: int = 5
    first_s: float = 0.5
    wait: Callable[[float], None] = time.sleep

    def retry(self, address: str, action: Callable[[], T]) -> T:
        """Do something until it works, or fails for good.

        Raises:
            StoreError: in one line.
        """
        for attempt in range(1, self.attempts):
            try:
                return action()
            except (FastftError, MemoryError):
                raise
            except Exception as error:
                told, mends = explain(address, error)
                if not mends:
                    raise told from error
            self.wait(self.first_s * 2 ** (attempt - 1))
        try:
            return action()
        except (FastftError, MemoryError):
            raise
        except Exception as error:
            raise explain(address, error)[0] from error


PATIENT = Patience()


@dataclass(frozen=True, kw_only=True, slots=True)
class Found:
    """The file or folder at an address.

    Attributes:
        address: of it.
        size: bytes; None where a web server does not tell.
        version: tells it from what lay there before; empty where there is no telling.
        is_folder: it is one, or looks like one.
        checksums: that came with the listing.
    """

    address: str
    size: int | None = 0
    version: str = ""
    is_folder: bool = False
    checksums: Mapping[Kind, str] = field(default_factory=dict)


class Store:
    """The store that an address is of.

    Attributes:
        scheme: its kind.
    """

    def __init__(self, address: str, patience: Patience = PATIENT) -> None:
        """Load the library; nothing is asked yet.

        Raises:
            UsageError: it is not installed.
        """
        self.scheme = scheme_of(address)
        self._patience = patience
        for library in filter(None, ("fsspec", self.scheme.library)):
            try:
                import_module(library)
            except ImportError as error:
                what = f"fastft[{self.scheme.extra}]" if library != "fsspec" else library
                found, expected = f"{library} is not installed", "it to reach this address"
                raise UsageError(show(address), found, expected, f'pip install "{what}"') from error
        self._opened: dict[tuple[int, bool], Any] = {}

    def file_system(self, *, writes: bool = False) -> Any:
        """The file system of fsspec, one of this process.

        Args:
            writes: one whose library tries the parts of what is put again by itself.
        """
        key = os.getpid(), writes
        if key not in self._opened:
            self._opened[key] = _open(self.scheme.protocol, writes)
        return self._opened[key]

    def stat(self, address: str) -> Found:
        """The file or folder there.

        Raises:
            Missing: there is none.
            StoreError: there is no telling.
        """
        fs, options = self.file_system(), self._anew()
        if options:  # a listing of the Hub has checksums without being asked
            options["expand_info"] = True
        path = fs._strip_protocol(address)
        info = self._patience.retry(address, lambda: fs.info(path, **options))
        return _found(address, info)

    def children(self, address: str) -> list[Found]:
        """The files and folders in a folder.

        Raises:
            Missing: there is no such folder.
            StoreError: it cannot be listed.
        """
        fs, options = self.file_system(), self._anew()

        def ask() -> dict[str, Any]:
            listed = fs.ls(fs._strip_protocol(address), detail=True, **options)
            return {str(each["name"]): each for each in listed}

        return list(self._listed(address, ask))

    def find(self, address: str) -> list[Found]:
        """All files below a folder, and the folders that a store knows to be there.

        Raises:
            Missing: there is no such folder.
            StoreError: it cannot be listed.
        """
        fs, options = self.file_system(), self._anew()

        def ask() -> dict[str, Any]:
            found = fs.find(fs._strip_protocol(address), detail=True, withdirs=False, **options)
            return dict(found)

        return list(self._listed(address, ask))

    def read(self, address: str, start: int, stop: int) -> bytes:
        """The bytes from `start` to `stop`, all of them; called from several threads.

        Raises:
            NoRanges: a web server hands out whole files only.
            StoreError: they cannot be had.
        """

        def ask() -> bytes:
            data = self._range(address, start, stop)
            if len(data) != stop - start:
                raise ShortRead(f"{len(data):,} bytes came of {stop - start:,}")
            return data

        return self._patience.retry(address, ask) if stop > start else b""

    def read_start(self, address: str, most: int) -> bytes:
        """The first `most` bytes, or all where they are fewer.

        Raises:
            Missing: nothing lies there.
            StoreError: they cannot be had.
        """
        size = self.stat(address).size
        return self.read(address, 0, most if size is None else min(most, size))

    def stream(self, address: str) -> Iterator[bytes]:
        """A file from its beginning to its end, in one go and never tried again.

        Raises:
            StoreError: it ended too early.
        """
        try:
            with self.file_system().open(address, "rb", block_size=0) as file:
                while block := file.read(_STREAM_BYTES):
                    yield block
        except (FastftError, MemoryError):
            raise
        except Exception as error:
            raise explain(address, error)[0] from error

    def checksums(self, found: Found) -> Mapping[Kind, str]:
        """The checksums that the store tells of a file, asked for where a listing has none.

        Raises:
            StoreError: it does not answer.
        """
        if self.scheme.protocol != "s3":
            return found.checksums
        fs = self.file_system()
        bucket, key, _ = fs.split_path(found.address)

        def ask(**options: Any) -> Any:
            return self._patience.retry(
                found.address,
                lambda: fs.call_s3("head_object", Bucket=bucket, Key=key, **options),
            )

        head = ask(ChecksumMode="ENABLED")
        part_bytes = ask(PartNumber=1).get("ContentLength") if is_in_parts(head) else None
        return checksums_of_head(head, part_bytes)

    def put(self, path: Path, address: str, on_bytes: Callable[[int], None]) -> None:
        """Put a file there, in place of what there is; it appears whole.

        Raises:
            StoreError: the store does not take it.
        """
        callbacks = import_module("fsspec.callbacks")
        fs, options = self.file_system(writes=True), {}
        target = fs._strip_protocol(address)
        if self.scheme.protocol == "s3":
            part_bytes = max(_PART_BYTES, -(-path.stat().st_size // _MOST_PARTS))
            options = {"chunksize": part_bytes, "max_concurrency": _PARTS_AT_ONCE}
        told = callbacks.Callback(hooks={"bytes": lambda size, value, **_: on_bytes(value)})

        def put() -> None:
            told.value = 0
            if self.scheme.protocol == "file":
                fs.makedirs(fs._parent(target), exist_ok=True)
                fs.put_file(str(path), f"{target}.uploading", callback=told)
                fs.mv(f"{target}.uploading", target)
            else:
                fs.put_file(str(path), target, callback=told, **options)

        self._patience.retry(address, put)

    def remove(self, address: str) -> None:
        """Remove a file if it is there.

        Raises:
            StoreError: the store does not.
        """
        fs = self.file_system(writes=True)
        try:
            self._patience.retry(address, lambda: fs.rm_file(fs._strip_protocol(address)))
        except Missing:
            pass

    def _anew(self) -> dict[str, Any]:
        """Options that make a library ask again, which otherwise remembers."""
        return {"refresh": True} if self.scheme.protocol == "hf" else {}

    def _listed(self, address: str, ask: Callable[[], dict[str, Any]]) -> Iterator[Found]:
        """The entries of a listing, named from the folder on."""
        if self.scheme.is_web:
            remedy = "name one file, such as a .zip or a .beton"
            raise StoreError(show(address), "a web server lists no folders", "", remedy)
        fs = self.file_system()
        base = str(fs._strip_protocol(address)).rstrip("/")
        if self.scheme.protocol == "hf":  # which names the revision, too
            base = self._patience.retry(address, lambda: fs.resolve_path(base).unresolve())
        listed = self._patience.retry(address, ask)
        for name, info in listed.items():
            below = name.removeprefix(f"{base}/")
            if below and below != name:
                yield _found(join(address, below), info)
        if not listed:
            raise Missing(
                show(address), "no such folder, or nothing in it", "", "check the address"
            )

    def _range(self, address: str, start: int, stop: int) -> bytes:
        fs = self.file_system()
        if not self.scheme.is_web:
            return bytes(fs.cat_file(fs._strip_protocol(address), start=start, end=stop))
        # Not cat_file, which takes into memory whatever a server sends that knows no ranges.
        with fs.open(address, "rb", block_size=_STREAM_BYTES, cache_type="none", size=stop) as file:
            try:
                return bytes(file._fetch_range(start, stop))
            except ValueError as error:
                if "range requests" not in str(error):
                    raise
                raise NoRanges(show(address), "its server knows no ranges") from error


def _open(protocol: str, writes: bool) -> Any:
    fsspec = import_module("fsspec")
    options: dict[str, Any] = {"skip_instance_cache": True, "use_listings_cache": False}
    if protocol == "s3":
        given = fsspec.config.conf.get("s3", {}).get("config_kwargs", {})
        config = {"max_pool_connections": _CONNECTIONS, **given}
        if not writes:  # what fails is tried again here, and not at three levels
            config["retries"] = {"total_max_attempts": 1}
        options["config_kwargs"] = config
    elif protocol in ("http", "https"):
        aiohttp = import_module("aiohttp")
        timeout = aiohttp.ClientTimeout(total=None, sock_connect=_CONNECT_S, sock_read=_SILENCE_S)
        options["client_kwargs"] = {"timeout": timeout, "trust_env": True}
        options["headers"] = {"Accept-Encoding": "identity"}  # else a size says nothing
    fs = fsspec.filesystem(protocol, **options)
    if protocol == "s3" and not writes:
        fs.retries = 1
    return fs


def _found(address: str, info: Mapping[str, Any]) -> Found:
    """A file or folder, from a file system's description of it."""
    is_folder = info.get("type") == "directory" or str(info.get("name", "")).endswith("/")
    if is_folder:
        return Found(address=address.rstrip("/"), is_folder=True)
    size = info.get("size")
    return Found(
        address=address,
        size=size if isinstance(size, int) and size >= 0 else None,
        version=_version(info),
        checksums=checksums_of(info),
    )


def _version(info: Mapping[str, Any]) -> str:
    for key in _VERSIONS:
        value = info.get(key)
        if isinstance(value, (str, int)) and value and not str(value).startswith("W/"):
            return f"{key.lower()} {value}"
    for key in _TIMES:  # a weak ETag promises less than a time does
        value = info.get(key)
        if isinstance(value, datetime.datetime):
            value = value.timestamp()
        if value:
            return f"{key.lower()} {value}"
    return ""
