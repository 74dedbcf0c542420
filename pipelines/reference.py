"""The pixel definition: what a plan's row means, said slowly and obviously.

A sample is decoded by Pillow (libjpeg-turbo, accurate DCT, smooth upsampling), cut and resized by
Pillow's antialiased bilinear or bicubic filter as torchvision does it for Pillow images, then
flipped. What else the plan asks for is done by torchvision.transforms.v2's functionals. Pixels are
uint8 up to here, and every loader's distance is measured here. Normalization follows, then mixing.

A plan with `decode="scaled"` asks for other pixels where photos are large: Pillow decodes a JPEG at
1/2, 1/4 or 1/8 of its size (`draft`), and resizes the part that the crop takes of the pixels that
it covers.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from pipelines import codes
from pipelines.formats.encode import decode
from pipelines.formats.layout import MODE_RAW, Stored
from pipelines.images.pillow import crop
from pipelines.operations import Mix, Operations
from pipelines.plan import Rows
from pipelines.preprocessing import IMAGENET, Filter, Preprocessing

if TYPE_CHECKING:
    import torch

#: Pillow's names for filters.
RESAMPLING: dict[Filter, Image.Resampling] = {
    "bilinear": Image.Resampling.BILINEAR,
    "bicubic": Image.Resampling.BICUBIC,
}
#: Distance of `scaled` pixels from the exact ones, levels of 255: the mean over many photos, and at
#: most. 40 of 12.9 megapixels at 224 px, and 320 of 0.2 at 64 and 32 px, were 0.2 to 0.5 in the
#: mean, 1.2 for the farthest photo, and 22 at most.
SCALED = (1.0, 40)
#: Distance of one operation's pixels from its definition, likewise. Of those that follow, one level
#: may become many: equalizing and solarizing have steps.
OPERATION = (0.05, 1)


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
    pixels = np.asarray(image)
    return pixels if rows.operations is None else change(pixels, rows.operations, row)


def cut(image: Image.Image, rows: Rows, row: int, shrink: int = 1) -> Image.Image:
    """The S x S image that a row makes of one decoded at 1 / `shrink`, before it is flipped."""
    (top, left, height, width), part = find_cover(rows.crops[row].tolist(), shrink)
    if (height, width) != (image.height, image.width):
        image = crop(image, left, top, width, height)
    height, width = rows.resized[row].tolist()
    image = image.resize((width, height), RESAMPLING[rows.filter], part)
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


def change(pixels: NDArray[np.uint8], operations: Operations, row: int) -> NDArray[np.uint8]:
    """uint8[S, S, 3]: an image behind the operations of one row, in their order."""
    import torch  # converting takes decoders from here, and nothing as large

    image = torch.from_numpy(pixels.transpose(2, 0, 1).copy())
    box = operations.boxes[row].tolist()
    drawn, values = operations.codes[row].tolist(), operations.values[row].tolist()
    for code, value in zip(drawn, values, strict=True):
        image = _apply(image, code, value, box)
    return np.ascontiguousarray(image.numpy().transpose(1, 2, 0))


def _apply(image: Any, code: int, value: float, box: Sequence[int]) -> Any:
    """uint8[3, S, S] behind one operation; see `codes` for what its value is."""
    import torch
    from torchvision.transforms.v2 import InterpolationMode, functional  # takes seconds to load

    bilinear = InterpolationMode.BILINEAR
    usual = {"angle": 0.0, "scale": 1.0, "interpolation": bilinear}
    degrees = math.degrees(math.atan(value))
    erased = torch.tensor(codes.ERASED, dtype=torch.uint8)[:, None, None]
    match code:
        case codes.NOTHING:
            return image
        case codes.FLIP_DOWN:
            return functional.vertical_flip(image)
        case codes.SHEAR_X | codes.SHEAR_Y:
            shear = [degrees, 0.0] if code == codes.SHEAR_X else [0.0, degrees]
            return functional.affine(image, translate=[0, 0], shear=shear, center=[0, 0], **usual)
        case codes.TRANSLATE_X | codes.TRANSLATE_Y:
            moved = [int(value), 0] if code == codes.TRANSLATE_X else [0, int(value)]
            return functional.affine(image, translate=moved, shear=[0.0, 0.0], **usual)
        case codes.ROTATE:
            return functional.rotate(image, value, interpolation=bilinear)
        case codes.BRIGHTNESS:
            return functional.adjust_brightness(image, value)
        case codes.CONTRAST:
            return functional.adjust_contrast(image, value)
        case codes.SATURATION:
            return functional.adjust_saturation(image, value)
        case codes.SHARPNESS:
            return functional.adjust_sharpness(image, value)
        case codes.HUE:
            return functional.adjust_hue(image, value)
        case codes.GRAY:
            return functional.rgb_to_grayscale(image, num_output_channels=3)
        case codes.POSTERIZE:
            return functional.posterize(image, int(value))
        case codes.SOLARIZE:
            return functional.solarize(image, value)
        case codes.AUTO_CONTRAST:
            return functional.autocontrast(image)
        case codes.EQUALIZE:
            return functional.equalize(image)
        case codes.ERASE:
            return functional.erase(image, *box, erased)
        case _:
            raise ValueError(f"operation {code}")


def mix(images: torch.Tensor, targets: torch.Tensor, how: Mix) -> tuple[torch.Tensor, torch.Tensor]:
    """A batch as torchvision's MixUp or CutMix makes it of the numbers that were drawn.

    Args:
        images: float[B, 3, S, S], normalized.
        targets: float[B, C], one for each sample's class.
        how: as the plan says.
    """
    other, share = images.roll(1, 0), how.share
    targets = targets * share + targets.roll(1, 0) * (1 - share)
    if how.box is None:
        return images * share + other * (1 - share), targets
    top, left, bottom, right = how.box
    images = images.clone()
    images[..., top:bottom, left:right] = other[..., top:bottom, left:right]
    return images, targets


def render_batch(stored: list[Stored], rows: Rows) -> NDArray[np.uint8]:
    """uint8[B, S, S, 3]: the pixels of several rows, `stored[i]` being row i's sample."""
    return np.stack([render(sample, rows, row) for row, sample in enumerate(stored)])


def normalize(
    pixels: NDArray[np.uint8], preprocessing: Preprocessing = IMAGENET
) -> NDArray[np.float32]:
    """float32[..., 3]: as torchvision's ToTensor and Normalize, operation by operation."""
    scaled: NDArray[np.float32] = pixels.astype(np.float32)
    scaled /= np.float32(255)
    scaled -= np.array(preprocessing.mean, np.float32)
    scaled /= np.array(preprocessing.std, np.float32)
    return scaled
