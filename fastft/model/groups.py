"""Parameter groups: which parameters learn slower, and which ones weight decay spares.

Parameters that are treated alike share a group: an optimizer goes through its groups one by one, so
that a step of some hundred groups takes as many launches.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from fnmatch import fnmatchcase
from typing import Any

from torch import nn

from fastft.config.train import Decay
from fastft.model import timm_models, torchvision_models
from fastft.model.built import BuiltModel
from fastft.model.freezing import stages


@dataclass(frozen=True, kw_only=True, slots=True)
class Treatment:
    """The treatment of single parameters, by name; all others have the settings of the optimizer.

    Attributes:
        rates: share of the body's learning rate.
        spared: of those that do not decay.
    """

    rates: Mapping[str, float] = field(default_factory=dict)
    spared: frozenset[str] = frozenset()


#: All alike, but for the output layer.
PLAIN = Treatment()


def find_treatment(built: BuiltModel, *, layer_decay: float, decay: Decay) -> Treatment:
    """The treatment that settings ask for.

    Args:
        built: the model.
        layer_decay: each layer learns this much slower than the one behind it, the last of the body
            than the output layer; 1: all alike. Source: Bao et al., "BEiT", ICLR 2022, whose rule
            timm's `param_groups_layer_decay` has, too.
        decay: `all` parameters, or `matrices` alone: neither biases and norms nor what the network
            names, such as positions; `auto` takes `all` of torchvision's networks and `matrices` of
            timm's.

    Raises:
        UsageError: layers of a network that are not known.
    """
    is_timm = timm_models.is_timm(built.arch)
    names = dict(built.model.named_parameters())
    rates: dict[str, float] = {}
    if layer_decay != 1:
        layers = _layers_of_timm(built) if is_timm else _layers_of_torchvision(built)
        top = max(layers.values(), default=-1) + 1
        rates = {name: layer_decay ** (top - layer) for name, layer in layers.items()}
    spared = frozenset[str]()
    if decay == "matrices" or (decay == "auto" and is_timm):
        patterns: tuple[str, ...] = torchvision_models.NO_DECAY
        if is_timm:
            patterns = tuple(timm_models.names_without_decay(built.model))
        # Source: timm, `param_groups_weight_decay`.
        spared = frozenset(
            name
            for name, parameter in names.items()
            if parameter.ndim <= 1
            or name.endswith(".bias")
            or any(fnmatchcase(name, pattern) for pattern in patterns)
        )
    return Treatment(rates=rates, spared=spared)


def make_groups(
    model: nn.Module,
    head: nn.Module,
    *,
    lr: float,
    head_lr_factor: float,
    treatment: Treatment = PLAIN,
) -> list[dict[str, Any]]:
    """Groups for an optimizer: the body's, which learn the slower the later they come, the head's.

    Without treatment there are two.

    Args:
        model: the network, frozen parameters included.
        head: its output layer.
        lr: peak rate of the body.
        head_lr_factor: the output layer learns this many times faster.
        treatment: of single parameters.
    """
    last = {id(parameter) for parameter in head.parameters()}
    held: dict[tuple[bool, float, bool], list[nn.Parameter]] = {}
    for name, parameter in model.named_parameters():
        is_last = id(parameter) in last
        rate = head_lr_factor if is_last else treatment.rates.get(name, 1.0)
        held.setdefault((is_last, -rate, name in treatment.spared), []).append(parameter)
    return [
        {"params": parameters, "lr": lr * -slowness, "peak_lr": lr * -slowness}
        | ({"weight_decay": 0.0} if is_spared else {})
        for (_, slowness, is_spared), parameters in sorted(held.items(), key=lambda item: item[0])
    ]


def _layers_of_timm(built: BuiltModel) -> dict[str, int]:
    """The layer of each parameter of the body, from the input on, as timm counts them."""
    found = timm_models.number_layers(built.model, built.arch, "--layer-decay", coarse=False)
    last = {id(parameter) for parameter in built.head.parameters()}
    named = dict(built.model.named_parameters())
    top = max(found.values())
    # A norm beside the output layer is of that one's layer, and learns at the full rate.
    return {
        name: layer for name, layer in found.items() if layer < top and id(named[name]) not in last
    }


def _layers_of_torchvision(built: BuiltModel) -> dict[str, int]:
    """The same, where a layer is a stage; what belongs to no stage is at the input."""
    last = {id(parameter) for parameter in built.head.parameters()}
    stage_of = {
        id(parameter): number
        for number, (_, modules) in enumerate(stages(built))
        for module in modules
        for parameter in module.parameters()
    }
    return {
        name: stage_of.get(id(parameter), 0)
        for name, parameter in built.model.named_parameters()
        if id(parameter) not in last
    }
