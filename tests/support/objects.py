"""Stores that tests put files into: memory, and S3 on loopback; stores that misbehave as told."""

from __future__ import annotations

import itertools
import logging
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest

from pipelines.remote.store import Patience, Store

#: Is never waited for.
QUICK = Patience(wait=lambda _: None)
_numbers = itertools.count()


@dataclass
class Faults:
    """What a store does wrong, and what it was asked.

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


def put_tree(folder: Path, address: str) -> None:
    """Put the files below a folder into a store."""
    store = Store(address, QUICK)
    for path in sorted(folder.rglob("*")):
        if path.is_file():
            store.put(path, f"{address}/{path.relative_to(folder).as_posix()}", lambda _: None)


def put_bytes(address: str, data: bytes) -> None:
    """Put a file into a store."""
    fs = Store(address, QUICK).file_system(writes=True)
    fs.pipe_file(fs._strip_protocol(address), data)


def get_bytes(address: str) -> bytes:
    """A file of a store."""
    fs = Store(address, QUICK).file_system()
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
    fs: Any = Store(f"s3://{name}", QUICK).file_system(writes=True)
    fs.mkdir(name)
    return f"s3://{name}"
