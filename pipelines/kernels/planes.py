"""Luma and halved chroma to RGB, as libjpeg-turbo does it: smooth upsampling, then 16-bit factors.

Source: libjpeg-turbo, jdsample.c (`h2v2_fancy_upsample`, `h2v2_upsample`, and when each is taken),
jdcolor.c (`build_ycc_rgb_table`, `ycc_rgb_convert`).
"""

from __future__ import annotations

from typing import Any

import numpy as np
from llvmlite import ir
from numba.core import cgutils

from pipelines.kernels.compiled import inner
from pipelines.kernels.vectors import vectorized

#: 1.402, 1.772, 0.34414 and 0.71414 of JFIF, times 2 ** 16.
_RED, _BLUE, _GREEN_BLUE, _GREEN_RED = 91881, 116130, 22554, 46802
#: Chroma lines of so few pixels are not smoothed.
_UNSMOOTHED = 2
_LANES = 16
_int32 = np.int32
_THREE, _FOUR, _SEVEN, _EIGHT = _int32(3), _int32(4), _int32(7), _int32(8)


@inner
def to_rgb(  # type: ignore[no-untyped-def]
    frames, row, top, left, lines, columns, sums, chroma, pixels, pitch
):
    """Convert a region of a frame.

    Args:
        frames: a `cpu.Frames` of planes.
        row: which frame.
        top, left, lines, columns: the region, px.
        sums: int32[columns // 2 + 4 or more].
        chroma: uint8[2, columns + 18 or more].
        pixels: uint8[lines * pitch or more].
        pitch: bytes between its lines, 45 more than they need or farther.
    """
    data, offsets = frames.data, frames.offsets[row]
    luma_pitch, chroma_pitch = frames.pitches[row]
    chroma_lines = (frames.sides[row, 0] + 1) // 2
    chroma_columns = (frames.sides[row, 1] + 1) // 2
    first, last = left // 2, (left + columns - 1) // 2
    odd = left % 2
    for y in range(top, top + lines):
        near = y // 2
        other = min(max(near + (1 if y % 2 else -1), 0), chroma_lines - 1)
        for plane in range(2):
            at = offsets[1 + plane]
            near_line = at + near * chroma_pitch
            other_line = at + other * chroma_pitch
            if chroma_columns <= _UNSMOOTHED:
                for x in range(columns):
                    chroma[plane, odd + x] = data[near_line + (left + x) // 2]
            else:
                _smooth(
                    data, near_line, other_line, first, last, chroma_columns, sums, chroma[plane]
                )
        luma = data.ctypes.data + offsets[0] + y * luma_pitch + left
        blue, red = chroma[0].ctypes.data + odd, chroma[1].ctypes.data + odd
        _convert(luma, blue, red, columns, pixels.ctypes.data + (y - top) * pitch)


@inner
def _smooth(data, near, other, first, last, columns, sums, out):  # type: ignore[no-untyped-def]
    """Double a chroma line from two neighbouring ones.

    Args:
        data: uint8[...].
        near, other: where the nearer and the farther line begin.
        first, last: the chroma pixels to double.
        columns: of the whole line.
        sums: int32[last - first + 3 or more].
        out: uint8[2 * (last - first + 1) or more].
    """
    low, high = max(first - 1, 0), min(last + 1, columns - 1)
    line, farther = data[near + low : near + high + 1], data[other + low : other + high + 1]
    count = high - low + 1
    shift = low - (first - 1)  # 1 where the line begins here, so that its first pixel stands twice
    inside = sums[shift : shift + count]
    for at in range(count):  # numba computes in 64 bits unless each step is cut to 32
        inside[at] = _int32(_int32(line[at]) * _THREE) + farther[at]
    if shift:
        sums[0] = sums[1]
    if high == last:
        sums[shift + count] = sums[shift + count - 1]
    count = last - first + 1
    before, own, behind = sums[:count], sums[1 : count + 1], sums[2 : count + 2]
    doubled = out[: 2 * count]
    for at in range(count):
        most = _int32(own[at] * _THREE)
        doubled[2 * at] = _int32(_int32(most + before[at]) + _EIGHT) >> _FOUR
        doubled[2 * at + 1] = _int32(_int32(most + behind[at]) + _SEVEN) >> _FOUR


@vectorized
def _convert(code: Any, luma: Any, blue: Any, red: Any, count: Any, pixels: Any) -> None:
    """YCbCr to RGB, 16 pixels at once; up to 15 more are read and written.

    Args:
        code: what the instructions are written to.
        luma, blue, red: addresses of a line of each.
        count: pixels.
        pixels: address of the RGB line.
    """
    builder, words = code.builder, ir.VectorType(ir.IntType(32), _LANES)
    bytes_ = ir.VectorType(ir.IntType(8), _LANES)

    def number(value: int) -> Any:
        return code.every(value, words)

    def clamped(value: Any) -> Any:
        for limit, beyond in ((number(0), "<"), (number(255), ">")):
            value = builder.select(builder.icmp_signed(beyond, value, limit), limit, value)
        return builder.trunc(value, bytes_)

    with cgutils.for_range(builder, code.steps(count, _LANES)) as step:
        y, cb, cr = (
            builder.zext(code.load(code.at(line, step.index, _LANES), bytes_), words)
            for line in (luma, blue, red)
        )
        cb, cr = builder.sub(cb, number(128)), builder.sub(cr, number(128))
        channels = []
        for of_cb, of_cr in ((0, _RED), (-_GREEN_BLUE, -_GREEN_RED), (_BLUE, 0)):
            added = builder.add(builder.mul(cb, number(of_cb)), builder.mul(cr, number(of_cr)))
            added = builder.ashr(builder.add(added, number(1 << 15)), number(16))
            channels.append(clamped(builder.add(y, added)))
        r, g, b = channels
        both = code.pick(r, g, range(2 * _LANES))
        rest = code.pick(b, b, [*range(_LANES)] * 2)
        places = [
            2 * _LANES + pixel if channel == 2 else channel * _LANES + pixel
            for pixel in range(_LANES)
            for channel in range(3)
        ]
        code.store(code.pick(both, rest, places), code.at(pixels, step.index, 3 * _LANES))
