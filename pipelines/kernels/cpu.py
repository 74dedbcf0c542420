"""The numba kernel: decoded pixels in, batches out: crop, resize, flip, normalize in one pass.

It holds no lock and allocates nothing: callers bring scratch (`fit_scratch`) and have checked every
bound. Machine code is cached on disk, so only the first process on a machine compiles.

The resize is Pillow's antialiased bilinear or bicubic filter in Pillow's own arithmetic: a pass
across and a pass down, each a sum in 32 bits with weights of 22 fractional bits, rounded to uint8.
It is compiled once for either filter and all values of a batch: that takes seconds, and to ask for
each line which loop is to run takes nothing.
Source: Pillow, src/libImaging/Resample.c (`precompute_coeffs`, `normalize_coeffs_8bpc`); the order
of the passes: its pull request 9549.

B rows of a batch, S output side, K taps of an output pixel at most; axis 0 is vertical.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from pipelines.kernels.across import TAPS, WEIGHT_ROWS, across, pack_weights
from pipelines.kernels.compiled import entry, inner
from pipelines.kernels.planes import to_rgb
from pipelines.kernels.vectors import (
    AT_ONCE,
    BITS,
    CACHE_LINE,
    COLUMNS,
    down,
    fence,
    finish,
    prefetch,
)

#: Columns of a row's geometry on one axis: the `length` source pixels from `start` on are resized
#: to `resized`, of which the S from `offset` on are wanted.
START, LENGTH, RESIZED, OFFSET = range(4)
#: Half of the filters' widths, in pixels of the source, or of the output if those are larger.
REACH, CUBIC_REACH = 1, 2
#: Bytes that may be read, and are ignored, behind a frame's last pixel.
READ_PAST = COLUMNS
#: Columns beside those that taps touch which a decoder of regions gives, too: 15 at most, and from
#: there to the left end of a block (4 * 8 px).
COLUMN_SLACK = 48
#: Lines that a decoder of regions gives begin so many bytes from one of its vectors, which take
#: VECTOR bytes: see `streaming.beside`.
VECTOR, BESIDE = 32, 8

_ONE = float(1 << BITS)
#: Lines whose crop is fetched into the cache before they are needed: a crop's lines are too far
#: apart for the processor to guess. 4 to 16 did alike; none cost 37 us more (see `vectors`).
_LINES_AHEAD = 8


class Frames(NamedTuple):
    """The rows' pixels: RGB, or luma and chroma of half the width and height.

    Of an image, what its crop touches may be all that is there.

    Attributes:
        data: uint8[...], with READ_PAST bytes behind the last frame.
        offsets: int64[B, 3], byte of pixel (0, 0) of luma, Cb and Cr; the first alone for RGB.
        pitches: int64[B, 2], bytes between lines of the first plane, and of the others.
        sides: int64[B, 2], height and width of the whole image, px.
    """

    data: NDArray[np.uint8]
    offsets: NDArray[np.int64]
    pitches: NDArray[np.int64]
    sides: NDArray[np.int64]


class Scratch(NamedTuple):
    """The scratch of one thread; `fit_scratch` makes it.

    Attributes:
        lines: uint8[...], between the passes: the lines that the taps touch, S px wide, or one as
            wide as what they touch; each with READ_PAST.
        line: uint8[S * 3 + READ_PAST], a finished one.
        first, counts: int32[2, S], where an output pixel's taps begin, and how many there are.
        weights: int32[2, S * K].
        offsets: int64[S, filled up to whole groups of AT_ONCE], byte of the first tap of each
            column.
        packed: int32[...], the columns' weights as the pass across loads them.
        pixels: uint8[...], what the taps touch of planes, as RGB, or lines as they are decoded;
            empty where frames are RGB.
        chroma: uint8[2, ...], a line of it, doubled.
        sums: int32[...], of two lines of it.
        cubic: whether it is the bicubic filter, whose sums may fall below 0 or exceed 255.
    """

    lines: NDArray[np.uint8]
    line: NDArray[np.uint8]
    first: NDArray[np.int32]
    counts: NDArray[np.int32]
    weights: NDArray[np.int32]
    offsets: NDArray[np.int64]
    packed: NDArray[np.int32]
    pixels: NDArray[np.uint8]
    chroma: NDArray[np.uint8]
    sums: NDArray[np.int32]
    cubic: bool = False


def fit_scratch(
    old: Scratch | None,
    geometry: NDArray[np.int32],
    size: int,
    planar: bool = False,
    streamed: bool = False,
    shrinks: NDArray[np.int32] | int = 1,
    cubic: bool = False,
) -> Scratch:
    """Scratch for these rows: `old` if it is large enough, else with longer arrays.

    Args:
        old: of the same `size`.
        geometry: int32[B, 2, 4], see START.
        size: S.
        planar: whether frames hold planes.
        streamed: whether lines come one by one, see `streaming`: no more are held than two output
            pixels' taps.
        shrinks: int32[B] or one number, see `render_rows`.
        cubic: whether rows are resized by the bicubic filter.
    """
    lengths = geometry[..., LENGTH] / np.asarray(shrinks)[..., None]
    reach = CUBIC_REACH if cubic else REACH
    wide = np.maximum(lengths / geometry[..., RESIZED], 1)  # as the filter is when it shrinks
    # What one axis's taps touch: never more than there is.
    most = np.ceil(lengths) + (np.asarray(shrinks) > 1)[..., None]
    span = np.minimum(np.ceil((size + 2 * reach) * wide) + 3, most).astype(int)
    rows, columns = span.max(0, initial=1).tolist()
    taps = int(np.ceil(reach * wide.max(initial=1))) * 2 + 1
    groups = -(-size // AT_ONCE)
    line_bytes = groups * AT_ONCE * 3 + READ_PAST
    if streamed:
        rows = min(rows, 2 * taps)
    lines = max(rows * line_bytes, columns * 3 + READ_PAST) + READ_PAST
    packed = groups * -(-taps // TAPS) * WEIGHT_ROWS * 4 * AT_ONCE
    if old is None:
        nothing, starts = np.empty(0, np.int32), np.empty((2, size), np.int32)
        line = np.empty(line_bytes, np.uint8)
        old = Scratch(
            line[:0],
            line,
            starts,
            np.empty_like(starts),
            nothing.reshape(2, 0),
            np.empty(groups * AT_ONCE, np.int64),
            nothing,
            line[:0],
            line[:0].reshape(2, 0),
            nothing,
        )
    region = 0
    if planar or streamed:
        pitch = pitch_of(columns) if streamed else columns * 3 + READ_PAST
        region = rows * pitch + READ_PAST + VECTOR + BESIDE
    return old._replace(
        lines=_grown(old.lines, lines),
        weights=_grown(old.weights, 2 * size * taps).reshape(2, -1),
        packed=_grown(old.packed, packed),
        pixels=_grown(old.pixels, region),
        chroma=_grown(old.chroma, 2 * (columns + 20)).reshape(2, -1),
        sums=_grown(old.sums, columns // 2 + 4),
        cubic=cubic,
    )


def pitch_of(columns: int) -> int:
    """Bytes from one line of a region to the next, of so many columns."""
    return -(-((columns + COLUMN_SLACK) * 3 + READ_PAST) // VECTOR) * VECTOR


def _grown(array: NDArray[Any], length: int) -> NDArray[Any]:
    """`array`, or a longer one of anything, that begins with a cache line.

    A vector that lies across two takes twice as long to load: weights of 23 taps that do so cost
    a quarter of the whole resize, those of three 2 %.
    """
    if array.size >= length:
        return array
    longer = np.empty(length + CACHE_LINE // array.itemsize, array.dtype)
    begin = -longer.ctypes.data % CACHE_LINE // array.itemsize
    return longer[begin : begin + length]


@entry
def render_rows(  # type: ignore[no-untyped-def]
    frames, planar, geometry, shrinks, flips, down_first, scale, bias, scratch, out
):
    """Cut, resize, flip and normalize some rows of a plan.

    Args:
        frames: a Frames.
        planar: whether it holds planes.
        geometry: int32[B, 2, 4], see START.
        shrinks: int32[B], 1, or 2, 4 or 8 where a frame holds the image at that part of its size,
            by which the geometry is in pixels of the whole size.
        flips: bool[B].
        down_first: bool[B], rows that take the pass down first, as Pillow does where a crop shrinks
            by far more in height than in width.
        scale, bias: float32[S * 3], a pixel times scale plus bias is normalized, rounded once.
        scratch: a Scratch that fits.
        out: uint8[B, S, S * 3 * (4, 2 or 1)], bytes of float32, bfloat16, or uint8 as it is.
    """
    for row in range(len(geometry)):
        vertical, horizontal = geometry[row]
        shrink = shrinks[row]
        fill_taps(vertical, shrink, False, scratch, 0)
        taps = fill_taps(horizontal, shrink, flips[row], scratch, 1)
        top, lines = find_span(scratch, 0)
        left, columns = find_span(scratch, 1)
        blocks = pack_weights(scratch, taps, left, columns)
        # `source` is the first line of the crop, which planes begin at the first that is touched.
        start = vertical[START] // shrink
        first, begin = start + top, horizontal[START] // shrink + left
        if planar:
            pitch = columns * 3 + READ_PAST
            to_rgb(
                frames,
                row,
                first,
                begin,
                lines,
                columns,
                scratch.sums,
                scratch.chroma,
                scratch.pixels,
                pitch,
            )
            source = scratch.pixels.ctypes.data - top * pitch
        else:
            pitch = frames.pitches[row, 0]
            source = frames.data.ctypes.data + frames.offsets[row, 0]
            source += start * pitch + begin * 3
        if down_first[row]:
            _down_then_across(source, pitch, columns * 3, blocks, scale, bias, scratch, out[row])
        else:
            _across_then_down(source, pitch, columns * 3, blocks, scale, bias, scratch, out[row])
    fence()


@inner
def fill_taps(geometry, shrink, mirrored, scratch, axis):  # type: ignore[no-untyped-def]
    """Each output pixel's taps: the filter over the source, never past its ends.

    The source is the crop, or all pixels that it covers of a shrunk image, whole or in part.

    Returns:
        The most taps of any pixel.
    """
    resized, offset = geometry[RESIZED], geometry[OFFSET]
    begin = geometry[START] // shrink
    length = (geometry[START] + geometry[LENGTH] + shrink - 1) // shrink - begin
    first_px = geometry[START] / shrink - begin
    first, count, weights = scratch.first[axis], scratch.counts[axis], scratch.weights[axis]
    size = len(first)
    room = len(weights) // size
    scale = geometry[LENGTH] / shrink / resized
    wide = max(scale, 1.0)
    per_px = 1.0 / wide
    support = CUBIC_REACH * wide if scratch.cubic else wide
    most = 0
    for pixel in range(size):
        center = first_px + (offset + pixel + 0.5) * scale
        low = max(int(center - support + 0.5), 0)
        high = min(int(center + support + 0.5), length)
        total = 0.0
        for tap in range(low, high):
            total += _weigh((tap - center + 0.5) * per_px, scratch.cubic)
        at = size - 1 - pixel if mirrored else pixel
        for tap in range(low, high):
            weight = _weigh((tap - center + 0.5) * per_px, scratch.cubic) / total
            half = -0.5 if weight < 0.0 and scratch.cubic else 0.5
            weights[at * room + tap - low] = np.int32(half + weight * _ONE)
        first[at] = low
        count[at] = high - low
        most = max(most, high - low)
    return most


@inner
def _weigh(distance, cubic):  # type: ignore[no-untyped-def]
    """A filter's value: the triangle, or Keys' cubic convolution with a = -0.5."""
    away = abs(distance)
    if not cubic:
        return max(1.0 - away, 0.0)
    if away < 1.0:
        return (1.5 * away - 2.5) * away * away + 1.0
    if away < 2.0:
        return (((away - 5.0) * away + 8.0) * away - 4.0) * -0.5
    return 0.0


@inner
def find_span(scratch, axis):  # type: ignore[no-untyped-def]
    """The first source pixel that any tap touches, and how many from there on."""
    first, count = scratch.first[axis], scratch.counts[axis]
    low = min(first[0], first[-1])  # the last is the first where the row is mirrored
    return low, max(first[0] + count[0], first[-1] + count[-1]) - low


@inner
def _across_then_down(  # type: ignore[no-untyped-def]
    source, pitch, width, blocks, scale, bias, scratch, out
):
    """Resize each line that the taps touch to S px, then those to S lines.

    Args:
        source: address of the leftmost pixel that the taps touch in the crop's first line.
        pitch: bytes between lines.
        width: bytes of a line that the taps touch.
        blocks: as `pack_weights` gives them.
        scale, bias, scratch: as in `render_rows`.
        out: uint8[S, bytes of a line].
    """
    top, count = find_span(scratch, 0)
    first, counts, weights = scratch.first[0], scratch.counts[0], scratch.weights[0]
    room = len(weights) // len(out)
    lines, line_bytes = scratch.lines.ctypes.data, len(scratch.line)
    for line in range(count):
        ahead = min(line + _LINES_AHEAD, count - 1)
        prefetch(source + (top + ahead) * pitch, width)
        at = source + (top + line) * pitch
        target = lines + line * line_bytes
        across(at, scratch.offsets, scratch.packed, blocks, target, scratch.cubic)
    for row in range(len(out)):
        at = lines + (first[row] - top) * line_bytes
        begin, width = row * room, len(scale)
        down(at, line_bytes, weights, begin, counts[row], width, scratch.line, scratch.cubic)
        finish(scratch.line, scale, bias, out[row])


@inner
def _down_then_across(  # type: ignore[no-untyped-def]
    source, pitch, width, blocks, scale, bias, scratch, out
):
    """The same the other way round; a finished line of the one pass is resized by the other."""
    first, counts, weights = scratch.first[0], scratch.counts[0], scratch.weights[0]
    room = len(weights) // len(out)
    fetched = 0
    for row in range(len(out)):
        last = first[row] + counts[row] - 1
        for line in range(max(fetched, first[row]), last + 1):
            ahead = min(line + _LINES_AHEAD, first[-1] + counts[-1] - 1)
            prefetch(source + ahead * pitch, width)
        fetched = last + 1
        at = source + first[row] * pitch
        down(at, pitch, weights, row * room, counts[row], width, scratch.lines, scratch.cubic)
        source_line, line = scratch.lines.ctypes.data, scratch.line.ctypes.data
        across(source_line, scratch.offsets, scratch.packed, blocks, line, scratch.cubic)
        finish(scratch.line, scale, bias, out[row])


@entry
def copy_blocks(data, blocks, out):  # type: ignore[no-untyped-def]
    """Gather rectangles of bytes.

    Args:
        data: uint8[...].
        blocks: int64[N, 6], for each: where it begins in `data`, bytes between its lines there, how
            many lines, bytes of a line, where it begins in `out`, bytes between its lines there.
        out: uint8[...].
    """
    for block in range(len(blocks)):
        source, pitch, lines, length, target, target_pitch = blocks[block]
        for _ in range(lines):
            line, found = out[target : target + length], data[source : source + length]
            for at in range(length):  # a slice set to a slice would be copied in between
                line[at] = found[at]
            source += pitch
            target += target_pitch
