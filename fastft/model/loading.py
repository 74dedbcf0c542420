"""Tensors of a file into a network: all but the output layer, or refused with what is wrong."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import nn

from fastft.model import timm_models, torchvision_models
from fastft.model.weights import Weights
from pipelines.errors import DataError

#: Names in a message, before the rest is only counted.
_NAMED = 4


def load_state(model: nn.Module, state: Mapping[str, torch.Tensor], *, strict: bool = True) -> None:
    """Load tensors; the versions of the modules that they are of are the model's own.

    Raises:
        RuntimeError: they do not fit.
    """
    whole = model.state_dict()
    whole.clear()  # which leaves what it says of versions; MNASNet refuses to do without
    whole.update(state)
    model.load_state_dict(whole, strict=strict)


def load_body(
    model: nn.Module, source: Weights, head_name: str, arch: str, classes: int, size: int
) -> tuple[tuple[str, ...], tuple[str, ...]]:
    """Load all but the output layer.

    Args:
        model: with its output layer.
        source: the weights.
        head_name: the output layer's name.
        arch, classes, size: of the model.

    Returns:
        What was left out of the weights, and what beside the output layer they do not have.

    Raises:
        DataError: a tensor of the body is missing, has another shape, or has no place. Files of
            timm's models may hold more, and begin anew between body and output layer.
    """
    is_timm = timm_models.is_timm(arch)
    is_same = source.arch in (None, arch)
    if is_timm and source.arch is not None:
        is_same = timm_models.same_network(source.arch, arch)
    if not is_same:
        raise DataError(
            source.where, f"is of a {source.arch}", f"a {arch}", f"pass --arch {source.arch}"
        )
    try:
        if is_timm:
            state = timm_models.convert_names(arch, classes, size, model, source.state)
        else:
            state = torchvision_models.fit_positions(model, arch, source.state)
    except ValueError as error:
        raise DataError(source.where, str(error), f"the tensors of a {arch}", "") from error
    own = model.state_dict()
    head = {name for name in own if name.startswith(f"{head_name}.")}
    missing = [name for name in own if name not in head and name not in state]
    begun = [name for name in missing if is_timm and timm_models.is_of_neck(name)]
    wrong = [f"no {name}" for name in missing if name not in begun]
    wrong += [
        f"{name} of shape {list(state[name].shape)} instead of {list(tensor.shape)}"
        for name, tensor in own.items()
        if name not in head and name in state and state[name].shape != tensor.shape
    ]
    extra = [
        name
        for name in state
        if name not in own and not is_timm and not torchvision_models.is_second_output(name)
    ]
    wrong += [f"an additional {name:.200}" for name in extra]
    if wrong:
        more = f" and {len(wrong) - _NAMED} more" if len(wrong) > _NAMED else ""
        raise DataError(
            source.where,
            f"has {'; '.join(wrong[:_NAMED])}{more}",
            f"the tensors of a {arch}",
            "pass its --arch",
        )
    body = {name: tensor for name, tensor in state.items() if name in own and name not in head}
    load_state(model, body, strict=False)
    left_out = tuple(f"{name} {list(state[name].shape)}" for name in state if name not in body)
    return left_out, tuple(begun)
