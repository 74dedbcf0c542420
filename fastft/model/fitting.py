"""Whether a checkpoint's states are those of the model and the optimizer that are to go on from it.

torch loads what fits by halves, and fails in its next step with what does not. Here all is compared
before anything is loaded.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

import torch

from fastft.model.optim import pack_optimizer

#: What an optimizer keeps of a parameter, in its shape, and what beside that.
_KEPT: dict[type, tuple[frozenset[str], frozenset[str]]] = {
    torch.optim.SGD: (frozenset({"momentum_buffer"}), frozenset()),
    torch.optim.AdamW: (frozenset({"exp_avg", "exp_avg_sq"}), frozenset({"step"})),
}
#: Means of squares and numbers of steps.
_NOT_NEGATIVE = ("exp_avg_sq", "step")
#: What sets a rate is set anew before each step; all else of a group is the run's settings.
_SET_ANEW = ("params", "lr")
#: Between what the numbers of torch's loss scaler lie.
_SCALER: dict[str, tuple[float, float]] = {
    "scale": (0.0, math.inf), "growth_factor": (1.0, math.inf), "backoff_factor": (0.0, 1.0),
    "growth_interval": (0, 1 << 31), "_growth_tracker": (-1, 1 << 31),
}  # fmt: skip


def find_misfit(state: Mapping[str, torch.Tensor], own: Mapping[str, torch.Tensor]) -> str:
    """The first difference of a state dict from a model's own; '' if there is none."""
    for name, tensor in own.items():
        if name not in state:
            return f"no {name}"
        if odd := _find_other(state[name], tensor):
            return f"{name} {odd}"
    return next((f"an additional {name:.200}" for name in state if name not in own), "")


def find_misfit_of_optimizer(
    saved: Mapping[str, Any], optimizer: torch.optim.Optimizer, *, has_stepped: bool
) -> str:
    """The first part of an optimizer's state that does not fit this new one; '' if there is none.

    Args:
        saved: its state dict, of plain values and sound tensors.
        optimizer: made from the run's settings.
        has_stepped: whether each of its parameters that learns has been.
    """
    if saved.keys() != {"state", "param_groups"}:
        return f"{', '.join(map(str, saved)) or 'nothing'}, expected state and param_groups"
    own = pack_optimizer(optimizer)["param_groups"]
    groups, states = saved["param_groups"], saved["state"]
    if not isinstance(groups, list) or len(groups) != len(own):
        return f"other groups of parameters than {len(own)}"
    for number, (group, mine) in enumerate(zip(groups, own, strict=True)):
        if odd := _find_in_group(group, mine):
            return f"group {number} {odd}"
    parameters = [each for group in optimizer.param_groups for each in group["params"]]
    names = next(names for kind, names in _KEPT.items() if isinstance(optimizer, kind))
    if not isinstance(states, dict):
        return f"a {type(states).__name__} of states"
    for index, kept in states.items():
        if type(index) is not int or not 0 <= index < len(parameters):
            return f"a state of parameter {index!r:.80} of {len(parameters)}"
        if odd := _find_in_kept(kept, parameters[index], names):
            return f"parameter {index} {odd}"
    if has_stepped:
        missing = [i for i, each in enumerate(parameters) if each.requires_grad and i not in states]
        return f"no state of parameter {missing[0]}" if missing else ""
    return ""


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


def _find_in_group(saved: Any, own: Mapping[str, Any]) -> str:
    if not isinstance(saved, dict):
        return f"is a {type(saved).__name__}"
    lr = saved.get("lr")
    indices = saved.get("params")
    if type(indices) is not list or any(type(each) is not int for each in indices):
        return "is of no parameters"
    if indices != own["params"]:
        return "is of other parameters"
    # A schedule only ever lowers it.
    if not isinstance(lr, int | float) or isinstance(lr, bool) or not 0 <= lr <= own["peak_lr"]:
        return f"has lr {lr!r:.80}"
    # A switch that another torch does not know is put in its place by this one, but no number.
    lost = [name for name in own if name not in saved and not isinstance(own[name], bool | None)]
    if lost:
        return f"has no {lost[0]}"
    for name, value in saved.items():
        if name not in own:
            return f"has an additional {name!r:.80}"
        if name not in _SET_ANEW and not _is_same(value, own[name]):
            return f"has {name} {value!r:.80}, expected {own[name]!r}"
    return ""


def _find_in_kept(
    kept: Any, parameter: torch.Tensor, names: tuple[frozenset[str], frozenset[str]]
) -> str:
    like, beside = names
    if not isinstance(kept, dict):
        return f"has a {type(kept).__name__} for a state"
    if kept and kept.keys() != like | beside:
        return f"has {', '.join(map(str, kept)):.200}, expected {', '.join(sorted(like | beside))}"
    for name, value in kept.items():
        if value is None and not beside:
            continue  # SGD without momentum has none
        if not isinstance(value, torch.Tensor):
            return f"has {name} {value!r:.80}"
        wanted = parameter if name in like else torch.empty(())
        if odd := _find_other(value, wanted):
            return f"has {name} {odd}"
        if name in _NOT_NEGATIVE and value.numel() and value.min() < 0:
            return f"has {name} below zero"
    return "has no state" if beside and not kept else ""


def _find_other(found: torch.Tensor, wanted: torch.Tensor) -> str:
    """The difference of a tensor from one that it should be like."""
    if found.shape != wanted.shape:
        return f"of shape {_shown(found.shape)} instead of {_shown(wanted.shape)}"
    if found.dtype != wanted.dtype:
        return f"of {found.dtype} instead of {wanted.dtype}"
    # Where two numbers are at one place an optimizer cannot write.
    return "" if _lies_apart(found) else "whose numbers lie upon each other"


def _lies_apart(tensor: torch.Tensor) -> bool:
    """Whether no two of a tensor's numbers are at one place, as in all that torch makes itself."""
    reach = 1
    pairs = zip(tensor.stride(), tensor.shape, strict=True)
    for stride, length in sorted(pair for pair in pairs if pair[1] != 1):
        if stride < reach:
            return tensor.numel() == 0
        reach = stride * length
    return True


def _is_same(found: Any, wanted: Any) -> bool:
    """Whether a setting of an optimizer is the one wanted."""
    if isinstance(wanted, tuple | list):
        is_alike = type(found) in (tuple, list) and len(found) == len(wanted)
        return is_alike and all(map(_is_same, found, wanted))
    if not isinstance(found, int | float | None):
        return False
    return isinstance(found, bool) == isinstance(wanted, bool) and found == wanted


def _shown(shape: Sequence[int]) -> list[int]:
    return list(shape)
