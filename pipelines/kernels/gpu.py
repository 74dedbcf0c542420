"""Triton kernels: decoded pixels in a GPU's memory in, normalized crops of the reference's out.

Per batch one kernel computes each crop's resize filters, and two resize, as Pillow does it: across,
then down (or down, then across), through bytes that stay in the GPU's cache. Planar samples become
RGB before. Kernels allocate nothing and the host waits for nothing: callers bring scratch, and have
checked every bound.

The resize is Pillow's antialiased bilinear or bicubic filter in Pillow's arithmetic, to the level.
Source: Pillow, src/libImaging/Resample.c. Planar samples are 4:2:0 JPEGs' Y, Cb and Cr, half the
bytes of RGB, which they become as in libjpeg-turbo. Source: jdsample.c (h2v2_fancy_upsample),
jdcolor.c (ycc_rgb_convert).

When this file is imported, Triton settles whether its kernels are compiled, or interpreted on the
CPU (TRITON_INTERPRET=1); tensors lie on a GPU or the CPU accordingly.

B rows of a batch, S output side, K taps of an output pixel at most; axis 0 is vertical. A row's
window is the part of its image that its taps touch.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
import torch
import triton
from numpy.typing import NDArray

from pipelines.kernels.passes import first_pass, second_pass
from pipelines.kernels.preparing import FEW_TAPS, check_tensors, fill_taps, to_rgb

#: One program is one warp. Across: lines and columns, a column per thread, whose weights serve all
#: of the lines. Down: output lines, and neighbouring values (3 per pixel) of each, 8 per thread,
#: which are read as 8 bytes and written as 16. Chosen by instructions per image: `python -m
#: bench.gpu.instructions`; no GPU has run this.
_ACROSS_LINES, _ACROSS_COLUMNS = 8, 32
_DOWN_LINES, _DOWN_VALUES = 8, 256
#: Half of the filters' widths, see `cpu`.
_REACH, _CUBIC_REACH = 1, 2
_FILTER_PX = 128  # of one program of the filter kernel, a thread each
#: Bytes between the passes: an H100's cache holds 50 MB. More rows take turns.
_BETWEEN_BYTES = 32 << 20
#: The same for planar rows that became RGB, which take as much as their windows.
_RGB_BYTES = 256 << 20
#: Bytes behind `Frames.data` that kernels read and never use: up to 3 pixels of weight 0, or the
#: rest of a tile behind a line's end.
SLACK_BYTES = 256

_INTERPRETED = bool(triton.knobs.runtime.interpret)
_DTYPES = (torch.float32, torch.bfloat16, torch.float16, torch.uint8)


class Frames(NamedTuple):
    """The rows' pixels. No more of an image need be there than its window.

    Attributes:
        data: uint8[...], all samples, and `SLACK_BYTES` of anything.
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


class Needs(NamedTuple):
    """The needs of a batch, known on the host from its geometry.

    Attributes:
        taps: K, that scratch must have room for.
        lines, columns: of the largest window, px.
        between_bytes, rgb_bytes: of one row between the passes, and as RGB if it is planar.
        has_across_first, has_down_first: whether there are rows of either order.
        cubic: whether all of them are resized by the bicubic filter.
    """

    taps: int
    lines: int
    columns: int
    between_bytes: int
    rgb_bytes: int
    has_across_first: bool
    has_down_first: bool
    cubic: bool = False


class Scratch(NamedTuple):
    """Memory that kernels write before they read it.

    Attributes:
        first, counts: int32[B, 2, S], where an output pixel's taps begin, and how many there are.
        weights: int32[B, 2, K, S], of 22 fractional bits.
        between: uint8[...], of as many rows as take a turn.
        rgb: uint8[...], the same.
    """

    first: torch.Tensor
    counts: torch.Tensor
    weights: torch.Tensor
    between: torch.Tensor
    rgb: torch.Tensor


def find_windows(
    geometry: NDArray[np.int32],
    flips: NDArray[np.bool_],
    down_first: NDArray[np.bool_],
    size: int,
    *,
    cubic: bool = False,
) -> NDArray[np.int32]:
    """Each row's window, and all else that a program wants of a row.

    Args:
        geometry: int32[B, 2, 4], see START in `cpu`.
        flips: bool[B], mirrored left and right.
        down_first: bool[B], rows whose pass down comes before the pass across, as Pillow decides.
        size: output side, px.
        cubic: whether rows are resized by the bicubic filter.

    Returns:
        int32[B, 2, 4]: on each axis where the window begins in the image and how long it is, px;
        how many taps may weigh anything, twice the filter's support rounded up; a flag, on axis 0
        whether the pass down comes first, on axis 1 whether the row is mirrored.
    """
    start, length, resized, offset = np.moveaxis(geometry.astype(np.int64), -1, 0)
    scale = length / resized
    reach = _CUBIC_REACH if cubic else _REACH
    support = reach * np.maximum(scale, 1.0)
    low = ((offset + 0.5) * scale - support + 0.5).astype(np.int64)
    high = ((offset + size - 0.5) * scale + support + 0.5).astype(np.int64)
    first, end = np.maximum(low, 0), np.minimum(high, length)
    needed = np.maximum(-(-2 * reach * length // resized), 2 * reach)
    flags = np.stack((down_first, flips), axis=1)
    return np.stack((start + first, end - first, needed, flags), axis=-1).astype(np.int32)


def find_needs(
    windows: NDArray[np.int32], size: int, *, planar: bool, cubic: bool = False
) -> Needs:
    """Find the needs of rows with these windows, int32[B, 2, 4], which were found for `cubic`."""
    (lines, columns), needed = windows[..., 1].astype(np.int64).T, windows[..., 2]
    down_first = windows[:, 0, 3] != 0
    padded = -(-lines // _ACROSS_LINES) * _ACROSS_LINES  # a tile writes all of its lines
    between = np.where(down_first, size * columns, padded * size) * 3
    return Needs(
        # The filter's kernel may find one tap more, or two, that weigh nothing.
        taps=max(int(np.max(needed, initial=2)) + 2, FEW_TAPS),
        lines=int(np.max(lines, initial=1)),
        columns=int(np.max(columns, initial=1)),
        between_bytes=_aligned(int(np.max(between, initial=1))),
        rgb_bytes=_aligned(int(np.max(lines * columns * 3, initial=1))) if planar else 0,
        has_across_first=not down_first.all(),
        has_down_first=bool(down_first.any()),
        cubic=cubic,
    )


def make_scratch(batch: int, size: int, needs: Needs, device: torch.device) -> Scratch:
    """Memory for batches of up to `batch` rows that need no more than `needs`."""
    first, counts = torch.empty((2, batch, 2, size), dtype=torch.int32, device=device)
    weights = torch.empty((batch, 2, needs.taps, size), dtype=torch.int32, device=device)
    between, rgb = (
        torch.empty(
            max(row, min(batch * row, limit)) + SLACK_BYTES, dtype=torch.uint8, device=device
        )
        for row, limit in ((needs.between_bytes, _BETWEEN_BYTES), (needs.rgb_bytes, _RGB_BYTES))
    )
    return Scratch(first, counts, weights, between, rgb)


def fits(scratch: Scratch, batch: int, needs: Needs) -> bool:
    """Whether scratch is enough for so many rows that need so much."""
    return (
        len(scratch.first) >= batch
        and scratch.weights.shape[2] >= needs.taps
        and _turn(scratch, needs) > 0
    )


def _turn(scratch: Scratch, needs: Needs) -> int:
    """The number of rows that may take a turn."""
    turns = [(len(scratch.between) - SLACK_BYTES) // needs.between_bytes]
    if needs.rgb_bytes:
        turns.append((len(scratch.rgb) - SLACK_BYTES) // needs.rgb_bytes)
    return min(turns)


def _aligned(bytes_: int) -> int:
    return -(-bytes_ // 16) * 16


def render_rows(
    frames: Frames,
    planar: bool,
    geometry: torch.Tensor,
    windows: torch.Tensor,
    scale: torch.Tensor,
    bias: torch.Tensor,
    needs: Needs,
    scratch: Scratch,
    out: torch.Tensor,
) -> None:
    """Cut, resize, flip and normalize the rows of a batch, on the current stream.

    Args:
        frames: where the pixels are.
        planar: whether they are Y, Cb and Cr of 4:2:0, of all rows.
        geometry: int32[B, 2, 4], see START in `cpu`.
        windows: int32[B, 2, 4], see `find_windows`.
        scale, bias: float32[S * 3], of which the first three are read: pixel * scale + bias is
            normalized.
        needs: of these rows, see `find_needs`; of others, pixels are wrong.
        scratch: that fits them.
        out: [B, S, S, 3] float32, bfloat16, float16, or uint8 that is not normalized.

    Raises:
        ValueError: a tensor's shape, dtype, layout or device is not what it says here, or scratch
            is too small.
    """
    if out.ndim != 4 or out.shape[1] != out.shape[2] or out.shape[3] != 3:
        raise ValueError(f"out: {list(out.shape)}, expected [B, S, S, 3]")
    if out.dtype not in _DTYPES:
        raise ValueError(f"out: {out.dtype}, expected one of {_DTYPES}")
    if out.is_cuda == _INTERPRETED:
        raise ValueError(f"out: on {out.device}, expected {'the CPU' if _INTERPRETED else 'a GPU'}")
    batch, size = out.shape[:2]
    taps = scratch.weights.shape[2]
    expected = (
        ("data", frames.data, torch.uint8, frames.data.shape),
        ("offsets", frames.offsets, torch.int64, (batch, 3)),
        ("pitches", frames.pitches, torch.int64, (batch, 2)),
        ("sides", frames.sides, torch.int64, (batch, 2)),
        ("geometry", geometry, torch.int32, (batch, 2, 4)),
        ("windows", windows, torch.int32, (batch, 2, 4)),
        ("scale", scale, torch.float32, (size * 3,)),
        ("bias", bias, torch.float32, (size * 3,)),
        ("scratch.first", scratch.first[:batch], torch.int32, (batch, 2, size)),
        ("scratch.counts", scratch.counts[:batch], torch.int32, (batch, 2, size)),
        ("scratch.weights", scratch.weights[:batch], torch.int32, (batch, 2, taps, size)),
        ("scratch.between", scratch.between, torch.uint8, scratch.between.shape),
        ("scratch.rgb", scratch.rgb, torch.uint8, scratch.rgb.shape),
        ("out", out, out.dtype, out.shape),
    )
    check_tensors(expected, out.device)
    if not batch or not size:
        return
    if not fits(scratch, batch, needs):
        raise ValueError(f"scratch: too small for {batch} rows that need {needs}")
    with torch.cuda.device_of(out):  # type: ignore[no-untyped-call]
        _launch(frames, planar, geometry, windows, scale, bias, needs, scratch, out)


def _launch(
    frames: Frames,
    planar: bool,
    geometry: torch.Tensor,
    windows: torch.Tensor,
    scale: torch.Tensor,
    bias: torch.Tensor,
    needs: Needs,
    scratch: Scratch,
    out: torch.Tensor,
) -> None:
    """Queue the kernels: filters of all rows, then pass by pass as many rows as scratch holds.

    Rows are on a grid's first axis, the only one that may be longer than 65,535.
    """
    batch, size = out.shape[:2]
    first, counts, weights, between, rgb = scratch
    filters = (first, counts, weights, weights.shape[2])
    fill_taps[batch, 2, triton.cdiv(size, _FILTER_PX)](
        geometry,
        windows,
        *filters,
        SIZE=size,
        CUBIC=needs.cubic,
        BLOCK=_FILTER_PX,
        enable_fp_fusion=False,  # a fused multiply-add rounds once where Pillow rounds twice
    )
    across = {"LINES": _ACROSS_LINES, "COLUMNS": _ACROSS_COLUMNS}
    tiles = {**across, "DOWN_LINES": _DOWN_LINES, "VALUES": _DOWN_VALUES, "num_warps": 1}
    tiles["CUBIC"] = needs.cubic
    before, behind = find_grids(needs, size)
    turn = min(_turn(scratch, needs), batch)
    for begin in range(0, batch, turn):
        rows = min(turn, batch - begin)
        if planar:
            to_rgb[(rows, *count_tiles_across(needs.lines, needs.columns))](
                *frames,
                windows,
                begin,
                rgb,
                needs.rgb_bytes,
                num_warps=1,
                **across,
            )
        first_pass[(rows, *before)](
            frames.data,
            frames.offsets,
            frames.pitches,
            windows,
            *filters,
            begin,
            rgb,
            needs.rgb_bytes,
            between,
            needs.between_bytes,
            SIZE=size,
            PLANAR=planar,
            **tiles,
        )
        second_pass[(rows, *behind)](
            between,
            needs.between_bytes,
            windows,
            *filters,
            begin,
            scale,
            bias,
            out,
            SIZE=size,
            NORMALIZED=out.dtype != torch.uint8,
            **tiles,
        )


def find_grids(needs: Needs, size: int) -> tuple[tuple[int, int], tuple[int, int]]:
    """The tiles of the passes before and behind, down and across, of the largest row.

    Where orders differ, programs whose tile is none of their row's end at once.
    """
    across = [count_tiles_across(lines, size) for lines in (needs.lines, size)]
    down = [count_tiles_down(size, width * 3) for width in (needs.columns, size)]
    orders = (
        (needs.has_across_first, across[0], down[1]),
        (needs.has_down_first, down[0], across[1]),
    )
    before = [grid for is_there, grid, _ in orders if is_there]
    behind = [grid for is_there, _, grid in orders if is_there]
    return _largest(before), _largest(behind)


def count_tiles_across(lines: int, columns: int) -> tuple[int, int]:
    """Tiles of pixels of a pass across, down and across."""
    return triton.cdiv(lines, _ACROSS_LINES), triton.cdiv(columns, _ACROSS_COLUMNS)


def count_tiles_down(lines: int, values: int) -> tuple[int, int]:
    """Tiles of values, 3 of each pixel, of a pass down, down and across."""
    return triton.cdiv(lines, _DOWN_LINES), triton.cdiv(values, _DOWN_VALUES)


def _largest(grids: list[tuple[int, int]]) -> tuple[int, int]:
    return max(down for down, _ in grids), max(across for _, across in grids)
