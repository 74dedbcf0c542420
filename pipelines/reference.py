"""The pixel definition: what a plan's row means, said slowly and obviously.

A sample is decoded by Pillow (libjpeg-turbo, accurate DCT, smooth upsampling), cut and resized by
Pillow's antialiased bilinear filter as torchvision does it for Pillow images, then flipped; pixels
are uint8 up to here, and every loader's distance is measured here. Normalization follows.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from pipelines.formats.encode import decode
from pipelines.formats.layout import Stored
from pipelines.images.pillow import crop
from pipelines.plan import Rows

#: ImageNet's channel means and deviations, of pixels scaled to 0-1: what torchvision's pretrained
#: weights were trained with.
MEAN = (0.485, 0.456, 0.406)
STD = (0.229, 0.224, 0.225)


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
    image = cut(decode(stored, name), rows, row)
    if rows.flips[row]:
        image = image.transpose(Image.Transpose.FLIP_LEFT_RIGHT)
    return np.asarray(image)


def cut(image: Image.Image, rows: Rows, row: int) -> Image.Image:
    """The S x S image that a row makes of a decoded image, before it is flipped."""
    top, left, height, width = rows.crops[row].tolist()
    if (height, width) != (image.height, image.width):
        image = crop(image, left, top, width, height)
    height, width = rows.resized[row].tolist()
    image = image.resize((width, height), Image.Resampling.BILINEAR)
    top, left = rows.corners[row].tolist()
    return image.crop((left, top, left + rows.size, top + rows.size))


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
