"""Tensors that a file may hold: whole and finite, standing for no more than is stored."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

import torch

#: Dtypes that a tensor may have, and their names in safetensors.
DTYPES = {
    torch.float64: "F64",
    torch.float32: "F32",
    torch.float16: "F16",
    torch.bfloat16: "BF16",
    torch.int64: "I64",
    torch.int32: "I32",
    torch.int16: "I16",
    torch.int8: "I8",
    torch.uint8: "U8",
    torch.bool: "BOOL",
}
#: Tied weights are there twice; beyond that a storage stands for more than the file holds.
_MOST_SHARED = 4
#: Letters of a name in a message.
_MOST_NAMED = 80


def find_odd_tensor(state: Mapping[str, Any]) -> str:
    """The fault of tensors by name, and its place; '' if there is none."""
    shown_bytes = stored_bytes = 0
    storages = set[int]()
    for name, tensor in state.items():
        if type(tensor) not in (torch.Tensor, torch.nn.Parameter):
            return f"a {type(tensor).__name__} for {name[:_MOST_NAMED]!r}"
        odd = _find_odd(tensor)
        if not odd:
            storage = tensor.untyped_storage()
            shown_bytes += tensor.numel() * tensor.element_size()
            if storage.data_ptr() not in storages:
                storages.add(storage.data_ptr())
                stored_bytes += storage.nbytes()
            if shown_bytes > _MOST_SHARED * stored_bytes:
                odd = "a tensor larger than what is stored of it"
        if odd:
            return f"{odd} at {name[:_MOST_NAMED]!r}"
    return ""


def _find_odd(tensor: torch.Tensor) -> str:
    is_plain = tensor.layout == torch.strided and tensor.device.type == "cpu"
    if not is_plain or tensor.is_nested or tensor.dtype not in DTYPES:
        return f"a tensor of kind {tensor.dtype}, {tensor.layout} on {tensor.device}"
    if tensor.numel() * tensor.element_size() > tensor.untyped_storage().nbytes():
        return "a tensor larger than what is stored of it"
    if tensor.is_floating_point() and tensor.numel():
        least, most = tensor.detach().aminmax()  # NaN if there is one
        if not (math.isfinite(least) and math.isfinite(most)):
            return "NaN or infinity"
    return ""
