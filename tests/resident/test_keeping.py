"""When decoded pixels are kept, and that crops are the same whatever is kept."""

import pickle
import threading
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from batches import everything, same
from effort import rest
from stores import make_resident, pixels_of, spoil, wanted_of

from pipelines.augment import Augment
from pipelines.compiling import compiling
from pipelines.conversion.run import ConvertConfig, convert
from pipelines.errors import DataError, UsageError
from pipelines.formats.beton import read_index
from pipelines.formats.source import open_source
from pipelines.kernels import libjpeg
from pipelines.loaders import make_loader
from pipelines.loaders.resident_loader import ResidentLoader
from pipelines.regions import RegionDecoder
from pipelines.rendering.row_worker import Piece, Worker
from pipelines.resident import on_cpu
from pipelines.resident.filler import Filler
from pipelines.resident.keeping import MANY, choose_keeping
from pipelines.resident.on_cpu import StoreExecutor
from pipelines.resident.store import StoreFormat

#: Longer than anything takes: what waits so long has failed.
LONG_S = 20
ALONE = {"outlives": False, "on_gpu": False, "alone": True}


def again(data: Any, **options: Any) -> ResidentLoader:
    """A loader that keeps what is asked for again, and by now need keep nothing else."""
    loader = make_resident(data, epochs=None, **options)
    loader._executor._decodes_parts.result()
    return loader


@pytest.fixture
def no_running_ahead(monkeypatch: pytest.MonkeyPatch) -> None:
    """Idle threads fill nothing."""
    monkeypatch.setattr(Filler, "run_ahead", lambda self, samples: None)


@pytest.mark.parametrize(
    ("epochs", "options", "expected"),
    [
        (None, {}, "again"),
        (1, {}, "never"),
        (MANY - 1, {}, "never"),
        (MANY, {}, "at once"),
        (None, {"alone": False}, "at once"),
        (1, {"alone": False}, "never"),
        *((epochs, {"outlives": True}, "at once") for epochs in (None, 1)),
        *((epochs, {"on_gpu": True}, "at once") for epochs in (None, 1)),
    ],
)
def test_what_is_chosen(
    epochs: int | None, options: dict[str, Any], expected: str, data: Path
) -> None:
    how = {**ALONE, **options}
    assert choose_keeping(read_index(data / "test.beton"), StoreFormat(), epochs=epochs, **how) == (
        expected
    )


@pytest.mark.parametrize("epochs", [None, 1])
def test_what_only_a_store_has_is_kept_at_once(
    epochs: int | None, data: Path, few_photos: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Pixels that are others than the source's; images that nobody has looked at; any libjpeg."""
    index = read_index(data / "test.beton")
    for format_ in (StoreFormat(kind="yuv420"), StoreFormat(shorter_px=64)):
        assert choose_keeping(index, format_, epochs=epochs, **ALONE) == "at once"
    folder = open_source(few_photos)
    assert choose_keeping(folder, StoreFormat(), epochs=epochs, **ALONE) == "at once"
    monkeypatch.setattr(libjpeg, "find_libjpeg", lambda: None)
    assert choose_keeping(index, StoreFormat(), epochs=epochs, **ALONE) == "at once"


def test_no_number_of_epochs(data: Path) -> None:
    with pytest.raises(UsageError, match="epochs: 0, expected 1 or more"):
        make_resident(data / "test.beton", epochs=0)
    with pytest.raises(UsageError, match="given for loader 'ffcv', expected loader 'resident'"):
        make_loader("ffcv", data / "test.beton", epochs=1)


@pytest.mark.parametrize("view", ["train", *rest("eval")])
@pytest.mark.parametrize("epochs", [1, None])
def test_pixels_are_the_references_in_every_epoch(
    epochs: int | None, view: str, odd_beton: Path
) -> None:
    """All kinds of images are: those that cannot be cut, and raw ones, among others."""
    source = open_source(odd_beton)
    make = make_resident if epochs else again
    with make(source, view=view, **({"epochs": 1} if epochs else {})) as loader:
        for epoch in range(4):
            loader.set_epoch(epoch)
            assert np.array_equal(pixels_of(loader), wanted_of(loader)), epoch


def test_nothing_is_kept_of_few_epochs(data: Path) -> None:
    for epochs, times in ((1, "once"), (2, "twice")):
        with make_resident(data / "train.beton", epochs=epochs) as loader:
            assert np.array_equal(pixels_of(loader), wanted_of(loader))
            assert loader._memory is None
            assert loader.remarks == (
                f"each image comes {times}, and is decoded for what is shown: none is kept",
            )


@pytest.mark.usefixtures("no_running_ahead")
def test_what_is_asked_for_again_is_kept(odd_beton: Path) -> None:
    source = read_index(odd_beton)
    with again(source, batch_size=4) as loader:
        filler: Filler = loader._executor.filler
        everything(loader)
        # Images that cannot be cut were decoded whole: raw ones, among others.
        assert 0 < filler.missing < len(source)
        assert filler._there[source.modes == 1].all()  # raw
        loader.set_epoch(1)
        everything(loader)
        assert filler.missing == 0


@pytest.mark.usefixtures("no_running_ahead")
def test_samples_that_are_there_are_not_decoded_again(
    data: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    source, drawn = read_index(data / "train.beton"), []
    render = Worker.render_jpegs

    def note(worker: Worker, piece: Piece, rows: list[int], out: np.ndarray) -> list[int]:
        drawn.extend(piece.samples[rows].tolist())
        return render(worker, piece, rows, out)

    monkeypatch.setattr(Worker, "render_jpegs", note)
    # Eight rows of a piece, of which some are there and some are not.
    with again(source, view="train", batch_size=32, workers=1) as loader:
        some = np.arange(0, len(source), 3)
        loader._executor.filler.ensure(some)
        assert np.array_equal(pixels_of(loader), wanted_of(loader))
    assert sorted(drawn) == np.delete(np.arange(len(source)), some).tolist()


@pytest.mark.usefixtures("no_running_ahead")
def test_images_that_cannot_be_cut_are_kept_at_once(
    data: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run, whole = RegionDecoder.run, {3, 4, 9}

    def refuse(regions: RegionDecoder, sample: int, *image: Any) -> bool:
        return sample not in whole and run(regions, sample, *image)

    monkeypatch.setattr(RegionDecoder, "run", refuse)
    with again(data / "train.beton", view="train", batch_size=32, workers=1) as loader:
        assert np.array_equal(pixels_of(loader), wanted_of(loader))
        assert set(np.flatnonzero(loader._executor.filler._there).tolist()) == whole


def test_everything_is_kept_as_long_as_parts_cannot_be_decoded(data: Path) -> None:
    """While what decodes them is compiled, which takes seconds on a machine's first run."""
    with again(data / "train.beton") as loader:
        loader._executor._decodes_parts = Future()
        assert np.array_equal(pixels_of(loader), wanted_of(loader))
        assert loader._executor.filler.missing == 0


def test_idle_threads_keep_everything(data: Path) -> None:
    with again(data / "train.beton") as loader:
        batches = iter(loader)
        next(batches)  # and ask for no other meanwhile
        filler: Filler = loader._executor.filler
        with filler._changed:
            assert filler._changed.wait_for(lambda: filler.missing == 0, timeout=60)


@pytest.mark.parametrize("epochs", [1, *rest(None)])
def test_what_is_drawn_is_the_same_whatever_is_kept(epochs: int | None, data: Path) -> None:
    asked = {"augment": Augment(policy="trivial", erase=0.5, mixup=0.2), "normalize": True}
    batches = []
    for each in (epochs, MANY):
        with make_resident(data / "train.beton", epochs=each, **asked) as loader:
            batches.append([*everything(loader), *everything(loader)])
    assert same(*batches)


@pytest.mark.parametrize("epochs", [1, None])
def test_broken_samples_are_named(epochs: int | None, data: Path, tmp_path: Path) -> None:
    path = tmp_path / "broken.beton"
    name = spoil(data / "train.beton", 20, path)
    make = make_resident if epochs else again
    with make(path, view="eval", **({"epochs": 1} if epochs else {})) as loader:
        for _ in range(2):
            batches = iter(loader)
            for _ in range(2):
                next(batches)
            with pytest.raises(DataError, match=rf"{path}: {name}: "):
                next(batches)


def test_other_processes_are_told(data: Path) -> None:
    with make_resident(data / "test.beton", epochs=1, view="eval") as loader:
        mine = everything(loader)
        with pickle.loads(pickle.dumps(loader)) as theirs:
            assert same(everything(theirs), mine)
            assert theirs._memory is None


def test_raw_images_are_kept_at_once(
    photos: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """And not read for their crops first."""
    monkeypatch.setattr(Worker, "render_jpegs", None)
    out = tmp_path / "raw.beton"
    convert(ConvertConfig(src=photos / "test", out=out, mode="raw"))
    with again(out) as loader:
        everything(loader)
        assert loader._executor.filler.missing == 0


@pytest.mark.parametrize("epochs", [None, MANY])
def test_the_first_batch_waits_for_one_kernel_alone(
    epochs: int | None, data: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """On a machine's first run each takes seconds to compile, one after the other."""
    goes_on = threading.Event()
    monkeypatch.setattr(Worker, "load", lambda _: goes_on.wait(LONG_S))

    def load_whole() -> None:
        with compiling():
            goes_on.wait(LONG_S)

    monkeypatch.setattr(on_cpu, "load_whole", load_whole)
    compile_ = StoreExecutor._compile
    monkeypatch.setattr(
        StoreExecutor, "_compile", lambda self: goes_on.wait(0.05) or compile_(self)
    )
    with make_resident(data / "train.beton", epochs=epochs) as loader, ThreadPoolExecutor(1) as one:
        first = one.submit(lambda: next(iter(loader)))
        try:
            images, _ = first.result(LONG_S / 2)
        finally:
            goes_on.set()
        assert len(images) == 8
