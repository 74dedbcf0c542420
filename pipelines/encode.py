"""From the bytes of an image file to what is stored of it: the encode policy.

A common JPEG (8-bit, grayscale or RGB, baseline or progressive) is stored byte for byte. What is
none becomes what Pillow's `convert("RGB")` makes of it, stored as raw pixels, so that nothing is
lost but what that clips (`pipelines.depth`). Everything else (JPEG on request, a largest side, EXIF
orientation, mapping more than 8 bits) is opt-in.
"""

from __future__ import annotations

import io
from dataclasses import dataclass, replace
from typing import Literal

import numpy as np
from PIL import Image

from pipelines.depth import is_deep, scale
from pipelines.errors import DataError
from pipelines.folder import read_bytes
from pipelines.jpeg import Checker, JpegHeader, describe, read_header
from pipelines.layout import (
    MAX_PIXELS,
    MAX_SIDE_PX,
    MODE_JPG,
    MODE_RAW,
    Depth,
    Note,
    Preparation,
    Stored,
)
from pipelines.scans import TOO_MANY_SCANS, has_too_many_scans
from pipelines.turning import (
    UPRIGHT,
    orientation_of,
    read_orientation,
    turn_jpeg,
    turn_pixels,
    turned_size,
)

Mode = Literal["passthrough", "jpg", "raw", "proportion"]
MODES: tuple[Mode, ...] = ("passthrough", "jpg", "raw", "proportion")
#: Pillow's names of what `folder.IMAGE_SUFFIXES` are. Of the others that it reads some are programs
#: (EPS, which it hands to Ghostscript), and most have been read by few.
IMAGE_FORMATS = ("JPEG", "PNG", "BMP", "GIF", "WEBP", "TIFF", "PPM", "AVIF")
_JPEG = ("JPEG",)
_PLAIN = Note(0)


@dataclass(frozen=True, kw_only=True, slots=True)
class EncodePolicy:
    """How images are stored.

    Attributes:
        mode: `passthrough` keeps JPEGs and stores the rest raw; `jpg` stores the rest as JPEG;
            `raw` stores all as pixels; `proportion` keeps a share of the JPEGs and stores the
            rest raw.
        quality: JPEG quality of what is encoded anew, 1 to 100.
        max_side: shrink so that the longer side is at most this, px; 0 never shrinks.
        apply_exif: turn images upright as their EXIF orientation says.
        proportion: the share that `proportion` keeps, 0 to 1.
        verify: decode each JPEG that is kept, to find damage.
        depth: what becomes of more than 8 bits per channel, see `Preparation`.
    """

    mode: Mode = "passthrough"
    quality: int = 95
    max_side: int = 0
    apply_exif: bool = False
    proportion: float = 0.5
    verify: bool = True
    depth: Depth = "clip"

    @property
    def preparation(self) -> Preparation:
        """What a model must meet other photos by, too."""
        return Preparation(apply_exif=self.apply_exif, depth=self.depth)


@dataclass(frozen=True, slots=True)
class Encoded:
    """What became of one image file.

    Attributes:
        stored: what to store; None if the image is broken.
        source_bytes: the file's size.
        note: what else is worth telling.
        reason: why it is broken, doubtful or odd; may be empty.
    """

    stored: Stored | None
    source_bytes: int
    note: Note = _PLAIN
    reason: str = ""


class Encoder:
    """Applies one policy; safe to share between threads."""

    def __init__(self, policy: EncodePolicy) -> None:
        self.policy = policy
        self._checker = Checker()

    def encode(self, data: bytes, sample: int) -> Encoded:
        """Encode a file's bytes; of a broken image `stored` is None and `reason` says why.

        Args:
            data: the file's bytes.
            sample: its number, which decides what `proportion` keeps.
        """
        if not data:
            return Encoded(None, 0, reason="the file is empty")
        if has_too_many_scans(data):
            return Encoded(None, len(data), reason=TOO_MANY_SCANS)
        header = read_header(data)
        if header is not None and header.is_common and self._keeps(header, sample):
            if header.width * header.height > MAX_PIXELS:
                return Encoded(None, len(data), reason=too_large(header.width, header.height))
            return self._keep_upright(data, header)
        return self._convert_safely(data, header)

    def _keep_upright(self, data: bytes, header: JpegHeader) -> Encoded:
        """A JPEG as it is, or turned upright on request: as a JPEG where that loses nothing."""
        kept = self._keep(data, header)
        orientation = read_orientation(data)
        if orientation == UPRIGHT or kept.stored is None:
            return kept
        if not self.policy.apply_exif:
            return replace(kept, note=kept.note | Note.LYING)
        is_jpeg = kept.stored.mode == MODE_JPG
        turned = turn_jpeg(kept.stored.data, orientation) if is_jpeg else None
        if turned is not None:
            size = turned_size(header.width, header.height, orientation)
            stored = Stored(MODE_JPG, *size, turned)
            return replace(kept, stored=stored, note=kept.note | Note.TURNED)
        pixels = self._convert_safely(data, header)
        if pixels.stored is None:
            return pixels
        grown = Note.GROWN if pixels.stored.mode == MODE_RAW else _PLAIN
        return replace(pixels, note=kept.note | pixels.note | grown, reason=kept.reason)

    def _convert_safely(self, data: bytes, header: JpegHeader | None) -> Encoded:
        try:
            return self._convert(data, header is not None)
        except MemoryError:
            raise
        except Exception as error:  # whatever a hostile file makes a third-party parser raise
            return Encoded(None, len(data), reason=describe(error))

    def _keeps(self, header: JpegHeader, sample: int) -> bool:
        policy = self.policy
        if policy.max_side and max(header.width, header.height) > policy.max_side:
            return False
        if policy.mode == "proportion":
            return _share(sample) < policy.proportion
        return policy.mode != "raw"

    def _keep(self, data: bytes, header: JpegHeader) -> Encoded:
        warning = ""
        if self.policy.verify:
            verdict = self._checker.check(data, header)
            if verdict.broken:
                return Encoded(None, len(data), reason=verdict.broken)
            warning = verdict.warning
        stored = Stored(MODE_JPG, header.width, header.height, data)
        return Encoded(stored, len(data), reason=warning)

    def _convert(self, data: bytes, was_jpeg: bool) -> Encoded:
        policy = self.policy
        with Image.open(io.BytesIO(data), formats=IMAGE_FORMATS) as opened:
            if opened.width * opened.height > MAX_PIXELS:
                return Encoded(None, len(data), reason=too_large(*opened.size))
            note = Note.REENCODED | (Note.DEEP if is_deep(opened) else _PLAIN)
            image: Image.Image = opened
            if policy.depth == "scale" and is_deep(opened):
                image = scale(opened)
            image = image.convert("RGB")
            orientation = read_orientation(data) if was_jpeg else orientation_of(opened)
        if orientation != UPRIGHT:
            note |= Note.TURNED if policy.apply_exif else Note.LYING
            if policy.apply_exif:
                image = turn_pixels(image, orientation)
        shrunk = bool(policy.max_side) and max(image.size) > policy.max_side
        if shrunk:
            factor = policy.max_side / max(image.size)
            width, height = (max(1, round(side * factor)) for side in image.size)
            image = image.resize((width, height), Image.Resampling.BILINEAR)
        if max(image.size) > MAX_SIDE_PX:
            found = f"{image.width} x {image.height} px, more than {MAX_SIDE_PX} on a side"
            return Encoded(None, len(data), reason=f"{found}; see --max-side")
        # A photo that had to shrink was lossy before; as raw pixels it would grow tenfold.
        as_jpeg = policy.mode == "jpg" or (shrunk and was_jpeg and policy.mode == "passthrough")
        if as_jpeg:
            target = io.BytesIO()
            image.save(target, "JPEG", quality=policy.quality)
            stored = Stored(MODE_JPG, image.width, image.height, target.getvalue())
        else:
            stored = Stored(MODE_RAW, image.width, image.height, image.tobytes())
        return Encoded(stored, len(data), note)


def read_stored(path: str, encoder: Encoder, sample: int) -> Stored:
    """One image file as it would be stored.

    Raises:
        DataError: the image is broken.
    """
    try:
        encoded = encoder.encode(read_bytes(path), sample)
    except OSError as error:
        encoded = Encoded(None, 0, reason=error.strerror or type(error).__name__)
    if encoded.stored is None:
        raise DataError(path, encoded.reason, "an image", "remove it or run fastft convert")
    return encoded.stored


def decode(stored: Stored, name: str = "image") -> Image.Image:
    """A sample's pixels by Pillow, the reference decoder: an RGB image of the stored size.

    Raises:
        DataError: the bytes do not decode, or not to the stored size.
    """
    if stored.mode == MODE_RAW:
        pixels = np.frombuffer(memoryview(stored.data), np.uint8)
        return Image.fromarray(pixels.reshape(stored.height, stored.width, 3))
    if has_too_many_scans(stored.data):
        raise DataError(name, TOO_MANY_SCANS, "a photo", "see fastft inspect --verify")
    try:
        with Image.open(io.BytesIO(memoryview(stored.data)), formats=_JPEG) as opened:
            image = opened.convert("RGB")
    except MemoryError:
        raise
    except Exception as error:  # as in Encoder.encode
        raise DataError(
            name, describe(error), "a whole JPEG", "see fastft inspect --verify"
        ) from error
    if image.size != (stored.width, stored.height):
        found = f"{image.width} x {image.height} px"
        raise DataError(name, found, f"{stored.width} x {stored.height}", "rerun fastft convert")
    return image


def _share(sample: int) -> float:
    """A number in [0, 1) that spreads evenly over samples: multiples of the golden ratio."""
    return (sample * 0.6180339887498949) % 1.0


def too_large(width: int, height: int) -> str:
    """Why an image of more than MAX_PIXELS is not decoded."""
    return f"{width} x {height} px is more than {MAX_PIXELS:,} pixels"
