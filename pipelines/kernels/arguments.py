"""Checks of the tensors that Triton kernels are given: they look at nothing themselves."""

from __future__ import annotations

from collections.abc import Iterable

import torch


def check_tensors(
    expected: Iterable[tuple[str, torch.Tensor, torch.dtype, tuple[int, ...]]],
    device: torch.device,
) -> None:
    """Refuse tensors that a kernel would read or write out of bounds.

    Args:
        expected: name, tensor, dtype and shape of each.
        device: of all of them.

    Raises:
        ValueError: a tensor's shape, dtype, layout or device is another.
    """
    for name, tensor, dtype, shape in expected:
        if tensor.dtype != dtype or tensor.shape != shape or tensor.device != device:
            found = f"{tensor.dtype}{list(tensor.shape)} on {tensor.device}"
            raise ValueError(f"{name}: {found}, expected {dtype}{list(shape)} on {device}")
        if not tensor.is_contiguous():
            raise ValueError(f"{name}: strides {tensor.stride()}, expected contiguous memory")
