"""Photos that lie on a side as EXIF says, for tests of turning them."""

import io
import struct
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from odd_images import picture
from PIL import Image

Pixels = NDArray[np.uint8]
EXIF = b"Exif\0\0"


def tiff(orientation: int, order: str = "<", kind: int = 3, count: int = 1, at: int = 8) -> bytes:
    """An EXIF's TIFF of two tags; `at` is where it says that they lie."""
    head = {"<": b"II*\0", ">": b"MM\0*"}[order] + struct.pack(f"{order}I", at)
    value = struct.pack(f"{order}H2x" if kind == 3 else f"{order}I", orientation)
    make = struct.pack(f"{order}HHI4s", 0x010F, 2, 4, b"abc\0")
    tag = struct.pack(f"{order}HHI", 0x0112, kind, count) + value
    return head + struct.pack(f"{order}H", 2) + make + tag + bytes(4)


def segment(content: bytes, marker: int = 0xE1) -> bytes:
    """A marker segment of a JPEG."""
    return struct.pack(">BBH", 0xFF, marker, len(content) + 2) + content


def with_segments(jpeg: bytes, *segments: bytes, behind_jfif: bool = False) -> bytes:
    """A JPEG with segments put in, before or behind its JFIF segment."""
    at = 4 + int.from_bytes(jpeg[4:6], "big") if behind_jfif else 2
    return jpeg[:at] + b"".join(segments) + jpeg[at:]


def photo(width: int = 96, height: int = 64, seed: int = 0, **options: Any) -> bytes:
    """A JPEG without EXIF, in whole blocks."""
    return saved(picture(width, height, seed), "JPEG", **{"quality": 90, **options})


def saved(image: Image.Image, kind: str, **options: Any) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, kind, **options)
    return buffer.getvalue()


def lying(orientation: int = 6, **options: Any) -> bytes:
    """A photo with EXIF."""
    return with_segments(photo(**options), segment(EXIF + tiff(orientation)))


def pixels_of(data: bytes) -> Pixels:
    with Image.open(io.BytesIO(data)) as image:
        return np.asarray(image.convert("RGB"))


def write_lying(folder: Path, count: int = 3) -> None:
    """Class folders a and b of photos, half of which lie; of a the upper half is bright."""
    for label, name in enumerate("ab"):
        (folder / name).mkdir(parents=True)
        for number in range(count):
            pixels = np.random.default_rng(number).integers(0, 60, (96, 64, 3), np.uint8)
            pixels[48 * label : 48 * label + 48] += 150
            image = Image.fromarray(pixels)
            if number % 2:
                image = image.transpose(Image.Transpose.ROTATE_90)
            data = saved(image, "JPEG", quality=90)
            if number % 2:
                data = with_segments(data, segment(EXIF + tiff(6)))
            (folder / name / f"{number}.jpg").write_bytes(data)
