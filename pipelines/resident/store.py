"""A source's samples as pixels in one flat buffer: the format, where each lies, how it is made.

Whose memory the buffer is does not matter here.

`rgb` holds what the reference decoder gives. `yuv420` holds luma and halved chroma, half the bytes:
what a 4:2:0 or gray JPEG itself holds, from which the kernels make the reference's pixels again, to
the bit. Of any other sample the chroma is averaged over 2 x 2 pixels, which costs detail.

Images that are kept smaller are shrunk by Pillow's bilinear filter, whatever filter a model wants:
a store does not depend on who will read it.
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass

import numpy as np
import PIL
from numpy.typing import NDArray
from PIL import Image

from pipelines.decoder import Known
from pipelines.errors import UsageError
from pipelines.formats.layout import MODE_RAW
from pipelines.formats.source import Source
from pipelines.plan import Decode, find_shrinks
from pipelines.reference import find_cover
from pipelines.regions import RegionDecoder

KINDS = ("rgb", "yuv420")
#: Samples begin at multiples of a cache line.
_ALIGN = 64
#: Changes when some samples become other pixels than before: in 2 incomplete progressive JPEGs do.
_DECODING = 2
#: Bytes behind the last sample: the kernels read so far past a line.
TAIL = 64


@dataclass(frozen=True, kw_only=True, slots=True)
class StoreFormat:
    """The format in which samples are kept.

    Attributes:
        kind: one of KINDS.
        shorter_px: images whose shorter side is longer are shrunk to this; 0 keeps sizes.
        decode: `scaled` lets the inverse DCT begin to shrink them.
    """

    kind: str = "rgb"
    shorter_px: int = 0
    decode: Decode = "exact"

    def __post_init__(self) -> None:
        if self.kind not in KINDS:
            raise UsageError("store", repr(self.kind), f"one of {', '.join(KINDS)}")
        if not 0 <= self.shorter_px <= 65535:
            raise UsageError("store side", str(self.shorter_px), "0 to 65535 px")
        if self.decode == "scaled" and not self.shorter_px:
            raise UsageError(
                "loader 'resident'",
                "decode 'scaled', and images are kept at their size",
                "a size to keep them at",
                "give store_side (--store-side), or decode 'exact'",
            )

    @property
    def planar(self) -> bool:
        """Whether luma and chroma lie apart."""
        return self.kind == "yuv420"


@dataclass(frozen=True, slots=True)
class Layout:
    """Places of samples in the buffer.

    Attributes:
        format: see there.
        heights, widths: int32[N], of the pixels that are kept.
        offsets: int64[N, 3], byte of pixel (0, 0) of luma, Cb and Cr; all alike for RGB.
        pitches: int64[N, 2], bytes between lines of the first plane and of the others.
        sizes: int64[N], bytes; 0 for samples that are not held.
        total: bytes of the buffer, TAIL included.
    """

    format: StoreFormat
    heights: NDArray[np.int32]
    widths: NDArray[np.int32]
    offsets: NDArray[np.int64]
    pitches: NDArray[np.int64]
    sizes: NDArray[np.int64]
    total: int

    def place(self, sample: int) -> slice:
        """A sample's bytes in the buffer."""
        begin = int(self.offsets[sample, 0])
        return slice(begin, begin + int(self.sizes[sample]))


def lay_out(source: Source, format_: StoreFormat, held: NDArray[np.bool_] | None = None) -> Layout:
    """Plan the buffer.

    Args:
        source: the samples.
        format_: what is kept of them.
        held: bool[N], which of them; all if None.
    """
    heights, widths = _shrunk(source.heights, source.widths, format_.shorter_px)
    h, w = heights.astype(np.int64), widths.astype(np.int64)
    if format_.planar:
        h, w = h + h % 2, w + w % 2
        sizes, planes, pitches = h * w * 3 // 2, (0 * h, h * w, h * w * 5 // 4), (w, w // 2)
    else:
        sizes, planes, pitches = h * w * 3, (0 * h,) * 3, (w * 3, w * 3)
    if held is not None:
        sizes = sizes * held
    ends = np.cumsum(-(-sizes // _ALIGN) * _ALIGN)
    begins = ends - -(-sizes // _ALIGN) * _ALIGN
    return Layout(
        format_,
        heights,
        widths,
        begins[:, None] + np.stack(planes, axis=1),
        np.stack(pitches, axis=1),
        sizes,
        int(ends[-1]) + TAIL,
    )


def _shrunk(
    heights: NDArray[np.int32], widths: NDArray[np.int32], shorter_px: int
) -> tuple[NDArray[np.int32], NDArray[np.int32]]:
    """Sides with the shorter one at most `shorter_px`; the other by torchvision's Resize rule."""
    short, long = np.minimum(heights, widths), np.maximum(heights, widths)
    shrink = (short > shorter_px) & (shorter_px > 0)
    new_long = np.where(shrink, shorter_px * long.astype(np.int64) // short, long)
    new_short = np.where(shrink, shorter_px, short)
    portrait = heights > widths
    return (
        np.where(portrait, new_long, new_short).astype(np.int32),
        np.where(portrait, new_short, new_long).astype(np.int32),
    )


class PixelWriter:
    """Writes samples to their places; for one thread at a time.

    Attributes:
        resampled: how many samples' chroma was averaged.
    """

    def __init__(self, source: Source, layout: Layout, known: Known | None = None) -> None:
        self._source, self._layout, self._decoder = source, layout, RegionDecoder(source, known)
        self.resampled = 0

    def write(self, sample: int, target: NDArray[np.uint8]) -> None:
        """Decode a sample into `target`, uint8[its size], contiguous.

        Raises:
            DataError: the sample is broken.
        """
        layout, source = self._layout, self._source
        height, width = int(source.heights[sample]), int(source.widths[sample])
        size = int(layout.widths[sample]), int(layout.heights[sample])
        keeps_size = size == (width, height)
        planar = layout.format.planar
        if keeps_size and not planar:
            self._decoder.to_rgb(sample, target)
        elif not (keeps_size and planar and self._decoder.decoder.to_planes(sample, target)):
            # Rare or done once: Pillow's own way is the definition, and fast enough.
            image = self._decode(sample, size)
            if planar:
                self._write_planes(image, target)
            else:
                target[:] = np.asarray(image).reshape(-1)

    def _decode(self, sample: int, size: tuple[int, int]) -> Image.Image:
        """A sample as an image of this width and height."""
        stored = self._source.stored(sample)
        crop = 0, 0, stored.height, stored.width
        shrink = 1
        if self._layout.format.decode == "scaled" and stored.mode != MODE_RAW:
            spared = find_shrinks(np.array([crop[2:]]), np.array([size[::-1]]))
            shrink = int(spared[0])
        (_, _, height, width), part = find_cover(crop, shrink)
        pixels = np.empty((height, width, 3), np.uint8)
        self._decoder.to_rgb(sample, pixels.reshape(-1), shrink)
        return Image.fromarray(pixels).resize(size, Image.Resampling.BILINEAR, part)

    def _write_planes(self, image: Image.Image, target: NDArray[np.uint8]) -> None:
        self.resampled += 1
        luma, *chroma = image.convert("YCbCr").split()
        pitch, lines = luma.width + luma.width % 2, luma.height + luma.height % 2
        target[: lines * pitch].reshape(lines, pitch)[: luma.height, : luma.width] = np.asarray(
            luma
        )
        at = lines * pitch
        for plane in chroma:
            halved = np.asarray(plane.reduce(2))
            target[at : at + halved.size] = halved.reshape(-1)
            at += halved.size


def fingerprint(source: Source, format_: StoreFormat) -> bytes:
    """32 bytes that change with the samples, or with how they become pixels."""
    # Shrinking is by the Pillow that is installed, whose filter has changed once.
    how = f"{format_.kind} {format_.shorter_px} {PIL.__version__ if format_.shorter_px else ''}"
    how += f" {_DECODING}" + (" scaled" if format_.decode == "scaled" else "")
    digest = hashlib.sha256(how.encode())
    for sides in (source.heights, source.widths):
        digest.update(sides.tobytes())
    digest.update(source.fingerprint())
    return digest.digest()
