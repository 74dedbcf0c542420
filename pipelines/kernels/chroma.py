"""The Triton kernel that turns planar rows into RGB, before the passes of `passes`.

Chroma at half the resolution is upsampled as libjpeg does it by default ("fancy"), and converted in
its fixed-point arithmetic.
"""

from __future__ import annotations

import triton
import triton.language as tl

#: Columns of a row's window on one axis, see `gpu.find_windows`.
_FIRST, _EXTENT = tl.constexpr(0), tl.constexpr(1)


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
