"""What set_size promises of every loader: batches as of one made at that size, and nothing lost."""

import threading
import weakref
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import psutil
import pytest
import torch
from batches import everything, same
from effort import rest
from loader_kinds import require_library
from stores import make_resident

from pipelines.errors import UsageError
from pipelines.formats.source import open_source
from pipelines.kernels import cpu
from pipelines.loaders import LOADERS, Loader, make_loader
from pipelines.rendering.renderer import Rendering
from pipelines.rendering.row_worker import Piece, Worker
from pipelines.resident.on_cpu import StoreExecutor
from pipelines.resident.store import PixelWriter
from pipelines.resident.store_memory import FileMemory

#: name, what else it is made with
CASES: list[tuple[str, dict[str, Any]]] = [
    *((name, {}) for name in LOADERS),
    ("resident", {"store": "yuv420"}),
]
#: Loaders start at 64 px: down, up beyond it, back, and down to a single pixel.
SIZES = (23, 97, 64, 1)
#: Those that start processes, which takes a while.
STARTING = ("torchvision", "stock")
#: `odd` says which images; `stock` has neither bytes nor ranks.
VARIANTS: dict[str, dict[str, Any]] = {
    "floats": {"odd": False, "view": "train"},
    "bfloat16": {"odd": True, "view": "eval-square", "dtype": torch.bfloat16, "drop_last": True},
    "bytes": {"odd": True, "view": "eval", "normalize": False, "rank": 1, "world": 2},
}
#: In an ordinary run each loader has one or two of them, and each of them two loaders or more.
PAIRS: list[tuple[str, dict[str, Any], str]] = [
    *((name, {}, "floats") for name in ("torchvision", "dali")),
    *((name, {}, "bfloat16") for name in ("stock", "ffcv", "resident")),
    ("ffcv", {}, "bytes"),
    ("resident", {"store": "yuv420"}, "bytes"),
]
#: `stock` gives floats to a single rank.
OTHERS = [
    (*case, variant)
    for case in CASES
    for variant in VARIANTS
    if (*case, variant) not in PAIRS and (case[0], variant) != ("stock", "bytes")
]
#: Longer than anything takes: what waits so long has failed.
LONG_S = 10

every_loader = pytest.mark.parametrize(
    ("name", "options"), CASES, ids=["-".join((name, *more.values())) for name, more in CASES]
)
#: `stock` starts processes as `torchvision` does, and takes a size as all do.
every_kind = pytest.mark.parametrize(
    ("name", "options"),
    [*(case for case in CASES if case[0] != "stock"), *rest(*(("stock", {}),))],
)
rendering_loaders = pytest.mark.parametrize("name", ["ffcv", "resident"])


def make(name: str, data: Any, **options: Any) -> Loader:
    require_library(name)
    workers = 1 if name in STARTING else 2
    return make_loader(name, data, **{"size": 64, "batch_size": 8, "workers": workers, **options})


def fresh(loader: Loader, name: str, **options: Any) -> list[tuple[torch.Tensor, torch.Tensor]]:
    """That loader's epoch, by one that never had another size."""
    with make(name, loader.source, **{**options, "size": loader.size}) as other:
        other.set_epoch(loader.plan.epoch)
        assert np.array_equal(other.plan.order, loader.plan.order)
        assert other.plan.size == loader.plan.size
        return everything(other)


def renderer_of(loader: Any) -> Any:
    return loader._executor if hasattr(loader, "_executor") else loader._decoder.renderer


@pytest.mark.parametrize(("name", "options", "variant"), [*PAIRS, *rest(*OTHERS)])
def test_resized_loaders_give_a_new_loaders_batches(
    name: str, options: dict[str, Any], variant: str, data: Path, odd_beton: Path
) -> None:
    options = {**VARIANTS[variant], **options}
    path = odd_beton if options.pop("odd") else data / "train.beton"
    with make(name, path, **options) as loader:
        for epoch, size in enumerate(SIZES[1::2] if name in STARTING else SIZES):
            left = iter(loader)
            held = next(left)
            before = [each.clone() for each in held]
            loader.set_size(size)
            assert list(left) == []
            assert loader.size == size
            assert loader.state_dict() == {"seed": 0, "epoch": max(epoch - 1, 0), "consumed": 0}
            if epoch != 1:  # the plan of the epoch that is there is made anew, too
                loader.set_epoch(epoch)
            found = everything(loader)
            assert same(found, fresh(loader, name, **options))
            assert {images.shape[1:] for images, _ in found} == {(3, size, size)}
            assert same([held], [before])  # a batch is the caller's for good
            loader.set_epoch(epoch)


@every_kind
def test_each_change_counts_however_often(name: str, options: dict[str, Any], data: Path) -> None:
    """Without a batch between changes, too: of a new loader, and of one that has given some."""
    with make(name, data / "train.beton", **options) as loader:
        for _ in range(1 if name in STARTING else 2):
            for size in (80, 31, 17):
                loader.set_size(size)
            assert same(everything(loader), fresh(loader, name, **options))
            loader.set_size(64)
            next(iter(loader))


@every_kind
def test_refused_and_present_sizes_change_nothing(
    name: str, options: dict[str, Any], data: Path
) -> None:
    with make(name, data / "train.beton", **options) as loader:
        loader.set_epoch(2)
        whole = fresh(loader, name, **options)
        batches = iter(loader)
        first, before = next(batches), vars(loader).copy()
        for size in (0, -1, 8193):
            with pytest.raises(UsageError, match=f"size: {size}, expected 1 to 8192 px"):
                loader.set_size(size)
        assert loader.state_dict() == {"seed": 0, "epoch": 2, "consumed": 8}
        loader.set_size(64)
        assert all(vars(loader)[each] is before[each] for each in before)
        assert same([first, *batches], whole)
        assert loader.plan is before["_plan"]
        assert loader.size == 64
        if name not in STARTING:
            loader.set_size(33)
            assert same(everything(loader), fresh(loader, name, **options))


@pytest.mark.parametrize("name", ["ffcv", "dali", "resident", *rest("torchvision")])
def test_the_position_is_set_after_the_size(name: str, data: Path) -> None:
    state = {"seed": 0, "epoch": 1, "consumed": 16}
    with make(name, data / "train.beton") as loader:
        loader.set_size(40)
        loader.load_state_dict(state)
        loader.set_size(40)
        assert loader.state_dict() == state
        whole = fresh(loader, name)
        assert same(everything(loader), whole[2:])
        loader.load_state_dict(state)
        loader.set_size(41)
        assert loader.state_dict() == {**state, "consumed": 0}
        assert same(everything(loader), fresh(loader, name))


def test_order_boxes_and_flips_stay(data: Path) -> None:
    with make("torchvision", data / "train.beton") as loader:
        before = loader.plan.rows(loader.plan.order)
        loader.set_size(100)
        after = loader.plan.rows(loader.plan.order)
    for each in ("samples", "boxes", "flips"):
        assert np.array_equal(getattr(before, each), getattr(after, each))


# What stays, and what goes.


@pytest.mark.parametrize("filed", [False, True], ids=["memory", "file"])
@pytest.mark.parametrize("store", ["rgb", "yuv420"])
def test_resident_decodes_nothing_twice(
    store: str, filed: bool, data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    decoded: Counter[int] = Counter()
    write = PixelWriter.write

    def count(writer: PixelWriter, sample: int, target: np.ndarray) -> None:
        decoded[sample] += 1
        write(writer, sample, target)

    monkeypatch.setattr(PixelWriter, "write", count)
    file = tmp_path / "pixels.store" if filed else None
    with make_resident(data / "train.beton", store=store, store_file=file) as loader:
        memory, filler = loader._executor._memory, loader._executor.filler
        assert isinstance(memory, FileMemory) == filed
        threads = set()
        for size in SIZES:
            next(iter(loader))  # left in the middle of being filled
            threads |= loader._executor.threads._threads
            loader.set_size(size)
            assert len(list(loader)) == 5
            assert loader._executor._memory is memory
            assert loader._executor.filler is filler
        assert len(threads | loader._executor.threads._threads) <= 2
    assert decoded == Counter(range(33))


def test_ranks_keep_their_common_copy(
    data: Path, shm: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name, value in (("LOCAL_RANK", "0"), ("LOCAL_WORLD_SIZE", "2")):
        monkeypatch.setenv(name, value)
    options = {"rank": 0, "world": 2}
    with make("resident", data / "train.beton", **options) as loader:
        (name,) = [path.name for path in shm.iterdir()]
        list(loader)
        loader.set_size(23)
        assert [path.name for path in shm.iterdir()] == [name]
        assert same(everything(loader), fresh(loader, "resident", **options))


def worker_pids() -> set[int]:
    children = psutil.Process().children()
    return {each.pid for each in children if "resource_tracker" not in " ".join(each.cmdline())}


def test_worker_processes_of_torchvision_stay(data: Path) -> None:
    others = worker_pids()
    with make("torchvision", data / "train.beton", workers=2) as loader:
        next(iter(loader))
        before = worker_pids() - others
        assert len(before) == 2
        for size in SIZES:
            loader.set_size(size)
            assert next(iter(loader))[0].shape[2] == size
            assert worker_pids() - others == before


def test_those_of_stock_end_at_once(data: Path) -> None:
    others = worker_pids()
    with make("stock", data / "train.beton", workers=2) as loader:
        next(iter(loader))
        assert len(worker_pids() - others) == 2
        loader.set_size(23)
        assert worker_pids() == others


def test_what_ffcv_has_made_stays(data: Path) -> None:
    def made(loader: Any) -> list[Any]:
        driver, renderer = loader._driver, loader._decoder.renderer
        return [driver, driver.code, loader._order, loader._decoder, renderer]

    with make("ffcv", data / "train.beton") as loader:
        list(loader)
        before, threads = made(loader), set(renderer_of(loader).threads._threads)
        loader.set_size(23)
        list(loader)
        assert all(a is b for a, b in zip(made(loader), before, strict=True))
        assert set(renderer_of(loader).threads._threads) == threads


@rendering_loaders
def test_nothing_is_compiled_again(name: str, data: Path) -> None:
    with make(name, data / "train.beton") as loader:
        list(loader)
        kernels = cpu.render_rows.signatures
        for size in SIZES:
            loader.set_size(size)
            list(loader)
        assert cpu.render_rows.signatures == kernels


@pytest.mark.parametrize("name", list(LOADERS))
def test_a_closed_loader_is_not_opened_by_it(name: str, data: Path) -> None:
    processes, threads = worker_pids(), set(threading.enumerate())
    loader = make(name, data / "train.beton")
    next(iter(loader))
    loader.close()
    for use in (lambda: loader.set_size(32), lambda: next(iter(loader))):
        with pytest.raises(UsageError, match="is closed"):
            use()
    loader.close()
    assert worker_pids() <= processes
    left = set(threading.enumerate()) - threads
    assert {each.name for each in left} <= {"QueueFeederThread"}  # of torch, which end by and by


def settle(threads: ThreadPoolExecutor) -> None:
    """Wait until each of two threads has let go of all that it has done."""
    barrier = threading.Barrier(2)
    for future in [threads.submit(barrier.wait, LONG_S) for _ in range(2)]:
        future.result(LONG_S)


@pytest.mark.parametrize("name", ["torchvision", "ffcv", "resident"])
def test_batches_of_the_old_size_are_given_back(name: str, data: Path) -> None:
    with make(name, data / "train.beton") as loader:
        list(loader)
        if name == "torchvision":
            pool = vars(loader)["_normalizer"]._pool
        else:
            settle(renderer_of(loader).threads)
            pool = renderer_of(loader).pool
        old = [weakref.ref(each) for each in (pool, *pool._free)]
        del pool
        assert len(old) > 1
        loader.set_size(23)
        assert [each() for each in old] == [None] * len(old)


def test_dali_frees_the_old_sizes_pipeline(data: Path) -> None:
    with make("dali", data / "train.beton") as loader:
        list(loader)
        assert vars(loader)["_pipe"] is not None
        loader.set_size(23)
        assert vars(loader)["_pipe"] is None


def test_scratch_of_the_old_size_is_freed(data: Path) -> None:
    worker = Worker(open_source(data / "train.beton"))
    geometry = np.array([[[0, 90, 64, 0], [0, 70, 64, 0]]], np.int32)
    one, no = np.ones(1, np.int32), np.zeros(1, np.bool_)
    piece = Piece(slice(1), np.zeros(1, np.int64), geometry, one, no, no)
    for size in (64, 23, 64):
        geometry[..., cpu.RESIZED] = size
        scale, bias, scratch = worker.fit(piece, size, True)
        assert len(scale) == len(bias) == 3 * size
        assert scratch.first.shape == (2, size)
        old = weakref.ref(scratch.pixels)
        again = worker.fit(piece, size, True)[2]
        arrays = zip(again[:-1], scratch[:-1], strict=True)  # the filter is the last
        assert all(a is b for a, b in arrays if a.base is None)
        assert not again.cubic
        del scratch, again
        worker.fit(piece, size + 1, True)
        assert old() is None


# What is still in the making.


def test_abandoned_batches_keep_their_size(data: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A thread may have begun a piece when its iteration ended: compiled code checks no bounds."""
    run, draw = Rendering._run, StoreExecutor._draw
    reached, opened = threading.Event(), threading.Event()
    drawn: set[tuple[int, int]] = set()
    with make("resident", data / "train.beton") as loader:
        second = set(loader.plan.order[8:16].tolist())

        def wait(rendering: Rendering, piece: Piece) -> None:
            if not opened.is_set() and second & set(piece.samples.tolist()):
                reached.set()
                assert opened.wait(LONG_S)
            run(rendering, piece)

        def note(executor: Any, piece: Piece, worker: Worker, out: np.ndarray) -> None:
            planned, size = int(piece.geometry[0, 0, cpu.RESIZED]), out.shape[1]
            drawn.add((planned, size))
            if planned == size:
                draw(executor, piece, worker, out)

        monkeypatch.setattr(Rendering, "_run", wait)
        monkeypatch.setattr(StoreExecutor, "_draw", note)
        batches = iter(loader)
        next(batches)
        assert reached.wait(LONG_S)
        del batches  # not before: what no thread has begun by then, none will
        drawn.clear()
        loader.set_size(97)
        opened.set()
        found = everything(loader)
        settle(loader._executor.threads)
        assert drawn == {(64, 64), (97, 97)}
        monkeypatch.undo()
        assert same(found, fresh(loader, "resident"))


@rendering_loaders
def test_another_sizes_plan_never_reaches_compiled_code(name: str, data: Path) -> None:
    with make(name, data / "train.beton") as loader:
        plan, renderer = loader.plan, renderer_of(loader)
        renderer.set_size(65)
        rows = replace(plan.rows(plan.order[:1]), filter="bicubic")
        with pytest.raises(ValueError, match="rows by bicubic, scratch for bilinear"):
            renderer.submit(rows, replace(plan, size=65))
        with pytest.raises(ValueError, match="a plan of 64 px, batches of 65"):
            renderer.submit(plan.rows(plan.order[:8]), plan)


@pytest.mark.gpu
@every_loader
def test_gpu_batches(name: str, options: dict[str, Any], data: Path) -> None:
    options = {"device": "cuda", "dtype": torch.bfloat16, **options}
    with make(name, data / "train.beton", **options) as loader:
        for size in SIZES:
            next(iter(loader))
            loader.set_size(size)
            found = everything(loader)
            assert all(images.is_cuda for images, _ in found)
            assert same(found, fresh(loader, name, **options))
