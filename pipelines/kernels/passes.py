"""The Triton kernels that `gpu` launches; what they do there is said there.

Programs are of one warp, rows on the grid's first axis. What a row's order does not want, or lies
behind its window, ends at once.

B rows of a batch, S output side, K taps of an output pixel at most; axis 0 is vertical.
"""

from __future__ import annotations

import triton
import triton.language as tl

#: Columns of a row's window on one axis, see `gpu.find_windows`.
_FIRST, _EXTENT, _NEEDED, _FLAG = (tl.constexpr(column) for column in range(4))
_BITS = tl.constexpr(22)
_HALF = tl.constexpr(1 << 21)


@triton.jit(do_not_specialize=["taps", "begin"])
def first_pass(  # type: ignore[no-untyped-def]
    data,
    offsets,
    pitches,
    windows,
    first,
    counts,
    weights,
    taps,
    begin,
    rgb,
    rgb_bytes,
    between,
    between_bytes,
    SIZE: tl.constexpr,
    CUBIC: tl.constexpr,
    PLANAR: tl.constexpr,
    LINES: tl.constexpr,
    COLUMNS: tl.constexpr,
    DOWN_LINES: tl.constexpr,
    VALUES: tl.constexpr,
):
    """From a row's window to bytes between the passes.

    Those are [lines of the window, SIZE, 3], or where the pass down comes first [SIZE, columns of
    the window, 3].
    """
    local = tl.program_id(0).to(tl.int64)
    row = begin + local
    window = windows + row * 8
    height, width = tl.load(window + _EXTENT), tl.load(window + 4 + _EXTENT)
    goes_down = tl.load(window + _FLAG) != 0
    down, across = tl.program_id(1), tl.program_id(2)
    if goes_down:
        if (down * DOWN_LINES >= SIZE) | (across * VALUES >= width * 3):
            return
    else:
        if (down * LINES >= height) | (across * COLUMNS >= SIZE):
            return
    if PLANAR:
        source, pitch = rgb + local * rgb_bytes, width.to(tl.int64) * 3
    else:
        pitch = tl.load(pitches + row * 2)
        y, x = tl.load(window + _FIRST), tl.load(window + 4 + _FIRST)
        source = data + tl.load(offsets + row * 3) + y * pitch + 3 * x
    target = between + local * between_bytes
    if goes_down:
        _down(
            source,
            pitch,
            width * 3,
            height,
            tl.load(window + _NEEDED),
            first,
            counts,
            weights,
            taps,
            row,
            target,
            between,
            between,
            SIZE,
            CUBIC,
            False,
            DOWN_LINES,
            VALUES,
        )
    else:
        _across(
            source,
            pitch,
            height,
            tl.load(window + 4 + _NEEDED),
            first,
            counts,
            weights,
            taps,
            row,
            target,
            between,
            between,
            SIZE,
            CUBIC,
            False,
            LINES,
            COLUMNS,
            True,
        )


@triton.jit(do_not_specialize=["taps", "begin"])
def second_pass(  # type: ignore[no-untyped-def]
    between,
    between_bytes,
    windows,
    first,
    counts,
    weights,
    taps,
    begin,
    scale,
    bias,
    out,
    SIZE: tl.constexpr,
    CUBIC: tl.constexpr,
    NORMALIZED: tl.constexpr,
    LINES: tl.constexpr,
    COLUMNS: tl.constexpr,
    DOWN_LINES: tl.constexpr,
    VALUES: tl.constexpr,
):
    """From bytes between the passes to a row of the batch."""
    local = tl.program_id(0).to(tl.int64)
    row = begin + local
    window = windows + row * 8
    goes_down = tl.load(window + _FLAG) == 0
    down, across = tl.program_id(1), tl.program_id(2)
    if goes_down:
        if (down * DOWN_LINES >= SIZE) | (across * VALUES >= SIZE * 3):
            return
    else:
        if (down * LINES >= SIZE) | (across * COLUMNS >= SIZE):
            return
    source = between + local * between_bytes
    target = out + row * (SIZE * SIZE * 3)
    if goes_down:
        _down(
            source,
            SIZE * 3,
            SIZE * 3,
            tl.load(window + _EXTENT),
            tl.load(window + _NEEDED),
            first,
            counts,
            weights,
            taps,
            row,
            target,
            scale,
            bias,
            SIZE,
            CUBIC,
            NORMALIZED,
            DOWN_LINES,
            VALUES,
        )
    else:
        _across(
            source,
            tl.load(window + 4 + _EXTENT) * 3,
            SIZE,
            tl.load(window + 4 + _NEEDED),
            first,
            counts,
            weights,
            taps,
            row,
            target,
            scale,
            bias,
            SIZE,
            CUBIC,
            NORMALIZED,
            LINES,
            COLUMNS,
            SIZE % LINES == 0,
        )


@triton.jit
def _across(  # type: ignore[no-untyped-def]
    source,
    pitch,
    lines,
    needed,
    first,
    counts,
    weights,
    taps,
    row,
    target,
    scale,
    bias,
    SIZE: tl.constexpr,
    CUBIC: tl.constexpr,
    NORMALIZED: tl.constexpr,
    LINES: tl.constexpr,
    COLUMNS: tl.constexpr,
    PADDED: tl.constexpr,
):
    """LINES x COLUMNS pixels of [lines, SIZE, 3]; PADDED: there is room for a tile's last lines."""
    side = row * 2 + 1
    filters = (first + side * SIZE, counts + side * SIZE, weights + side * taps * SIZE)
    pixels, place = (source, pitch, lines), (target, scale, bias)
    # Each way does all of its work: Triton 3.6 fails at what several ways have in common.
    if needed == 2:
        _add_pixels(
            pixels, needed, filters, place, SIZE, CUBIC, NORMALIZED, LINES, COLUMNS, PADDED, 2
        )
    elif needed == 3:
        _add_pixels(
            pixels, needed, filters, place, SIZE, CUBIC, NORMALIZED, LINES, COLUMNS, PADDED, 3
        )
    elif needed == 4:
        _add_pixels(
            pixels, needed, filters, place, SIZE, CUBIC, NORMALIZED, LINES, COLUMNS, PADDED, 4
        )
    else:
        _add_pixels(
            pixels, needed, filters, place, SIZE, CUBIC, NORMALIZED, LINES, COLUMNS, PADDED, 0
        )


@triton.jit
def _add_pixels(  # type: ignore[no-untyped-def]
    pixels,
    needed,
    filters,
    place,
    SIZE: tl.constexpr,
    CUBIC: tl.constexpr,
    NORMALIZED: tl.constexpr,
    LINES: tl.constexpr,
    COLUMNS: tl.constexpr,
    PADDED: tl.constexpr,
    TAPS: tl.constexpr,
):
    """Sums TAPS source pixels for each; missing ones have the weight 0. TAPS 0: any number."""
    source, pitch, lines = pixels
    target, scale, bias = place
    line = tl.program_id(1) * LINES + tl.arange(0, LINES)[:, None]
    column = tl.program_id(2) * COLUMNS + tl.arange(0, COLUMNS)[None, :]
    x = column if SIZE % COLUMNS == 0 else tl.minimum(column, SIZE - 1)
    at = source + tl.minimum(line, lines - 1) * pitch + 3 * tl.load(filters[0] + x)
    weight_at = filters[2] + x
    red = tl.full((LINES, COLUMNS), _HALF, tl.int32)
    green, blue = red, red
    if TAPS:
        for tap in tl.static_range(TAPS):
            weight = tl.load(weight_at + tap * SIZE)
            red += weight * tl.load(at + 3 * tap).to(tl.int32)
            green += weight * tl.load(at + 3 * tap + 1).to(tl.int32)
            blue += weight * tl.load(at + 3 * tap + 2).to(tl.int32)
    else:
        count = tl.load(filters[1] + x)
        for tap in range(0, needed):
            there = tap < count
            weight = tl.load(weight_at + tap * SIZE, there, 0)
            red += weight * tl.load(at + 3 * tap, there, 0).to(tl.int32)
            green += weight * tl.load(at + 3 * tap + 1, there, 0).to(tl.int32)
            blue += weight * tl.load(at + 3 * tap + 2, there, 0).to(tl.int32)
    at = target + (line * SIZE + column) * 3
    if SIZE % COLUMNS == 0 and PADDED:
        wanted = None
    elif PADDED:
        wanted = tl.broadcast_to(column < SIZE, (LINES, COLUMNS))
    else:
        wanted = (line < lines) & (column < SIZE)
    red, green, blue = _to_level(red, CUBIC), _to_level(green, CUBIC), _to_level(blue, CUBIC)
    _store(at, red, wanted, scale, bias, NORMALIZED)
    _store(at + 1, green, wanted, scale + 1, bias + 1, NORMALIZED)
    _store(at + 2, blue, wanted, scale + 2, bias + 2, NORMALIZED)


@triton.jit
def _down(  # type: ignore[no-untyped-def]
    source,
    pitch,
    width,
    lines,
    needed,
    first,
    counts,
    weights,
    taps,
    row,
    target,
    scale,
    bias,
    SIZE: tl.constexpr,
    CUBIC: tl.constexpr,
    NORMALIZED: tl.constexpr,
    LINES: tl.constexpr,
    VALUES: tl.constexpr,
):
    """LINES x VALUES of [SIZE, width], from [lines, width]; reads on behind a line's end."""
    filters = (first + row * 2 * SIZE, counts + row * 2 * SIZE, weights + row * 2 * taps * SIZE)
    pixels, place = (source, pitch, width, lines), (target, scale, bias)
    if needed == 2:
        _add_lines(pixels, filters, place, SIZE, CUBIC, NORMALIZED, LINES, VALUES, 2)
    elif needed == 3:
        _add_lines(pixels, filters, place, SIZE, CUBIC, NORMALIZED, LINES, VALUES, 3)
    elif needed == 4:
        _add_lines(pixels, filters, place, SIZE, CUBIC, NORMALIZED, LINES, VALUES, 4)
    else:
        _add_lines(pixels, filters, place, SIZE, CUBIC, NORMALIZED, LINES, VALUES, 0)


@triton.jit
def _add_lines(  # type: ignore[no-untyped-def]
    pixels,
    filters,
    place,
    SIZE: tl.constexpr,
    CUBIC: tl.constexpr,
    NORMALIZED: tl.constexpr,
    LINES: tl.constexpr,
    VALUES: tl.constexpr,
    TAPS: tl.constexpr,
):
    """Sums TAPS source lines for each; missing ones have the weight 0. TAPS 0: any number."""
    source, pitch, width, lines = pixels
    target, scale, bias = place
    value = tl.program_id(2) * VALUES + tl.arange(0, VALUES)
    inside = value < width
    at = source + value
    if NORMALIZED:
        factors = tl.load(scale + value, inside, 0), tl.load(bias + value, inside, 0)
    for step in tl.static_range(LINES):
        y = tl.program_id(1) * LINES + step
        # Behind the last line it is made again.
        y = y if SIZE % LINES == 0 else tl.minimum(y, SIZE - 1)
        low = tl.load(filters[0] + y)
        total = tl.full((VALUES,), _HALF, tl.int32)
        if TAPS:
            for tap in tl.static_range(TAPS):
                line = tl.load(at + tl.minimum(low + tap, lines - 1) * pitch).to(tl.int32)
                total += tl.load(filters[2] + y + tap * SIZE) * line
        else:
            for tap in range(0, tl.load(filters[1] + y)):
                line = tl.load(at + (low + tap) * pitch).to(tl.int32)
                total += tl.load(filters[2] + y + tap * SIZE) * line
        pixel = _to_level(total, CUBIC)
        if NORMALIZED:
            pixel = tl.fma(pixel.to(tl.float32), factors[0], factors[1])
        tl.store(target + y * width + value, pixel.to(target.dtype.element_ty), inside)


@triton.jit
def _to_level(total, CUBIC: tl.constexpr):  # type: ignore[no-untyped-def]
    """0 to 255 of a sum; with negative weights it may be out of range."""
    level = total >> _BITS
    if CUBIC:
        level = tl.minimum(tl.maximum(level, 0), 255)
    return level


@triton.jit
def _store(target, pixel, wanted, scale, bias, NORMALIZED: tl.constexpr):  # type: ignore[no-untyped-def]
    """One channel, rounded once more than the sum where the dtype is narrower than float32."""
    if NORMALIZED:
        value = tl.fma(pixel.to(tl.float32), tl.load(scale), tl.load(bias))
        tl.store(target, value.to(target.dtype.element_ty), wanted)
    else:
        tl.store(target, pixel.to(tl.uint8), wanted)
