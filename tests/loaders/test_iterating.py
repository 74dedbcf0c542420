"""Two iterations of a loader, two loaders, other threads and processes: of each kind alike."""

import json
import multiprocessing
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import pytest
import torch
from batches import everything, same
from effort import choose
from loader_kinds import LIBRARIES, LONG_S, make_kind
from processes import SERVER
from rendered import LOADERS
from start_methods import look, tell

from pipelines.errors import UsageError
from pipelines.formats.beton import Index, read_index
from pipelines.loaders import Loader, worker_processes


@pytest.fixture(scope="module")
def index(data: Path) -> Index:
    return read_index(data / "train.beton")


Make = Callable[..., Loader]


@pytest.fixture
def make(index: Index, tmp_path: Path) -> Iterator[Make]:
    """Makes loaders of small training batches, which are closed in the end."""
    made: list[Loader] = []

    def make_one(kind: str, **options: Any) -> Loader:
        workers = 1 if kind == "torchvision" else 2  # processes, which take a while to start
        usual = {"view": "train", "workers": workers}
        made.append(make_kind(kind, index, tmp_path, **{**usual, **options}))
        return made[-1]

    yield make_one
    for loader in made:
        loader.close()


@pytest.mark.parametrize("kind", LOADERS)
def test_an_iteration_begins_with_its_first_batch(kind: str, make: Make) -> None:
    """With the epoch that the loader has by then; it ends the one before by that, not sooner."""
    loader = make(kind)
    whole = everything(loader)
    first, second = iter(loader), iter(loader)
    begun = [next(first)]
    loader.set_epoch(1)
    begun.append(next(first))  # its own epoch goes on
    assert same(begun, whole[:2])
    other = [next(second)]
    assert list(first) == []
    other += second
    assert same(other, everything(loader))
    assert not same(other, whole)


@pytest.mark.parametrize("kind", LOADERS)
@pytest.mark.parametrize("beside", ["the same", "resident"])
def test_two_loaders_take_turns(kind: str, beside: str, make: Make) -> None:
    one, other = make(kind), make(kind if beside == "the same" else beside, seed=1)
    wanted = everything(one), everything(other)
    turns = list(zip(one, other, strict=True))
    assert same([a for a, _ in turns], wanted[0])
    assert same([b for _, b in turns], wanted[1])
    assert not same(*wanted)


@pytest.mark.parametrize("kind", LOADERS)
def test_threads_may_pass_a_loader_on(kind: str, make: Make) -> None:
    """One that has been used or not, and an iteration that has begun elsewhere."""
    loader, fresh = make(kind), make(kind)
    with ThreadPoolExecutor(1) as thread:
        whole = thread.submit(everything, fresh).result(LONG_S)
        assert same(everything(loader), whole)
        assert same(thread.submit(everything, loader).result(LONG_S), whole)
        batches = iter(loader)
        begun = [next(batches)]
        rest = thread.submit(list, batches).result(LONG_S)
        assert same(begun + rest, whole)
        held = iter(loader)
        next(held)
        thread.submit(loader.close).result(LONG_S)
        with pytest.raises(UsageError, match="is closed"):
            next(held)
    assert same(everything(fresh), whole)  # its thread has ended


@pytest.mark.parametrize("kind", LOADERS)
def test_loaders_in_two_threads_run_at_once(kind: str, make: Make) -> None:
    one, other = make(kind), make(kind, seed=1)
    with ThreadPoolExecutor(2) as threads:
        found = list(threads.map(everything, (one, other), timeout=LONG_S))
    assert same(found[0], everything(one))
    assert same(found[1], everything(other))


def test_workers_are_started_by_one_thread(make: Make, monkeypatch: pytest.MonkeyPatch) -> None:
    """Else a worker of the other's would keep the pipe open that tells of a worker's end."""
    free: list[bool] = []
    with ThreadPoolExecutor(1) as thread:

        def look_for_room(workers: int) -> None:
            lock = worker_processes._starting
            free.append(thread.submit(lock.acquire, blocking=False).result(LONG_S))

        monkeypatch.setattr(worker_processes, "_require_file_room", look_for_room)
        next(iter(make("torchvision")))
    assert free == [False]


def test_one_thread_at_a_time_asks_an_iteration(make: Make) -> None:
    entered, go_on = threading.Event(), threading.Event()

    def wait(images: torch.Tensor) -> torch.Tensor:
        entered.set()
        assert go_on.wait(LONG_S)
        return images

    loader = make("resident", transform=wait)
    batches = iter(loader)
    with ThreadPoolExecutor(1) as thread:
        first = thread.submit(next, batches)
        assert entered.wait(LONG_S)
        with pytest.raises(ValueError, match="generator already executing"):
            next(batches)
        go_on.set()
        whole = [first.result(LONG_S), *batches]
    assert same(whole, everything(loader))


@pytest.mark.parametrize("kind", LOADERS)
def test_batches_may_be_written_to(kind: str, make: Make) -> None:
    """As timm's Mixup does."""
    loader = make(kind, normalize=True)
    whole = everything(loader)
    for images, labels in loader:
        images.fill_(7)
        labels.fill_(7)
    assert same(everything(loader), whole)


def test_a_process_that_is_no_fork_reads_the_same(make: Make, tmp_path: Path) -> None:
    """As an argument, in the midst of an epoch of its parent's."""
    # Imports take seconds: in an ordinary run few, in a process of a fork server that has torch.
    kinds = [
        kind
        for kind in choose(["dali", "resident"], LOADERS)
        if find_spec(LIBRARIES.get(kind, "torch").split(".")[0])
    ]
    loaders = {kind: make(kind, workers=1) for kind in kinds}
    held = {kind: iter(loader) for kind, loader in loaders.items()}
    begun = {kind: len(next(batches)[1]) for kind, batches in held.items()}
    file = tmp_path / "found"
    context: Any = choose(SERVER, multiprocessing.get_context("spawn"))
    process = context.Process(target=tell, args=(loaders, file))
    process.start()
    process.join()
    assert process.exitcode == 0
    for kind, said in json.loads(file.read_text()).items():
        assert begun[kind] + sum(len(labels) for _, labels in held[kind]) == 33, kind
        assert said == look(loaders[kind]), kind
