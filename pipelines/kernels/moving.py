"""Operations that move pixels, blur them, or paint over them, on a CPU; see `changes`.

Bilinear sums are float32, rounded to the nearest level, halves to even. Inner loops count from 0
over slices, or index by unsigned numbers: for others numba asks at each pixel whether an index is
negative, and no loop becomes a vector's.
"""

from __future__ import annotations

import math

import numpy as np

from pipelines import codes
from pipelines.kernels.compiled import inner
from pipelines.kernels.sampling import PLACE_BITS, sample_columns, sample_line

_F, _U = np.float32, np.uintp
_ZERO, _ONE, _MOST = _F(0), _F(1), _F(255)
_ERASED = codes.ERASED
_FINE, _PER_STEP = 2.0**PLACE_BITS, _F(2.0**-24)


@inner
def flip_down(image):  # type: ignore[no-untyped-def]
    """Turn uint8[S, S * 3] upside down."""
    size = len(image)
    for line in range(size // 2):
        upper, lower = image[line], image[size - 1 - line]
        for at in range(len(upper)):
            upper[at], lower[at] = lower[at], upper[at]


@inner
def erase(image, box):  # type: ignore[no-untyped-def]
    """Paint over top, left, height, width of uint8[S, S * 3]."""
    top, left, height, width = box
    for line in range(top, top + height):
        values = image[line, left * 3 : (left + width) * 3]
        for at in range(width):
            values[at * 3] = _ERASED[0]
            values[at * 3 + 1] = _ERASED[1]
            values[at * 3 + 2] = _ERASED[2]


@inner
def sharpen(image, out, rest):  # type: ignore[no-untyped-def]
    """Blend with the blur, but for the outermost pixels; `rest` is the blur's part."""
    size, width = image.shape
    for line in range(size):
        values, target = image[line], out[line]
        for at in range(width):
            target[at] = values[at]
        if size <= 2 or line == 0 or line == size - 1:
            continue
        above, below = image[line - 1], image[line + 1]
        a0, a1, a2 = above[:-6], above[3:-3], above[6:]
        v0, v1, v2 = values[:-6], values[3:-3], values[6:]
        b0, b1, b2 = below[:-6], below[3:-3], below[6:]
        inside = target[3:-3]
        for at in range(width - 6):
            total = np.int32(np.int32(a0[at]) + np.int32(a1[at]))
            total = np.int32(total + np.int32(a2[at]))
            total = np.int32(total + np.int32(v0[at]))
            total = np.int32(total + np.int32(v2[at]))
            total = np.int32(total + np.int32(b0[at]))
            total = np.int32(total + np.int32(b1[at]))
            total = np.int32(total + np.int32(b2[at]))
            middle = np.int32(v1[at])
            # Rounded: of 13, which is odd, nothing is half. 5042 / 2**16 is exact up to 3,321.
            blur = np.int32(np.int32(total + 5 * middle + 6) * 5042) >> 16
            level = _F(middle)
            level += (_F(np.int32(blur)) - level) * rest
            inside[at] = np.uint8(np.int32(min(max(level, _ZERO), _MOST)))


@inner
def translate(image, out, right, down):  # type: ignore[no-untyped-def]
    """Take each pixel from whole pixels to its right and below it."""
    size, width = image.shape
    first, end = min(max(-right, 0), size) * 3, max(min(size - right, size), 0) * 3
    for line in range(size):
        target = out[line]
        for at in range(width):
            target[at] = 0
        if 0 <= line + down < size and first < end:
            values = image[line + down, first + right * 3 : end + right * 3]
            inside = target[first:end]
            for at in range(len(inside)):
                inside[at] = values[at]


@inner
def shear_across(image, out, matrix):  # type: ignore[no-untyped-def]
    """Move each line by a length of its own: one weight serves the whole line."""
    size, width = image.shape
    half = (size - 1) / 2
    for line in range(size):
        moved = matrix[1] * (line - half) + matrix[2]
        whole = math.floor(moved)
        part = _F(moved - whole)
        rest = _ONE - part
        # Output pixel x is between source pixels x + shift and the next one.
        shift = int(whole)
        values, target = image[line], out[line]
        for at in range(width):
            target[at] = 0
        first, end = max(-shift, 0), min(size - 1 - shift, size)
        if first < end:
            left = values[(first + shift) * 3 : (end + shift) * 3]
            right = values[(first + shift + 1) * 3 : (end + shift + 1) * 3]
            inside = target[first * 3 : end * 3]
            for at in range(len(inside)):
                inside[at] = _rounded(_F(left[at]) * rest + _F(right[at]) * part)
        # One of the two lies outside.
        for column, weight, source in ((-shift - 1, part, 0), (size - 1 - shift, rest, size - 1)):
            if 0 <= column < size:
                for channel in range(3):
                    level = _F(values[source * 3 + channel]) * weight
                    target[column * 3 + channel] = _rounded(level)


@inner
def turn(image, out, matrix):  # type: ignore[no-untyped-def]
    """Take each pixel from where a matrix says, between four pixels; black lies outside.

    Args:
        image, out: uint8[S, S * 3], and 16 bytes of anything behind each of them.
        matrix: float64[6], see `pipelines.operations`.
    """
    size, width = image.shape
    half = (size - 1) / 2
    source, target = image.ctypes.data, out.ctypes.data
    # Places are whole numbers of 2**-32 px: stepping on costs an addition, floor a shift.
    right, down = np.int64(matrix[0] * _FINE), np.int64(matrix[3] * _FINE)
    one = np.int64(1) << PLACE_BITS
    end = (size - 1) * one
    for line in range(size):
        away = line - half
        x = np.int64((matrix[1] * away + matrix[2] + half - matrix[0] * half) * _FINE)
        y = np.int64((matrix[4] * away + matrix[5] + half - matrix[3] * half) * _FINE)
        on_columns = right == one and x % one == 0
        # A run writes some bytes too many: the next ones overwrite them, but for the next image's.
        last = size - 2 if line == size - 1 else size
        column = 0
        while column < size:
            at_x, at_y = x + column * right, y + column * down
            if column < last and 0 <= at_x < end and 0 <= at_y < end:
                count = min(_steps(at_x, right, end), _steps(at_y, down, end), last - column)
                place = target + line * width + column * 3
                if on_columns:
                    sample_columns(source, width, at_x, at_y, right, down, count, place)
                else:
                    sample_line(source, width, at_x, at_y, right, down, count, place)
                column += count
                continue
            at = _U(column * 3)
            if -one < at_x < end + one and -one < at_y < end + one:
                _sample_edge(image, at_x, at_y, out[line], at)
            else:
                out[line, at] = out[line, at + _U(1)] = out[line, at + _U(2)] = 0
            column += 1


@inner
def _steps(at, step, end):  # type: ignore[no-untyped-def]
    """The number of steps from `at` on that begin within 0 to `end`."""
    if step > 0:
        return (end - 1 - at) // step + 1
    if step < 0:
        return at // -step + 1
    return np.int64(1) << 32


@inner
def _sample_edge(image, x, y, out, at):  # type: ignore[no-untyped-def]
    """A pixel of which some neighbours may lie outside; to byte `at` of a line."""
    size = len(image)
    left, above = x >> PLACE_BITS, y >> PLACE_BITS
    across = _F(np.int32((x >> 8) & 0xFFFFFF)) * _PER_STEP
    downward = _F(np.int32((y >> 8) & 0xFFFFFF)) * _PER_STEP
    for channel in range(3):
        level = _ZERO
        for dy in range(2):
            for dx in range(2):
                if 0 <= above + dy < size and 0 <= left + dx < size:
                    weight = across if dx else _ONE - across
                    weight *= downward if dy else _ONE - downward
                    level += _F(image[above + dy, (left + dx) * 3 + channel]) * weight
        out[at + _U(channel)] = _rounded(level)


@inner
def _rounded(level):  # type: ignore[no-untyped-def]
    return np.uint8(np.int32(np.rint(level)))
