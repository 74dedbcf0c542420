"""Steps before Triton's passes: checks of tensors, filters of rows, and planar rows to RGB.

A kernel looks at nothing itself; whoever launches one has its tensors checked here.

Chroma at half the resolution is upsampled as libjpeg does it by default ("fancy"), and converted in
its fixed-point arithmetic.
"""

from __future__ import annotations

from collections.abc import Iterable

import torch
import triton
import triton.language as tl

#: Columns of a row's geometry on one axis, see `cpu`.
_START, _LENGTH, _RESIZED, _OFFSET = (tl.constexpr(column) for column in range(4))
#: Columns of a row's window on one axis, see `gpu.find_windows`.
_FIRST, _EXTENT, _NEEDED, _FLAG = (tl.constexpr(column) for column in range(4))
_ONE = tl.constexpr(float(1 << 22))
#: So many taps have code of their own, where weights of 0 stand in for missing ones.
FEW_TAPS = 4
_FEW = tl.constexpr(FEW_TAPS)
#: Half of the bicubic filter's width, see `cpu`; the bilinear one's is 1.
_CUBIC_REACH = tl.constexpr(2)


def check_tensors(
    expected: Iterable[tuple[str, torch.Tensor, torch.dtype, tuple[int, ...]]],
    device: torch.device,
) -> None:
    """Refuse tensors that a kernel would read or write out of bounds.

    Args:
        expected: name, tensor, dtype and shape of each.
        device: of all of them.

    Raises:
        ValueError: a tensor's shape, dtype, layout or device is another.
    """
    for name, tensor, dtype, shape in expected:
        if tensor.dtype != dtype or tensor.shape != shape or tensor.device != device:
            found = f"{tensor.dtype}{list(tensor.shape)} on {tensor.device}"
            raise ValueError(f"{name}: {found}, expected {dtype}{list(shape)} on {device}")
        if not tensor.is_contiguous():
            raise ValueError(f"{name}: strides {tensor.stride()}, expected contiguous memory")


@triton.jit(do_not_specialize=["taps"])
def fill_taps(  # type: ignore[no-untyped-def]
    geometry,
    windows,
    first,
    counts,
    weights,
    taps,
    SIZE: tl.constexpr,
    CUBIC: tl.constexpr,
    BLOCK: tl.constexpr,
):
    """Each output pixel's taps as in `cpu`, in its double precision and its order of operations."""
    row, axis = tl.program_id(0).to(tl.int64), tl.program_id(1)
    pixel = tl.program_id(2) * BLOCK + tl.arange(0, BLOCK)
    inside = pixel < SIZE
    pixel = tl.minimum(pixel, SIZE - 1)
    side = row * 2 + axis
    length = tl.load(geometry + side * 4 + _LENGTH)
    scale = length.to(tl.float64) / tl.load(geometry + side * 4 + _RESIZED).to(tl.float64)
    wide = tl.maximum(scale, 1.0)
    per_px = 1.0 / wide
    support = wide * _CUBIC_REACH if CUBIC else wide
    center = ((tl.load(geometry + side * 4 + _OFFSET) + pixel).to(tl.float64) + 0.5) * scale
    low = tl.maximum((center - support + 0.5).to(tl.int32), 0)
    end = tl.minimum((center + support + 0.5).to(tl.int32), length)
    end = tl.minimum(end, low + taps)  # never past scratch, even if that is too small
    most = tl.ceil(support).to(tl.int32) * 2 + 1
    total = tl.full((BLOCK,), 0.0, tl.float64)
    for tap in range(0, most):
        part = _weigh(tl.abs((low + tap - center + 0.5) * per_px), CUBIC)
        total += tl.where(low + tap < end, part, 0.0)
    # The flag of axis 1 mirrors a row.
    mirrored = (tl.load(windows + row * 8 + 4 + _FLAG) != 0) & (axis == 1)
    at = tl.where(mirrored, SIZE - 1 - pixel, pixel)
    for tap in range(0, tl.minimum(tl.maximum(most, _FEW), taps)):
        part = _weigh(tl.abs((low + tap - center + 0.5) * per_px), CUBIC)
        half = tl.where(part / total < 0.0, -0.5, 0.5) if CUBIC else 0.5
        weight = (half + part / total * _ONE).to(tl.int32)
        weight = tl.where(low + tap < end, weight, 0)
        tl.store(weights + (side * taps + tap) * SIZE + at, weight, inside)
    begin = tl.load(windows + side * 4 + _FIRST) - tl.load(geometry + side * 4 + _START)
    tl.store(first + side * SIZE + at, low - begin, inside)
    tl.store(counts + side * SIZE + at, end - low, inside)


@triton.jit
def _weigh(away, CUBIC: tl.constexpr):  # type: ignore[no-untyped-def]
    """A filter's value at a distance, as in `cpu`."""
    if CUBIC:
        near = (1.5 * away - 2.5) * away * away + 1.0
        far = (((away - 5.0) * away + 8.0) * away - 4.0) * -0.5
        value = tl.where(away < 1.0, near, tl.where(away < 2.0, far, 0.0))
    else:
        value = tl.maximum(1.0 - away, 0.0)
    return value


@triton.jit(do_not_specialize=["begin"])
def to_rgb(  # type: ignore[no-untyped-def]
    data,
    offsets,
    pitches,
    sides,
    windows,
    begin,
    rgb,
    rgb_bytes,
    LINES: tl.constexpr,
    COLUMNS: tl.constexpr,
):
    """LINES x COLUMNS pixels of a planar row's window, closely packed."""
    local = tl.program_id(0).to(tl.int64)
    row = begin + local
    window = windows + row * 8
    height, width = tl.load(window + _EXTENT), tl.load(window + 4 + _EXTENT)
    top, left = tl.program_id(1) * LINES, tl.program_id(2) * COLUMNS
    if (top >= height) | (left >= width):
        return
    # Behind the window's end its last line and column are read again.
    line = tl.minimum(top + tl.arange(0, LINES)[:, None], height - 1)
    column = tl.minimum(left + tl.arange(0, COLUMNS)[None, :], width - 1)
    corners, side = offsets + row * 3, sides + row * 2
    frame = (
        data + tl.load(corners),
        data + tl.load(corners + 1),
        data + tl.load(corners + 2),
        tl.load(pitches + row * 2),
        tl.load(pitches + row * 2 + 1),
        (tl.load(side).to(tl.int32) - 1) // 2,
        (tl.load(side + 1).to(tl.int32) - 1) // 2,
    )
    y, x = tl.load(window + _FIRST) + line, tl.load(window + 4 + _FIRST) + column
    r, g, b = _convert(frame, y, x)
    target = rgb + local * rgb_bytes + (line.to(tl.int64) * width + column) * 3
    tl.store(target, r.to(tl.uint8))
    tl.store(target + 1, g.to(tl.uint8))
    tl.store(target + 2, b.to(tl.uint8))


@triton.jit
def _convert(frame, y, x):  # type: ignore[no-untyped-def]
    """int32[LINES, COLUMNS] red, green and blue of planar pixels."""
    luma, blue_diff, red_diff, pitch, chroma_pitch, bottom, right = frame
    # Three quarters of the nearest chroma sample, a quarter of the one beyond, on each axis; at
    # the edges that is itself. libjpeg-turbo spares planes of two columns the smoothing.
    near_y, near_x = y >> 1, x >> 1
    far_y = tl.minimum(tl.maximum(near_y + (y & 1) * 2 - 1, 0), bottom)
    far_x = tl.minimum(tl.maximum(near_x + (x & 1) * 2 - 1, 0), right)
    far_y, far_x = tl.where(right > 1, far_y, near_y), tl.where(right > 1, far_x, near_x)
    near_y, far_y = near_y * chroma_pitch, far_y * chroma_pitch
    rounding = 8 - (x & 1)
    light = tl.load(luma + y * pitch + x).to(tl.int32)
    cb = _upsample(blue_diff, near_y, far_y, near_x, far_x, rounding) - 128
    cr = _upsample(red_diff, near_y, far_y, near_x, far_x, rounding) - 128
    r = tl.minimum(tl.maximum(light + ((91881 * cr + 32768) >> 16), 0), 255)
    g = tl.minimum(tl.maximum(light + ((-22554 * cb - 46802 * cr + 32768) >> 16), 0), 255)
    b = tl.minimum(tl.maximum(light + ((116130 * cb + 32768) >> 16), 0), 255)
    return r, g, b


@triton.jit
def _upsample(plane, y, far_y, x, far_x, rounding):  # type: ignore[no-untyped-def]
    """int32[LINES, COLUMNS] of a chroma plane at the full size; `y`, `far_y` are lines' bytes."""
    near = 3 * tl.load(plane + y + x).to(tl.int32) + tl.load(plane + far_y + x)
    far = 3 * tl.load(plane + y + far_x).to(tl.int32) + tl.load(plane + far_y + far_x)
    return (3 * near + far + rounding) >> 4
