"""Stored pixels against Pillow's and torchvision's own, and what broken samples become."""

import io
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from samples import (
    Samples,
    fill,
    gray_jpeg,
    jpeg,
    kept_rgb,
    noise,
    raw,
    rgb_jpeg,
    smooth,
    turbo_jpeg,
)
from torchvision.transforms import functional

from pipelines import decoder, regions
from pipelines.errors import DataError
from pipelines.formats.encode import decode
from pipelines.formats.folder import read_folder
from pipelines.formats.layout import Stored
from pipelines.formats.source import FolderSource
from pipelines.images.turbojpeg import load_turbojpeg
from pipelines.kernels import cpu
from pipelines.loaders import make_loader
from pipelines.plan import VIEWS
from pipelines.preprocessing import MEAN, STD
from pipelines.reference import render_batch
from pipelines.resident.store import KINDS, TAIL, Layout, PixelWriter, StoreFormat, lay_out
from pipelines.transfer import normalizing_factors

#: Height and width: tiny, odd, thin; chroma of 1, 2, 3 and many columns.
SHAPES = [
    *[(height, width) for height in range(1, 7) for width in range(1, 7)],
    (17, 33),
    (33, 17),
    (1, 70),
    (70, 1),
    (2, 51),
    (16, 16),
    (47, 64),
    (61, 97),
]
#: TurboJPEG's numbers: 4:4:4, 4:2:2, 4:2:0, gray, 4:4:0, 4:1:1.
SUBSAMPLINGS = range(6)
YUV = StoreFormat(kind="yuv420")


def draw(layout: Layout, pixels: np.ndarray, sample: int) -> np.ndarray:
    """A stored image as the kernel shows it where it neither resizes nor flips, put together."""
    height, width = int(layout.heights[sample]), int(layout.widths[sample])
    size = min(height, width)
    corners = [
        (top, left)
        for top in {*range(0, height - size, size), height - size}
        for left in {*range(0, width - size, size), width - size}
    ]
    geometry = np.array(
        [[[0, height, height, top], [0, width, width, left]] for top, left in corners], np.int32
    )
    rows, no = np.full(len(corners), sample), np.zeros(len(corners), np.bool_)
    sides = np.array([(height, width)] * len(corners), np.int64)
    frames = cpu.Frames(pixels, layout.offsets[rows], layout.pitches[rows], sides)
    out = np.empty((len(corners), size, size * 3), np.uint8)
    planar = layout.format.planar
    cpu.render_rows(
        frames,
        planar,
        geometry,
        np.ones(len(rows), np.int32),
        no,
        no,
        *normalizing_factors(size, MEAN, STD),
        cpu.fit_scratch(None, geometry, size, planar),
        out,
    )
    image = np.empty((height, width, 3), np.uint8)
    for (top, left), part in zip(corners, out, strict=True):
        image[top : top + size, left : left + size] = part.reshape(size, size, 3)
    return image


def apart(layout: Layout, pixels: np.ndarray, sample: int, wanted: Any) -> np.ndarray:
    return np.abs(draw(layout, pixels, sample).astype(int) - wanted)


def require_turbojpeg() -> None:
    if load_turbojpeg() is None:
        pytest.skip("libturbojpeg is not installed; chroma is averaged then")


# Pixels as RGB.


@pytest.mark.parametrize("subsampling", SUBSAMPLINGS)
def test_rgb_is_what_pillow_decodes(subsampling: int) -> None:
    samples = [turbo_jpeg(noise(*shape), subsampling) for shape in SHAPES]
    layout, pixels, _ = fill(samples, StoreFormat())
    for sample, stored in enumerate(samples):
        assert np.array_equal(kept_rgb(layout, pixels, sample), decode(stored))


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("progressive", [False, True])
@pytest.mark.parametrize("coder", [jpeg, gray_jpeg])
def test_any_quality_and_coding(kind: str, progressive: bool, coder: Any) -> None:
    require_turbojpeg()
    samples = [
        coder(picture(43, 38), quality=quality, progressive=progressive, restart_marker_rows=rows)
        for picture in (noise, smooth)
        for quality in (1, 60, 100)
        for rows in (0, 1)
    ]
    layout, pixels, writer = fill(samples, StoreFormat(kind=kind))
    for sample, stored in enumerate(samples):
        assert np.array_equal(draw(layout, pixels, sample), decode(stored))
    assert writer.resampled == 0


def test_raw_samples_are_copied() -> None:
    pictures = [noise(*shape) for shape in SHAPES]
    layout, pixels, _ = fill([raw(picture) for picture in pictures], StoreFormat())
    for sample, picture in enumerate(pictures):
        assert np.array_equal(kept_rgb(layout, pixels, sample), picture)


def test_writing_ends_where_a_sample_ends() -> None:
    for kind in KINDS:
        for coder in (raw, jpeg, gray_jpeg):
            source: Any = Samples([coder(noise(17, 33))])
            layout = lay_out(source, StoreFormat(kind=kind))
            room = np.full(layout.sizes[0] + 2 * TAIL, 77, np.uint8)
            PixelWriter(source, layout).write(0, room[TAIL:-TAIL])
            assert (room[:TAIL] == 77).all()
            assert (room[-TAIL:] == 77).all()
            assert not (room[TAIL:-TAIL] == 77).all()


@pytest.mark.parametrize("coder", [raw, jpeg, gray_jpeg])
def test_shrunk_images_are_torchvisions_of_the_reference_decode(coder: Any) -> None:
    samples = [coder(noise(*shape)) for shape in (*SHAPES, (90, 300), (331, 127))]
    for shorter_px in (1, 5, 40):
        layout, pixels, _ = fill(samples, StoreFormat(shorter_px=shorter_px))
        for sample, stored in enumerate(samples):
            wanted = decode(stored)
            if min(wanted.size) > shorter_px:
                wanted = functional.resize(wanted, shorter_px)
            assert np.array_equal(kept_rgb(layout, pixels, sample), wanted)


@pytest.mark.parametrize("coder", [jpeg, gray_jpeg])
def test_scaled_images_are_shrunk_from_pillows_draft(coder: Any) -> None:
    samples = [coder(noise(*shape)) for shape in ((47, 64), (90, 300), (331, 127), (16, 16))]
    shrinks = set()
    for shorter_px in (4, 5, 20):
        kept = StoreFormat(shorter_px=shorter_px, decode="scaled")
        layout, pixels, _ = fill(samples, kept)
        for sample, stored in enumerate(samples):
            width, height = stored.width, stored.height
            shrink = max(
                each
                for each in (1, 2, 4, 8)
                if min(width, height) >= 2 * shorter_px * each or each == 1
            )
            shrinks.add(shrink)
            with Image.open(io.BytesIO(stored.data)) as opened:
                opened.draft(None, (max(1, width // shrink), max(1, height // shrink)))
                drafted = opened.convert("RGB")
            size = int(layout.widths[sample]), int(layout.heights[sample])
            part = (0, 0, width / shrink, height / shrink)
            wanted = drafted.resize(size, Image.Resampling.BILINEAR, part)
            assert np.array_equal(kept_rgb(layout, pixels, sample), wanted), (shrink, size)
    assert shrinks == {1, 2, 4, 8}


@pytest.mark.parametrize("missing", ["libturbojpeg", "Pillow's libjpeg", "both"])
def test_without_a_library_rgb_is_the_same(missing: str, monkeypatch: pytest.MonkeyPatch) -> None:
    samples = [coder(noise(17, 33)) for coder in (raw, jpeg, gray_jpeg)]
    formats = [
        StoreFormat(),
        StoreFormat(shorter_px=9),
        StoreFormat(shorter_px=4, decode="scaled"),
    ]
    wanted = [fill(samples, each)[:2] for each in formats]
    if missing != "Pillow's libjpeg":
        monkeypatch.setattr(decoder, "load_turbojpeg", lambda: None)
    if missing != "libturbojpeg":
        monkeypatch.setattr(regions.libjpeg, "find_libjpeg", lambda: None)
    for (layout, pixels), format_ in zip(wanted, formats, strict=True):
        _, found, _ = fill(samples, format_)
        for sample in range(len(samples)):
            place = layout.place(sample)
            assert np.array_equal(found[place], pixels[place])


# Pixels as luma and chroma.


@pytest.mark.parametrize("coder", [jpeg, gray_jpeg])
def test_jpeg_planes_equal_pillows_pixels(coder: Any) -> None:
    require_turbojpeg()
    samples = [coder(noise(*shape)) for shape in SHAPES]
    layout, pixels, writer = fill(samples, YUV)
    for sample, stored in enumerate(samples):
        assert np.array_equal(draw(layout, pixels, sample), decode(stored))
    assert writer.resampled == 0


@pytest.mark.parametrize("view", VIEWS)
def test_planar_stores_render_like_the_reference(view: str) -> None:
    require_turbojpeg()
    samples = [coder(noise(*shape)) for shape in SHAPES for coder in (jpeg, gray_jpeg)]
    source: Any = Samples(samples)
    for size in (1, 24):
        with make_loader(
            "resident",
            source,
            view=view,
            size=size,
            batch_size=len(samples),
            normalize=False,
            store="yuv420",
            workers=2,
        ) as loader:
            ((images, _),) = loader
            rows = loader.plan.rows(loader.plan.order)
            wanted = render_batch([samples[at] for at in rows.samples], rows)
            assert torch.equal(images.permute(0, 2, 3, 1), torch.from_numpy(wanted))


def test_planes_are_luma_then_blue_then_red_difference() -> None:
    """Of one color each, which no averaging changes."""
    colors = np.array([(255, 0, 0), (0, 0, 255), (9, 200, 90)], np.uint8)
    pictures = [np.broadcast_to(color, (5, 7, 3)).copy() for color in colors]
    layout, pixels, _ = fill([raw(picture) for picture in pictures], YUV)
    for sample, color in enumerate(colors):
        kept = pixels[layout.place(sample)]
        wanted = np.asarray(Image.new("RGB", (1, 1), tuple(color.tolist())).convert("YCbCr"))[0, 0]
        luma, blue, red = kept[:48].reshape(6, 8)[:5, :7], kept[48:60], kept[60:]
        assert [set(plane.ravel().tolist()) for plane in (luma, blue, red)] == [{w} for w in wanted]


def test_what_loses_chroma_is_counted_and_nothing_else() -> None:
    require_turbojpeg()
    kinds: dict[str, tuple[Stored, bool]] = {
        "4:4:4": (jpeg(smooth(40, 50), subsampling=0), True),
        "4:2:2": (jpeg(smooth(40, 50), subsampling=1), True),
        "4:2:0": (jpeg(smooth(40, 50)), False),
        "gray": (gray_jpeg(smooth(40, 50)), False),
        "4:4:0": (turbo_jpeg(smooth(40, 50), 4), True),
        "4:1:1": (turbo_jpeg(smooth(40, 50), 5), True),
        "rgb": (rgb_jpeg(smooth(40, 50)), True),
        "raw": (raw(smooth(40, 50)), True),
    }
    for name, (stored, loses) in kinds.items():
        assert fill([stored] * 2, YUV)[2].resampled == 2 * loses, name
        assert fill([stored], replace(YUV, shorter_px=20))[2].resampled == 1, name
        assert fill([stored], replace(YUV, shorter_px=40))[2].resampled == loses, name
        assert fill([stored], StoreFormat(shorter_px=20))[2].resampled == 0, name


@pytest.mark.parametrize("shape", [(40, 50), (41, 51)])
def test_averaged_chroma_is_near_on_a_smooth_image(shape: tuple[int, int]) -> None:
    picture = smooth(*shape)
    samples = [raw(picture), turbo_jpeg(picture, 0), turbo_jpeg(picture, 5)]
    layout, pixels, _ = fill(samples, YUV)
    for sample, stored in enumerate(samples):
        distance = apart(layout, pixels, sample, decode(stored))
        assert distance.mean() < 2
        assert distance.max() < 24


def test_shrunk_planes_are_near_the_shrunk_image() -> None:
    samples = [coder(smooth(101, 133)) for coder in (raw, jpeg, gray_jpeg)]
    layout, pixels, _ = fill(samples, replace(YUV, shorter_px=51))
    for sample, stored in enumerate(samples):
        assert apart(layout, pixels, sample, functional.resize(decode(stored), 51)).mean() < 2


def test_without_libturbojpeg_planes_are_averaged(monkeypatch: pytest.MonkeyPatch) -> None:
    samples = [coder(smooth(41, 50)) for coder in (raw, jpeg, gray_jpeg)]
    monkeypatch.setattr(decoder, "load_turbojpeg", lambda: None)
    layout, pixels, writer = fill(samples, YUV)
    assert writer.resampled == 3
    for sample, stored in enumerate(samples):
        assert apart(layout, pixels, sample, decode(stored)).mean() < 2


# Damage.


def each_way(monkeypatch: pytest.MonkeyPatch) -> Iterator[StoreFormat]:
    """The formats, with libturbojpeg and without."""
    for library in (decoder.load_turbojpeg(), None):
        monkeypatch.setattr(decoder, "load_turbojpeg", lambda library=library: library)
        for kind in KINDS:
            for shorter_px in (0, 20):
                yield StoreFormat(kind=kind, shorter_px=shorter_px)


@pytest.mark.parametrize("half", ["first", "second"])
@pytest.mark.parametrize("coder", [jpeg, gray_jpeg])
def test_a_damaged_jpeg_is_named(half: str, coder: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    whole = coder(noise(64, 64))
    middle = len(whole.data) // 2
    data = whole.data[:middle] if half == "first" else b"\xff\xd8" + whole.data[middle:]
    for format_ in each_way(monkeypatch):
        with pytest.raises(DataError, match=r"^set\.beton: 1\.jpg: .*expected a whole JPEG"):
            fill([whole, replace(whole, data=data)], format_)


@pytest.mark.parametrize("stored_as", [(32, 32), (64, 128), (63, 64), (1, 1)])
def test_a_jpeg_of_another_size_is_named(
    stored_as: tuple[int, int], monkeypatch: pytest.MonkeyPatch
) -> None:
    height, width = stored_as
    whole = jpeg(noise(64, 64))
    for format_ in each_way(monkeypatch):
        with pytest.raises(DataError, match=rf"^set\.beton: 1\.jpg: .*{width} x {height}"):
            fill([whole, replace(whole, height=height, width=width)], format_)


@pytest.mark.parametrize("kind", KINDS)
def test_a_harmless_warning_is_no_damage(kind: str) -> None:
    """Bytes between the scan and the marker after it: all pixels are there."""
    require_turbojpeg()
    whole = jpeg(noise(40, 50))
    odd = replace(whole, data=whole.data[:-2] + b"\x11" * 64 + whole.data[-2:])
    layout, pixels, writer = fill([odd, odd, whole], StoreFormat(kind=kind))
    for sample in range(3):
        assert np.array_equal(draw(layout, pixels, sample), decode(whole))
    assert writer.resampled == 0


@pytest.mark.parametrize("name", ["a.jpg", "a.png"])
@pytest.mark.parametrize("now", [(30, 50), (50, 40), (20, 20), (40, 30)])
def test_samples_of_another_size_are_refused(
    now: tuple[int, int], name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Since the folder was read: its place in the store is of the old size."""
    (tmp_path / "class").mkdir()
    Image.fromarray(noise(30, 40)).save(tmp_path / "class" / name)
    source = FolderSource(read_folder(tmp_path))
    Image.fromarray(noise(*now)).save(tmp_path / "class" / name)
    for format_ in each_way(monkeypatch):
        layout = lay_out(source, format_)
        room = np.full(50_000, 77, np.uint8)
        refused = None
        try:
            PixelWriter(source, layout).write(0, room[layout.place(0)])
        except Exception as error:
            refused = error
        assert (room[layout.sizes[0] :] == 77).all()
        assert isinstance(refused, DataError)
        assert f"class/{name}: " in str(refused)
