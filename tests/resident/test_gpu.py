"""What the resident loader does with a GPU; interpreted where there is none."""

from collections.abc import Callable, Sequence
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import pytest
import torch
from effort import choose, rest
from interpreted import make_changing
from PIL import Image
from stores import make_resident, pixels_of, wanted_of

from pipelines.augment import Augment
from pipelines.conversion.run import ConvertConfig, convert
from pipelines.errors import DataError
from pipelines.loaders import resident_loader
from pipelines.preprocessing import Preprocessing
from pipelines.resident.store import PixelWriter


@pytest.fixture
def executor(triton_kernels: tuple[ModuleType, str], monkeypatch: pytest.MonkeyPatch) -> Any:
    """Makes a loader whose batches are made as on a GPU."""
    from pipelines.resident import gpu as resident_gpu

    kernels, device = triton_kernels
    monkeypatch.setattr(resident_gpu, "gpu", kernels)

    def make_on_gpu(data: Path, place: str, **options: Any) -> resident_loader.ResidentLoader:
        if device == "cuda":
            return make_resident(data, device=device, store_place=place, **options)
        loader = make_resident(data, **options)
        cpu_executor = loader._executor
        on_gpu = place == "gpu"
        memory = None if on_gpu and "store_file" not in options else cpu_executor._memory
        loader._executor = resident_gpu.GpuExecutor(
            loader.source,
            loader._layout,
            memory,
            loader.device,
            loader.size,
            loader.dtype,
            loader.workers,
            on_gpu=on_gpu,
            changes=loader.augment.changes_pixels,
            preprocessing=loader.preprocessing,
        )
        cpu_executor.threads.shutdown()
        return loader

    return make_on_gpu


def write_jpegs(folder: Path, shapes: Sequence[tuple[int, int]]) -> Path:
    """4:2:0 ones, converted: the interpreter takes a tenth of a second for a line."""
    random = np.random.default_rng(4)
    for number, shape in enumerate(shapes):
        (folder / "photos" / str(number % 2)).mkdir(parents=True, exist_ok=True)
        image = Image.fromarray(random.integers(0, 256, (*shape, 3), np.uint8))
        image.save(folder / "photos" / str(number % 2) / f"{number}.jpg", subsampling=2)
    convert(ConvertConfig(src=folder / "photos", out=folder / "tiny.beton"))
    return folder / "tiny.beton"


@pytest.fixture(scope="module")
def tiny(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_jpegs(tmp_path_factory.mktemp("tiny"), [(4, 9), (13, 7), (8, 12)])


@pytest.fixture(scope="module")
def five(tmp_path_factory: pytest.TempPathFactory) -> Path:
    shapes = [(4, 9), (5, 7), (8, 3), (5, 5), (3, 6)]
    return write_jpegs(tmp_path_factory.mktemp("five"), shapes)


@pytest.mark.parametrize(
    ("view", "place", "store", "by"),
    [
        ("train", "gpu", "rgb", "bilinear"),
        ("train", "ram", "yuv420", "bilinear"),
        ("eval", "gpu", "yuv420", "bicubic"),
        ("eval", "ram", "rgb", "bilinear"),
        *rest(
            ("train", "ram", "rgb", "bicubic"),
            ("train", "gpu", "yuv420", "bicubic"),
            ("eval", "gpu", "yuv420", "bilinear"),
            ("eval", "ram", "yuv420", "bicubic"),
        ),
    ],
)
def test_batches_of_a_gpu_are_the_references(
    view: str, place: str, store: str, by: Any, executor: Any, tiny: Path
) -> None:
    form = Preprocessing(filter=by, crop_share=0.9)
    how = {"view": view, "store": store, "preprocessing": form}
    with executor(tiny, place, size=9, batch_size=2, **how) as loader:
        assert np.array_equal(pixels_of(loader), wanted_of(loader))


@pytest.mark.parametrize("place", ["ram", *rest("gpu")])
def test_a_gpu_shows_samples_again(place: str, executor: Any, five: Path) -> None:
    with executor(five, place, size=4, batch_size=3, sampler="balanced", seed=3) as loader:
        visits = loader.plan.order
        assert visits.max() >= len(visits)  # a sample comes twice
        assert np.array_equal(pixels_of(loader), wanted_of(loader))
        labels = torch.cat([labels for _, labels in loader])
        samples = loader.plan.samples(visits)
        assert labels.tolist() == loader.source.labels[samples].tolist()


@pytest.mark.parametrize(("view", "place", "first"), [("train", "gpu", 0), ("eval", "ram", 1)])
def test_odd_images(view: str, place: str, first: int, executor: Any, odd_beton: Path) -> None:
    with executor(odd_beton, place, view=view, size=16) as loader:
        if loader.device.type == "cpu":  # some: the interpreter takes a second for each
            loader.select(np.arange(first, len(loader.source), choose(9, 4)))
        assert np.array_equal(pixels_of(loader), wanted_of(loader))


@pytest.mark.parametrize(("place", "normalize"), [("gpu", False), ("ram", True)])
def test_operations_on_a_gpu_are_those_of_a_cpu(
    place: str,
    normalize: bool,
    executor: Any,
    tiny: Path,
    triton_kernels: tuple[ModuleType, str],
    load_kernels: Callable[..., ModuleType],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    asked = Augment(policy="trivial", color_jitter=(0.4, 0.4, 0.4, 0.2), vflip=0.5, erase=0.7)
    options = {"size": 9, "batch_size": 2, "augment": asked, "normalize": normalize}
    changing = make_changing(triton_kernels[1], load_kernels)
    monkeypatch.setattr("pipelines.changing.on_gpu.changing", changing)
    with pytest.MonkeyPatch.context() as patch:
        if triton_kernels[1] == "cpu":
            patch.setenv("TRITON_INTERPRET", "1")
        normalizing = load_kernels("normalizing_changed", "normalizing.py")
    monkeypatch.setattr("pipelines.resident.gpu.normalize", normalizing.normalize)
    with make_resident(tiny, **options) as loader, executor(tiny, place, **options) as other:
        for epoch in range(choose(1, 3)):
            for each in (loader, other):
                each.set_epoch(epoch)
            for (images, labels), (found, answers) in zip(loader, other, strict=True):
                assert labels.tolist() == answers.tolist()
                apart = (images.float() - found.cpu().float()).abs()
                # A level off before a step such as equalizing may be many behind it.
                assert apart.mean() < (0.05 if normalize else 2)
                assert (apart > (0.02 if normalize else 1)).float().mean() < 0.02


@pytest.mark.parametrize("place", ["gpu", "ram"])
def test_a_store_file_spares_the_next_decoding(
    place: str, executor: Any, tiny: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    options = {"size": 5, "store_file": tmp_path / "pixels.store"}
    with executor(tiny, place, **options) as loader:
        first = pixels_of(loader)
        assert np.array_equal(first, wanted_of(loader))

    def fail(*arguments: object) -> None:
        raise AssertionError("decoded again")

    monkeypatch.setattr(PixelWriter, "write", fail)
    with executor(tiny, place, **options) as loader:
        assert np.array_equal(pixels_of(loader), first)


@pytest.mark.parametrize(("place", "store"), [("gpu", "yuv420"), ("ram", "rgb")])
def test_another_size(
    place: str, store: str, executor: Any, tiny: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    decoded, write = [], PixelWriter.write

    def note(writer: PixelWriter, sample: int, target: np.ndarray) -> None:
        decoded.append(sample)
        write(writer, sample, target)

    with executor(tiny, place, store=store, size=9, batch_size=2) as loader:
        monkeypatch.setattr(PixelWriter, "write", note)
        for epoch, size in enumerate((4, 13)):
            left = iter(loader)
            next(left)
            loader.set_size(size)
            loader.set_epoch(epoch)
            found = pixels_of(loader)
            assert found.shape == (3, size, size, 3)
            assert np.array_equal(found, wanted_of(loader))
            assert loader._executor._scratch.first.shape[2] == size
            assert list(left) == []
    assert sorted(decoded) == list(range(3))


def test_batches_of_a_gpu_follow_the_contract(executor: Any, tiny: Path) -> None:
    for place in ("gpu", "ram"):
        options = {"size": 6, "normalize": True, "dtype": torch.bfloat16}
        with executor(tiny, place, batch_size=2, **options) as loader:
            batches = list(loader)
            assert [len(labels) for _, labels in batches] == [2, 1]
            for images, _ in batches:
                assert images.dtype == torch.bfloat16
                assert images.is_contiguous(memory_format=torch.channels_last)
            labels = torch.cat([labels for _, labels in batches])
            assert labels.tolist() == loader.source.labels[loader.plan.order].tolist()
            assert labels.dtype == torch.int64
            again = next(iter(loader))[0]  # left early; what was gathered ahead harms nobody
            assert torch.equal(again, batches[0][0])
            assert all(torch.equal(a, b[0]) for (a, _), b in zip(loader, batches, strict=True))


def test_thread_errors_reach_who_waits(
    executor: Any, data: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*arguments: object) -> None:
        raise DataError("here", "broken")

    monkeypatch.setattr(PixelWriter, "write", fail)
    for place in ("gpu", "ram"):
        with executor(data / "train.beton", place) as loader:
            for _ in range(2):
                with pytest.raises(DataError, match="here: broken"):
                    list(loader)


def test_batches_are_rendered_into_a_callers_tensors(executor: Any, five: Path) -> None:
    """Full ones, in turn; the short one has memory of its own."""
    with executor(five, "gpu", size=4, batch_size=2, normalize=False) as loader:
        wanted = [images.clone() for images, _ in loader]
        own = [torch.zeros_like(wanted[0]) for _ in range(2)]
        places = [each.data_ptr() for each in own]
        loader.render_into(own)
        found = []
        for number, (images, _) in enumerate(loader):
            assert (images.data_ptr() in places) is (number < 2)
            found.append((images.data_ptr(), images.clone()))
        assert [place for place, _ in found[:2]] == places
        assert [torch.equal(a, b) for (_, a), b in zip(found, wanted, strict=True)] == [True] * 3
        loader.render_into([])
        assert all(images.data_ptr() not in places for images, _ in loader)
