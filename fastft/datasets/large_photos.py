"""Tells whether photos are far larger than training needs, and what smaller ones would save."""

from __future__ import annotations

import numpy as np

from pipelines.formats.beton import Index
from pipelines.formats.layout import MODE_RAW
from pipelines.formats.source import Source

#: Photos of fewer pixels on average are decoded in a few milliseconds.
_LARGE_PX = 2_000_000
#: Bytes that a pixel of a smaller photo counts for, as its cost goes by bytes and is a little more:
#: 40 photos of 12.9 megapixels come to 20 times so, and `ffcv` decoded them 19 times as fast (2
#: cores of an AMD EPYC).
_BYTES_PER_PX = 0.6
#: Bytes of a pixel in those photos, for folders, whose files' sizes are not known here.
_LARGE_BYTES_PER_PX = 0.19
#: A saving that is worth a word.
_WORTH = 2


def advise(source: Source, size: int) -> str:
    """The saving of `convert --max-side`, in one line; '' if it is little.

    Args:
        source: the photos.
        size: side of the images that training sees, px.
    """
    areas = source.widths.astype(np.float64) * source.heights
    mean_px, side = float(areas.mean()), 64 * max(4, round(size / 28))
    smaller = np.minimum(areas, side * side * 0.75)
    if mean_px < _LARGE_PX:
        return ""
    if isinstance(source, Index):
        jpeg = source.modes != MODE_RAW
        saved = float(source.sizes[jpeg].sum() / max(1.0, _BYTES_PER_PX * smaller[jpeg].sum()))
    else:
        saved = float(_LARGE_BYTES_PER_PX * areas.sum() / (_BYTES_PER_PX * smaller.sum()))
    if saved < _WORTH:
        return ""
    return (
        f"photos average {mean_px / 1e6:.1f} megapixels for {size} px: fastft convert --max-side "
        f"{side} would make them about {saved:.0f} times as fast to decode"
    )
