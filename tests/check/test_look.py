"""One image looked at: what is broken, how it lies, what marks it."""

import io
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image
from spoiled import doubled

from fastft.check.look import SIDE_PX, Mark, look_at
from pipelines.conversion.inputs import open_listings
from pipelines.formats.encode import EncodePolicy, Encoder
from pipelines.formats.layout import MODE_RAW, Note, Stored
from pipelines.images.limits import MAX_PIXELS


def as_bytes(image: Image.Image, kind: str = "PNG", **options: Any) -> bytes:
    target = io.BytesIO()
    image.save(target, kind, **options)
    return target.getvalue()


def photo(width: int = 60, height: int = 40) -> Image.Image:
    random = np.random.default_rng(1)
    small = Image.fromarray(random.integers(0, 256, (5, 7, 3), np.uint8))
    return small.resize((width, height), Image.Resampling.BICUBIC)


def test_broken_is_what_conversion_calls_so(odd: Path) -> None:
    encoder = Encoder(EncodePolicy())
    with open_listings(odd) as listings:
        for sample, name in enumerate(listings[""].names):
            data = listings[""].read(sample)
            for piece in (data, data[: len(data) // 2], data[:20]):
                encoded, look = encoder.encode(piece, 0), look_at(piece, verify=True)
                broken = encoded.reason if encoded.stored is None else ""
                assert look.broken == broken, name
                assert (look.picture is None) == bool(broken)
                if not broken and encoded.note & Note.DOUBTFUL:
                    assert look.doubtful == encoded.reason
                if encoded.stored is not None:
                    size = encoded.stored.width, encoded.stored.height
                    assert (look.width, look.height) == size
                    lies = bool(encoded.note & Note.LYING)
                    assert (look.orientation != 1) == lies, name


@pytest.mark.parametrize(
    ("data", "reason"),
    [(b"", "the file is empty"), (b"<html><body>no", "is an HTML page"), (b"\0" * 99, "zeros")],
)
def test_what_is_no_image_is_explained(data: bytes, reason: str) -> None:
    assert reason in look_at(data, verify=False).broken


def test_too_many_pixels_are_broken() -> None:
    data = bytearray(as_bytes(photo(), "JPEG"))
    at = data.index(b"\xff\xc0") + 5
    data[at : at + 4] = b"\xff\xff\xff\xff"
    assert f"{MAX_PIXELS:,} pixels" in look_at(bytes(data), verify=True).broken


def test_quick_looks_miss_doubtful_ones() -> None:
    data = doubled(as_bytes(photo(600, 400), "JPEG", quality=95), 4000)
    assert look_at(data, verify=True).doubtful
    assert not look_at(data, verify=False).doubtful


def test_marks() -> None:
    def marks(image: Image.Image, kind: str = "PNG") -> Mark:
        return look_at(as_bytes(image, kind), verify=True).marks

    assert marks(photo()) == marks(photo(900, 700), "JPEG") == Mark(0)
    assert marks(photo().convert("L").convert("RGB"), "JPEG") == Mark.GRAY
    assert marks(Image.new("RGB", (9, 9), "red")) == Mark.CONSTANT
    assert marks(Image.new("RGB", (999, 999), "gray"), "JPEG") == Mark.CONSTANT | Mark.GRAY
    deep = Image.fromarray(np.arange(1600, dtype=np.uint16).reshape(40, 40) * 40)
    assert marks(deep) == marks(deep, "TIFF") == Mark.DEEP | Mark.GRAY


def test_fine_patterns_are_not_constant() -> None:
    """An eighth of it is."""
    pattern = np.tile(np.array([[90, 160], [160, 90]], np.uint8), (600, 600))
    data = as_bytes(Image.fromarray(pattern), "JPEG", quality=95)
    assert Mark.CONSTANT not in look_at(data, verify=False).marks


def test_pictures_stand_upright() -> None:
    exif = Image.Exif()
    exif[0x0112] = 6
    turned = photo(320, 240).transpose(Image.Transpose.ROTATE_90)
    look = look_at(as_bytes(turned, "JPEG", exif=exif), verify=True)
    upright = look_at(as_bytes(photo(320, 240), "JPEG"), verify=True)
    assert (look.orientation, look.width, look.height) == (6, 240, 320)
    assert look.picture is not None
    assert upright.picture is not None
    apart = look.picture.astype(int) - upright.picture
    assert np.abs(apart).mean() < 2


def test_pixels_of_a_beton_look_like_their_file() -> None:
    image = photo()
    stored = Stored(MODE_RAW, image.width, image.height, image.tobytes())
    look, of_file = look_at(stored, verify=True), look_at(as_bytes(image), verify=True)
    assert (look.width, look.height, look.format) == (60, 40, "raw")
    assert look.picture is not None
    assert look.picture.shape == (SIDE_PX, SIDE_PX, 3)
    assert np.array_equal(look.picture, of_file.picture)
    wide = Stored(MODE_RAW, image.height, image.width, image.tobytes())
    assert look_at(wide, verify=True).digest != look.digest
