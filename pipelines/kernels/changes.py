"""The operations beyond crop and mirror on a CPU: pixels that were just rendered, in the cache.

A row's operations come one after the other, each on uint8 pixels, as torchvision.transforms.v2's
functionals do; the last is followed by normalization. Of most, a byte depends on one byte alone:
those become a table of 256. Arithmetic is float32 in torchvision's order, so nearly all pixels are
its to the bit, and none is more than a level off.
Source: torchvision, transforms/v2/functional/_color.py and _geometry.py.

Nothing is allocated, and no lock is held. S output side, K operations.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from pipelines import codes
from pipelines.kernels.colours import (
    blend,
    fill_equal,
    fill_stretched,
    invert_from,
    keep_bits,
    look_up,
    mean_grey,
    saturate,
    to_gray,
    turn_hue,
)
from pipelines.kernels.compiled import entry
from pipelines.kernels.moving import (
    erase,
    flip_down,
    sharpen,
    shear_across,
    translate,
    turn,
)
from pipelines.kernels.vectors import fence, finish

_LEVELS = 256
#: Bytes behind images that may be read and written.
READ_PAST = 16

_FLIP_DOWN, _GRAY, _ERASE = codes.FLIP_DOWN, codes.GRAY, codes.ERASE
_SHEAR_X, _ROTATE = codes.SHEAR_X, codes.ROTATE
_TRANSLATE_X, _TRANSLATE_Y = codes.TRANSLATE_X, codes.TRANSLATE_Y
_BRIGHTNESS, _CONTRAST, _EQUALIZE = codes.BRIGHTNESS, codes.CONTRAST, codes.EQUALIZE
_SATURATION, _SHARPNESS, _HUE = codes.SATURATION, codes.SHARPNESS, codes.HUE
_POSTERIZE, _SOLARIZE = codes.POSTERIZE, codes.SOLARIZE


class Changes(NamedTuple):
    """The operations of some rows.

    Attributes:
        codes: int32[B, K], see `pipelines.codes`.
        values: float64[B, K].
        boxes: int32[B, 4], top, left, height, width of what ERASE paints over.
        matrices: float64[B, K, 6], see `pipelines.operations`.
    """

    codes: NDArray[np.int32]
    values: NDArray[np.float64]
    boxes: NDArray[np.int32]
    matrices: NDArray[np.float64]


class Scratch(NamedTuple):
    """The scratch of one thread, for images of one size.

    Attributes:
        image: uint8[S, S * 3], and READ_PAST bytes of anything behind it.
        tables: uint8[3, 256], what each channel's bytes become.
        counts: int64[3, 256], how often each is there; or of some pixels, as float32[3, 512], their
            channels.
    """

    image: NDArray[np.uint8]
    tables: NDArray[np.uint8]
    counts: NDArray[np.int64]


def make_scratch(size: int) -> Scratch:
    """Scratch for images of S px."""
    tables = np.empty((3, _LEVELS), np.uint8)
    image = np.empty(size * size * 3 + READ_PAST, np.uint8)[: size * size * 3]
    return Scratch(image.reshape(size, size * 3), tables, np.empty(tables.shape, np.int64))


@entry
def change_rows(pixels, changes, scratch, scale, bias, out):  # type: ignore[no-untyped-def]
    """Change some rows, and normalize them.

    Args:
        pixels: uint8[B, S, S * 3], which is overwritten, and READ_PAST bytes of anything behind it.
        changes: a Changes of these rows.
        scratch: a Scratch.
        scale, bias: float32[S * 3], a pixel times scale plus bias is normalized, rounded once.
        out: uint8[B, S, bytes of a line], see `cpu.render_rows`.
    """
    for row in range(len(pixels)):
        image, other = pixels[row], scratch.image
        for nth in range(changes.codes.shape[1]):
            code, value = changes.codes[row, nth], changes.values[row, nth]
            if code == 0:
                continue
            if code == _FLIP_DOWN:
                flip_down(image)
            elif code == _SATURATION:
                saturate(image, np.float32(value), np.float32(1.0 - value))
            elif code == _GRAY:
                to_gray(image)
            elif code == _HUE:
                turn_hue(image, np.float32(value), scratch.counts.view(np.float32))
            elif code == _ERASE:
                erase(image, changes.boxes[row])
            elif code <= _ROTATE or code == _SHARPNESS:
                matrix = changes.matrices[row, nth]
                if code == _SHARPNESS:
                    sharpen(image, other, np.float32(1.0 - value))
                elif code == _TRANSLATE_X or code == _TRANSLATE_Y:
                    translate(image, other, int(matrix[2]), int(matrix[5]))
                elif code == _SHEAR_X:
                    shear_across(image, other, matrix)
                else:
                    turn(image, other, matrix)
                image, other = other, image
            elif code == _BRIGHTNESS:
                blend(image, np.float32(value), np.float32(0))
            elif code == _CONTRAST:
                blend(image, np.float32(value), mean_grey(image) * np.float32(1.0 - value))
            elif code == _POSTERIZE:
                keep_bits(image, ((1 << int(value)) - 1) << (8 - int(value)))
            elif code == _SOLARIZE:
                invert_from(image, int(np.ceil(np.float32(value))))  # torch compares so
            else:
                if code == _EQUALIZE:
                    fill_equal(image, scratch.counts, scratch.tables)
                else:
                    fill_stretched(image, other, scratch.tables)
                look_up(image, scratch.tables)
        for line in range(len(image)):
            finish(image[line], scale, bias, out[row, line])
    fence()
