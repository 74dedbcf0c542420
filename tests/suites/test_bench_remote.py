"""A benchmark's contender in a process of its own: what it answers, and what befalls it."""

import multiprocessing
import os
import signal
import time
from collections import Counter
from collections.abc import Iterator
from functools import partial
from itertools import count
from pathlib import Path
from types import SimpleNamespace

import psutil
import pytest
from processes import SERVER

from bench import remote
from bench.remote import CannotRun, MissingError, Remote, RemoteError


class Images(SimpleNamespace):
    """Stand in for a tensor."""

    def mean(self) -> float:
        return self.of


class Labels(list[int]):
    dtype = "torch.int64"

    def tolist(self) -> list[int]:
        return self


def batches(first: int = 0) -> Iterator[tuple[Images, Labels]]:
    """Of two images; the shape of batch 2 is wrong."""
    for at in count(first):
        side = 5 if at == 2 else 4
        images = Images(shape=(2, 3, side, 4), dtype="torch.float32", of=float(at))
        yield images, Labels((at, at + 1))


def forking(path: Path) -> Iterator[tuple[Images, Labels]]:
    """Has a process that holds all that this one holds, as DataLoader's workers do."""
    # What it starts are not started as it was itself, but as in any program.
    assert multiprocessing.get_start_method() != "spawn"
    if (pid := os.fork()) == 0:
        signal.pause()
    path.write_text(str(pid))
    yield from batches()


def silent() -> Iterator[object]:
    time.sleep(60)
    yield


def lacking() -> Iterator[object]:
    raise CannotRun("no library;\n install it")


def failing() -> Iterator[object]:
    raise ValueError("two\nlines")
    yield


def dying() -> Iterator[object]:
    os._exit(3)
    yield


@pytest.fixture
def forked(monkeypatch: pytest.MonkeyPatch) -> None:
    """Processes are forked from one that has imported what takes seconds."""
    monkeypatch.setattr(remote.multiprocessing, "get_context", lambda method: SERVER)


def test_a_process_is_read_by_number():
    with Remote("fake", batches) as process:
        assert process.read(1) == 2
        assert process.batches == 2  # with the one that it got ready
        with pytest.raises(RemoteError, match=r"^fake: AssertionError: \(2, 3, 5, 4\)"):
            process.look(1)
    assert not psutil.pid_exists(process.pid)


@pytest.mark.usefixtures("forked")
def test_restart_counts_labels_anew():
    with Remote("fake", partial(batches, 3)) as process:
        look = process.look(2)
        assert look.labels == Counter({4: 1, 5: 2, 6: 1})
        assert look.brightness == 4.5
        process.restart()
        assert process.batches == 0
        assert process.look(1).labels == Counter({3: 1, 4: 1})
        assert process.usage().cpu_s > 0
        process.close()
        process.close()


@pytest.mark.usefixtures("forked")
@pytest.mark.parametrize(
    ("make", "kind", "line"),
    [
        (lacking, MissingError, "fake: no library; install it"),
        (failing, RemoteError, "fake: ValueError: two lines"),
        (dying, RemoteError, "fake: its process ended with status 3"),
    ],
)
def test_what_befalls_a_process_is_one_line(make, kind: type, line: str):
    with Remote("fake", make) as process, pytest.raises(RemoteError) as caught:
        process.read(1)
    assert type(caught.value) is kind
    assert str(caught.value) == line


@pytest.mark.usefixtures("forked")
def test_a_process_ends_with_its_own(tmp_path: Path):
    with Remote("fake", partial(forking, tmp_path / "pid")) as process:
        process.ready()
        assert process.usage().processes == 2
        child = psutil.Process(int((tmp_path / "pid").read_text()))
    child.wait(5)


@pytest.mark.usefixtures("forked")
def test_a_killed_process_is_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(remote, "PATIENCE_S", 30)
    with Remote("fake", partial(forking, tmp_path / "pid")) as process:
        process.ready()
        child = psutil.Process(int((tmp_path / "pid").read_text()))
        psutil.Process(process.pid).kill()
        try:
            with pytest.raises(RemoteError, match=r"status -9$"):
                process.read(1)
        finally:
            child.kill()


@pytest.mark.usefixtures("forked")
def test_who_is_silent_is_ended(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(remote, "PATIENCE_S", 0)
    monkeypatch.setattr(remote, "_FAREWELL_S", 0.1)
    with Remote("fake", silent) as process, pytest.raises(RemoteError, match="nothing came for 0"):
        process.read(1)
    assert not psutil.pid_exists(process.pid)
