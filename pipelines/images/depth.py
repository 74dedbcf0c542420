"""Images of more than 8 bits per channel: 16-bit gray PNGs, float TIFFs and the like.

Pillow's `convert("RGB")` clips them: all above 255 is white. `scale` maps their range instead. Of
16-bit colour Pillow itself keeps the upper 8 bits when it decodes: nothing is to be done about it.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray
from PIL import Image

#: A 16-bit level by this is an 8-bit one: 65535 / 255.
_SIXTEEN_BITS = 257
#: So many lines are mapped at once that they are about so many pixels: temporary arrays stay small.
_PIXELS = 1 << 20


def is_deep(image: Image.Image) -> bool:
    """Whether an image has more than 8 bits per channel as Pillow decodes it: all are gray."""
    return image.mode in ("I", "F") or image.mode.startswith("I;16")


def scale(image: Image.Image) -> Image.Image:
    """Map a deep image's range to 0-255.

    - Integers from 0 to 65535: by 257, to the nearest.
    - Other integers, and floats: the image's least value becomes 0, its largest 255, what lies
      between is mapped evenly, to the nearest. Infinite values do not count, and become 0 and 255;
      NaN becomes 0. If all values are alike, they become 0.

    Returns:
        A grayscale image.
    """
    values = np.asarray(image)
    levels = np.empty(values.shape, np.uint8)
    step = max(1, _PIXELS // max(1, image.width))
    parts = [slice(top, top + step) for top in range(0, image.height, step)]
    if values.dtype.kind == "f":
        finite = [values[part][np.isfinite(values[part])] for part in parts]
        low = min((float(each.min()) for each in finite if each.size), default=0.0)
        high = max((float(each.max()) for each in finite if each.size), default=0.0)
        del finite
    else:
        low, high = float(values.min()), float(values.max())
    is_short = values.dtype.kind != "f" and low >= 0 and high <= _SIXTEEN_BITS * 255
    for part in parts:
        levels[part] = _by_257(values[part]) if is_short else _by_range(values[part], low, high)
    return Image.fromarray(levels)


def _by_257(values: NDArray[np.generic]) -> NDArray[np.uint8]:
    return ((values.astype(np.uint32) + _SIXTEEN_BITS // 2) // _SIXTEEN_BITS).astype(np.uint8)


def _by_range(values: NDArray[np.generic], low: float, high: float) -> NDArray[np.uint8]:
    exact = values.astype(np.float64)
    is_top = np.isposinf(exact)
    exact = np.nan_to_num(exact, nan=low, posinf=high, neginf=low) - low
    if high > low:
        exact *= 255 / (high - low)
    levels = np.rint(exact).astype(np.uint8)
    levels[is_top] = 255
    return levels
