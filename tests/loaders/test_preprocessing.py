"""`preprocessing=`: every loader gives the pixels that a model's form asks for."""

import pickle
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from effort import rest
from PIL import Image
from rendered import LOADERS, TOLERANCE, check_pixels, make
from torchvision.transforms import v2 as transforms

from pipelines.conversion.run import ConvertConfig, convert
from pipelines.errors import UsageError
from pipelines.formats.beton import read_index
from pipelines.formats.encode import decode
from pipelines.formats.source import Source, open_source
from pipelines.kernels.libjpeg import find_libjpeg
from pipelines.loaders import make_loader, torchvision_loader
from pipelines.loaders.stock_loader import stock_transform
from pipelines.preprocessing import Preprocessing
from pipelines.reference import normalize, render_batch

HALVES = (0.5, 0.5, 0.5)
#: A vision transformer's, and others of the two filters with shares that do not divide evenly.
VIT = Preprocessing(filter="bicubic", crop_share=0.9, mean=HALVES, std=HALVES)
WHOLE = Preprocessing(filter="bicubic", crop_share=1.0)
SHARP = {**TOLERANCE, "dali": (0.5, 48)}
RANDOM = np.random.default_rng(7)


@pytest.fixture(scope="module")
def edges(tmp_path_factory: pytest.TempPathFactory) -> Source:
    """Black and white, whose bicubic sums leave 0 to 255; tiny, thin, flat and large ones."""
    folder = tmp_path_factory.mktemp("edges")
    (folder / "photos" / "a").mkdir(parents=True)
    shapes = [(1, 1), (2, 60), (60, 2), (33, 47), (97, 61), (130, 9), (200, 301), (260, 250)]
    for number, (height, width) in enumerate(shapes):
        block = 1 + number % 3
        squares = RANDOM.random((height // block + 1, width // block + 1, 3)) < 0.5
        pixels = squares.repeat(block, 0).repeat(block, 1)[:height, :width]
        image = Image.fromarray(pixels.astype(np.uint8) * 255)
        image.save(folder / "photos" / "a" / f"{number}.png")
    convert(ConvertConfig(src=folder / "photos", out=folder / "edges.beton"))
    return open_source(folder / "edges.beton")


FORMS = [("train", VIT, 64), ("eval", VIT, 97), ("eval-square", WHOLE, 33), ("recordio", VIT, 24)]


@pytest.mark.parametrize(
    ("name", "view", "form", "size"),
    [
        *((name, *form) for name in LOADERS if name != "torchvision" for form in FORMS),
        ("torchvision", *FORMS[1]),
        *rest(*(("torchvision", *form) for form in FORMS if form != FORMS[1])),
    ],
)
def test_odd_images_are_the_references(
    name: str, view: str, form: Preprocessing, size: int, odd_beton: Path
) -> None:
    check_pixels(name, odd_beton, view, SHARP[name], size=size, preprocessing=form)


@pytest.mark.parametrize("name", ["torchvision", "ffcv", "resident"])
@pytest.mark.parametrize("view", ["train", "eval"])
def test_overshooting_sums_are_clipped(name: str, view: str, edges: Source) -> None:
    for size in (7, 64):
        check_pixels(name, edges, view, size=size, preprocessing=WHOLE)


def test_luma_and_chroma_come_to_the_same_pixels(odd_beton: Path) -> None:
    """A store of 4:2:0 JPEGs' own planes."""
    source = read_index(odd_beton)
    with (
        make("resident", source, view="eval", normalize=False, preprocessing=VIT) as rgb,
        make(
            "resident", source, view="eval", normalize=False, preprocessing=VIT, store="yuv420"
        ) as planes,
    ):
        pairs = [(one, two) for (one, _), (two, _) in zip(rgb, planes, strict=True)]
        same = torch.cat([(one == two).flatten(1).all(1) for one, two in pairs])
    assert same.float().mean() > 0.3  # the others are no 4:2:0


@pytest.mark.parametrize("view", ["train", "eval"])
@pytest.mark.parametrize("name", ["torchvision", "ffcv"])
def test_scaled_decoding_resizes_by_the_filter(
    name: str, view: str, odd_beton: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(torchvision_loader, "_LARGE_PX", 0)
    check_pixels(name, odd_beton, view, size=3, decode="scaled", preprocessing=VIT)


@pytest.mark.skipif(find_libjpeg() is None, reason="Pillow has loaded no libjpeg")
def test_parts_hold_all_that_taps_touch(tmp_path: Path) -> None:
    """From the second epoch on JPEGs are cut to what a row shows."""
    (tmp_path / "photos" / "a").mkdir(parents=True)
    colours = Image.fromarray(RANDOM.integers(0, 256, (40, 40, 3), np.uint8))
    colours.resize((600, 640)).save(tmp_path / "photos" / "a" / "large.jpg")
    convert(ConvertConfig(src=tmp_path / "photos", out=tmp_path / "large.beton"))
    # A tap reaches as far as two output pixels, of 30 px.
    how: dict[str, Any] = {"preprocessing": replace(WHOLE, crop_share=0.25), "normalize": False}
    with make("ffcv", tmp_path / "large.beton", view="eval", size=5, **how) as loader:
        rows = loader.plan.rows(np.arange(1))
        wanted = render_batch([loader.source.stored(0)], rows)
        for _ in range(3):
            ((images, _),) = list(loader)
            assert np.array_equal(images.permute(0, 2, 3, 1).numpy(), wanted)
        # Of one whose part was too small nothing is known any more: it is decoded as any other.
        assert len(loader._decoder.renderer.known.entries) == 1  # type: ignore[attr-defined]


@pytest.mark.parametrize(
    ("name", "dtype"),
    [
        *((name, torch.float32) for name in (*LOADERS, "stock")),
        *((name, torch.bfloat16) for name in LOADERS if name != "torchvision"),
        *rest(*((name, torch.bfloat16) for name in ("torchvision", "stock"))),
    ],
)
def test_normalized_as_the_form_says(name: str, dtype: torch.dtype, data: Path) -> None:
    source = open_source(data / "test.beton")
    form = Preprocessing(mean=(0.5, 0.4, 0.3), std=(0.5, 0.25, 0.2))
    how: dict[str, Any] = {"view": "eval", "preprocessing": form}
    with (
        make(name, source, dtype=dtype, **how) as floats,
        make(name if name != "stock" else "torchvision", source, normalize=False, **how) as bytes_,
    ):
        ((images, _),), ((pixels, _),) = list(floats), list(bytes_)
    wanted = torch.from_numpy(normalize(pixels.permute(0, 2, 3, 1).numpy(), form))
    wanted = wanted.permute(0, 3, 1, 2)
    half_ulp = {torch.float32: 0, torch.bfloat16: 2**-8}[dtype]
    assert ((images.float() - wanted).abs() <= 1e-6 + half_ulp * wanted.abs()).all()


@pytest.mark.parametrize("name", LOADERS)
def test_changed_images_are_normalized_alike(name: str, data: Path) -> None:
    """Operations, a function of one's own: whatever comes before, the form's numbers follow."""
    from pipelines.augment import Augment

    form = Preprocessing(mean=HALVES, std=(0.25, 0.25, 0.25))
    for asked in ({"augment": Augment(grayscale=1.0)}, {"transform": lambda images: images}):
        how: dict[str, Any] = {"view": "train", "preprocessing": form, **asked}
        with (
            make(name, data / "test.beton", **how) as floats,
            make(name, data / "test.beton", normalize=False, **how) as bytes_,
        ):
            ((images, _),), ((pixels, _),) = list(floats), list(bytes_)
        assert torch.allclose(images, pixels.float() / 63.75 - 2, atol=1e-5)


@pytest.mark.parametrize("name", ["torchvision", "ffcv", "resident"])
def test_another_process_gets_the_form(name: str, data: Path) -> None:
    with make(name, data / "test.beton", view="eval", preprocessing=VIT) as loader:
        ((wanted, _),) = list(loader)
        with pickle.loads(pickle.dumps(loader)) as received:
            assert received.preprocessing == loader.preprocessing == VIT
            assert received.plan.preprocessing == VIT
            ((found, _),) = list(received)
    assert torch.equal(found, wanted)


def test_sizes_may_change(data: Path) -> None:
    with make("resident", data / "test.beton", view="eval", preprocessing=VIT) as loader:
        loader.set_size(48)
        ((found, _),) = list(loader)
    with make("torchvision", data / "test.beton", view="eval", size=48, preprocessing=VIT) as other:
        ((wanted, _),) = list(other)
    assert (found - wanted).abs().max() <= 2e-6


@pytest.mark.parametrize(
    ("view", "resize"), [("eval", [[35]]), ("eval-square", [[35, 35]])], ids=["eval", "square"]
)
def test_stock_transforms_are_of_the_form(view: str, resize: Any, odd_beton: Path) -> None:
    source = read_index(odd_beton)
    by = transforms.InterpolationMode.BICUBIC
    theirs = transforms.Compose([transforms.Resize(*resize, by), transforms.CenterCrop(32)])
    ours = stock_transform(view, 32, preprocessing=VIT)
    for sample in range(0, len(source), 3):
        image = decode(source.stored(sample))
        pixels = np.asarray(theirs(image))
        wanted = torch.from_numpy(normalize(pixels, VIT)).permute(2, 0, 1)
        assert torch.allclose(ours(image), wanted, atol=1e-6)


def test_other_libraries_arguments_are_explained(data: Path) -> None:
    for name in ("mean", "std", "interpolation", "crop_pct"):
        with pytest.raises(UsageError, match=r"preprocessing=Preprocessing\(filter"):
            make_loader("torchvision", data, **{name: None})
