"""A look at one image: whether it is whole, how it lies, and a thumbnail to know its copies by.

A JPEG is decoded at a part of its size, as small as the thumbnail allows; on request all of its
data are gone through before, as `fastft convert` does, since its damage may cost no error.
"""

from __future__ import annotations

import enum
import hashlib
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageChops

from pipelines.formats.layout import MODE_RAW, Stored
from pipelines.images.damage import Checker, Verdict
from pipelines.images.depth import is_deep, scale
from pipelines.images.jpeg import describe, read_header
from pipelines.images.limits import MAX_PIXELS, MAX_SIDE_PX
from pipelines.images.pillow import open_image, too_large
from pipelines.images.scans import TOO_MANY_SCANS, has_too_many_scans
from pipelines.images.turning import UPRIGHT, orientation_of, read_orientation, turn_pixels
from pipelines.images.unreadable import explain

#: Side of the picture that a hash and a thumbnail are made of, px.
SIDE_PX = 32
#: A JPEG is decoded no smaller than this, px: at 64 the hashes of shrunk copies differed twice as
#: much, since the inverse DCT rounds an odd size up.
_DECODED_PX = 128
#: Channels that are no farther apart than this, in levels, are alike; a picture's levels, constant.
_ALIKE = 2
DIGEST_BYTES = 16
_PNG_DEPTH_AT = 24


class Mark(enum.IntFlag):
    """The oddities of an image that are seen by itself."""

    GRAY = 1
    DEEP = 2
    CONSTANT = 4


_NONE = Mark(0)


@dataclass(frozen=True, kw_only=True, slots=True)
class Look:
    """All that is kept of an image.

    Attributes:
        width, height: px, as the file has them; 0 if it is broken.
        format: Pillow's name of the file's format; `raw` for pixels in a `.beton`.
        orientation: EXIF's, 1 to 8.
        marks: see there.
        broken, doubtful: reasons in words; may be empty.
        digest: of the bytes.
        picture: uint8[SIDE_PX, SIDE_PX, 3] YCbCr, upright; None if it is broken.
    """

    width: int = 0
    height: int = 0
    format: str = ""
    orientation: int = UPRIGHT
    marks: Mark = _NONE
    broken: str = ""
    doubtful: str = ""
    digest: bytes = bytes(DIGEST_BYTES)
    picture: NDArray[np.uint8] | None = None


_CHECKER = Checker()


def look_at(content: bytes | Stored, *, verify: bool) -> Look:
    """Look at an image file, or at what a `.beton` holds of one.

    Args:
        content: its bytes; called broken is what `fastft convert` calls so.
        verify: decode all of a JPEG's data.
    """
    if isinstance(content, Stored):
        if content.mode == MODE_RAW:
            return _look_at_pixels(content)
        content = content.data
    verdict = Verdict()
    if broken := _refuse(content):
        return Look(broken=broken)
    header = read_header(content)
    if header is not None and header.is_checkable:
        if header.width * header.height > MAX_PIXELS:
            return Look(broken=too_large(header.width, header.height, MAX_PIXELS))
        if verify:
            verdict = _CHECKER.check(content, header)
        if verdict.broken:
            return Look(broken=verdict.broken)
    remarks: list[str] = []
    try:
        with open_image(content, max_pixels=MAX_PIXELS, remarks=remarks) as opened:
            width, height = opened.size
            if max(width, height) > MAX_SIDE_PX:
                return Look(broken=f"{width} x {height} px, more than {MAX_SIDE_PX} on a side")
            kind = opened.format or ""
            if kind == "JPEG":
                opened.draft(None, (_DECODED_PX, _DECODED_PX))
            is_scaled = opened.size != (width, height)
            image = (scale(opened) if is_deep(opened) else opened).convert("RGB")
            marks = _mark(image)
            if _is_deep_file(content, opened):
                marks |= Mark.DEEP
            if header is not None:
                orientation = read_orientation(content)
            else:
                orientation = orientation_of(opened)
        if Mark.CONSTANT in marks and is_scaled and not _is_constant(content):
            marks &= ~Mark.CONSTANT
    except MemoryError:
        raise
    except Exception as error:  # whatever a hostile file makes a third-party parser raise
        said = f" ({'; '.join(remarks)})" if remarks else ""
        return Look(broken=explain(content) or describe(error) + said)
    return Look(
        width=width,
        height=height,
        format=kind,
        orientation=orientation,
        marks=marks,
        doubtful=verdict.doubtful,
        digest=_digest(content),
        picture=_picture(image, orientation),
    )


def open_to_show(content: bytes | Stored, side_px: int) -> Image.Image:
    """An image that can be decoded, as RGB, no smaller than `side_px` unless it is."""
    if isinstance(content, Stored):
        if content.mode == MODE_RAW:
            return _from_pixels(content)
        content = content.data
    with open_image(content, max_pixels=MAX_PIXELS) as opened:
        opened.draft(None, (side_px, side_px))
        return (scale(opened) if is_deep(opened) else opened).convert("RGB")


def _refuse(data: bytes) -> str:
    if not data:
        return "the file is empty"
    return TOO_MANY_SCANS if has_too_many_scans(data) else ""


def _look_at_pixels(stored: Stored) -> Look:
    image = _from_pixels(stored)
    size = f"{stored.width} {stored.height} ".encode()
    return Look(
        width=stored.width,
        height=stored.height,
        format="raw",
        marks=_mark(image),
        digest=_digest(stored.data, size),
        picture=_picture(image, UPRIGHT),
    )


def _from_pixels(stored: Stored) -> Image.Image:
    pixels = np.frombuffer(stored.data, np.uint8)
    return Image.fromarray(pixels.reshape(stored.height, stored.width, 3))


def _picture(image: Image.Image, orientation: int) -> NDArray[np.uint8]:
    small = image.resize((SIDE_PX, SIDE_PX), Image.Resampling.BILINEAR, reducing_gap=3.0)
    if orientation != UPRIGHT:
        small = turn_pixels(small, orientation)
    return np.asarray(small.convert("YCbCr"))


def _mark(image: Image.Image) -> Mark:
    """The marks of an RGB image that its pixels show."""
    red, green, blue = image.split()
    marks = _NONE
    if all(_reach(ImageChops.difference(green, other)) <= _ALIKE for other in (red, blue)):
        marks |= Mark.GRAY
    if all(_spread(channel) <= _ALIKE for channel in (red, green, blue)):
        marks |= Mark.CONSTANT
    return marks


def _reach(channel: Image.Image) -> int:
    _, high = channel.getextrema()
    return int(high)  # type: ignore[arg-type]


def _spread(channel: Image.Image) -> int:
    low, high = channel.getextrema()
    return int(high) - int(low)  # type: ignore[arg-type]


def _is_constant(data: bytes) -> bool:
    """Whether a whole JPEG is of one colour: shrunk, a fine pattern is, too."""
    with open_image(data, max_pixels=MAX_PIXELS) as opened:
        return Mark.CONSTANT in _mark(opened.convert("RGB"))


def _is_deep_file(data: bytes, opened: Image.Image) -> bool:
    """Whether a file has more than 8 bits per channel; Pillow takes the upper 8 of deep colour."""
    if opened.format == "PNG":
        return data[_PNG_DEPTH_AT : _PNG_DEPTH_AT + 1] == b"\x10"
    return is_deep(opened)


def _digest(data: bytes, before: bytes = b"") -> bytes:
    return hashlib.blake2b(before + data if before else data, digest_size=DIGEST_BYTES).digest()
