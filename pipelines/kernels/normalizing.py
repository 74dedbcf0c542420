"""A Triton kernel: pixels in a GPU's memory in, normalized values of any float type out.

One byte read and one value written per value, where torch's operations write float32 first, read
it, and write it anew. `gpu` does the same behind its resize. See there for what Triton settles when
this file is imported.
"""

from __future__ import annotations

import torch
import triton
import triton.language as tl

#: Values of one program, 8 of each thread: read as 8 bytes, written as 16 of a 16-bit type.
_BLOCK, _WARPS = 1024, 4


def normalize(
    pixels: torch.Tensor, scale: torch.Tensor, bias: torch.Tensor, out: torch.Tensor
) -> None:
    """Write pixel * scale + bias, rounded once to float32 and once to a narrower type.

    Args:
        pixels: uint8[..., 3], contiguous.
        scale, bias: float32[3 or more], of which the first three are read.
        out: float32, bfloat16 or float16, of the shape of `pixels`, contiguous.

    Raises:
        ValueError: shapes differ, or memory is not contiguous.
    """
    if out.shape != pixels.shape or pixels.shape[-1:] != (3,):
        raise ValueError(f"out: {list(out.shape)}, expected that of pixels {list(pixels.shape)}")
    if not (pixels.is_contiguous() and out.is_contiguous()):
        raise ValueError("pixels and out: strided, expected contiguous memory")
    count = pixels.numel()
    if not count:
        return
    with torch.cuda.device_of(out):  # type: ignore[no-untyped-call]
        _normalize[(triton.cdiv(count, _BLOCK),)](
            pixels, scale, bias, out, count, BLOCK=_BLOCK, num_warps=_WARPS
        )


@triton.jit
def _normalize(pixels, scale, bias, out, count, BLOCK: tl.constexpr):  # type: ignore[no-untyped-def]
    at = tl.program_id(0).to(tl.int64) * BLOCK + tl.arange(0, BLOCK)
    inside = at < count
    channel = at % 3
    factor = tl.where(channel == 1, tl.load(scale + 1), tl.load(scale))
    factor = tl.where(channel == 2, tl.load(scale + 2), factor)
    offset = tl.where(channel == 1, tl.load(bias + 1), tl.load(bias))
    offset = tl.where(channel == 2, tl.load(bias + 2), offset)
    value = tl.fma(tl.load(pixels + at, inside, 0).to(tl.float32), factor, offset)
    tl.store(out + at, value.to(out.dtype.element_ty), inside)
