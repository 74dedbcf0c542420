"""Operations beyond crop and mirror on a GPU, between render and normalization.

Pixels are those of torchvision.transforms.v2's functionals at the values given, within one level:
arithmetic is float32 in torchvision's order. `changing_passes` has the kernels, `changes` does the
same on a CPU. Kernels allocate nothing and the host waits for nothing. See `gpu` for what Triton
settles when this file is imported.

A pass reads an image once and writes it once: 2 x 147 KiB at 224 px. Operations of which a pixel
needs one pixel join the pass before them. Those that need other pixels or sums over the image begin
a pass of their own: `FLIP_DOWN`, shears, translations, `ROTATE`, `SHARPNESS`, `CONTRAST`,
`AUTO_CONTRAST`, `EQUALIZE`. A batch takes as many passes as its longest row: one launch each, and
one more where a row begins the pass with sums. So trivial augment costs 2 launches a batch, rand-n2
4, color jitter with gray and erase 4, or 1 without contrast. A row with fewer passes is copied once
or not at all.

B rows of a batch, S output side, K operations of a row.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
import torch
import triton
from numpy.typing import NDArray

from pipelines.codes import (
    AUTO_CONTRAST,
    CONTRAST,
    EQUALIZE,
    FLIP_DOWN,
    GEOMETRIC,
    NOTHING,
    SHARPNESS,
)
from pipelines.kernels.changing_passes import change_pixels, fill_tables
from pipelines.kernels.preparing import check_tensors

#: Pixels of one program, 4 of each thread: enough loads to wait for at once, few enough registers
#: in HUE. Chosen by the compiler's report for sm_90; no GPU has run this.
_PIXELS, _WARPS = 512, 4
#: Pixels of one round of a program that sums over an image, 16 of each thread. Such programs are
#: few, one for each channel, so each takes many warps.
_SUMMED_PIXELS, _SUMMING_WARPS = 4096, 8
#: Programs that a grid's second axis may have. The largest images take programs of more pixels and
#: as many more warps.
_MOST_TILES = 65535
_LEVELS = 256

#: Operations that begin a pass; of these, those that need sums over the image. The kernels have the
#: same lists.
_SUMMING = (CONTRAST, AUTO_CONTRAST, EQUALIZE)
_BEGINNING = (FLIP_DOWN, *GEOMETRIC, SHARPNESS, *_SUMMING)

_INTERPRETED = bool(triton.knobs.runtime.interpret)


class Steps(NamedTuple):
    """The passes of a batch, known on the host from its operations.

    Attributes:
        sums: of each pass, whether a row begins it with an operation that needs sums.
    """

    sums: tuple[bool, ...]


class Scratch(NamedTuple):
    """Memory that kernels write before they read it.

    Attributes:
        other: uint8[B, S, S, 3], what passes write to in turn with the batch itself.
        tables: uint8[B, 3, 256], what levels of a channel become.
    """

    other: torch.Tensor
    tables: torch.Tensor


def find_steps(codes: NDArray[np.int32]) -> Steps:
    """Find the passes of rows with these operations.

    Args:
        codes: int32[B, K], see `pipelines.codes`.
    """
    used = codes != NOTHING
    is_first = used & (np.cumsum(used, axis=1) == 1)
    number = np.cumsum(np.isin(codes, _BEGINNING) | is_first, axis=1) - 1
    count = int(np.max(number, initial=-1)) + 1
    summing = set(number[np.isin(codes, _SUMMING)].tolist())
    return Steps(tuple(each in summing for each in range(count)))


def make_scratch(batch: int, size: int, device: torch.device) -> Scratch:
    """Memory for batches of up to `batch` rows of `size` px."""
    other = torch.empty((batch, size, size, 3), dtype=torch.uint8, device=device)
    tables = torch.empty((batch, 3, _LEVELS), dtype=torch.uint8, device=device)
    return Scratch(other, tables)


def fits(scratch: Scratch, batch: int, size: int) -> bool:
    """Whether scratch is enough for so many rows of `size` px."""
    return len(scratch.other) >= batch and scratch.other.shape[1] == size


def find_tiles(size: int) -> tuple[int, int, int]:
    """Programs that an image of S px takes, the pixels of one, and its warps."""
    pixels, warps = _PIXELS, _WARPS
    while triton.cdiv(size * size, pixels) > _MOST_TILES:
        pixels, warps = 2 * pixels, 2 * warps
    return triton.cdiv(size * size, pixels), pixels, warps


def change(
    pixels: torch.Tensor,
    codes: torch.Tensor,
    values: torch.Tensor,
    boxes: torch.Tensor,
    matrices: torch.Tensor,
    steps: Steps,
    scratch: Scratch,
) -> torch.Tensor:
    """Change the rows of a batch, on the current stream.

    Args:
        pixels: uint8[B, S, S, 3] RGB. Passes overwrite them.
        codes: int32[B, K], see `pipelines.codes`.
        values: float64[B, K], or float32, whose blends may differ from torchvision's by a level.
        boxes: int32[B, 4] top, left, height, width of what `ERASE` paints over, px.
        matrices: float32[B, K, 6], see `pipelines.operations`.
        steps: of these codes, see `find_steps`; of others, pixels are wrong.
        scratch: that fits the batch, see `fits`.

    Returns:
        uint8[B, S, S, 3]: `pixels`, or rows of `scratch.other`, whichever the last pass wrote.

    Raises:
        ValueError: a tensor's shape, dtype, layout or device is not what it says here, or scratch
            does not fit, or is the batch itself.
    """
    if pixels.ndim != 4 or pixels.shape[1] != pixels.shape[2] or pixels.shape[3] != 3:
        raise ValueError(f"pixels: {list(pixels.shape)}, expected [B, S, S, 3]")
    batch, size = pixels.shape[:2]
    if pixels.is_cuda == _INTERPRETED:
        place = "the CPU" if _INTERPRETED else "a GPU"
        raise ValueError(f"pixels: on {pixels.device}, expected {place}")
    if not fits(scratch, batch, size):
        found = list(scratch.other.shape)
        raise ValueError(f"scratch: {found}, too small for {batch} rows of {size} px")
    columns = codes.shape[-1] if codes.ndim else 0
    real = torch.float32 if values.dtype == torch.float32 else torch.float64
    other, tables = scratch.other[:batch], scratch.tables[:batch]
    expected = (
        ("pixels", pixels, torch.uint8, pixels.shape),
        ("codes", codes, torch.int32, (batch, columns)),
        ("values", values, real, (batch, columns)),
        ("boxes", boxes, torch.int32, (batch, 4)),
        ("matrices", matrices, torch.float32, (batch, columns, 6)),
        ("scratch.other", other, torch.uint8, pixels.shape),
        ("scratch.tables", tables, torch.uint8, (batch, 3, _LEVELS)),
    )
    check_tensors(expected, pixels.device)
    if not batch or not size:
        return pixels
    if pixels.data_ptr() == other.data_ptr():
        raise ValueError("scratch: is the batch itself, expected other memory")
    with torch.cuda.device_of(pixels):  # type: ignore[no-untyped-call]
        return _launch(pixels, codes, values, boxes, matrices, steps, other, tables)


def _launch(
    pixels: torch.Tensor,
    codes: torch.Tensor,
    values: torch.Tensor,
    boxes: torch.Tensor,
    matrices: torch.Tensor,
    steps: Steps,
    other: torch.Tensor,
    tables: torch.Tensor,
) -> torch.Tensor:
    """Queue the kernels, pass by pass.

    Rows are on a grid's first axis, the only one that may be longer than 65,535.
    """
    (batch, size), columns = pixels.shape[:2], codes.shape[1]
    tiles, tile_pixels, warps = find_tiles(size)
    source, target = pixels, other
    for number, needs_sums in enumerate(steps.sums):
        if needs_sums:
            fill_tables[(batch, 3)](
                source,
                codes,
                values,
                columns,
                number,
                tables,
                SIZE=size,
                PIXELS=_SUMMED_PIXELS,
                num_warps=_SUMMING_WARPS,
                enable_fp_fusion=False,  # torchvision rounds products before sums
            )
        change_pixels[(batch, tiles)](
            source,
            target,
            codes,
            values,
            boxes,
            matrices,
            tables,
            columns,
            number,
            len(steps.sums),
            SIZE=size,
            PIXELS=tile_pixels,
            num_warps=warps,
            enable_fp_fusion=False,
        )
        source, target = target, source
    return source
