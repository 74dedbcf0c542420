"""Stores that tests put files into: memory, and S3 on loopback; stores that misbehave as told."""

from __future__ import annotations

import itertools
import logging
import os
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from functools import cache
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest

from pipelines.remote.store import Patience, Store

#: Is never waited for.
QUICK = Patience(wait=lambda _: None)
_numbers = itertools.count()


@dataclass
class Faults:
    """The faults of a store, and the requests that it got.

    Attributes:
        errors: raised by the next calls, each once.
        spoil: changes the bytes of each range.
        asked: method -> how often.
    """

    errors: list[Exception] = field(default_factory=list)
    spoil: Callable[[int, bytes], bytes] = lambda start, data: data
    asked: dict[str, int] = field(default_factory=dict)


class FaultyStore(Store):
    """A store of which reads fail and come to harm as told."""

    def __init__(self, address: str, faults: Faults) -> None:
        super().__init__(address, QUICK)
        self.faults = faults

    def _range(self, address: str, start: int, stop: int) -> bytes:
        self.faults.asked["range"] = self.faults.asked.get("range", 0) + 1
        if self.faults.errors:
            raise self.faults.errors.pop(0)
        return self.faults.spoil(start, super()._range(address, start, stop))


def memory_address() -> str:
    """A folder of its own in fsspec's store in memory."""
    return f"memory://test{next(_numbers)}"


@cache
def _store(holder: str, endpoint: str) -> Store:
    return Store(holder, QUICK)


def store_of(address: str) -> Store:
    """The store of an address, opened once: a client of S3 takes tenths of a second to make."""
    return _store(address.partition("://")[0] + "://x/x", os.environ.get("AWS_ENDPOINT_URL", ""))


def put_tree(folder: Path, address: str) -> None:
    """Put the files below a folder into a store."""
    store = store_of(address)
    for path in sorted(folder.rglob("*")):
        if path.is_file():
            store.put(path, f"{address}/{path.relative_to(folder).as_posix()}", lambda _: None)


def put_bytes(address: str, data: bytes) -> None:
    """Put a file into a store."""
    fs = store_of(address).file_system(writes=True)
    fs.pipe_file(fs._strip_protocol(address), data)


def get_bytes(address: str) -> bytes:
    """A file of a store."""
    fs = store_of(address).file_system()
    return bytes(fs.cat_file(fs._strip_protocol(address)))


def as_path(address: str) -> Path:
    """An address as a command line's `Path` has it."""
    return Path(address)


@contextmanager
def s3_server() -> Iterator[str]:
    """An S3 server on loopback; its address."""
    server_of = pytest.importorskip("moto.server", reason="moto is not installed")
    pytest.importorskip("s3fs", reason="s3fs is not installed")
    server = server_of.ThreadedMotoServer(ip_address="127.0.0.1", port=0, verbose=False)
    log = logging.getLogger("werkzeug")
    level = log.level
    log.setLevel(logging.ERROR)  # a line for each request
    server.start()
    host, port = server.get_host_and_port()
    try:
        yield f"http://{host}:{port}"
    finally:
        server.stop()
        log.setLevel(level)


def settings_of(endpoint: str) -> dict[str, str]:
    """Environment variables by which clients find the server."""
    return {
        "AWS_ENDPOINT_URL": endpoint,
        "AWS_ACCESS_KEY_ID": "test",
        "AWS_SECRET_ACCESS_KEY": "test",
        "AWS_DEFAULT_REGION": "us-east-1",
        "AWS_EC2_METADATA_DISABLED": "true",
    }


def make_bucket(name: str) -> str:
    """Make a bucket; its address."""
    fs: Any = store_of(f"s3://{name}").file_system(writes=True)
    fs.mkdir(name)
    return f"s3://{name}"


@dataclass
class Site:
    """The files of a web server on loopback, its faults, and the requests that it got.

    Attributes:
        base: its address.
        files: path -> content.
        ranges: whether it knows ranges.
        statuses: of the next answers to GET, instead of what was asked.
        fields: of each answer, beside its length.
        asked: method and path of each request.
    """

    base: str = ""
    files: dict[str, bytes] = field(default_factory=dict)
    ranges: bool = True
    says_length: bool = True
    statuses: list[int] = field(default_factory=list)
    fields: dict[str, str] = field(default_factory=dict)
    asked: list[str] = field(default_factory=list)

    def count(self, method: str) -> int:
        return sum(each.startswith(f"{method} ") for each in self.asked)


class _Handler(BaseHTTPRequestHandler):
    def log_message(self, *arguments: object) -> None:
        pass

    def do_HEAD(self) -> None:
        self._answer(sends=False)

    def do_GET(self) -> None:
        self._answer(sends=True)

    def _answer(self, *, sends: bool) -> None:
        site: Site = self.server.site  # type: ignore[attr-defined]
        path = self.path.partition("?")[0]
        site.asked.append(f"{self.command} {path}")
        content, status = site.files.get(path), 200
        if sends and site.statuses:
            content, status = None, site.statuses.pop(0)
        if content is None:
            self.send_response(status if status != 200 else 404)
            self.send_header("Content-Length", "0")
            self.end_headers()
            return
        asked = self.headers["Range"]
        if asked and site.ranges:
            first, last = asked.removeprefix("bytes=").split("-")
            status, whole = 206, len(content)
            content = content[int(first) : int(last) + 1]
        self.send_response(status)
        if status == 206:
            self.send_header("Content-Range", f"bytes {first}-{last}/{whole}")
        for name, value in site.fields.items():
            self.send_header(name, value)
        if site.says_length:
            self.send_header("Content-Length", str(len(content)))
        self.end_headers()
        if sends:
            with suppress(ConnectionError):  # who has enough goes
                self.wfile.write(content)


@contextmanager
def serve_files(files: dict[str, bytes]) -> Iterator[Site]:
    """A web server in a thread."""
    with ThreadingHTTPServer(("127.0.0.1", 0), _Handler) as server:
        site = Site(base=f"http://127.0.0.1:{server.server_address[1]}", files=files)
        server.site = site  # type: ignore[attr-defined]
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
        thread.start()
        try:
            yield site
        finally:
            server.shutdown()
            thread.join()
