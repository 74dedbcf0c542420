"""Operations on colours, on a CPU; see `changes`.

float32 throughout, in torchvision's order of operations: levels are cut off where it cuts them off.
Indices are unsigned, see `moving`.
"""

from __future__ import annotations

import numpy as np

from pipelines.kernels.compiled import inner, unchecked

_F, _U = np.float32, np.uintp
#: Weights of red, green and blue in grey.
_RED, _GREEN, _BLUE = _F(0.2989), _F(0.587), _F(0.114)
_ZERO, _ONE, _MOST = _F(0), _F(1), _F(255)
#: Levels to 0-1 and back, where the next whole level is cut off.
_PER_LEVEL, _LEVELS_OF_ONE = _F(1.0 / 255.0), _F(255.999)
_LEVELS = 256


@inner
def saturate(image, part, rest):  # type: ignore[no-untyped-def]
    """Blend each pixel of uint8[S, S * 3] with its grey."""
    for line in range(len(image)):
        values = image[line]
        for pixel in range(len(values) // 3):
            at = _U(pixel * 3)
            red, green, blue = values[at], values[at + _U(1)], values[at + _U(2)]
            other = _F(np.int32(_grey(red, green, blue))) * rest
            values[at] = _blended(red, part, other)
            values[at + _U(1)] = _blended(green, part, other)
            values[at + _U(2)] = _blended(blue, part, other)


@inner
def to_gray(image):  # type: ignore[no-untyped-def]
    """Take the colours of uint8[S, S * 3]."""
    for line in range(len(image)):
        values = image[line]
        for pixel in range(len(values) // 3):
            at = _U(pixel * 3)
            grey = _whole_grey(values, at)
            values[at] = values[at + _U(1)] = values[at + _U(2)] = np.uint8(grey)


@inner
def turn_hue(image, turn, scratch):  # type: ignore[no-untyped-def]
    """Turn each pixel's hue by a part of the circle.

    Args:
        image: uint8[S, S * 3].
        turn: the part, float32.
        scratch: float32[3, ...], some pixels' red, green and blue.
    """
    red, green, blue, room = scratch[0], scratch[1], scratch[2], scratch.shape[1]
    for line in range(len(image)):
        values = image[line]
        for start in range(0, len(values) // 3, room):
            count = min(room, len(values) // 3 - start)
            for pixel in range(count):
                at = _U((start + pixel) * 3)
                red[pixel], green[pixel] = _F(values[at]), _F(values[at + _U(1)])
                blue[pixel] = _F(values[at + _U(2)])
            _turn_hues(red[:count], green[:count], blue[:count], turn)
            for pixel in range(count):
                at = _U((start + pixel) * 3)
                values[at] = np.uint8(np.int32(red[pixel]))
                values[at + _U(1)] = np.uint8(np.int32(green[pixel]))
                values[at + _U(2)] = np.uint8(np.int32(blue[pixel]))


@unchecked
def _turn_hues(red, green, blue, turn):  # type: ignore[no-untyped-def]
    """RGB to HSV and back, in float32: levels in, whole levels out.

    There is no branch, so LLVM makes vectors of the loop: 0.22 ms for an image of 224 px instead of
    2.9 pixel by pixel (2.6 GHz Xeon). A grey pixel's hue is NaN, and comes out of nothing.
    """
    for at in range(len(red)):
        r, g, b = red[at] * _PER_LEVEL, green[at] * _PER_LEVEL, blue[at] * _PER_LEVEL
        most = max(max(red[at], green[at]), blue[at])
        least = min(min(red[at], green[at]), blue[at])
        high = most * _PER_LEVEL
        range_ = high - least * _PER_LEVEL
        s = range_ / high
        rc, gc, bc = (high - r) / range_, (high - g) / range_, (high - b) / range_
        h = _F(4) + gc - rc
        h = _F(2) + rc - bc if most == green[at] else h
        h = bc - gc if most == red[at] else h
        h = h * _F(1.0 / 6.0) + _ONE
        h = h - np.floor(h) + turn
        h = (h - np.floor(h)) * _F(6)
        sector = np.floor(h)
        f = h - sector
        p = np.floor(_clipped((_ONE - s) * high) * _LEVELS_OF_ONE)
        q = np.floor(_clipped((_ONE - s * f) * high) * _LEVELS_OF_ONE)
        t = np.floor(_clipped((_ONE - s + s * f) * high) * _LEVELS_OF_ONE)
        v = np.floor(high * _LEVELS_OF_ONE)
        # Six sectors of the circle, of which 6 is 0 again.
        r = q if sector == _F(1) else v
        r = p if (sector == _F(2)) | (sector == _F(3)) else r
        r = t if sector == _F(4) else r
        g = p if sector > _F(3) else v
        g = t if (sector == _F(0)) | (sector == _F(6)) else g
        g = q if sector == _F(3) else g
        b = v if (sector == _F(3)) | (sector == _F(4)) else p
        b = t if sector == _F(2) else b
        b = q if sector == _F(5) else b
        is_grey = most == least
        red[at] = red[at] if is_grey else r
        green[at] = green[at] if is_grey else g
        blue[at] = blue[at] if is_grey else b


@unchecked
def _clipped(value):  # type: ignore[no-untyped-def]
    return min(max(value, _ZERO), _ONE)


@inner
def look_up(image, tables):  # type: ignore[no-untyped-def]
    """Put in for each byte of uint8[S, S * 3] what its channel's table says."""
    red, green, blue = tables
    for line in range(len(image)):
        values = image[line]
        for pixel in range(len(values) // 3):
            at = _U(pixel * 3)
            values[at] = red[values[at]]
            values[at + _U(1)] = green[values[at + _U(1)]]
            values[at + _U(2)] = blue[values[at + _U(2)]]


@inner
def blend(image, part, other):  # type: ignore[no-untyped-def]
    """Each level of uint8[S, S * 3] times its part plus the other's share."""
    for line in range(len(image)):
        values = image[line]
        for at in range(len(values)):
            values[at] = _blended(values[at], part, other)


@inner
def keep_bits(image, mask):  # type: ignore[no-untyped-def]
    """Keep these bits of each level."""
    for line in range(len(image)):
        values = image[line]
        for at in range(len(values)):
            values[at] &= np.uint8(mask)


@inner
def invert_from(image, least):  # type: ignore[no-untyped-def]
    """Invert levels that are not below one."""
    for line in range(len(image)):
        values = image[line]
        for at in range(len(values)):
            level = values[at]
            values[at] = np.uint8(255 - level) if level >= least else level


@inner
def mean_grey(image):  # type: ignore[no-untyped-def]
    """The mean of the pixels' grey, each cut off, float32."""
    total = 0
    for line in range(len(image)):
        values, of_line = image[line], 0
        for pixel in range(len(values) // 3):
            of_line += _whole_grey(values, _U(pixel * 3))
        total += of_line
    return _F(total / (image.size // 3))


@inner
def _grey(red, green, blue):  # type: ignore[no-untyped-def]
    """Grey of a pixel, float32, not rounded."""
    return _F(red) * _RED + _F(green) * _GREEN + _F(blue) * _BLUE


@inner
def _whole_grey(values, at):  # type: ignore[no-untyped-def]
    """Grey of the pixel at a byte, cut off."""
    return np.int32(_grey(values[at], values[at + _U(1)], values[at + _U(2)]))


@inner
def _blended(level, part, other):  # type: ignore[no-untyped-def]
    """A level times its part plus the other's share, within 0 to 255, cut off."""
    return np.uint8(np.int32(min(max(_F(level) * part + other, _ZERO), _MOST)))


@inner
def _count_levels(image, counts):  # type: ignore[no-untyped-def]
    counts[:] = 0
    for line in range(len(image)):
        values = image[line]
        for pixel in range(len(values) // 3):
            at = _U(pixel * 3)
            counts[0, values[at]] += 1
            counts[1, values[at + _U(1)]] += 1
            counts[2, values[at + _U(2)]] += 1


@inner
def fill_stretched(image, scratch, tables):  # type: ignore[no-untyped-def]
    """Tables that spread the levels which are there over all, for each channel.

    Args:
        image: uint8[S, S * 3].
        scratch: uint8[S, S * 3], of which the first line is overwritten.
        tables: uint8[3, 256].
    """
    # Line by line, which is a vector's work; then across what that leaves.
    for is_most in range(2):
        extreme = scratch[0]
        values = image[0]
        for at in range(len(values)):
            extreme[at] = values[at]
        for line in range(1, len(image)):
            values = image[line]
            if is_most:
                for at in range(len(values)):
                    extreme[at] = max(extreme[at], values[at])
            else:
                for at in range(len(values)):
                    extreme[at] = min(extreme[at], values[at])
        for channel in range(3):
            found = extreme[channel]
            for pixel in range(len(extreme) // 3):
                level = extreme[_U(pixel * 3 + channel)]
                found = max(found, level) if is_most else min(found, level)
            tables[channel, is_most] = found
    for channel in range(3):
        low, high = np.int64(tables[channel, 0]), np.int64(tables[channel, 1])
        least, scale = _F(low), _F(high - low) * _PER_LEVEL
        if low == high:
            least, scale = _ZERO, _ONE
        for level in range(_LEVELS):
            stretched = (_F(level) - least) / scale
            tables[channel, level] = np.uint8(np.int32(min(max(stretched, _ZERO), _MOST)))


@inner
def fill_equal(image, counts, tables):  # type: ignore[no-untyped-def]
    """Tables that spread levels by how many pixels have them, for each channel.

    Args:
        image: uint8[S, S * 3].
        counts: int64[3, 256], overwritten.
        tables: uint8[3, 256].
    """
    _count_levels(image, counts)
    for channel in range(3):
        _equalize(counts[channel], tables[channel])


@inner
def _equalize(counts, table):  # type: ignore[no-untyped-def]
    """Spread levels by how many pixels have them, as Pillow does."""
    high = _LEVELS - 1
    while counts[high] == 0:
        high -= 1
    total = 0
    for level in range(_LEVELS):
        total += counts[level]
    step = (total - counts[high]) // 255
    below = step // 2
    for level in range(_LEVELS):
        table[level] = np.uint8(min(below // step, 255)) if step else np.uint8(level)
        below += counts[level]
