"""Where samples lie in a store, and what names it."""

import os
import zlib
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import PIL
import pytest
from PIL import Image
from torchvision.transforms import functional

from pipelines.errors import UsageError
from pipelines.formats.beton import Index, read_index
from pipelines.formats.beton_writer import BetonWriter
from pipelines.formats.folder import read_folder
from pipelines.formats.layout import MODE_RAW, About, Stored
from pipelines.formats.source import FolderSource
from pipelines.kernels import cpu
from pipelines.resident.store import KINDS, TAIL, StoreFormat, fingerprint, lay_out

RANDOM = np.random.default_rng(5)
#: Height and width, even and odd.
SHAPES = [(1, 1), (2, 3), (3, 2), (4, 4), (17, 33), (33, 17), (1, 70), (70, 1), (47, 64), (61, 97)]


def sides_of(*shapes: tuple[int, int]) -> Any:
    """What of a source a layout is made from."""
    heights, widths = np.array(shapes, np.int32).T
    return SimpleNamespace(heights=heights, widths=widths)


def noise(height: int, width: int) -> np.ndarray:
    return RANDOM.integers(0, 256, (height, width, 3), np.uint8)


def raw(pixels: np.ndarray) -> Stored:
    return Stored(MODE_RAW, pixels.shape[1], pixels.shape[0], pixels.tobytes())


def test_a_format_out_of_range_is_refused() -> None:
    with pytest.raises(UsageError, match="'yuv444', expected one of rgb, yuv420"):
        StoreFormat(kind="yuv444")
    for side in (-1, 65536):
        with pytest.raises(UsageError, match="expected 0 to 65535 px"):
            StoreFormat(shorter_px=side)


@pytest.mark.parametrize("kind", KINDS)
def test_samples_lie_apart_at_cache_lines(kind: str) -> None:
    layout = lay_out(sides_of(*SHAPES), StoreFormat(kind=kind))
    begins = layout.offsets[:, 0]
    assert not (begins % 64).any()
    assert begins[0] == 0
    assert (begins[1:] >= (begins + layout.sizes)[:-1]).all()
    assert (begins[1:] < (begins + layout.sizes)[:-1] + 64).all()
    assert layout.total >= begins[-1] + layout.sizes[-1] + cpu.READ_PAST
    assert layout.place(7) == slice(begins[7], begins[7] + layout.sizes[7])


def test_rgb_is_three_bytes_a_pixel() -> None:
    layout = lay_out(sides_of((1, 1), (4, 6), (17, 33)), StoreFormat())
    assert layout.sizes.tolist() == [3, 72, 17 * 33 * 3]
    assert layout.pitches.tolist() == [[3, 3], [18, 18], [99, 99]]
    assert layout.offsets.tolist() == [[0] * 3, [64] * 3, [192] * 3]
    assert layout.total == 192 + 1728 + TAIL


def test_yuv420_has_even_sided_quarter_planes() -> None:
    layout = lay_out(sides_of((1, 1), (4, 6), (17, 33)), StoreFormat(kind="yuv420"))
    assert layout.sizes.tolist() == [6, 36, 18 * 34 * 3 // 2]
    assert layout.pitches.tolist() == [[2, 1], [6, 3], [34, 17]]
    luma = 18 * 34
    assert layout.offsets.tolist() == [
        [0, 4, 5],
        [64, 64 + 24, 64 + 30],
        [128, 128 + luma, 128 + luma + luma // 4],
    ]
    assert layout.total == 128 + 960 + TAIL
    assert layout.heights.tolist() == [1, 4, 17]
    assert layout.widths.tolist() == [1, 6, 33]


@pytest.mark.parametrize("kind", KINDS)
def test_samples_that_are_not_held_take_no_room(kind: str) -> None:
    held = np.arange(len(SHAPES)) % 3 == 1
    layout = lay_out(sides_of(*SHAPES), StoreFormat(kind=kind), held)
    alone = lay_out(sides_of(*SHAPES[1::3]), StoreFormat(kind=kind))
    assert layout.total == alone.total
    assert (layout.sizes[~held] == 0).all()
    assert np.array_equal(layout.sizes[held], alone.sizes)
    assert np.array_equal(layout.offsets[held], alone.offsets)
    assert len(layout.heights) == len(SHAPES)


def test_a_store_beyond_4_gb_is_addressed() -> None:
    """Sides come in 32 bits."""
    layout = lay_out(sides_of((65535, 65535), (65535, 65535), (8, 8)), StoreFormat())
    assert layout.sizes.tolist() == [65535**2 * 3] * 2 + [192]
    assert layout.offsets[2, 0] >= 2 * 65535**2 * 3
    shrunk = lay_out(sides_of((40000, 65535)), StoreFormat(shorter_px=39999))
    assert (shrunk.heights[0], shrunk.widths[0]) == (39999, 39999 * 65535 // 40000)


def test_sides_shrink_like_torchvision_never_grow() -> None:
    # Sides of photos, and small ones, where quotients come out even.
    shapes = np.concatenate(
        [RANDOM.integers(1, most, (2000, 2)) for most in (20, 700)] + [np.array([(1, 9000)])]
    ).tolist()
    for shorter_px in (1, 6, 160, 256):
        layout = lay_out(sides_of(*shapes), StoreFormat(shorter_px=shorter_px))
        found = zip(layout.heights.tolist(), layout.widths.tolist(), strict=True)
        for (height, width), sides in zip(shapes, found, strict=True):
            wanted = [height, width]
            if min(height, width) > shorter_px:
                wanted = functional._compute_resized_output_size((height, width), [shorter_px])
            assert list(sides) == wanted


def write(path: Path, samples: list[Stored]) -> Index:
    with BetonWriter(path, len(samples)) as writer:
        for number, stored in enumerate(samples):
            writer.append(stored, 0, f"{number}.jpg", zlib.crc32(stored.data))
        writer.finish(About(classes=("all",)))
        writer.publish()
    return read_index(path)


def test_the_same_samples_have_the_same_name(tmp_path: Path) -> None:
    samples = [raw(noise(17, 33)), raw(noise(5, 6))]
    names = {
        fingerprint(write(tmp_path / name, samples), StoreFormat()) for name in ("a.beton", "b")
    }
    names.add(fingerprint(read_index(tmp_path / "b"), StoreFormat()))
    assert len(names) == 1
    assert len(names.pop()) == 32


def test_samples_and_format_name_a_store(tmp_path: Path) -> None:
    picture, other = noise(4, 6), noise(4, 6)
    changed = picture.copy()
    changed[2, 3, 1] ^= 1
    sets = [
        [raw(picture), raw(other)],
        [raw(changed), raw(other)],
        [raw(other), raw(picture)],
        [raw(picture)],
        [raw(picture.reshape(6, 4, 3)), raw(other)],
        [raw(picture.reshape(3, 8, 3)), raw(other)],
    ]
    formats = [StoreFormat(kind=kind, shorter_px=px) for kind in KINDS for px in (0, 2, 22)]
    names = {
        fingerprint(write(tmp_path / f"{number}.beton", samples), format_)
        for number, samples in enumerate(sets)
        for format_ in formats
    }
    assert len(names) == len(sets) * len(formats)


def test_without_checksums_the_file_names_it(tmp_path: Path) -> None:
    index = replace(write(tmp_path / "a.beton", [raw(noise(4, 6))]), checksums=None)
    before = fingerprint(index, StoreFormat())
    assert fingerprint(index, StoreFormat()) == before
    os.utime(index.path, ns=(0, 12345))
    later = fingerprint(index, StoreFormat())
    with index.path.open("ab") as file:
        file.write(b"\0")
    os.utime(index.path, ns=(0, 12345))
    assert len({before, later, fingerprint(index, StoreFormat())}) == 3


def test_pillows_version_names_a_shrunk_store(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    index = write(tmp_path / "a.beton", [raw(noise(4, 6))])
    formats = [StoreFormat(), StoreFormat(shorter_px=3)]
    before = [fingerprint(index, each) for each in formats]
    monkeypatch.setattr(PIL, "__version__", "0.1")
    after = [fingerprint(index, each) for each in formats]
    assert [a == b for a, b in zip(after, before, strict=True)] == [True, False]


def test_a_folders_files_name_a_store(tmp_path: Path) -> None:
    def named() -> bytes:
        return fingerprint(FolderSource(read_folder(tmp_path)), StoreFormat())

    path = tmp_path / "class" / "a.jpg"
    path.parent.mkdir()
    Image.fromarray(noise(8, 8)).save(path)
    os.utime(path, ns=(0, 12345))
    names = [named()]
    assert named() == names[0]
    os.utime(path, ns=(0, 12346))
    names.append(named())
    with path.open("ab") as file:
        file.write(b"\0")
    os.utime(path, ns=(0, 12346))
    names.append(named())
    path.rename(path.with_name("b.jpg"))
    names.append(named())
    assert len(set(names)) == 4
