"""`decode="scaled"`: every loader that knows it gives the pixels that its definition names."""

import io
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from effort import rest
from PIL import Image
from rendered import check_pixels, make

from pipelines import regions
from pipelines.errors import DataError, UsageError
from pipelines.formats.beton import Index, read_index
from pipelines.formats.layout import MODE_JPG
from pipelines.formats.source import open_source
from pipelines.kernels.libjpeg import find_libjpeg
from pipelines.loaders import Loader, make_loader, torchvision_loader
from pipelines.reference import render

#: So small that most odd images, of some 40 px, are decoded at a part of their size.
SMALL_PX = 3
VIEWS = ("train", "recordio", "eval", "eval-square")
SCALING = ("torchvision", "ffcv")
WITH, WITHOUT = "pillow's libjpeg", "no such libjpeg"
CASES = [
    *(("ffcv", view, WITH) for view in VIEWS),
    *(("ffcv", view, WITHOUT) for view in ("train", "eval-square")),
    ("torchvision", "train", WITH),
    ("torchvision", "eval", WITHOUT),
]
OTHERS = [
    (name, view, by)
    for name in SCALING
    for view in VIEWS
    for by in (WITH, WITHOUT)
    if (name, view, by) not in CASES
]


@pytest.fixture
def libjpeg(by: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Regions are decoded by libjpeg, or all is left to Pillow."""
    if by == WITHOUT:
        monkeypatch.setattr(regions.libjpeg, "find_libjpeg", lambda: None)
    elif find_libjpeg() is None:
        pytest.skip("Pillow has loaded no libjpeg")


def scaled(name: str, data: Any, **options: Any) -> Loader:
    return make(name, data, decode="scaled", normalize=False, **options)


@pytest.mark.parametrize(("name", "view", "by"), [*CASES, *rest(*OTHERS)])
def test_pixels_are_those_of_the_definition(
    name: str,
    view: str,
    by: str,
    odd_beton: Path,
    data: Path,
    libjpeg: None,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(torchvision_loader, "_LARGE_PX", 0)
    source = read_index(odd_beton)
    check_pixels(name, source, view, size=SMALL_PX, decode="scaled")
    with scaled(name, source, view=view, size=SMALL_PX) as loader:
        rows = loader.plan.rows(np.arange(len(source)))
    shrunk = rows.shrinks[source.modes == MODE_JPG]
    assert len(set(shrunk.tolist())) >= 3
    check_pixels(name, data / "train.beton", view, size=9, decode="scaled")


def test_class_folders_are_decoded_alike(photos: Path) -> None:
    check_pixels("torchvision", photos / "train", "train", size=SMALL_PX, decode="scaled")


@pytest.mark.parametrize("name", SCALING)
def test_small_images_keep_their_exact_pixels(name: str, data: Path) -> None:
    epochs = []
    for decode in ("exact", "scaled"):
        with make(name, data / "test.beton", size=64, decode=decode) as loader:
            epochs.append([images.clone() for images, _ in loader])
    assert all((one == other).all() for one, other in zip(*epochs, strict=True))


def photo_of(index: Index) -> tuple[Image.Image, int, bytes]:
    """A large RGB JPEG of the odd images, its number and bytes."""
    areas = index.widths.astype(int) * index.heights * (index.modes == MODE_JPG)
    sample = int(areas.argmax())
    content = bytes(index.stored(sample).data)
    return Image.open(io.BytesIO(content)), sample, content


def test_the_definition_is_pillows_draft(odd_beton: Path) -> None:
    """The part of the drafted image that the crop takes, as `Image.resize` takes a box."""
    index = read_index(odd_beton)
    _, sample, content = photo_of(index)
    with make_loader("torchvision", index, view="train", size=2, decode="scaled") as loader:
        for epoch in range(6):
            loader.set_epoch(epoch)
            rows = loader.plan.rows(np.array([sample]))
            shrink, size = int(rows.shrinks[0]), (index.widths[sample], index.heights[sample])
            opened = Image.open(io.BytesIO(content))
            opened.draft(None, tuple(int(side) // shrink for side in size))
            assert opened.size == tuple(-(-int(side) // shrink) for side in size)
            top, left, height, width = rows.crops[0].tolist()
            edges = (left, top, left + width, top + height)
            cover = (
                edges[0] // shrink,
                edges[1] // shrink,
                -(-edges[2] // shrink),
                -(-edges[3] // shrink),
            )
            part = [edge / shrink - cover[at % 2] for at, edge in enumerate(edges)]
            image = (
                opened.convert("RGB").crop(cover).resize((2, 2), Image.Resampling.BILINEAR, part)
            )
            if rows.flips[0]:
                image = image.transpose(Image.Transpose.FLIP_LEFT_RIGHT)
            found = render(index.stored(sample), rows, 0)
            assert np.array_equal(found, np.asarray(image)), (epoch, shrink)


@pytest.mark.parametrize("kind", ["rgb", "yuv420"])
def test_resident_keeps_what_a_scaled_decoder_gives(kind: str, data: Path) -> None:
    """Its pixels: tests/resident. Batches are cut from them as from any others."""
    found = []
    for decode in ("exact", "scaled"):
        with make(
            "resident",
            data / "test.beton",
            view="eval",
            size=14,
            decode=decode,
            store=kind,
            store_side=16,
            normalize=False,
        ) as loader:
            ((images, _),) = list(loader)
            assert loader.decode == decode
            assert (loader.plan.rows(loader.plan.order).shrinks == 1).all()
            found.append(images.numpy().astype(int))
    exact, shrunk = found
    assert 0 < np.abs(exact - shrunk).mean() < 2


@pytest.mark.parametrize("by", [WITH, WITHOUT])
@pytest.mark.parametrize("name", SCALING)
def test_damage_is_named_all_the_same(
    name: str, by: str, photos: Path, tmp_path: Path, libjpeg: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(torchvision_loader, "_LARGE_PX", 0)
    source: Any = open_source(photos / "test")
    path = Path(source.path) / source.name(0)
    content = path.read_bytes()
    (tmp_path / "a").mkdir()
    (tmp_path / "a" / "1.jpg").write_bytes(content[: len(content) // 2])
    data: Any = tmp_path
    if name == "ffcv":
        from pipelines.conversion.run import ConvertConfig, convert

        data = tmp_path / "a.beton"
        convert(ConvertConfig(src=tmp_path, out=data, verify=False))
    with (
        scaled(name, data, view="eval", size=8) as loader,
        pytest.raises(DataError, match=r"1\.jpg"),
    ):
        list(loader)


def test_others_refuse_it_in_one_line(data: Path) -> None:
    for name in ("dali", "stock"):
        with pytest.raises(UsageError, match=rf"loader '{name}': decode 'scaled'.*'ffcv'"):
            scaled(name, data / "test.beton", view="eval")
    with pytest.raises(UsageError, match=r"images are kept at their size.*--store-side"):
        scaled("resident", data / "test.beton", view="eval")
    with pytest.raises(UsageError, match="decode 'half', expected decode 'exact' or 'scaled'"):
        make_loader("torchvision", data / "test.beton", decode="half")  # type: ignore[arg-type]


def test_it_goes_along_into_other_processes(data: Path) -> None:
    import pickle

    with scaled("torchvision", data / "test.beton", view="eval", size=8) as loader:
        other: Loader = pickle.loads(pickle.dumps(loader))
        assert other.decode == "scaled"
        assert other.plan.decode == "scaled"
        other.close()
