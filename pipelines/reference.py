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
from pipelines.plan import Plan, Rows, resized_geometry

#: ImageNet's channel means and deviations, of pixels scaled to 0-1: what torchvision's pretrained
#: weights were trained with.
MEAN = (0.485, 0.456, 0.406)
STD = (0.229, 0.224, 0.225)


def render(
    stored: Stored, box: NDArray[np.float64], flip: bool, plan: Plan, name: str = "image"
) -> NDArray[np.uint8]:
    """The pixels of one row.

    Args:
        stored: the sample.
        box: float64[4] top, left, height, width, source px.
        flip: whether to mirror left and right.
        plan: gives the output side S and how far the resize filter reaches.
        name: what an error calls the sample.

    Returns:
        uint8[S, S, 3] RGB.

    Raises:
        DataError: the sample does not decode.
    """
    image = cut(decode(stored, name), box, plan.size, plan.clips_at_box)
    if flip:
        image = image.transpose(Image.Transpose.FLIP_LEFT_RIGHT)
    return np.asarray(image)


def cut(image: Image.Image, box: NDArray[np.float64], size: int, clips_at_box: bool) -> Image.Image:
    """The S x S image that `box` makes of a decoded image."""
    if clips_at_box:
        top, left, height, width = (int(edge) for edge in box)
        cropped = crop(image, left, top, width, height)
        return cropped.resize((size, size), Image.Resampling.BILINEAR)
    resized_to, corner = resized_geometry(box, np.array((image.height, image.width)), size)
    (height, width), (top, left) = resized_to.tolist(), corner.tolist()
    resized = image.resize((width, height), Image.Resampling.BILINEAR)
    return resized.crop((left, top, left + size, top + size))


def render_batch(stored: list[Stored], rows: Rows, plan: Plan) -> NDArray[np.uint8]:
    """uint8[B, S, S, 3]: the pixels of several rows, `stored[i]` being row i's sample."""
    rendered = (
        render(sample, box, bool(flip), plan)
        for sample, box, flip in zip(stored, rows.boxes, rows.flips, strict=True)
    )
    return np.stack(list(rendered))


def normalize(pixels: NDArray[np.uint8]) -> NDArray[np.float32]:
    """float32[..., 3]: as torchvision's ToTensor and Normalize, operation by operation."""
    scaled: NDArray[np.float32] = pixels.astype(np.float32)
    scaled /= np.float32(255)
    scaled -= np.array(MEAN, np.float32)
    scaled /= np.array(STD, np.float32)
    return scaled
