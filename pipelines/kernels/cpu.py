"""Numba kernels: JPEG bytes or raw pixels in, crops of the reference's pixels out.

They hold no lock and allocate nothing: callers bring scratch that is large enough, and have checked
every bound. Machine code is cached on disk, so only the first process on a machine compiles.
libjpeg-turbo is called from the compiled code, by name: a machine address would forbid the cache.

The resize is Pillow's antialiased bilinear filter in Pillow's own arithmetic: a pass across and a
pass down, each a sum in 32 bits with weights of 22 fractional bits, rounded to uint8.
Source: Pillow, src/libImaging/Resample.c (`precompute_coeffs`, `normalize_coeffs_8bpc`); the order
of the passes: its pull request 9549.

All that is cached together lies in this file: numba does not notice when another file changes.
B rows of a batch, S output side, K taps of an output pixel at most; axis 0 is vertical.
"""

from __future__ import annotations

import math
from functools import partial
from typing import Any, NamedTuple

import llvmlite.binding
import numpy as np
from llvmlite import ir
from numba import njit, types
from numba.core import cgutils
from numba.extending import intrinsic
from numpy.typing import NDArray

#: What `render_rows` returns beside its count.
OK, DECODE_FAILED, DECODE_WARNED, WRONG_SIZE = range(4)
#: Columns of a row's geometry on one axis: the `length` source pixels from `start` on are resized
#: to `resized`, of which the S from `offset` on are wanted.
START, LENGTH, RESIZED, OFFSET = range(4)
#: Lines in scratch are longer than their pixels: the last pixel of a line is handled as four bytes.
LINE_PAD = 32

_RAW = 1  # the .beton's number for raw samples
_RGB = 0  # TJPF_RGB
_ACCURATE = 0  # no TJFLAG: accurate DCT, fancy upsampling, as in Pillow
_WARNING = 0  # TJERR_WARNING: decoded, with damage
_BITS = 22
_HALF = np.int32(1 << (_BITS - 1))
_ONE = float(1 << _BITS)
#: Lines that the pass across handles at once, 4 bytes each: a 512-bit register or two of 256.
#: 304 x 320 px to 224 columns took 340 us in plain numba, then 179 with one line, 100 with 4, 90
#: with 8 (2.6 GHz Xeon, AVX-512).
_LANES = 4


def _entry(function: Any, **options: Any) -> Any:
    """Compile what Python calls, and keep it on disk if numba finds a folder to write to."""
    try:
        return njit(cache=True, nogil=True, **options)(function)
    except RuntimeError:
        return njit(nogil=True, **options)(function)


# numba's annotations hide what a decorated function takes.
_inner: Any = njit
_alloca: Any = cgutils.alloca_once_value


class Store(NamedTuple):
    """All samples: `data` uint8[...] is the file; the rest is by sample, as in `beton.Index`."""

    data: NDArray[np.uint8]
    pointers: NDArray[np.int64]
    sizes: NDArray[np.int64]
    modes: NDArray[np.uint8]
    heights: NDArray[np.int32]
    widths: NDArray[np.int32]


class Scratch(NamedTuple):
    """What one thread works with.

    Attributes:
        handle: a TurboJPEG decompressor's address.
        pixels: uint8[height * width * 3 + LINE_PAD or more], a decoded sample.
        lines: uint8[...], between the passes: the lines that the taps touch, S px wide, or S lines
            as wide as what they touch, each with LINE_PAD.
        square: uint8[S * (S * 3 + LINE_PAD)], after them.
        sums: int32[...], one line, of S px or what the taps touch; at least 4.
        first, counts: int32[2, S], where an output pixel's taps begin, and how many there are.
        weights: int32[2, S * K].
    """

    handle: int
    pixels: NDArray[np.uint8]
    lines: NDArray[np.uint8]
    square: NDArray[np.uint8]
    sums: NDArray[np.int32]
    first: NDArray[np.int32]
    counts: NDArray[np.int32]
    weights: NDArray[np.int32]


def load_library(path: str) -> None:
    """Make libturbojpeg's functions known to compiled code; needed before `render_rows`."""
    llvmlite.binding.load_library_permanently(path)


_pointer: Any = types.intp
_int: Any = types.int32
_decompress_header: Any = types.ExternalFunction(
    "tjDecompressHeader3",
    _int(_pointer, _pointer, types.uintp, _pointer, _pointer, _pointer, _pointer),
)
_decompress: Any = types.ExternalFunction(
    "tjDecompress2",
    _int(_pointer, _pointer, types.uintp, _pointer, _int, _int, _int, _int, _int),
)
_error_code: Any = types.ExternalFunction("tjGetErrorCode", _int(_pointer))


@_entry
def render_rows(  # type: ignore[no-untyped-def]
    store, samples, geometry, flips, down_first, tolerated, scratch, out
):
    """Decode, cut, resize and flip some rows of a plan.

    Args:
        store: a Store.
        samples: int64[B].
        geometry: int32[B, 2, 4], see START.
        flips: bool[B].
        down_first: whether crops that shrink in height by far more than in width take the pass
            down first, as Pillow does from 13 on.
        tolerated: a row whose decoder may warn without ending the call; -1 for none.
        scratch: a Scratch.
        out: uint8[B, S, S * 3].

    Returns:
        How many rows are done, and why it is not all of them.
    """
    for row in range(len(samples)):
        sample = samples[row]
        if store.modes[sample] == _RAW:
            pixels, begin = store.data, store.pointers[sample]
        else:
            status = _decode(store, sample, scratch)
            if status != OK and not (status == DECODE_WARNED and row == tolerated):
                return row, status
            pixels, begin = scratch.pixels, 0
        vertical, horizontal = geometry[row]
        _fill_taps(vertical, False, scratch, 0)
        _fill_taps(horizontal, flips[row], scratch, 1)
        pitch = np.int64(store.widths[sample]) * 3
        begin += vertical[START] * pitch + horizontal[START] * 3
        shrinks = vertical[LENGTH] - vertical[RESIZED]
        wide = max(0, 2 * (horizontal[LENGTH] - horizontal[RESIZED]))
        _resize(pixels, begin, pitch, geometry[row], down_first and shrinks > wide, scratch)
        for line in range(out.shape[1]):
            begin = line * (out.shape[2] + LINE_PAD)
            out[row, line] = scratch.square[begin : begin + out.shape[2]]
    return len(samples), OK


@partial(_entry, fastmath={"contract"})
def normalize_lines(lines, scale, bias, out):  # type: ignore[no-untyped-def]
    """Turn bytes into floats, each by its own factors, rounded once, as by torch.addcmul.

    On one thread: with torch's, its OpenMP threads then spin for milliseconds on cores that decode.

    Args:
        lines: uint8[N, S * 3].
        scale, bias: float32[S * 3].
        out: float32[N, S * 3], lines * scale + bias.
    """
    for row in range(len(lines)):
        line, target = lines[row], out[row]
        for at in range(len(line)):
            target[at] = np.float32(line[at]) * scale[at] + bias[at]


@_inner
def _decode(store, sample, scratch):  # type: ignore[no-untyped-def]
    """Decode a JPEG to `scratch.pixels`, once its header agrees with the size in the file."""
    width, height = store.widths[sample], store.heights[sample]
    source, size = store.data.ctypes.data + store.pointers[sample], store.sizes[sample]
    found = scratch.sums  # lent for the four numbers that a header gives
    found[0] = found[1] = 0
    at = found.ctypes.data
    _decompress_header(scratch.handle, source, size, at, at + 4, at + 8, at + 12)
    if found[0] == 0:  # a header that is only warned of gives its size, and the decoder warns again
        return DECODE_FAILED
    if found[0] != width or found[1] != height:
        return WRONG_SIZE
    pixels = scratch.pixels.ctypes.data
    status = _decompress(
        scratch.handle, source, size, pixels, width, width * 3, height, _RGB, _ACCURATE
    )
    if status == 0:
        return OK
    return DECODE_WARNED if _error_code(scratch.handle) == _WARNING else DECODE_FAILED


@_inner
def tap_count(length, resized):  # type: ignore[no-untyped-def]
    """K, the taps that `weights` has room for per output pixel."""
    return math.ceil(max(length / resized, 1.0)) * 2 + 1


@_inner
def _fill_taps(geometry, mirrored, scratch, axis):  # type: ignore[no-untyped-def]
    """Each output pixel's taps: the triangle filter over the source, never past its ends."""
    length, resized, offset = geometry[LENGTH], geometry[RESIZED], geometry[OFFSET]
    first, count, weights = scratch.first[axis], scratch.counts[axis], scratch.weights[axis]
    size, taps = len(first), tap_count(length, resized)
    scale = length / resized
    support = max(scale, 1.0)
    per_px = 1.0 / support
    for pixel in range(size):
        center = (offset + pixel + 0.5) * scale
        low = max(int(center - support + 0.5), 0)
        high = min(int(center + support + 0.5), length)
        total = 0.0
        for tap in range(low, high):
            total += max(1.0 - abs((tap - center + 0.5) * per_px), 0.0)
        at = size - 1 - pixel if mirrored else pixel
        for tap in range(low, high):
            weight = max(1.0 - abs((tap - center + 0.5) * per_px), 0.0) / total
            weights[at * taps + tap - low] = np.int32(0.5 + weight * _ONE)
        first[at] = low
        count[at] = high - low


@_inner
def _resize(pixels, begin, pitch, geometry, down_first, scratch):  # type: ignore[no-untyped-def]
    """Both passes, over no more of the source than the taps touch, to `scratch.square`.

    Args:
        pixels: uint8[...], the source.
        begin: where its first line's first pixel is.
        pitch: bytes between its lines.
    """
    size = scratch.first.shape[1]
    square_pitch = size * 3 + LINE_PAD
    top, line_count = _span(scratch, 0)
    left, column_count = _span(scratch, 1)
    down, across = _taps(geometry, scratch, 0), _taps(geometry, scratch, 1)
    source = pixels.ctypes.data
    lines, square = scratch.lines.ctypes.data, scratch.square.ctypes.data
    if down_first:
        width = column_count * 3
        _pass_down(
            pixels, begin + left * 3, pitch, 0, width, down,
            scratch.sums, scratch.lines, width + LINE_PAD,
        )  # fmt: skip
        _pass_across(lines - left * 3, width + LINE_PAD, size, across, square, square_pitch)
    else:
        _pass_across(source + begin + top * pitch, pitch, line_count, across, lines, square_pitch)
        _pass_down(
            scratch.lines, 0, square_pitch, top, size * 3, down,
            scratch.sums, scratch.square, square_pitch,
        )  # fmt: skip


@_inner
def _span(scratch, axis):  # type: ignore[no-untyped-def]
    """The first source pixel that any tap touches, and how many from there on."""
    first, count = scratch.first[axis], scratch.counts[axis]
    low = min(first[0], first[-1])  # the last is the first where the row is mirrored
    return low, max(first[0] + count[0], first[-1] + count[-1]) - low


@_inner
def _taps(geometry, scratch, axis):  # type: ignore[no-untyped-def]
    """Where an axis's taps begin, how many they are, their weights, and K."""
    taps = tap_count(geometry[axis, LENGTH], geometry[axis, RESIZED])
    return scratch.first[axis], scratch.counts[axis], scratch.weights[axis], taps


@_inner
def _pass_across(source, pitch, lines, taps, target, target_pitch):  # type: ignore[no-untyped-def]
    """Resize each line to S pixels.

    Args:
        source: address of the first line.
        pitch, target_pitch: bytes between two lines.
        lines: how many.
        taps: as `_taps` gives them.
        target: address of the first resized line.
    """
    first, count, weights, tap_count = taps
    weight_at = weights.ctypes.data
    # The last group overlaps the one before it; fewer lines than a group are done one by one, in
    # all lanes alike.
    step, between = (_LANES, 1) if lines >= _LANES else (1, 0)
    for begin in range(0, lines, step):
        line = min(begin, lines - step)
        for pixel in range(len(first)):
            _weigh_pixels(
                source + line * pitch + first[pixel] * 3, between * pitch,
                weight_at + pixel * tap_count * 4, count[pixel],
                target + line * target_pitch + pixel * 3, between * target_pitch,
            )  # fmt: skip


@_inner
def _pass_down(  # type: ignore[no-untyped-def]
    source, begin, pitch, top, width, taps, sums, target, target_pitch
):
    """Resize to S lines.

    Args:
        source: uint8[...]; its byte `begin` belongs to the source line that the taps call `top`.
        pitch, target_pitch: bytes between two lines.
        width: bytes of a line.
        taps: as `_taps` gives them.
        sums: int32[width or more].
        target: uint8[...].
    """
    first, count, weights, tap_count = taps
    line_sums = sums[:width]
    for row in range(len(first)):
        line_sums[:] = _HALF
        for tap in range(count[row]):
            weight = weights[row * tap_count + tap]
            at = begin + (first[row] - top + tap) * pitch
            line = source[at : at + width]  # a slice spares each index its sign check
            for column in range(width):
                line_sums[column] += np.int32(line[column]) * weight
        out = target[row * target_pitch : row * target_pitch + width]
        for column in range(width):
            out[column] = line_sums[column] >> _BITS


def _type_weigh_pixels(
    typing_context: Any, source: Any, pitch: Any, weights: Any, count: Any, target: Any,
    target_pitch: Any,
) -> Any:  # fmt: skip
    """One output pixel on `_LANES` lines: the weighted sum of `count` neighbouring RGB pixels.

    A pixel is loaded as four bytes, of which the last belongs to the next one and is overwritten
    by it after the store. numba has no vectors, and left to itself LLVM sums byte by byte.

    Args:
        source, weights, target: addresses.
        pitch, target_pitch: bytes between two lines.
    """
    signature = types.void(*[types.intp] * 6)

    def generate(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        source, pitch, weights, count, target, target_pitch = arguments
        byte, word = ir.IntType(8), ir.IntType(32)
        pixel, sums = ir.VectorType(byte, 4), ir.VectorType(word, 4 * _LANES)

        def address(base: Any, between: Any, line: int, type_: Any) -> Any:
            offset = builder.mul(between, ir.Constant(between.type, line))
            return builder.inttoptr(builder.add(base, offset), type_.as_pointer())

        def splat(value: Any) -> Any:
            nothing = ir.Constant(sums, ir.Undefined)
            lone = builder.insert_element(nothing, value, ir.Constant(word, 0))
            return builder.shuffle_vector(lone, nothing, _indices([0] * 4 * _LANES))

        total = _alloca(builder, ir.Constant(sums, [int(_HALF)] * 4 * _LANES))
        weight_at = builder.inttoptr(weights, word.as_pointer())
        with cgutils.for_range(builder, count) as loop:
            tap = builder.add(source, builder.mul(loop.index, ir.Constant(source.type, 3)))
            parts = [
                builder.load(address(tap, pitch, line, pixel), align=1) for line in range(_LANES)
            ]
            while len(parts) > 1:
                both = _indices(range(2 * parts[0].type.count))
                parts = [
                    builder.shuffle_vector(low, high, both)
                    for low, high in zip(parts[::2], parts[1::2], strict=True)
                ]
            weight = splat(builder.load(builder.gep(weight_at, [loop.index])))
            weighted = builder.mul(builder.zext(parts[0], sums), weight)
            builder.store(builder.add(builder.load(total), weighted), total)
        rounded = builder.lshr(builder.load(total), ir.Constant(sums, [_BITS] * 4 * _LANES))
        narrow = builder.trunc(rounded, ir.VectorType(byte, 4 * _LANES))
        pixels = builder.bitcast(narrow, ir.VectorType(word, _LANES))
        for line in range(_LANES):
            value = builder.extract_element(pixels, ir.Constant(word, line))
            builder.store(value, address(target, target_pitch, line, word), align=1)
        return context.get_dummy_value()

    return signature, generate


_weigh_pixels: Any = intrinsic(_type_weigh_pixels)


def _indices(of: Any) -> Any:
    values = list(of)
    return ir.Constant(ir.VectorType(ir.IntType(32), len(values)), values)
