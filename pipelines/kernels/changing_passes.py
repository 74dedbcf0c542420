"""The Triton kernels that `changing` launches; what they do there is said there.

Rows are on the grid's first axis. All pixels of a program are one image's, so that it branches on
the image's operations as a whole. Levels are int32 between operations; r, g, b of a program are
loaded byte by byte, 3 apart: a warp's are 96 bytes in a row, which the cache holds for all three.
A row's number has 64 bits, as a batch may have more than 2 GiB; offsets within an image, of a
plan's 8192 px at most, fit in 31.

Source: torchvision, transforms/v2/functional/_color.py and _geometry.py; where it has them, with
the rounding of its tensor operations: `add` with `alpha` rounds once, others each for themselves.

B rows of a batch, S output side, K operations of a row.
"""

from __future__ import annotations

import triton
import triton.language as tl

from pipelines import codes as known

_NOTHING, _FLIP_DOWN, _SHARPNESS, _CONTRAST, _AUTO_CONTRAST, _EQUALIZE = (
    tl.constexpr(code)
    for code in (
        known.NOTHING,
        known.FLIP_DOWN,
        known.SHARPNESS,
        known.CONTRAST,
        known.AUTO_CONTRAST,
        known.EQUALIZE,
    )
)
_BRIGHTNESS, _SATURATION, _HUE, _GRAY, _POSTERIZE, _SOLARIZE, _ERASE = (
    tl.constexpr(code)
    for code in (
        known.BRIGHTNESS,
        known.SATURATION,
        known.HUE,
        known.GRAY,
        known.POSTERIZE,
        known.SOLARIZE,
        known.ERASE,
    )
)
#: Codes of operations that move pixels by a matrix: all from one to the other.
_FIRST_MOVING, _LAST_MOVING = tl.constexpr(min(known.GEOMETRIC)), tl.constexpr(max(known.GEOMETRIC))
_ERASED_R, _ERASED_G, _ERASED_B = (tl.constexpr(level) for level in known.ERASED)
_LEVELS = tl.constexpr(256)
#: Weights of red, green and blue in gray.
_RED, _GREEN, _BLUE = tl.constexpr(0.2989), tl.constexpr(0.587), tl.constexpr(0.114)
#: Levels to 0-1 and back: torchvision's 256 - 1e-3 lets 1 become 255 where fractions are dropped.
_PER_LEVEL, _LEVELS_OF_ONE = tl.constexpr(1 / 255), tl.constexpr(255.999)
_SIXTH = tl.constexpr(1 / 6)
#: float32 has no fractions from here on: what is added and taken away is rounded, halves to even.
_ROUNDING = tl.constexpr(1.5 * 2**23)


@triton.jit(do_not_specialize=["columns", "number"])
def fill_tables(  # type: ignore[no-untyped-def]
    source, codes, values, columns, number, tables, SIZE: tl.constexpr, PIXELS: tl.constexpr
):
    """The levels that a channel's become, where a row begins the pass with sums over its image.

    Programs: B x 3 channels, PIXELS at a time.
    """
    row, channel = tl.program_id(0).to(tl.int64), tl.program_id(1)
    own, first, _ = _find_columns(codes + row * columns, columns, number)
    if number >= own:
        return
    code = tl.load(codes + row * columns + first)
    if (code != _CONTRAST) & (code != _AUTO_CONTRAST) & (code != _EQUALIZE):
        return
    image, table = source + row * (SIZE * SIZE * 3), tables + (row * 3 + channel) * _LEVELS
    counts = _count_levels(image, channel, code == _CONTRAST, SIZE, PIXELS)
    level = tl.arange(0, _LEVELS)
    if code == _CONTRAST:
        value = tl.load(values + row * columns + first).to(tl.float64)
        mean = tl.full((_LEVELS,), 0.0, tl.float32) + _mean(counts, level, SIZE)
        tl.store(table + level, _blend(level, mean, value).to(tl.uint8))
    elif code == _AUTO_CONTRAST:
        low = tl.reduce(tl.where(counts > 0, level, _LEVELS), 0, _lesser)
        high = tl.reduce(tl.where(counts > 0, level, 0), 0, _greater)
        # An only level stays.
        reach = tl.where(high > low, (high - low).to(tl.float32) * _PER_LEVEL, 1.0)
        above = (level - tl.where(high > low, low, 0)).to(tl.float32)
        tl.store(table + level, _cut(tl.div_rn(above, reach)).to(tl.uint8))
    else:
        below = tl.associative_scan(counts, 0, _add) - counts
        # A step is a 255th of all pixels but those of the highest level.
        step = tl.reduce(tl.where(counts > 0, below, 0), 0, _greater) // 255
        equal = tl.minimum((below + step // 2) // tl.maximum(step, 1), 255)
        tl.store(table + level, tl.where(step > 0, equal, level).to(tl.uint8))


@triton.jit(do_not_specialize=["columns", "number", "passes"])
def change_pixels(  # type: ignore[no-untyped-def]
    source,
    target,
    codes,
    values,
    boxes,
    matrices,
    tables,
    columns,
    number,
    passes,
    SIZE: tl.constexpr,
    PIXELS: tl.constexpr,
):
    """One pass over PIXELS pixels of a row: an operation that may begin it, and those that join.

    `passes` is the batch's number of passes. Where a row has fewer, they end in the buffer that the
    batch does, or are one short of it: then one pass more copies the row.
    """
    row = tl.program_id(0).to(tl.int64)
    own, first, end = _find_columns(codes + row * columns, columns, number)
    if number >= own:
        if (number > own) | ((passes - own) % 2 == 0):
            return
    # Behind the last pixel it is made again.
    pixel = tl.minimum(tl.program_id(1) * PIXELS + tl.arange(0, PIXELS), SIZE * SIZE - 1)
    y, x = pixel // SIZE, pixel % SIZE
    image = source + row * (SIZE * SIZE * 3)
    code = tl.load(codes + row * columns + first, first < columns, _NOTHING)
    if (code >= _FIRST_MOVING) & (code <= _LAST_MOVING):
        r, g, b = _move(image, matrices + (row * columns + first) * 6, y, x, SIZE)
    elif code == _SHARPNESS:
        value = tl.load(values + row * columns + first).to(tl.float64)
        r, g, b = _sharpen(image, value, y, x, SIZE)
    else:
        line = tl.where(code == _FLIP_DOWN, SIZE - 1 - y, y)
        r, g, b = _load(image + (line * SIZE + x) * 3)
        if (code == _CONTRAST) | (code == _AUTO_CONTRAST) | (code == _EQUALIZE):
            table = tables + row * (3 * _LEVELS)
            r = tl.load(table + r).to(tl.int32)
            g = tl.load(table + _LEVELS + g).to(tl.int32)
            b = tl.load(table + 2 * _LEVELS + b).to(tl.int32)
    for column in range(first, end):
        code = tl.load(codes + row * columns + column)
        value = tl.load(values + row * columns + column).to(tl.float64)
        if code == _BRIGHTNESS:
            part = value.to(tl.float32)
            r = _cut(r.to(tl.float32) * part)
            g = _cut(g.to(tl.float32) * part)
            b = _cut(b.to(tl.float32) * part)
        elif code == _SATURATION:
            gray = tl.floor(_mix_gray(r, g, b))
            r, g, b = _blend(r, gray, value), _blend(g, gray, value), _blend(b, gray, value)
        elif code == _HUE:
            r, g, b = _turn_hue(r, g, b, value.to(tl.float32))
        elif code == _GRAY:
            r = _mix_gray(r, g, b).to(tl.int32)
            g, b = r, r
        elif code == _POSTERIZE:
            bits = tl.minimum(value.to(tl.int32), 8)
            mask = ((1 << bits) - 1) << (8 - bits)
            r, g, b = r & mask, g & mask, b & mask
        elif code == _SOLARIZE:
            threshold = value.to(tl.float32)
            r, g, b = _invert(r, threshold), _invert(g, threshold), _invert(b, threshold)
        elif code == _ERASE:
            box = boxes + row * 4
            down, across = y - tl.load(box), x - tl.load(box + 1)
            within = (down >= 0) & (down < tl.load(box + 2))
            within &= (across >= 0) & (across < tl.load(box + 3))
            r = tl.where(within, _ERASED_R, r)
            g = tl.where(within, _ERASED_G, g)
            b = tl.where(within, _ERASED_B, b)
    at = target + row * (SIZE * SIZE * 3) + pixel * 3
    tl.store(at, r.to(tl.uint8))
    tl.store(at + 1, g.to(tl.uint8))
    tl.store(at + 2, b.to(tl.uint8))


@triton.jit
def _find_columns(codes, columns, number):  # type: ignore[no-untyped-def]
    """A row's number of passes, and the columns that a pass of a number does.

    It begins at the first column and ends before the second; both are K where there is none.
    `changing.find_steps` counts alike.
    """
    passes = 0
    first, end = columns, columns
    for column in range(columns):
        code = tl.load(codes + column)
        begins = (code >= _FIRST_MOVING) & (code <= _LAST_MOVING)
        begins |= (code == _FLIP_DOWN) | (code == _SHARPNESS) | (code == _CONTRAST)
        begins |= (code == _AUTO_CONTRAST) | (code == _EQUALIZE)
        begins |= (code != _NOTHING) & (passes == 0)
        first = tl.where(begins & (passes == number), column, first)
        end = tl.where(begins & (passes == number + 1), column, end)
        passes += begins.to(tl.int32)
    return passes, first, end


@triton.jit
def _count_levels(  # type: ignore[no-untyped-def]
    image, channel, is_gray, SIZE: tl.constexpr, PIXELS: tl.constexpr
):
    """int32[256]: how many pixels have each level of a channel, or of gray."""
    red = tl.where(is_gray, _RED, tl.where(channel == 0, 1.0, 0.0))
    green = tl.where(is_gray, _GREEN, tl.where(channel == 1, 1.0, 0.0))
    blue = tl.where(is_gray, _BLUE, tl.where(channel == 2, 1.0, 0.0))
    counts = tl.full((_LEVELS,), 0, tl.int32)
    for start in range(0, SIZE * SIZE, PIXELS):
        pixel = start + tl.arange(0, PIXELS)
        inside = pixel < SIZE * SIZE
        r, g, b = _load(image + tl.minimum(pixel, SIZE * SIZE - 1) * 3)
        level = _mix(r, g, b, red, green, blue).to(tl.int32)
        counts += tl.histogram(level, _LEVELS, mask=inside)
    return counts


@triton.jit
def _mean(counts, level, SIZE: tl.constexpr):  # type: ignore[no-untyped-def]
    """float32: the mean level of an image's pixels; sums of large images' take 64 bits."""
    if SIZE * SIZE * 255 < 1 << 31:
        total = tl.reduce(counts * level, 0, _add)
        mean = tl.div_rn(total.to(tl.float32), float(SIZE * SIZE))
    else:
        total = tl.reduce(counts.to(tl.int64) * level, 0, _add)
        mean = (total.to(tl.float64) / (SIZE * SIZE)).to(tl.float32)
    return mean


@triton.jit
def _add(a, b):  # type: ignore[no-untyped-def]
    return a + b


@triton.jit
def _lesser(a, b):  # type: ignore[no-untyped-def]
    return tl.minimum(a, b)


@triton.jit
def _greater(a, b):  # type: ignore[no-untyped-def]
    return tl.maximum(a, b)


@triton.jit
def _load(at):  # type: ignore[no-untyped-def]
    """int32 red, green and blue."""
    r, g, b = tl.load(at), tl.load(at + 1), tl.load(at + 2)
    return r.to(tl.int32), g.to(tl.int32), b.to(tl.int32)


@triton.jit
def _cut(level):  # type: ignore[no-untyped-def]
    """int32 of float32 levels; torchvision drops fractions."""
    return tl.minimum(tl.maximum(level, 0.0), 255.0).to(tl.int32)


@triton.jit
def _mix_gray(r, g, b):  # type: ignore[no-untyped-def]
    """float32 gray, with a fraction."""
    return _mix(r, g, b, _RED, _GREEN, _BLUE)


@triton.jit
def _mix(r, g, b, red, green, blue):  # type: ignore[no-untyped-def]
    """float32 sums of levels by weights."""
    level = tl.fma(g.to(tl.float32), green, r.to(tl.float32) * red)
    return tl.fma(b.to(tl.float32), blue, level)


@triton.jit
def _blend(level, other, value):  # type: ignore[no-untyped-def]
    """int32 levels: `value`, a float64, is their part, the rest is of float32 levels `other`."""
    part, rest = value.to(tl.float32), (1.0 - value).to(tl.float32)
    return _cut(tl.fma(other, rest, level.to(tl.float32) * part))


@triton.jit
def _invert(level, threshold):  # type: ignore[no-untyped-def]
    return tl.where(level.to(tl.float32) >= threshold, 255 - level, level)


@triton.jit
def _turn_hue(r, g, b, turn):  # type: ignore[no-untyped-def]
    """Hue, saturation and value of each pixel, hue turned, and back."""
    most, least = tl.maximum(tl.maximum(r, g), b), tl.minimum(tl.minimum(r, g), b)
    is_red, is_green, is_gray = most == r, most == g, most == least
    v, low = most.to(tl.float32) * _PER_LEVEL, least.to(tl.float32) * _PER_LEVEL
    reach = tl.where(is_gray, 1.0, v - low)
    s = tl.div_rn(v - low, tl.where(is_gray, 1.0, v))
    # Each channel's distance from the highest.
    red = tl.div_rn(v - r.to(tl.float32) * _PER_LEVEL, reach)
    green = tl.div_rn(v - g.to(tl.float32) * _PER_LEVEL, reach)
    blue = tl.div_rn(v - b.to(tl.float32) * _PER_LEVEL, reach)
    h = tl.where(is_green, red + 2.0 - blue, green + 4.0 - red)
    h = tl.where(is_red, blue - green, h) * _SIXTH + 1.0
    h = h - tl.floor(h) + turn
    h = (h - tl.floor(h)) * 6.0
    sector = tl.floor(h)
    fraction = s * (h - sector)
    p, q, t = _unit((1.0 - s) * v), _unit((1.0 - fraction) * v), _unit((fraction + (1.0 - s)) * v)
    sector = sector.to(tl.int32) % 6  # a sum may be rounded up to a whole turn
    r = _pick(sector, v, q, p, p, t, v)
    g = _pick(sector, t, v, v, q, p, p)
    b = _pick(sector, p, p, t, v, v, q)
    return (
        (r * _LEVELS_OF_ONE).to(tl.int32),
        (g * _LEVELS_OF_ONE).to(tl.int32),
        (b * _LEVELS_OF_ONE).to(tl.int32),
    )


@triton.jit
def _unit(value):  # type: ignore[no-untyped-def]
    return tl.minimum(tl.maximum(value, 0.0), 1.0)


@triton.jit
def _pick(sector, a, b, c, d, e, f):  # type: ignore[no-untyped-def]
    low = tl.where(sector == 0, a, tl.where(sector == 1, b, c))
    return tl.where(sector < 3, low, tl.where(sector == 3, d, tl.where(sector == 4, e, f)))


@triton.jit
def _sharpen(image, value, y, x, SIZE: tl.constexpr):  # type: ignore[no-untyped-def]
    """A blend of pixels with their blur; those of the edge stay."""
    within = (y > 0) & (y < SIZE - 1) & (x > 0) & (x < SIZE - 1)
    # At the edge, all nine are the pixel itself, so its blur is, too.
    pixel, step = image + (y * SIZE + x) * 3, tl.where(within, 3, 0)
    rest = (1.0 - value).to(tl.float32)
    r, g, b = _load(pixel)
    red, green, blue = 4 * r, 4 * g, 4 * b
    for near in tl.static_range(9):
        nr, ng, nb = _load(pixel + step * ((near // 3 - 1) * SIZE + near % 3 - 1))
        red, green, blue = red + nr, green + ng, blue + nb
    return _differ(r, red, rest), _differ(g, green, rest), _differ(b, blue, rest)


@triton.jit
def _differ(level, total, rest):  # type: ignore[no-untyped-def]
    # A thirteenth is rounded; it never lies halfway.
    difference = (total + 6) // 13 - level
    return _cut(tl.fma(difference.to(tl.float32), rest, level.to(tl.float32)))


@triton.jit
def _move(image, matrix, y, x, SIZE: tl.constexpr):  # type: ignore[no-untyped-def]
    """Each pixel from between four of the image, which is black beyond its edge."""
    middle: tl.constexpr = (SIZE - 1) / 2
    across, down = x.to(tl.float32) - middle, y.to(tl.float32) - middle
    at_x = tl.load(matrix) * across + tl.load(matrix + 1) * down + (tl.load(matrix + 2) + middle)
    at_y = tl.load(matrix + 3) * across + tl.load(matrix + 4) * down
    at_y += tl.load(matrix + 5) + middle
    left, top = tl.floor(at_x), tl.floor(at_y)
    right_part, lower_part = at_x - left, at_y - top
    left, top = left.to(tl.int32), top.to(tl.int32)
    red, green, blue = 0.0, 0.0, 0.0
    for near in tl.static_range(4):
        line, column = top + near // 2, left + near % 2
        part = lower_part if near // 2 else 1.0 - lower_part
        part = part * (right_part if near % 2 else 1.0 - right_part)
        there = (line >= 0) & (line < SIZE) & (column >= 0) & (column < SIZE)
        at = image + (line * SIZE + column) * 3
        red += part * tl.load(at, there, 0).to(tl.float32)
        green += part * tl.load(at + 1, there, 0).to(tl.float32)
        blue += part * tl.load(at + 2, there, 0).to(tl.float32)
    return _round(red), _round(green), _round(blue)


@triton.jit
def _round(level):  # type: ignore[no-untyped-def]
    return (level + _ROUNDING - _ROUNDING).to(tl.int32)
