"""Samples in memory, of every kind that a store may meet, and stores that are filled with them."""

import ctypes
import io
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from pipelines.formats.columns import NONE, Columns
from pipelines.formats.layout import MODE_JPG, MODE_RAW, Stored
from pipelines.images.turbojpeg import load_turbojpeg
from pipelines.resident.store import Layout, PixelWriter, StoreFormat, lay_out

RANDOM = np.random.default_rng(5)
#: TurboJPEG's number of 4:2:0, and Pillow's.
HALVED = 2


@dataclass(frozen=True)
class Samples:
    """A source in memory."""

    samples: list[Stored]
    path: Path = Path("set.beton")
    classes: tuple[str, ...] = ("all",)
    columns: Columns = NONE

    @property
    def labels(self) -> np.ndarray:
        return np.zeros(len(self), np.int64)

    @property
    def heights(self) -> np.ndarray:
        return np.array([each.height for each in self.samples], np.int32)

    @property
    def widths(self) -> np.ndarray:
        return np.array([each.width for each in self.samples], np.int32)

    def __len__(self) -> int:
        return len(self.samples)

    def name(self, sample: int) -> str:
        return f"{sample}.jpg"

    def stored(self, sample: int) -> Stored:
        return self.samples[sample]

    def entry_points(self, sample: int) -> None:
        return None


def noise(height: int, width: int) -> np.ndarray:
    return RANDOM.integers(0, 256, (height, width, 3), np.uint8)


def smooth(height: int, width: int) -> np.ndarray:
    """Waves of every color that take tens of pixels."""
    y, x = np.mgrid[0:height, 0:width]
    waves = np.stack((np.sin(y / 9 + x / 31), np.cos(x / 12), np.sin(y / 14 - x / 23)), axis=-1)
    return (127.5 + 120 * waves).astype(np.uint8)


def raw(pixels: np.ndarray) -> Stored:
    return Stored(MODE_RAW, pixels.shape[1], pixels.shape[0], pixels.tobytes())


def jpeg(pixels: np.ndarray, **options: object) -> Stored:
    target = io.BytesIO()
    Image.fromarray(pixels).save(target, "JPEG", **{"subsampling": HALVED, **options})
    return Stored(MODE_JPG, pixels.shape[1], pixels.shape[0], target.getvalue())


def gray_jpeg(pixels: np.ndarray, **options: object) -> Stored:
    return jpeg(np.ascontiguousarray(pixels[..., 0]), **options)


def rgb_jpeg(pixels: np.ndarray) -> Stored:
    """4:2:0, and marked as no YCbCr: Adobe's marker instead of JFIF's."""
    stored = jpeg(pixels)
    rest = stored.data[4 + int.from_bytes(stored.data[4:6], "big") :]
    return replace(stored, data=b"\xff\xd8\xff\xee\0\x0eAdobe\0\x64\0\0\0\0\0" + rest)


def turbo_jpeg(pixels: np.ndarray, subsampling: int) -> Stored:
    """Pillow writes neither 4:4:0 nor 4:1:1."""
    library: Any = load_turbojpeg()
    if library is None:
        pytest.skip("libturbojpeg is not installed")
    height, width = pixels.shape[:2]
    library.tjInitCompress.restype = ctypes.c_void_p
    handle = ctypes.c_void_p(library.tjInitCompress())
    buffer, size = ctypes.c_void_p(), ctypes.c_ulong()
    assert not library.tjCompress2(
        handle,
        ctypes.c_void_p(pixels.ctypes.data),
        width,
        0,
        height,
        0,
        ctypes.byref(buffer),
        ctypes.byref(size),
        subsampling,
        85,
        0,
    )
    data = ctypes.string_at(buffer, size.value)
    library.tjFree(buffer)
    library.tjDestroy(handle)
    return Stored(MODE_JPG, width, height, data)


def fill(samples: list[Stored], format_: StoreFormat) -> tuple[Layout, np.ndarray, PixelWriter]:
    """A whole store, on top of anything."""
    source: Any = Samples(samples)
    layout = lay_out(source, format_)
    pixels = RANDOM.integers(0, 256, layout.total, np.uint8)
    writer = PixelWriter(source, layout)
    for sample in range(len(samples)):
        writer.write(sample, pixels[layout.place(sample)])
    return layout, pixels, writer


def kept_rgb(layout: Layout, pixels: np.ndarray, sample: int) -> np.ndarray:
    shape = int(layout.heights[sample]), int(layout.widths[sample]), 3
    return pixels[layout.place(sample)].reshape(shape)
