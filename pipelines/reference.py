"""The pixel definition: what a plan's row means, said slowly and obviously.

A sample is decoded by Pillow (libjpeg-turbo, accurate DCT, smooth upsampling), cut and resized by
Pillow's antialiased bilinear filter as torchvision does it for Pillow images, then flipped; pixels
are uint8 up to here, and every loader's distance is measured here. Normalization follows.

A plan with `decode="scaled"` asks for other pixels where photos are large: Pillow decodes a JPEG at
1/2, 1/4 or 1/8 of its size (`draft`), and resizes the part that the crop takes of the pixels that
it covers.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from pipelines.formats.encode import decode
from pipelines.formats.layout import MODE_RAW, Stored
from pipelines.images.pillow import crop
from pipelines.plan import Rows

#: ImageNet's channel means and deviations, of pixels scaled to 0-1: what torchvision's pretrained
#: weights were trained with.
MEAN = (0.485, 0.456, 0.406)
STD = (0.229, 0.224, 0.225)
#: Distance of `scaled` pixels from the exact ones, levels of 255: the mean over many photos, and at
#: most. 40 of 12.9 megapixels at 224 px, and 320 of 0.2 at 64 and 32 px, were 0.2 to 0.5 in the
#: mean, 1.2 for the farthest photo, and 22 at most.
SCALED = (1.0, 40)


def render(stored: Stored, rows: Rows, row: int, name: str = "image") -> NDArray[np.uint8]:
    """The pixels of one row.

    Args:
        stored: the row's sample.
        rows, row: its geometry and flip.
        name: what an error calls the sample.

    Returns:
        uint8[S, S, 3] RGB.

    Raises:
        DataError: the sample does not decode.
    """
    shrink = 1 if stored.mode == MODE_RAW else int(rows.shrinks[row])
    image = cut(decode(stored, name, shrink), rows, row, shrink)
    if rows.flips[row]:
        image = image.transpose(Image.Transpose.FLIP_LEFT_RIGHT)
    return np.asarray(image)


def cut(image: Image.Image, rows: Rows, row: int, shrink: int = 1) -> Image.Image:
    """The S x S image that a row makes of one decoded at 1 / `shrink`, before it is flipped."""
    (top, left, height, width), part = find_cover(rows.crops[row].tolist(), shrink)
    if (height, width) != (image.height, image.width):
        image = crop(image, left, top, width, height)
    height, width = rows.resized[row].tolist()
    image = image.resize((width, height), Image.Resampling.BILINEAR, part)
    top, left = rows.corners[row].tolist()
    return image.crop((left, top, left + rows.size, top + rows.size))


def find_cover(
    crop: Sequence[int], shrink: int
) -> tuple[tuple[int, int, int, int], tuple[float, float, float, float]]:
    """The cover of a crop: the pixels of a shrunk image that it lies on, whole or in part.

    Args:
        crop: top, left, height and width, px of the whole size.
        shrink: 1, 2, 4 or 8.

    Returns:
        Top, left, height and width of the cover; left, top, right and bottom of the crop within it;
        px of the shrunk size.
    """
    top, left, height, width = crop
    bottom, right = top + height, left + width
    first_line, first_column = top // shrink, left // shrink
    lines, columns = -(-bottom // shrink) - first_line, -(-right // shrink) - first_column
    sides = (left / shrink, top / shrink, right / shrink, bottom / shrink)
    left_px, top_px, right_px, bottom_px = (
        side - first for side, first in zip(sides, (first_column, first_line) * 2, strict=True)
    )
    return (first_line, first_column, lines, columns), (left_px, top_px, right_px, bottom_px)


def render_batch(stored: list[Stored], rows: Rows) -> NDArray[np.uint8]:
    """uint8[B, S, S, 3]: the pixels of several rows, `stored[i]` being row i's sample."""
    return np.stack([render(sample, rows, row) for row, sample in enumerate(stored)])


def normalize(pixels: NDArray[np.uint8]) -> NDArray[np.float32]:
    """float32[..., 3]: as torchvision's ToTensor and Normalize, operation by operation."""
    scaled: NDArray[np.float32] = pixels.astype(np.float32)
    scaled /= np.float32(255)
    scaled -= np.array(MEAN, np.float32)
    scaled /= np.array(STD, np.float32)
    return scaled
