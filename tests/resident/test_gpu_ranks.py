"""GPU ranks of one machine: each sample decoded once for all of them; interpreted without a GPU."""

from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import pytest
import torch
from effort import choose
from PIL import Image
from stores import make_resident, pixels_of

from pipelines.conversion.run import ConvertConfig, convert
from pipelines.errors import UsageError
from pipelines.loaders import resident_loader
from pipelines.loaders.resident_loader import ResidentLoader
from pipelines.memory import FreeMemory
from pipelines.resident import placement
from pipelines.resident.filler import Filler
from pipelines.resident.placement import Place
from pipelines.resident.store import PixelWriter

SAMPLES = 4
Ranks = Callable[..., list[ResidentLoader]]


@pytest.fixture(scope="module")
def few(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Four small photos: the interpreter takes a tenth of a second for a line."""
    folder = tmp_path_factory.mktemp("few")
    random = np.random.default_rng(5)
    for number in range(SAMPLES):
        (folder / "photos" / str(number % 2)).mkdir(parents=True, exist_ok=True)
        image = Image.fromarray(random.integers(0, 256, (2 + number % 3, 3, 3), np.uint8))
        image.save(folder / "photos" / str(number % 2) / f"{number}.jpg", subsampling=2)
    convert(ConvertConfig(src=folder / "photos", out=folder / "few.beton"))
    return folder / "few.beton"


@pytest.fixture
def ranks(
    triton_kernels: tuple[ModuleType, str], shm: Path, monkeypatch: pytest.MonkeyPatch
) -> Iterator[Ranks]:
    """Makes the loaders of all ranks of a machine, as torchrun numbers their processes."""
    from pipelines.resident import gpu as resident_gpu

    kernels, device = triton_kernels
    monkeypatch.setattr(resident_gpu, "gpu", kernels)
    if device == "cpu":
        place = Place(on_gpu=True)
        monkeypatch.setattr(resident_loader, "choose_place", lambda *_, **options: place)

    with ExitStack() as stack:

        def make(
            data: Path, count: int, come: int | None = None, **options: Any
        ) -> list[ResidentLoader]:
            monkeypatch.setenv("LOCAL_WORLD_SIZE", str(count))
            made = []
            for rank in range(count if come is None else come):
                monkeypatch.setenv("LOCAL_RANK", str(rank))
                usual = {"size": 2, "batch_size": count, "store_place": "gpu", "device": device}
                given = {**usual, **options, "rank": rank, "world": count}
                made.append(stack.enter_context(make_resident(data, **given)))
            return made

        yield make


@pytest.fixture
def decoded(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """All samples that are decoded from here on."""
    found, write = [], PixelWriter.write

    def note(writer: PixelWriter, sample: int, target: np.ndarray) -> None:
        found.append(sample)
        write(writer, sample, target)

    monkeypatch.setattr(PixelWriter, "write", note)
    return found


@pytest.fixture
def unrendered(triton_kernels: tuple[ModuleType, str], monkeypatch: pytest.MonkeyPatch) -> None:
    """Batches are ready but for their pixels, at which nobody looks: they take seconds each."""
    kernels, device = triton_kernels
    if device == "cpu":
        monkeypatch.setattr(kernels, "_launch", lambda *_: None)


def epochs_of(loaders: list[ResidentLoader], count: int) -> list[np.ndarray]:
    """Global batches of some epochs, the ranks step by step, as a training's come."""
    batches = []
    for epoch in range(count):
        for loader in loaders:
            loader.set_epoch(epoch)
        for shares in zip(*loaders, strict=True):
            batches.append(np.concatenate([images.cpu().numpy() for images, _ in shares]))
    return batches


def complete(loaders: list[ResidentLoader]) -> None:
    """Let every GPU have all samples, as threads that run ahead do in time."""
    for loader in loaders:
        loader._executor.filler.ensure(np.arange(SAMPLES))


def is_mapped(shm: Path) -> bool:
    return str(shm) in Path("/proc/self/maps").read_text()


@pytest.mark.parametrize(
    ("count", "kept"),
    choose(
        [(2, "in memory"), (2, "in a file")],
        [(count, kept) for count in (2, 4) for kept in ("in memory", "in a file")],
    ),
)
def test_a_machine_decodes_each_sample_once(
    count: int,
    kept: str,
    ranks: Ranks,
    few: Path,
    decoded: list[int],
    tmp_path: Path,
    shm: Path,
    tried: Callable[..., None],
) -> None:
    options = {"store_file": tmp_path / "pixels.store"} if kept == "in a file" else {}
    loaders = ranks(few, count, **options)
    assert len(list(shm.iterdir())) == len(options)  # for claims to a file's samples
    epochs = choose(2 - len(options), 2)
    found = epochs_of(loaders, epochs)
    assert sorted(decoded) == list(range(SAMPLES))
    decoded.clear()
    (alone,) = ranks(few, 1, batch_size=count)
    for batch, wanted in zip(found, epochs_of([alone], epochs), strict=True):
        assert np.array_equal(batch, wanted)
    complete(loaders)
    stores = [loader._executor._pixels.clone().cpu().numpy() for loader in (alone, *loaders)]
    for sample in range(SAMPLES):
        place = loaders[0]._layout.place(sample)
        assert all(np.array_equal(store[place], stores[0][place]) for store in stores)
    assert sorted(decoded) == list(range(SAMPLES))  # by the one alone
    tried("GPU ranks that share what they decode", count)


@pytest.mark.usefixtures("unrendered")
def test_shared_copy_is_freed_once_gpus_filled(ranks: Ranks, few: Path, shm: Path) -> None:
    first, second = ranks(few, 2)
    memories = [loader._executor._memory for loader in (first, second)]
    assert list(shm.iterdir()) == []  # it has no name left
    complete([first])
    assert [memory.pixels.size > 0 for memory in memories] == [False, True]
    assert is_mapped(shm)
    complete([second])
    assert [memory.pixels.size > 0 for memory in memories] == [False, False]
    assert not is_mapped(shm)
    assert len(epochs_of([first, second], 1)) == SAMPLES // 2  # batches come as before


def test_shared_copy_stays_for_late_ranks(ranks: Ranks, few: Path, decoded: list[int]) -> None:
    loaders = ranks(few, 2, come=1)
    complete(loaders)
    assert loaders[0]._executor._memory.holds(0)
    late = ranks(few, 2)[1]
    complete([late])
    assert sorted(decoded) == list(range(SAMPLES))


def test_a_gpu_alone_keeps_no_copy_in_memory(ranks: Ranks, few: Path) -> None:
    (loader,) = ranks(few, 1)
    assert loader._executor._memory is None
    assert loader.remarks == ("0.00 GB of rgb pixels on the GPU",)


@pytest.mark.usefixtures("unrendered")
def test_evaluating_gpu_ranks_keep_no_copy(ranks: Ranks, few: Path, decoded: list[int]) -> None:
    loaders = ranks(few, 2, view="eval")
    assert [loader._executor._memory for loader in loaders] == [None, None]
    epochs_of(loaders, 2)
    assert sorted(decoded) == list(range(SAMPLES))


@pytest.mark.usefixtures("unrendered")
def test_idle_threads_fill_the_ranks_part(
    ranks: Ranks, few: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: list[list[int]] = []
    monkeypatch.setattr(Filler, "run_ahead", lambda _, samples: asked.append(samples.tolist()))
    loaders = ranks(few, 4)
    epochs_of(loaders, 1)
    shares = [loader.plan.order[rank::4].tolist() for rank, loader in enumerate(loaders)]
    parts = [[*range(rank, SAMPLES), *range(rank)] for rank in range(4)]
    assert asked == [[*share, *part] for share, part in zip(shares, parts, strict=True)]
    asked.clear()
    complete(loaders)
    epochs_of(loaders, 1)
    assert asked == shares


def test_without_room_each_rank_decodes_alone(
    ranks: Ranks, few: Path, shm: Path, decoded: list[int], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(placement, "free_memory", lambda: FreeMemory(0, "of this machine"))
    loaders = ranks(few, 2)
    found = epochs_of(loaders, 1)
    assert list(shm.iterdir()) == []
    complete(loaders)
    assert sorted(decoded) == sorted([*range(SAMPLES)] * 2)
    for loader in loaders:
        _, remark = loader.remarks
        assert remark.startswith("each process decodes for itself what its GPU needs: there is no")
        assert f"({few} in memory: 0.00 GB of pixels as rgb" in remark
    (alone,) = ranks(few, 1, batch_size=2)
    assert np.array_equal(np.concatenate(found), np.concatenate(epochs_of([alone], 1)))


@pytest.mark.parametrize(("count", "which"), [(1, "the"), (2, "each")])
def test_sets_too_large_for_gpus_stay_in_ram(
    count: int,
    which: str,
    ranks: Ranks,
    few: Path,
    decoded: list[int],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    place = Place(on_gpu=False, gpu_bytes=3_210_000_000)
    monkeypatch.setattr(resident_loader, "choose_place", lambda *_, **options: place)
    loaders = ranks(few, count)
    for _ in range(2):
        for shares in zip(*loaders, strict=True):
            assert len(shares) == count
    assert sorted(decoded) == list(range(SAMPLES))
    said = f"0.00 GB of pixels do not fit on {which} GPU (3.21 GB free beside training), "
    for loader in loaders:
        assert loader.remarks == (
            "0.00 GB of rgb pixels in memory",
            f"{said}but in RAM: kept there",
        )
    path = tmp_path / "pixels.store"
    for loader in ranks(few, count, store_file=path):
        assert loader.remarks[1] == f"{said}kept in {path}"


def test_sets_too_large_everywhere_are_refused(
    ranks: Ranks, few: Path, shm: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    place = Place(on_gpu=False, gpu_bytes=3_210_000_000)
    monkeypatch.setattr(resident_loader, "choose_place", lambda *_, **options: place)
    monkeypatch.setattr(placement, "free_memory", lambda: FreeMemory(0, "of this machine"))
    with pytest.raises(UsageError, match=r"on each GPU; 2 x 3\.21 GB on all GPUs together would"):
        ranks(few, 2)


# Closing.


@pytest.mark.usefixtures("unrendered")
@pytest.mark.parametrize("when", ["before", "within an epoch", "behind", "after an error"])
def test_closing_frees_the_store_whoever_has_what(
    when: str, ranks: Ranks, few: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from pipelines.resident import gpu as resident_gpu

    (loader,) = ranks(few, 1, batch_size=2)
    executor = loader._executor
    store = executor._pixels.untyped_storage()  # as a traceback's frames have it
    assert store.nbytes() == loader._layout.total + resident_gpu.gpu.SLACK_BYTES
    held: list[Any] = []
    if when == "within an epoch":
        batches = iter(loader)
        held += [batches, next(batches)]
    elif when == "behind":
        held.append(pixels_of(loader))
    elif when == "after an error":

        def fail(frames: Any, *arguments: object) -> None:
            raise torch.OutOfMemoryError(f"beside {len(frames.data)} bytes")

        with monkeypatch.context() as patch:
            patch.setattr(resident_gpu.gpu, "render_rows", fail)
            with pytest.raises(torch.OutOfMemoryError) as caught:
                list(loader)
        held.append(caught)  # and its traceback, whose frames have the store
    loader.close()
    assert store.nbytes() == 0
    assert not {"_scratch", "_scale", "_bias", "_tables", "_crops"} & vars(executor).keys()
    assert len(held) <= 2


@pytest.mark.gpu
def test_closing_gives_a_gpu_its_memory_back(ranks: Ranks, data: Path) -> None:
    pixels_of(ranks(data / "train.beton", 1)[0])  # what is loaded once stays
    torch.cuda.synchronize()
    torch.cuda.empty_cache()
    before = torch.cuda.memory_allocated(), torch.cuda.memory_reserved()
    (loader,) = ranks(data / "train.beton", 1, batch_size=4)
    batches = iter(loader)
    next(batches)
    assert torch.cuda.memory_allocated() >= before[0] + loader._layout.total
    loader.close()
    del batches
    assert torch.cuda.memory_allocated() <= before[0] + (1 << 16)  # factors of the loader's own
    assert torch.cuda.memory_reserved() <= before[1] + (2 << 20)
