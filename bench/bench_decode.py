"""JPEGs to RGB pixels alone: our decoder against other libraries', on one core, then on all.

The same bytes, all in memory. Ours is `pipelines.decoder` as the loaders call it: libjpeg-turbo
into memory that is used again. The others are called as their documentation has it, and give each
image memory of its own. On one core the thread is tied to it, so that no library helps itself to
more; on all, each of as many threads takes every n-th photo: none of the libraries holds the
interpreter's lock while it decodes.
"""

from __future__ import annotations

import io
import os
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from PIL import Image
from pytest_benchmark.fixture import BenchmarkFixture
from torchvision.io import ImageReadMode, decode_jpeg

from bench.conftest import Contender, Duel, Photos, Tables
from pipelines.conversion.run import ConvertConfig, convert
from pipelines.formats.beton import Index, read_index
from pipelines.regions import RegionDecoder, load_whole

#: Photos of a round: a quarter of a second of one core or more.
PHOTOS = 256

Pixels = NDArray[np.uint8]


@dataclass(frozen=True, slots=True)
class Library:
    """Another decoder.

    Attributes:
        take: from a JPEG's bytes to what it takes; not timed.
        decode: gives something that holds the pixels.
        pixels: uint8[H, W, 3] of that; not timed.
    """

    take: Callable[[bytes], Any]
    decode: Callable[[Any], Any]
    pixels: Callable[[Any], Pixels]


def pillow() -> Library:
    """Source: torchvision's `pil_loader`, which ImageFolder takes."""
    return Library(bytes, lambda data: Image.open(io.BytesIO(data)).convert("RGB"), np.asarray)


def torchvision() -> Library:
    """Source: torchvision's "Decoding / Encoding images and videos"."""
    return Library(
        lambda data: torch.frombuffer(bytearray(data), dtype=torch.uint8),
        partial(decode_jpeg, mode=ImageReadMode.RGB),
        lambda image: image.permute(1, 2, 0).numpy(),
    )


def opencv() -> Library:
    """Source: OpenCV's "Image file reading and writing"; the others turn nothing by EXIF."""
    cv2 = pytest.importorskip("cv2", reason="needs OpenCV", exc_type=ImportError)
    flags = cv2.IMREAD_COLOR_RGB | cv2.IMREAD_IGNORE_ORIENTATION
    return Library(
        lambda data: np.frombuffer(data, np.uint8),
        lambda data: cv2.imdecode(data, flags),
        np.asarray,
    )


def spdl() -> Library:
    """Source: SPDL's "High-level loading functions"; it decodes by FFmpeg."""
    io = pytest.importorskip("spdl.io", reason="needs SPDL", exc_type=ImportError)
    return Library(bytes, io.load_image, io.to_numpy)


LIBRARIES = {"Pillow": pillow, "torchvision": torchvision, "OpenCV": opencv, "SPDL": spdl}

#: torchvision gives its decoder up in favour of TorchCodec; it is still what its users have.
pytestmark = pytest.mark.filterwarnings("ignore:The image decoding and:DeprecationWarning")


class Ours:
    """A decoder and its memory for each thread."""

    def __init__(self, index: Index) -> None:
        load_whole()
        self._index, self._local = index, threading.local()

    def __call__(self, sample: int) -> Pixels:
        """A sample's pixels uint8[H, W, 3], until the thread's next call."""
        try:
            decoder, room = self._local.decoder, self._local.room
        except AttributeError:
            sides = self._index.heights.astype(np.int64) * self._index.widths
            decoder = self._local.decoder = RegionDecoder(self._index)
            room = self._local.room = np.empty(int(sides.max()) * 3, np.uint8)
        decoder.to_rgb(sample, room)
        height, width = int(self._index.heights[sample]), int(self._index.widths[sample])
        return room[: height * width * 3].reshape(height, width, 3)  # type: ignore[no-any-return]


@pytest.fixture(scope="module")
def index(photos: Photos, workspace: Path) -> Index:
    out = workspace / "decode.beton"
    convert(ConvertConfig(src=photos.root, out=out, verify=False))
    return read_index(out)


@pytest.mark.parametrize("library", LIBRARIES)
@pytest.mark.parametrize("spread", ["one core", "all cores"])
def test_decode(
    spread: str,
    library: str,
    index: Index,
    photos: Photos,
    cores: int,
    duel: Duel,
    benchmark: BenchmarkFixture,
    tables: Tables,
) -> None:
    other = LIBRARIES[library]()
    threads = 1 if spread == "one core" else cores
    benchmark.group = f"decode to RGB, {spread}"
    ours = Ours(index)
    count = min(PHOTOS, len(photos))
    chosen = [number * len(photos) // count for number in range(count)]
    jpegs = {sample: other.take(photos.files[sample].read_bytes()) for sample in chosen}

    with ThreadPoolExecutor(threads) as pool:

        def contender(name: str, call: Callable[[int], object]) -> Contender:
            return Contender(name, lambda: run(call, chosen, pool, threads))

        theirs = contender(library, lambda sample: other.decode(jpegs[sample]))
        duel(contender("fastft decoder", ours), theirs)
    farthest = max(
        distance(other.pixels(other.decode(jpegs[sample])), ours(sample)) for sample in chosen
    )
    benchmark.extra_info.update(threads=threads, max_difference=farthest)
    head = [["", "largest difference from ours, levels of 255"]]
    table = tables.setdefault(f"decoded pixels of {count} photos", head)
    if threads == 1:
        table.append([library, str(farthest)])
    if library == "Pillow":  # the reference decoder
        assert farthest == 0


def run(
    call: Callable[[int], object], samples: list[int], pool: ThreadPoolExecutor, threads: int
) -> int:
    """Decode all samples; returns how many."""

    def part(first: int) -> int:
        return sum(call(sample) is not None for sample in samples[first::threads])

    if threads == 1:
        with tied_to_one_core():
            return part(0)
    return sum(pool.map(part, range(threads)))


@contextmanager
def tied_to_one_core() -> Iterator[None]:
    """Keep this thread, and what it starts meanwhile, on one core."""
    allowed = os.sched_getaffinity(0)
    os.sched_setaffinity(0, {max(allowed)})
    try:
        yield
    finally:
        os.sched_setaffinity(0, allowed)


def distance(found: Pixels, wanted: Pixels) -> int:
    """The largest difference of a channel's value."""
    assert found.shape == wanted.shape
    return int(np.abs(found.astype(np.int16) - wanted).max())
