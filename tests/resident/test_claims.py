"""Each sample is decoded by one process of a machine, whoever else wants it at the same time."""

import errno
import fcntl
import os
import struct
import subprocess
import sys
import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from stores import KEY, SAMPLES, got, layout_of

from pipelines.resident import shared_file
from pipelines.resident.claims import claim
from pipelines.resident.filler import HostSink
from pipelines.resident.store import PixelWriter
from pipelines.resident.store_memory import FileMemory, GroupMemory, StoreMemory

ROOT = Path(__file__).resolve().parents[2]
#: Longer than anything takes: what waits so long has failed.
LONG_S = 20
Pair = Callable[[], tuple[StoreMemory, StoreMemory]]


def is_claimed(descriptor: int, sample: int) -> bool:
    """Whether somebody who opened the file apart from `descriptor` has claimed a sample."""
    for kind in (fcntl.F_WRLCK, fcntl.F_UNLCK):
        try:
            lock = struct.pack("hhqqi4x", kind, os.SEEK_SET, sample, 1, 0)
            fcntl.fcntl(descriptor, fcntl.F_OFD_SETLK, lock)
        except BlockingIOError:
            return True
    return False


@pytest.fixture
def file(tmp_path: Path) -> Path:
    path = tmp_path / "claims"
    path.touch()
    return path


def test_a_claim_is_to_one_sample_and_ends(file: Path) -> None:
    mine, theirs = (os.open(file, os.O_RDWR) for _ in range(2))
    with claim(mine, 3), claim(mine, 4):
        assert [is_claimed(theirs, sample) for sample in range(6)] == [
            False,
            False,
            False,
            True,
            True,
            False,
        ]
    with claim(mine, 1 << 40):
        assert is_claimed(theirs, 1 << 40)
    with pytest.raises(KeyError), claim(mine, 3):
        raise KeyError
    assert not any(is_claimed(theirs, sample) for sample in (3, 4, 1 << 40))
    os.close(mine)
    os.close(theirs)


_CLAIMS = """
import os, sys
from pipelines.resident.claims import claim
with claim(os.open(sys.argv[1], os.O_RDWR), 5):
    print("claimed", flush=True)
    sys.stdin.read()
"""


def test_a_killed_processes_claim_is_anybodys(file: Path) -> None:
    pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE}
    child = subprocess.Popen([sys.executable, "-c", _CLAIMS, file], cwd=ROOT, **pipes)
    assert child.stdout is not None
    assert child.stdout.readline() == b"claimed\n"
    mine = os.open(file, os.O_RDWR)
    assert is_claimed(mine, 5)
    child.kill()
    with claim(mine, 5):  # waits no longer than for its end
        child.communicate(timeout=LONG_S)
    os.close(mine)


def test_without_locks_nobody_is_kept_out(file: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*arguments: object) -> None:
        raise OSError(errno.EINVAL, os.strerror(errno.EINVAL))

    monkeypatch.setattr(fcntl, "fcntl", fail)
    descriptor, entered = os.open(file, os.O_RDWR), []
    with claim(descriptor, 0), claim(descriptor, 0):
        entered.append(descriptor)
    assert entered
    os.close(descriptor)


def in_memory() -> tuple[StoreMemory, StoreMemory]:
    return GroupMemory(layout_of(), KEY, "g", 0, 2), GroupMemory(layout_of(), KEY, "g", 1, 2)


@pytest.fixture(params=["in memory", "in a file"])
def pair(request: pytest.FixtureRequest, shm: Path, tmp_path: Path) -> Pair:
    """Makes the memory of two ranks, which have it in common."""
    if request.param == "in memory":
        return in_memory
    path = tmp_path / "pixels.store"
    return lambda: (
        FileMemory(path, layout_of(), KEY, is_shared=True),
        FileMemory(path, layout_of(), KEY, is_shared=True),
    )


def test_ranks_wait_for_another_ranks_decoding(pair: Pair, monkeypatch: pytest.MonkeyPatch) -> None:
    decoding, waits, go_on = threading.Event(), threading.Event(), threading.Event()
    decoded: list[int] = []

    def write(writer: PixelWriter, sample: int, target: np.ndarray) -> None:
        decoded.append(sample)
        decoding.set()
        assert go_on.wait(LONG_S)
        target[:] = 7

    real = fcntl.fcntl

    def lock(descriptor: int, how: int, argument: bytes) -> object:
        if decoding.is_set() and how == fcntl.F_OFD_SETLKW:
            waits.set()
        return real(descriptor, how, argument)

    monkeypatch.setattr(PixelWriter, "__init__", lambda *_: None)
    monkeypatch.setattr(PixelWriter, "write", write)
    monkeypatch.setattr(fcntl, "fcntl", lock)
    memories = pair()
    source: Any = SimpleNamespace(widths=np.zeros(SAMPLES, np.int32))
    sinks = [HostSink(source, layout_of(), memory) for memory in memories]
    with ThreadPoolExecutor(2) as threads:
        first = threads.submit(sinks[0].write, 2)
        assert decoding.wait(LONG_S)
        second = threads.submit(sinks[1].write, 2)
        waited = waits.wait(LONG_S)
        go_on.set()
        for future in (first, second):
            future.result(LONG_S)
    assert waited
    assert decoded == [2]
    assert got(memories[1], 2) == {7}
    for memory in memories:
        memory.close()


def test_claims_to_a_files_samples_leave_nothing(shm: Path, tmp_path: Path) -> None:
    path = tmp_path / "pixels.store"
    FileMemory(path, layout_of(), KEY).close()
    alone = FileMemory(path, layout_of(), KEY)
    assert list(shm.iterdir()) == []
    first, second = (FileMemory(path, layout_of(), KEY, is_shared=True) for _ in range(2))
    (name,) = shm.iterdir()
    assert name.stat().st_mode & 0o777 == 0o600
    first.close()
    assert name.exists()
    with second.claim(SAMPLES - 1):
        pass
    second.close()
    second.close()
    alone.close()
    assert list(shm.iterdir()) == []


def test_files_are_filled_without_claims(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "no folder").touch()
    monkeypatch.setattr(shared_file, "SHM", tmp_path / "no folder")
    memory = FileMemory(tmp_path / "pixels.store", layout_of(), KEY, is_shared=True)
    with memory.claim(1):
        memory.reserve(1)
        memory.commit(1)
    assert memory.holds(1)
    memory.close()
