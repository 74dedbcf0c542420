"""Whether a checkpoint's states are those of the model and the optimizer that are to go on from it.

torch loads what fits by halves, and fails in its next step with what does not. Here all is compared
before anything is loaded.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

import torch

#: Tensors that an optimizer keeps of a parameter; all but the number of steps is in its shape.
_KEPT: dict[type, tuple[str, ...]] = {
    torch.optim.SGD: ("momentum_buffer",),
    torch.optim.AdamW: ("step", "exp_avg", "exp_avg_sq"),
}
#: Means of squares and numbers of steps.
_NOT_NEGATIVE = ("exp_avg_sq", "step")
#: Between what the numbers of torch's loss scaler lie.
_SCALER: dict[str, tuple[float, float]] = {
    "scale": (0.0, math.inf),
    "growth_factor": (1.0, math.inf),
    "backoff_factor": (0.0, 1.0),
    "growth_interval": (0, 1 << 31),
    "_growth_tracker": (-1, 1 << 31),
}


def find_misfit(state: Mapping[str, torch.Tensor], own: Mapping[str, torch.Tensor]) -> str:
    """The first difference of a state dict from a model's own; '' if there is none."""
    for name, tensor in own.items():
        if name not in state:
            return f"no {name}"
        if odd := _find_other(state[name], tensor):
            return f"{name} {odd}"
    return next((f"an additional {name:.200}" for name in state if name not in own), "")


def find_misfit_of_optimizer(
    saved: Mapping[str, torch.Tensor], optimizer: torch.optim.Optimizer, *, has_stepped: bool
) -> str:
    """The first part of an optimizer's state that does not fit this new one; '' if there is none.

    Args:
        saved: of `pack_optimizer`.
        optimizer: made from the run's settings.
        has_stepped: whether each of its parameters that learns has been.
    """
    parameters = [each for group in optimizer.param_groups for each in group["params"]]
    names = next(names for kind, names in _KEPT.items() if isinstance(optimizer, kind))
    if not optimizer.defaults.get("momentum", 1):
        names = ()
    numbers = {key.partition("/")[0] for key in saved}
    own = {
        f"{number}/{name}": torch.empty(()) if name == "step" else parameter
        for number, parameter in enumerate(parameters)
        if str(number) in numbers or (has_stepped and parameter.requires_grad)
        for name in names
    }
    if odd := find_misfit(saved, own):
        return odd
    below = (key for key, tensor in saved.items() if key.endswith(_NOT_NEGATIVE) and tensor.numel())
    return next((f"{key} below zero" for key in below if saved[key].min() < 0), "")


def find_misfit_of_scaler(saved: Mapping[str, Any]) -> str:
    """The fault in a loss scaler's state, which is empty where none was used; or empty."""
    if saved and saved.keys() != _SCALER.keys():
        return f"{', '.join(map(str, saved)):.200}, expected {', '.join(_SCALER)}"
    for name, value in saved.items():
        least, most = _SCALER[name]
        kinds = (int,) if isinstance(least, int) else (int, float)
        if type(value) not in kinds or not least < value < most:
            return f"{name} {value!r:.80}"
    return ""


def _find_other(found: torch.Tensor, wanted: torch.Tensor) -> str:
    """The difference of a tensor from one that it should be like."""
    if found.shape != wanted.shape:
        return f"of shape {list(found.shape)} instead of {list(wanted.shape)}"
    return f"of {found.dtype} instead of {wanted.dtype}" if found.dtype != wanted.dtype else ""
