"""From the bytes of an image file to what is stored of it: the encode policy.

A common JPEG (8-bit, grayscale or RGB, baseline or progressive) is stored byte for byte. What is
none becomes what Pillow's `convert("RGB")` makes of it, stored as raw pixels, so that nothing is
lost but what that clips (`images.depth`). Everything else (JPEG on request, a largest side, EXIF
orientation, mapping more than 8 bits) is opt-in.
"""

from __future__ import annotations

import io
from dataclasses import dataclass, replace
from typing import Literal, Protocol

import numpy as np
from PIL import Image

from pipelines.errors import DataError, is_no_files, no_files
from pipelines.formats.layout import (
    MODE_JPG,
    MODE_RAW,
    Depth,
    Note,
    Preparation,
    Stored,
)
from pipelines.formats.plain_file import read_bytes
from pipelines.images.damage import Checker, Verdict
from pipelines.images.depth import is_deep, scale
from pipelines.images.jpeg import PROGRESSIVE_FRAMES, JpegHeader, describe, read_header
from pipelines.images.limits import MAX_PIXELS, MAX_SIDE_PX
from pipelines.images.pillow import open_image, too_large
from pipelines.images.scans import TOO_MANY_SCANS, has_too_many_scans, is_incomplete
from pipelines.images.turning import (
    UPRIGHT,
    orientation_of,
    read_orientation,
    turn_jpeg,
    turn_pixels,
    turned_size,
)
from pipelines.images.unreadable import explain

Mode = Literal["passthrough", "jpg", "raw", "proportion"]
MODES: tuple[Mode, ...] = ("passthrough", "jpg", "raw", "proportion")
#: The remedy where the bytes are those that were stored, but are no whole photo.
LEAVE_OUT = "run fastft convert with --verify, which leaves it out"
_JPEG = ("JPEG",)
_PLAIN = Note(0)


#: A JPEG that is decoded at a part of its size is still so many times as large as it will be.
_SPARE = 2


@dataclass(frozen=True, kw_only=True, slots=True)
class EncodePolicy:
    """The policy of storing images.

    Attributes:
        mode: `passthrough` keeps JPEGs and stores the rest raw; `jpg` stores the rest as JPEG;
            `raw` stores all as pixels; `proportion` keeps a share of the JPEGs and stores the
            rest raw.
        quality: JPEG quality of what is encoded anew, 1 to 100.
        max_side: shrink so that the longer side is at most this, px; 0 never shrinks.
        apply_exif: turn images upright as their EXIF orientation says.
        proportion: the share that `proportion` keeps, 0 to 1.
        verify: decode each JPEG, to find damage.
        strict: leave out what is doubtful, too.
        depth: what becomes of more than 8 bits per channel, see `Preparation`.
        max_pixels: an image of more is broken; at most `limits.MOST_PIXELS`.
    """

    mode: Mode = "passthrough"
    quality: int = 95
    max_side: int = 0
    apply_exif: bool = False
    proportion: float = 0.5
    verify: bool = True
    strict: bool = False
    depth: Depth = "clip"
    max_pixels: int = MAX_PIXELS

    @property
    def preparation(self) -> Preparation:
        """The preparation that other photos need for a model that learns from these."""
        return Preparation(apply_exif=self.apply_exif, depth=self.depth)


@dataclass(frozen=True, slots=True)
class Encoded:
    """The outcome of encoding one image file.

    Attributes:
        stored: what to store; None if the image is broken.
        source_bytes: the file's size.
        note: what else is worth telling.
        reason: why it is broken, doubtful or odd; may be empty.
        points: entry points of a JPEG that is stored, see `beton_extra.pack_points`; may be empty.
    """

    stored: Stored | None
    source_bytes: int
    note: Note = _PLAIN
    reason: str = ""
    points: bytes = b""


class PointFinder(Protocol):
    """Reads JPEGs to their last bit; safe to share between threads."""

    def find(self, stored: Stored) -> bytes:
        """The entry points of a JPEG of which libjpeg has nothing to say; else nothing."""
        ...


class Encoder:
    """Applies one policy; safe to share between threads."""

    def __init__(self, policy: EncodePolicy, finder: PointFinder | None = None) -> None:
        """Know a policy.

        Args:
            policy: how to store images.
            finder: of entry points; None: nobody asks for any.
        """
        self.policy, self._finder = policy, finder
        self._checker = Checker()

    def encode(self, data: bytes, sample: int) -> Encoded:
        """Encode a file's bytes; of a broken image `stored` is None and `reason` says why.

        Args:
            data: the file's bytes.
            sample: its number, which decides what `proportion` keeps.
        """
        encoded = self._encode(data, sample)
        stored = encoded.stored
        if self._finder is None or (stored is not None and stored.data is data):
            return encoded
        is_jpeg = stored is not None and stored.mode == MODE_JPG
        points = self._finder.find(stored) if stored is not None and is_jpeg else b""
        return replace(encoded, points=points)

    def _encode(self, data: bytes, sample: int) -> Encoded:
        policy = self.policy
        if not data:
            return Encoded(None, 0, reason="the file is empty")
        if has_too_many_scans(data):
            return Encoded(None, len(data), reason=TOO_MANY_SCANS)
        header, verdict, points = read_header(data), Verdict(), b""
        if header is not None and header.is_checkable:
            if header.width * header.height > policy.max_pixels:
                said = too_large(header.width, header.height, policy.max_pixels)
                return Encoded(None, len(data), reason=said)
            if self._finder is not None and header.is_common:
                points = self._finder.find(Stored(MODE_JPG, header.width, header.height, data))
            if policy.verify:
                verdict = self._checker.check(data, header, is_sound=bool(points))
            if broken := verdict.broken or (verdict.doubtful if policy.strict else ""):
                return Encoded(None, len(data), reason=broken)
        note = Note.DOUBTFUL if verdict.doubtful else _PLAIN
        found = Encoded(None, len(data), note, verdict.doubtful or verdict.odd, points)
        if header is not None and header.is_common and self._keeps(header, sample):
            return self._keep_upright(data, header, found)
        return self._convert_safely(data, header, found)

    def _keep_upright(self, data: bytes, header: JpegHeader, found: Encoded) -> Encoded:
        """A JPEG as it is, or turned upright on request: as a JPEG where that loses nothing."""
        orientation = read_orientation(data)
        lacks_scans = header.frame in PROGRESSIVE_FRAMES and is_incomplete(data)
        if orientation == UPRIGHT or not self.policy.apply_exif:
            reason = found.reason
            if not reason and lacks_scans:
                reason = "progressive, and its last scans are missing"
            note = found.note | (Note.LYING if orientation != UPRIGHT else _PLAIN)
            stored = Stored(MODE_JPG, header.width, header.height, data)
            return replace(found, stored=stored, note=note, reason=reason)
        # Turned, an incomplete one would be a baseline JPEG, which no decoder smooths.
        turned = None if lacks_scans else turn_jpeg(data, orientation)
        if turned is not None:
            size = turned_size(header.width, header.height, orientation)
            stored = Stored(MODE_JPG, *size, turned)
            return replace(found, stored=stored, note=found.note | Note.TURNED)
        pixels = self._convert_safely(data, header, found)
        if pixels.stored is not None and pixels.stored.mode == MODE_RAW:
            return replace(pixels, note=pixels.note | Note.GROWN)
        return pixels

    def _convert_safely(self, data: bytes, header: JpegHeader | None, found: Encoded) -> Encoded:
        """An image decoded by Pillow and stored anew, with what has been found out before."""
        remarks: list[str] = []
        try:
            stored, note = self._convert(data, header is not None, remarks)
        except MemoryError:
            raise
        except Exception as error:  # whatever a hostile file makes a third-party parser raise
            said = f" ({'; '.join(remarks)})" if remarks else ""  # such as libtiff's own reason
            return Encoded(None, len(data), reason=explain(data) or describe(error) + said)
        reason = found.reason or "; ".join(remarks)
        return replace(found, stored=stored, note=found.note | note, reason=reason)

    def _shrunk(self, size: tuple[int, int]) -> tuple[int, int]:
        """Width and height of an image that is to shrink, px."""
        factor = self.policy.max_side / max(size)
        width, height = (max(1, round(side * factor)) for side in size)
        return width, height

    def _decode_scaled(self, opened: Image.Image, orientation: int) -> _Scaled | None:
        """Let the inverse DCT shrink a JPEG by 2, 4 or 8 where it stays twice as large as wanted.

        Of 12 photos of 12.9 megapixels at 512 and 256 px, and of 150 small ones at 64 and 100 px,
        it was 0.3 levels in the mean from shrinking the whole image, at most 0.9 for one photo, and
        16 levels at most; encoding at quality 95 takes as much.

        Returns:
            None if it is decoded whole.
        """
        policy, (width, height) = self.policy, opened.size
        if opened.format != "JPEG" or not 0 < policy.max_side < max(width, height):
            return None
        turns = policy.apply_exif and orientation != UPRIGHT
        if turns and (width % 8 or height % 8):  # its last block may come to lie anywhere
            return None
        wide, high = self._shrunk((width, height))
        opened.draft(None, (_SPARE * wide, _SPARE * high))
        if opened.size == (width, height):
            return None
        by = next(each for each in (2, 4, 8) if -(-width // each) == opened.size[0])
        if turns:
            width, height = turned_size(width, height, orientation)
        return _Scaled((width, height), (0.0, 0.0, width / by, height / by))

    def _keeps(self, header: JpegHeader, sample: int) -> bool:
        policy = self.policy
        if policy.max_side and max(header.width, header.height) > policy.max_side:
            return False
        if policy.mode == "proportion":
            return _share(sample) < policy.proportion
        return policy.mode != "raw"

    def _convert(self, data: bytes, was_jpeg: bool, remarks: list[str]) -> tuple[Stored, Note]:
        """Decode an image by Pillow and store it anew."""
        policy = self.policy
        orientation = read_orientation(data) if was_jpeg else UPRIGHT
        with open_image(data, max_pixels=policy.max_pixels, remarks=remarks) as opened:
            note = Note.REENCODED | (Note.DEEP if is_deep(opened) else _PLAIN)
            scaled = self._decode_scaled(opened, orientation) if was_jpeg else None
            image: Image.Image = opened
            if policy.depth == "scale" and is_deep(opened):
                image = scale(opened)
            image = image.convert("RGB")
            if not was_jpeg:
                orientation = orientation_of(opened)
        if orientation != UPRIGHT:
            note |= Note.TURNED if policy.apply_exif else Note.LYING
            if policy.apply_exif:
                image = turn_pixels(image, orientation)
        shrunk = bool(policy.max_side) and max(image.size) > policy.max_side
        if shrunk:
            size = self._shrunk(scaled.whole if scaled else image.size)
            part = scaled.part if scaled else None
            image = image.resize(size, Image.Resampling.BILINEAR, part)
        if max(image.size) > MAX_SIDE_PX:
            found = f"{image.width} x {image.height} px, more than {MAX_SIDE_PX} on a side"
            raise ValueError(f"{found}; see --max-side")
        # A photo that had to shrink was lossy before; as raw pixels it would grow tenfold.
        as_jpeg = policy.mode == "jpg" or (shrunk and was_jpeg and policy.mode == "passthrough")
        if as_jpeg:
            target = io.BytesIO()
            image.save(target, "JPEG", quality=policy.quality)
            return Stored(MODE_JPG, image.width, image.height, target.getvalue()), note
        return Stored(MODE_RAW, image.width, image.height, image.tobytes()), note


@dataclass(frozen=True, slots=True)
class _Scaled:
    """The image behind a scaled decode.

    Attributes:
        whole: width and height of the image, turned as it will be, px.
        part: of the scaled image, the box that the image takes: the last block may reach beyond it.
    """

    whole: tuple[int, int]
    part: tuple[float, float, float, float]


def read_stored(path: str, encoder: Encoder, sample: int) -> Stored:
    """One image file as it would be stored.

    Raises:
        DataError: the image is broken.
    """
    try:
        encoded = encoder.encode(read_bytes(path), sample)
    except OSError as error:
        if is_no_files(error):
            raise no_files(path) from error
        encoded = Encoded(None, 0, reason=error.strerror or type(error).__name__)
    if encoded.stored is None:
        raise DataError(path, encoded.reason, "an image", "remove it or run fastft convert")
    return encoded.stored


def decode(stored: Stored, name: str = "image", shrink: int = 1) -> Image.Image:
    """A sample's pixels by Pillow, the reference decoder: an RGB image of the stored size.

    Args:
        stored: the sample.
        name: what an error calls it.
        shrink: by what the inverse DCT shrinks a JPEG: 1, 2, 4 or 8; its sides are rounded up.

    Raises:
        DataError: the bytes do not decode, or not to the stored size.
    """
    if stored.mode == MODE_RAW:
        pixels = np.frombuffer(memoryview(stored.data), np.uint8)
        return Image.fromarray(pixels.reshape(stored.height, stored.width, 3))
    if has_too_many_scans(stored.data):
        raise DataError(name, TOO_MANY_SCANS, "a photo", LEAVE_OUT)
    try:
        with open_image(memoryview(stored.data), _JPEG) as opened:
            size = opened.size
            if shrink > 1:
                opened.draft(None, (max(1, size[0] // shrink), max(1, size[1] // shrink)))
            image = opened.convert("RGB")
    except MemoryError:
        raise
    except Exception as error:  # as in Encoder.encode
        raise DataError(name, describe(error), "a whole JPEG", LEAVE_OUT) from error
    if size != (stored.width, stored.height):
        found = f"{size[0]} x {size[1]} px"
        raise DataError(name, found, f"{stored.width} x {stored.height}", "rerun fastft convert")
    return image


def _share(sample: int) -> float:
    """A number in [0, 1) that spreads evenly over samples: multiples of the golden ratio."""
    return (sample * 0.6180339887498949) % 1.0
