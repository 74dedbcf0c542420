"""Triton kernels: decoded pixels in a GPU's memory in, normalized crops of the reference's out.

Two kernels per batch: one computes each crop's resize filters, one does the rest. They allocate
nothing and the host waits for nothing: callers bring scratch, and have checked every bound.

The resize is Pillow's antialiased bilinear filter in Pillow's own arithmetic, to the last level.
Source: Pillow, src/libImaging/Resample.c. Planar samples are 4:2:0 JPEGs' Y, Cb and Cr, half the
bytes of RGB, which they become as in libjpeg-turbo. Source: jdsample.c (h2v2_fancy_upsample),
jdcolor.c (ycc_rgb_convert).

When this file is imported, Triton settles whether its kernels are compiled, or interpreted on the
CPU (TRITON_INTERPRET=1); tensors lie on a GPU or the CPU accordingly.

B rows of a batch, S output side, K taps of an output pixel at most; axis 0 is vertical.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
import torch
import triton
import triton.language as tl
from numpy.typing import NDArray

#: Output lines and columns of one program: one warp, each thread a column, so that none waits for
#: another; 32 divides the usual 224. More lines share more of their taps, but compiled for Hopper 4
#: take 51 registers (planar 72), 8 take 117 (128). Reasoned, not measured: no GPU has run this.
_TILE_LINES, _TILE_COLUMNS = 4, 32
_FILTER_PX = 128  # of one program of the filter kernel, a thread each: reasoned as well

#: Columns of a row's geometry on one axis, see `cpu`.
_START, _LENGTH, _RESIZED, _OFFSET = (tl.constexpr(column) for column in range(4))
_BITS = tl.constexpr(22)
_HALF = tl.constexpr(1 << 21)
_ONE = tl.constexpr(float(1 << 22))
_INTERPRETED = bool(triton.knobs.runtime.interpret)
_DTYPES = (torch.float32, torch.bfloat16, torch.float16, torch.uint8)


class Frames(NamedTuple):
    """Where the rows' pixels lie. No more of an image need be there than its crop's taps touch.

    Attributes:
        data: uint8[...], all samples.
        offsets: int64[B, 3], the byte of each plane's pixel (0, 0), as if the whole image were
            there: it may lie before `data`. RGB has the first alone: channel c of pixel (y, x) is
            at offset + y * pitch + 3 * x + c. Planar has Y at offset + y * pitch + x, then Cb, Cr:
            lines y0 to y1 need those from (y0 - 1) >> 1 to (y1 + 1) >> 1, where there are such.
        pitches: int64[B, 2], bytes between lines: of the first plane; of the other two.
        sides: int64[B, 2], height and width of the whole image, px: where Cb and Cr end.
    """

    data: torch.Tensor
    offsets: torch.Tensor
    pitches: torch.Tensor
    sides: torch.Tensor


class Scratch(NamedTuple):
    """Filters of up to B rows.

    Attributes:
        first, counts: int32[B, 2, S], where an output pixel's taps begin, and how many there are.
        weights: int32[B, 2, K, S], of 22 fractional bits.
    """

    first: torch.Tensor
    counts: torch.Tensor
    weights: torch.Tensor


def make_scratch(batch: int, size: int, taps: int, device: torch.device) -> Scratch:
    """Memory for the filters of batches of up to `batch` rows with up to `taps` taps."""
    first, counts = torch.empty((2, batch, 2, size), dtype=torch.int32, device=device)
    weights = torch.empty((batch, 2, taps, size), dtype=torch.int32, device=device)
    return Scratch(first, counts, weights)


def tap_count(geometry: NDArray[np.int32]) -> int:
    """K, the taps that scratch must have room for to render rows of this int32[B, 2, 4]."""
    lengths, resized = geometry[..., _LENGTH.value], geometry[..., _RESIZED.value]
    return 2 * int(np.ceil(np.max(lengths / resized, initial=1.0))) + 1


def render_rows(
    frames: Frames, planar: bool, geometry: torch.Tensor, flips: torch.Tensor,
    down_first: torch.Tensor, scale: torch.Tensor, bias: torch.Tensor, scratch: Scratch,
    out: torch.Tensor,
) -> None:  # fmt: skip
    """Cut, resize, flip and normalize the rows of a batch, on the current stream.

    Args:
        frames: where the pixels are.
        planar: whether they are Y, Cb and Cr of 4:2:0, of all rows.
        geometry: int32[B, 2, 4], see START in `cpu`.
        flips: bool[B], mirrored left and right.
        down_first: bool[B], rows whose pass down comes before the pass across, as Pillow decides.
        scale, bias: float32[S * 3], of which the first three are read: pixel * scale + bias is
            normalized.
        scratch: for B rows or more and `tap_count(geometry)` taps or more, else pixels are wrong.
        out: [B, S, S, 3] float32, bfloat16, float16, or uint8 that is not normalized.

    Raises:
        ValueError: a tensor's shape, dtype, layout or device is not what it says here.
    """
    if out.ndim != 4 or out.shape[1] != out.shape[2] or out.shape[3] != 3:
        raise ValueError(f"out: {list(out.shape)}, expected [B, S, S, 3]")
    if out.dtype not in _DTYPES:
        raise ValueError(f"out: {out.dtype}, expected one of {_DTYPES}")
    if out.is_cuda == _INTERPRETED:
        raise ValueError(f"out: on {out.device}, expected {'the CPU' if _INTERPRETED else 'a GPU'}")
    batch, size = out.shape[:2]
    taps = scratch.weights.shape[2]
    for name, tensor, dtype, shape in (
        ("data", frames.data, torch.uint8, frames.data.shape),
        ("offsets", frames.offsets, torch.int64, (batch, 3)),
        ("pitches", frames.pitches, torch.int64, (batch, 2)),
        ("sides", frames.sides, torch.int64, (batch, 2)),
        ("geometry", geometry, torch.int32, (batch, 2, 4)),
        ("flips", flips, torch.bool, (batch,)),
        ("down_first", down_first, torch.bool, (batch,)),
        ("scale", scale, torch.float32, (size * 3,)),
        ("bias", bias, torch.float32, (size * 3,)),
        ("scratch.first", scratch.first[:batch], torch.int32, (batch, 2, size)),
        ("scratch.counts", scratch.counts[:batch], torch.int32, (batch, 2, size)),
        ("scratch.weights", scratch.weights[:batch], torch.int32, (batch, 2, taps, size)),
        ("out", out, out.dtype, out.shape),
    ):
        if tensor.dtype != dtype or tensor.shape != shape or tensor.device != out.device:
            found = f"{tensor.dtype}{list(tensor.shape)} on {tensor.device}"
            raise ValueError(f"{name}: {found}, expected {dtype}{list(shape)} on {out.device}")
        if not tensor.is_contiguous():
            raise ValueError(f"{name}: strides {tensor.stride()}, expected contiguous memory")
    if not batch or not size:
        return
    with torch.cuda.device_of(out):  # type: ignore[no-untyped-call]
        _fill_taps[triton.cdiv(size, _FILTER_PX), 2, batch](
            geometry, flips.view(torch.uint8), *scratch, taps, SIZE=size, BLOCK=_FILTER_PX,
            enable_fp_fusion=False,  # a fused multiply-add rounds once where Pillow rounds twice
        )  # fmt: skip
        _render[triton.cdiv(size, _TILE_COLUMNS), triton.cdiv(size, _TILE_LINES), batch](
            *frames, geometry, down_first.view(torch.uint8), *scratch, taps, scale, bias, out,
            SIZE=size, PLANAR=planar, NORMALIZED=out.dtype != torch.uint8,
            LINES=_TILE_LINES, COLUMNS=_TILE_COLUMNS, num_warps=1,
        )  # fmt: skip


@triton.jit(do_not_specialize=["taps"])
def _fill_taps(  # type: ignore[no-untyped-def]
    geometry, flips, first, counts, weights, taps, SIZE: tl.constexpr, BLOCK: tl.constexpr
):
    """Each output pixel's taps as in `cpu`, in its double precision and its order of operations."""
    row, axis = tl.program_id(2).to(tl.int64), tl.program_id(1)
    pixel = tl.program_id(0) * BLOCK + tl.arange(0, BLOCK)
    inside = pixel < SIZE
    pixel = tl.minimum(pixel, SIZE - 1)
    side = row * 2 + axis
    length = tl.load(geometry + side * 4 + _LENGTH)
    scale = length.to(tl.float64) / tl.load(geometry + side * 4 + _RESIZED).to(tl.float64)
    support = tl.maximum(scale, 1.0)
    per_px = 1.0 / support
    center = ((tl.load(geometry + side * 4 + _OFFSET) + pixel).to(tl.float64) + 0.5) * scale
    low = tl.maximum((center - support + 0.5).to(tl.int32), 0)
    end = tl.minimum((center + support + 0.5).to(tl.int32), length)
    end = tl.minimum(end, low + taps)  # never past scratch, even if that is too small
    most = tl.ceil(support).to(tl.int32) * 2 + 1
    total = tl.full((BLOCK,), 0.0, tl.float64)
    for tap in range(0, most):
        part = tl.maximum(1.0 - tl.abs((low + tap - center + 0.5) * per_px), 0.0)
        total += tl.where(low + tap < end, part, 0.0)
    at = tl.where((tl.load(flips + row) != 0) & (axis == 1), SIZE - 1 - pixel, pixel)
    for tap in range(0, most):
        part = tl.maximum(1.0 - tl.abs((low + tap - center + 0.5) * per_px), 0.0)
        weight = (0.5 + part / total * _ONE).to(tl.int32)
        tl.store(weights + (side * taps + tap) * SIZE + at, weight, inside & (low + tap < end))
    tl.store(first + side * SIZE + at, low, inside)
    tl.store(counts + side * SIZE + at, end - low, inside)


@triton.jit(do_not_specialize=["taps"])
def _render(  # type: ignore[no-untyped-def]
    data, offsets, pitches, sides, geometry, down_first, first, counts, weights, taps, scale, bias,
    out, SIZE: tl.constexpr, PLANAR: tl.constexpr, NORMALIZED: tl.constexpr, LINES: tl.constexpr,
    COLUMNS: tl.constexpr,
):  # fmt: skip
    """LINES x COLUMNS output pixels of one row.

    In both orders of the passes neighbouring threads read and write neighbouring columns; the sum
    that is rounded to a byte between the passes differs. A pass down that comes first is computed
    anew for each tap across: with the axes swapped, a warp's loads would lie on 32 lines.
    """
    row, top = tl.program_id(2).to(tl.int64), tl.program_id(1) * LINES
    y = top + tl.arange(0, LINES)[:, None]
    x = tl.program_id(0) * COLUMNS + tl.arange(0, COLUMNS)[None, :]
    of_y, of_x = row * 2 * SIZE, (row * 2 + 1) * SIZE
    low_y, low_x = tl.load(first + of_y + y, y < SIZE, 0), tl.load(first + of_x + x, x < SIZE, 0)
    count_y = tl.load(counts + of_y + y, y < SIZE, 0)
    count_x = tl.load(counts + of_x + x, x < SIZE, 0)
    weights_y, weights_x = weights + of_y * taps + y, weights + of_x * taps + x
    most_x = tl.reduce(tl.reshape(count_x, (COLUMNS,)), 0, _larger)
    last = of_y + tl.minimum(top + LINES, SIZE) - 1
    begin, end = tl.load(first + of_y + top), tl.load(first + last) + tl.load(counts + last)
    corners, lines, side = offsets + row * 3, pitches + row * 2, sides + row * 2
    frame = (
        data + tl.load(corners), data + tl.load(corners + 1), data + tl.load(corners + 2),
        tl.load(lines), tl.load(lines + 1),
        (tl.load(side).to(tl.int32) - 1) // 2, (tl.load(side + 1).to(tl.int32) - 1) // 2,
    )  # fmt: skip
    source_y = tl.load(geometry + row * 8 + _START)
    source_x = tl.load(geometry + row * 8 + 4 + _START) + low_x

    half = tl.full((LINES, COLUMNS), _HALF, tl.int32)
    half_line = tl.full((1, COLUMNS), _HALF, tl.int32)
    red, green, blue = half, half, half
    if tl.load(down_first + row) != 0:
        for tap in range(0, most_x):
            touched = tap < count_x
            r, g, b = half, half, half
            for line in range(begin, end):
                source = _load_rgb(frame, source_y + line, source_x + tap, touched, PLANAR)
                of = line - low_y
                weight = tl.load(weights_y + of * SIZE, (of >= 0) & (of < count_y), 0)
                r, g, b = _add(r, g, b, source, weight)
            weight = tl.load(weights_x + tap * SIZE, touched, 0)
            red, green, blue = _add(red, green, blue, (r >> _BITS, g >> _BITS, b >> _BITS), weight)
    else:
        for line in range(begin, end):
            r, g, b = half_line, half_line, half_line
            for tap in range(0, most_x):
                touched = tap < count_x
                source = _load_rgb(frame, source_y + line, source_x + tap, touched, PLANAR)
                r, g, b = _add(r, g, b, source, tl.load(weights_x + tap * SIZE, touched, 0))
            of = line - low_y  # which of an output line's taps this line is, if any
            weight = tl.load(weights_y + of * SIZE, (of >= 0) & (of < count_y), 0)
            red, green, blue = _add(red, green, blue, (r >> _BITS, g >> _BITS, b >> _BITS), weight)
    target = out + ((row * SIZE + y) * SIZE + x) * 3
    wanted = (y < SIZE) & (x < SIZE)
    _store(target, red >> _BITS, wanted, scale, bias, NORMALIZED)
    _store(target + 1, green >> _BITS, wanted, scale + 1, bias + 1, NORMALIZED)
    _store(target + 2, blue >> _BITS, wanted, scale + 2, bias + 2, NORMALIZED)


@triton.jit
def _add(red, green, blue, source, weight):  # type: ignore[no-untyped-def]
    """The sums of three channels, a weighted source pixel further."""
    r, g, b = source
    return red + weight * r, green + weight * g, blue + weight * b


@triton.jit
def _load_rgb(frame, y, x, touched, PLANAR: tl.constexpr):  # type: ignore[no-untyped-def]
    """int32[1, COLUMNS] red, green and blue of line y at columns x."""
    luma, blue_diff, red_diff, pitch, chroma_pitch, bottom, right = frame
    if PLANAR:
        # Three quarters of the nearest chroma sample, a quarter of the one beyond, on each axis; at
        # the edges that is itself. libjpeg-turbo spares planes of two columns the smoothing.
        near_y, near_x = y >> 1, x >> 1
        far_y = tl.minimum(tl.maximum(near_y + (y & 1) * 2 - 1, 0), bottom)
        far_x = tl.minimum(tl.maximum(near_x + (x & 1) * 2 - 1, 0), right)
        far_y, far_x = tl.where(right > 1, far_y, near_y), tl.where(right > 1, far_x, near_x)
        near_y, far_y = near_y * chroma_pitch, far_y * chroma_pitch
        rounding = 8 - (x & 1)
        light = tl.load(luma + y * pitch + x, touched, 0).to(tl.int32)
        cb = _upsample(blue_diff, near_y, far_y, near_x, far_x, rounding, touched) - 128
        cr = _upsample(red_diff, near_y, far_y, near_x, far_x, rounding, touched) - 128
        r = tl.minimum(tl.maximum(light + ((91881 * cr + 32768) >> 16), 0), 255)
        g = tl.minimum(tl.maximum(light + ((-22554 * cb - 46802 * cr + 32768) >> 16), 0), 255)
        b = tl.minimum(tl.maximum(light + ((116130 * cb + 32768) >> 16), 0), 255)
    else:
        at = luma + y * pitch + 3 * x
        r = tl.load(at, touched, 0).to(tl.int32)
        g = tl.load(at + 1, touched, 0).to(tl.int32)
        b = tl.load(at + 2, touched, 0).to(tl.int32)
    return r, g, b


@triton.jit
def _upsample(plane, y, far_y, x, far_x, rounding, mask):  # type: ignore[no-untyped-def]
    """int32[1, COLUMNS] of a chroma plane at the full size; `y`, `far_y` are its lines' bytes."""
    near = 3 * tl.load(plane + y + x, mask, 0).to(tl.int32) + tl.load(plane + far_y + x, mask, 0)
    far = 3 * tl.load(plane + y + far_x, mask, 0).to(tl.int32)
    far += tl.load(plane + far_y + far_x, mask, 0)
    return (3 * near + far + rounding) >> 4


@triton.jit
def _larger(one, other):  # type: ignore[no-untyped-def]
    return tl.maximum(one, other)


@triton.jit
def _store(target, pixel, wanted, scale, bias, NORMALIZED: tl.constexpr):  # type: ignore[no-untyped-def]
    """One channel, rounded once more than the sum where the dtype is narrower than float32."""
    if NORMALIZED:
        value = tl.fma(pixel.to(tl.float32), tl.load(scale), tl.load(bias))
        tl.store(target, value.to(target.dtype.element_ty), wanted)
    else:
        tl.store(target, pixel.to(tl.uint8), wanted)
