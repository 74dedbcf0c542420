"""Prints of photos: a hash of 64 bits and a thumbnail each, and the distance between two.

The hash is the signs of 64 low frequencies of the luma's cosine transform. A mirror image's has
the other sign at each odd frequency across: one number by which the hashes of all mirror images
are known without making any. README says how well both tell copies from other photos.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from fastft.check.look import SIDE_PX

#: Sides of a thumbnail's luma and chroma, px.
LUMA_PX, CHROMA_PX = 16, 4
#: Bits of a hash that a table is looked up by, and how many such there are.
BAND_BITS, BANDS = 16, 4
#: 1 - correlation of the lumas of two copies at most, see README: copies came to 0.03, other photos
#: of the same 397 to 0.16 at least.
MOST_DIFFERENCE = 0.06
#: Levels by which the chroma of two copies differs in the mean at most: copies came to 14.
MOST_TINT = 20.0

_FREQUENCIES = sorted(
    ((down, across) for down in range(12) for across in range(12) if down + across),
    key=lambda each: (sum(each), max(each), each),
)[: BAND_BITS * BANDS]
# Neighbours go to different bands: each has as many low frequencies, whose signs are steady.
_ORDER = [each for band in range(BANDS) for each in _FREQUENCIES[band::BANDS]]
_DOWN, _ACROSS = (np.array(each) for each in zip(*_ORDER, strict=True))
_AT = np.arange(SIDE_PX)
_COSINES = np.cos(np.pi * (2 * _AT + 1) * _AT[:, None] / (2 * SIDE_PX))
#: The bits in which a mirror image differs.
MIRRORED = np.packbits(_ACROSS % 2 == 1, bitorder="little").view("<u8").astype(np.uint64)[0]


@dataclass(frozen=True, slots=True)
class Prints:
    """Hashes and thumbnails by which N photos are recognized.

    Attributes:
        hashes: uint64[N].
        lumas: uint8[N, LUMA_PX, LUMA_PX].
        chromas: uint8[N, CHROMA_PX, CHROMA_PX, 2].
    """

    hashes: NDArray[np.uint64]
    lumas: NDArray[np.uint8]
    chromas: NDArray[np.uint8]


def make_prints(pictures: NDArray[np.uint8]) -> Prints:
    """The prints of pictures: uint8[N, SIDE_PX, SIDE_PX, 3] YCbCr."""
    count = len(pictures)
    luma = pictures[..., 0].astype(np.float64)
    waves = _COSINES @ luma @ _COSINES.T
    bits = np.packbits(waves[:, _DOWN, _ACROSS] > 0, axis=1, bitorder="little")
    hashes = np.ascontiguousarray(bits).view("<u8").astype(np.uint64)
    return Prints(
        hashes.reshape(count),
        _shrink(pictures[..., :1], LUMA_PX)[..., 0],
        _shrink(pictures[..., 1:], CHROMA_PX),
    )


def measure(
    prints: Prints, first: NDArray[np.int64], second: NDArray[np.int64], *, mirrored: bool
) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
    """Distances between the thumbnails of pairs.

    Args:
        prints: of all photos.
        first, second: int64[P], the pairs.
        mirrored: whether the second one is seen in a mirror.

    Returns:
        float32[P], 1 - the correlation of their lumas, and float32[P], the mean difference of their
        chromas, in levels.
    """
    lumas = [prints.lumas[each].astype(np.float32) for each in (first, second)]
    chromas = [prints.chromas[each].astype(np.float32) for each in (first, second)]
    if mirrored:
        lumas[1], chromas[1] = lumas[1][:, :, ::-1], chromas[1][:, :, ::-1]
    one, other = (each.reshape(len(each), LUMA_PX**2) for each in lumas)
    one = one - one.mean(1, keepdims=True)
    other = other - other.mean(1, keepdims=True)
    products = (np.einsum("pi,pi->p", a, b) for a, b in ((one, other), (one, one), (other, other)))
    both, own, others = products
    # Thumbnails of one colour correlate with nothing.
    difference = 1 - both / np.sqrt(np.maximum(own * others, 1.0))
    return difference, np.abs(chromas[0] - chromas[1]).mean((1, 2, 3))


def _shrink(pictures: NDArray[np.uint8], side: int) -> NDArray[np.uint8]:
    """The mean of each square of a picture's pixels, rounded."""
    by = SIDE_PX // side
    count, _, _, channels = pictures.shape
    squares = pictures.reshape(count, side, by, side, by, channels)
    means: NDArray[np.float32] = squares.mean((2, 4), dtype=np.float32)
    return np.rint(means).astype(np.uint8)
