"""More than 8 bits per channel: clipped as Pillow does unless asked, and then mapped exactly."""

import io
import struct
import zlib
from typing import Any

import numpy as np
import pytest
from lying import saved
from numpy.typing import NDArray
from PIL import Image

from pipelines.formats.encode import EncodePolicy, Encoder, decode
from pipelines.formats.layout import Depth, Note
from pipelines.images.depth import is_deep, scale

INF, NAN = np.inf, np.nan
RAMP = np.arange(65536, dtype=np.uint16).reshape(256, 256)


def levels(data: bytes, depth: Depth = "scale") -> tuple[NDArray[np.uint8], Note]:
    """What is stored of an image, uint8[H, W], and what is told of it."""
    encoded = Encoder(EncodePolicy(depth=depth)).encode(data, 0)
    assert encoded.stored is not None, encoded.reason
    pixels = np.asarray(decode(encoded.stored))
    assert (pixels == pixels[..., :1]).all()
    return pixels[..., 0], encoded.note


def pgm(values: NDArray[np.uint16], most: int) -> bytes:
    return b"P5 %d %d %d\n" % (*values.shape[::-1], most) + values.astype(">u2").tobytes()


@pytest.mark.parametrize("form", ["PNG", "TIFF", "big-endian TIFF", "PGM", "int32 TIFF"])
def test_sixteen_bits_are_divided_by_257_exactly(form: str) -> None:
    if form == "PGM":
        data = pgm(RAMP, 65535)
    elif form == "int32 TIFF":
        data = saved(Image.fromarray(RAMP.astype(np.int32)), "TIFF")
    else:
        image = Image.fromarray(RAMP)
        if form.startswith("big"):
            image = Image.frombytes("I;16B", (256, 256), RAMP.astype(">u2").tobytes())
        data = saved(image, form.split()[-1])
    found, note = levels(data)
    assert (found == np.rint(RAMP / 257)).all()
    assert found.min() == 0
    assert found.max() == 255
    assert note == Note.REENCODED | Note.DEEP
    clipped, note = levels(data, "clip")
    assert (clipped == np.minimum(RAMP, 255)).all()
    assert note == Note.REENCODED | Note.DEEP


def test_a_pgm_of_fewer_levels_is_widened_first() -> None:
    found, _ = levels(pgm(np.array([[0, 1023, 512]], np.uint16), 1023))
    assert found.tolist() == [[0, 255, 128]]


@pytest.mark.parametrize(
    ("values", "wanted"),
    [
        ([0, 0.25, 0.5, 1], [0, 64, 128, 255]),
        ([-1, 0, 1, 3], [0, 64, 128, 255]),
        ([100, 100.25, 101, NAN], [0, 64, 255, 0]),
        ([-INF, 2, 4, INF], [0, 0, 255, 255]),
        ([7, 7, 7, 7], [0, 0, 0, 0]),
        ([7, NAN, INF, -INF], [0, 0, 255, 0]),
        ([NAN, NAN, NAN, NAN], [0, 0, 0, 0]),
        ([INF, INF, -INF, NAN], [255, 255, 0, 0]),
        ([-3e38, 0, 3e38, 0], [0, 128, 255, 128]),
        ([0, 1e-45, 0, 1e-45], [0, 255, 0, 255]),
    ],
)
def test_floats_go_from_least_to_largest(values: list[float], wanted: list[int]) -> None:
    data = saved(Image.fromarray(np.array([values], np.float32)), "TIFF")
    found, note = levels(data)
    assert found.tolist() == [wanted]
    assert Note.DEEP in note
    levels(data, "clip")  # without a warning


@pytest.mark.parametrize(
    ("values", "wanted"),
    [
        ([-1, 0, 1, 3], [0, 64, 128, 255]),
        ([0, 65536, 131072, 32768], [0, 128, 255, 64]),
        ([-(2**31), 2**31 - 1, 0, -1], [0, 255, 128, 127]),
        ([70000, 70000, 70000, 70000], [0, 0, 0, 0]),
        ([65535, 0, 257, 128], [255, 0, 1, 0]),
    ],
)
def test_other_integers_go_from_least_to_largest(values: list[int], wanted: list[int]) -> None:
    found, _ = levels(saved(Image.fromarray(np.array([values], np.int32)), "TIFF"))
    assert found.tolist() == [wanted]


def test_large_images_are_mapped_in_parts(monkeypatch: pytest.MonkeyPatch) -> None:
    values = np.random.default_rng(0).normal(size=(37, 50)).astype(np.float32)
    values[30, 3] = NAN
    image = Image.fromarray(values)
    whole = np.asarray(scale(image))
    monkeypatch.setattr("pipelines.images.depth._PIXELS", 101)
    assert (np.asarray(scale(image)) == whole).all()


def test_eight_bits_are_left_alone() -> None:
    rng = np.random.default_rng(0)
    colour: Any = rng.integers(0, 256, (9, 7, 3), np.uint8)
    for image in (
        Image.fromarray(colour),
        Image.fromarray(colour[..., 0]),
        Image.fromarray(colour[..., 0]).convert("1"),
        Image.fromarray(colour).quantize(8),
    ):
        assert not is_deep(image)
        data = saved(image, "PNG")
        for depth in ("clip", "scale"):
            encoded = Encoder(EncodePolicy(depth=depth)).encode(data, 0)
            assert encoded.stored is not None
            assert encoded.note == Note.REENCODED
            assert bytes(encoded.stored.data) == image.convert("RGB").tobytes()


def test_sixteen_bit_colour_keeps_its_upper_bits() -> None:
    values = np.array([[[0x1234, 0x80FF, 0xFFFF]]], ">u2")

    def chunk(kind: bytes, content: bytes) -> bytes:
        crc = struct.pack(">I", zlib.crc32(kind + content))
        return struct.pack(">I", len(content)) + kind + content + crc

    header = struct.pack(">IIBBBBB", 1, 1, 16, 2, 0, 0, 0)
    data = b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header)
    data += chunk(b"IDAT", zlib.compress(b"\0" + values.tobytes())) + chunk(b"IEND", b"")
    with Image.open(io.BytesIO(data)) as image:
        assert not is_deep(image)
    for depth in ("clip", "scale"):
        encoded = Encoder(EncodePolicy(depth=depth)).encode(data, 0)
        assert encoded.stored is not None
        assert encoded.note == Note.REENCODED
        assert bytes(encoded.stored.data) == b"\x12\x80\xff"
