"""Images that tell where a crop of them was taken: what a loader did can be read off its output.

A probe's red rises from left to right, its green from top to bottom, and its blue is its number.
However a library draws, decodes and resizes, a crop's box, flip and sample can be recovered from
its pixels, and so the order and the distribution of what really comes out be tested.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from pipelines.formats.beton_writer import BetonWriter
from pipelines.formats.crc import crc32
from pipelines.formats.layout import MODE_RAW, About, Stored

#: Width and height of the probes in turn, px: both orientations and a square. All so large that a
#: crop of 8 % of the area still shows the slope of its colours. No side is near 255, where the
#: rounding of the colours would drift along with them.
SHAPES = ((300, 200), (200, 300), (230, 230))
#: Numbers that blue can hold.
MAX_PROBES = 256
#: Output rows and columns next to the edge, where resize filters differ.
_EDGE_PX = 3


@dataclass(frozen=True, slots=True)
class Crops:
    """Crops and flips that were recovered from some output images.

    Attributes:
        samples: int64[N], numbers of the probes.
        boxes: float64[N, 4] top, left, height, width, source px, within about half a pixel.
        flips: bool[N].
    """

    samples: NDArray[np.int64]
    boxes: NDArray[np.float64]
    flips: NDArray[np.bool_]


def probe_shape(sample: int) -> tuple[int, int]:
    """Width and height of a probe, px."""
    return SHAPES[sample % len(SHAPES)]


def write_probes(path: Path, count: int) -> None:
    """Write a `.beton` of `count` probes, 1 to 256, all of one class; sample i is probe i."""
    with BetonWriter(path, count) as writer:
        for sample in range(count):
            width, height = probe_shape(sample)
            pixels = np.empty((height, width, 3), np.uint8)
            pixels[..., 0] = np.rint(_ramp(width))
            pixels[..., 1] = np.rint(_ramp(height))[:, None]
            pixels[..., 2] = sample
            data = pixels.tobytes()
            stored = Stored(MODE_RAW, width, height, data)
            writer.append(stored, 0, f"probe-{sample}", crc32(data))
        writer.finish(About(classes=("probe",)))
        writer.publish()


def read_crops(pixels: NDArray[np.uint8]) -> Crops:
    """Recover what was cut from uint8[N, S, S, 3] crops of probes, S at least 16 px."""
    samples = np.rint(np.median(pixels[..., 2], axis=(1, 2))).astype(np.int64)
    sides = np.array([probe_shape(int(sample)) for sample in samples], np.float64)
    lefts, widths = _span(pixels[..., 0].mean(1), sides[:, 0])
    tops, heights = _span(pixels[..., 1].mean(2), sides[:, 1])
    flips = widths < 0
    lefts, widths = np.where(flips, lefts + widths, lefts), np.abs(widths)
    return Crops(samples, np.stack((tops, lefts, heights, widths), axis=1), flips)


def _ramp(side: int) -> NDArray[np.float64]:
    """A colour for each pixel's centre, 0 to 255 from edge to edge."""
    return np.linspace(127.5 / side, 255 - 127.5 / side, side)


def _span(
    colours: NDArray[np.float64], sides: NDArray[np.float64]
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Start and length in the source of float64[N, S] colours along an output axis."""
    size = colours.shape[1]
    at = (np.arange(size) + 0.5)[_EDGE_PX:-_EDGE_PX]
    inner = colours[:, _EDGE_PX:-_EDGE_PX]
    centred = at - at.mean()
    slope = (inner @ centred) / (centred @ centred)
    first = inner.mean(1) - slope * at.mean()
    scale = sides / 255
    return first * scale, slope * size * scale
