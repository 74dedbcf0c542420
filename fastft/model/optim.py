"""The optimizer, its schedule, and an average of the weights that it visits."""

from __future__ import annotations

import copy
import inspect
import math
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import TypeVar

import torch
from torch import nn

from fastft.config.train import Optimizer, Schedule, TrainConfig
from fastft.model.built import BuiltModel
from fastft.model.groups import PLAIN, Treatment, find_treatment, make_groups
from fastft.model.loading import load_state

Kind = TypeVar("Kind", bound=torch.optim.Optimizer)
#: Peak rates where none is asked for: on weights, and from scratch. SGD's with momentum 0.9; on
#: weights a fifth of what the tutorial's 5e-5 on a loss summed over 128 images comes to, times ten
#: for the momentum.
PEAK_LR: dict[str, tuple[float, float]] = {"sgd": (0.002, 0.01), "adamw": (2e-4, 1e-3)}
#: How much faster a new output layer learns than a body that has learnt before.
HEAD_LR_FACTOR = 10.0
#: Methods that torch's compiler is told of.
_TOLD = ("add_param_group", "load_state_dict", "state_dict", "step", "zero_grad")


def _without_compiler(kind: type[Kind]) -> type[Kind]:
    """A kind of torch's optimizers whose methods tell torch's compiler nothing.

    To tell it to leave them alone, torch 2 imports it in the first step: 3 s of CPU time (EPYC).
    What we compile is networks, never their optimizers.
    """
    plain = {name: inspect.unwrap(getattr(kind, name)) for name in _TOLD}
    plain["step"] = torch.no_grad()(plain["step"])
    made: type[Kind] = type(kind.__name__, (kind,), plain)
    return made


SGD = _without_compiler(torch.optim.SGD)
AdamW = _without_compiler(torch.optim.AdamW)


def peak_lr(optimizer: Optimizer, *, pretrained: bool) -> float:
    """The learning rate where none is asked for."""
    on_weights, from_scratch = PEAK_LR[optimizer]
    return on_weights if pretrained else from_scratch


def make_optimizer(
    model: nn.Module,
    head: nn.Module,
    *,
    optimizer: Optimizer = "sgd",
    lr: float,
    head_lr_factor: float,
    momentum: float,
    weight_decay: float,
    treatment: Treatment = PLAIN,
) -> torch.optim.Optimizer:
    """An optimizer of two groups: the body at `lr`, the output layer at `head_lr_factor` times it.

    With a treatment of single parameters there are more, see `make_groups`.

    Frozen parameters take part, too: without gradients they are passed over, decay included, until
    they are thawed. On a GPU a step is a few kernels for all parameters together (`fused`), and the
    loss scaler's verdict stays there: torch reads it on the host for other optimizers.
    """
    groups = make_groups(model, head, lr=lr, head_lr_factor=head_lr_factor, treatment=treatment)
    # On a CPU torch's usual steps, whose digits earlier runs have.
    fused = True if all(each.is_cuda for group in groups for each in group["params"]) else None
    if optimizer == "adamw":
        return AdamW(groups, lr=lr, weight_decay=weight_decay, fused=fused)
    return SGD(groups, lr=lr, momentum=momentum, weight_decay=weight_decay, fused=fused)


def find_optimizer(config: TrainConfig, built: BuiltModel) -> torch.optim.Optimizer:
    """The optimizer that a run's settings ask for.

    Args:
        config: with its rates filled in.
        built: the model, on its device.

    Raises:
        UsageError: as `find_treatment`.
    """
    assert config.lr is not None
    assert config.head_lr_factor is not None
    return make_optimizer(
        built.model,
        built.head,
        optimizer=config.optimizer,
        lr=config.lr,
        head_lr_factor=config.head_lr_factor,
        momentum=config.momentum,
        weight_decay=config.weight_decay,
        treatment=find_treatment(built, layer_decay=config.layer_decay, decay=config.decay),
    )


def pack_optimizer(optimizer: torch.optim.Optimizer) -> dict[str, torch.Tensor]:
    """The memory of an optimizer: tensors by the parameter's number and their name, `0/step`.

    All else of it is settings, which a run has anyway, and how it is computed on this device.
    """
    return {
        f"{number}/{name}": tensor
        for number, state in optimizer.state_dict()["state"].items()
        for name, tensor in state.items()
        if tensor is not None  # SGD without momentum
    }


def unpack_optimizer(optimizer: torch.optim.Optimizer, packed: Mapping[str, torch.Tensor]) -> None:
    """Let an optimizer remember.

    Args:
        optimizer: of the same kind and parameters.
        packed: of `pack_optimizer`, on whatever device and in whatever order of memory: here it
            gets its parameter's, in which a step takes it at full speed.
    """
    parameters = [each for group in optimizer.param_groups for each in group["params"]]
    states: dict[int, dict[str, torch.Tensor]] = {}
    for key, tensor in packed.items():
        number, _, name = key.partition("/")
        like = parameters[int(number)] if name != "step" else tensor
        states.setdefault(int(number), {})[name] = torch.empty_like(like).copy_(tensor)
    groups = optimizer.state_dict()["param_groups"]
    optimizer.load_state_dict({"state": states, "param_groups": groups})


@contextmanager
def rates_on_device(optimizer: torch.optim.Optimizer) -> Iterator[list[torch.Tensor]]:
    """Let an optimizer read its groups' rates from the device, as what is captured has to.

    Yields:
        Scalars by group; whoever replays what was captured fills them.
    """
    before = [
        {name: group.get(name) for name in ("lr", "capturable")} for group in optimizer.param_groups
    ]
    device = optimizer.param_groups[0]["params"][0].device
    rates = [torch.tensor(float(group["lr"]), device=device) for group in optimizer.param_groups]
    try:
        for group, rate in zip(optimizer.param_groups, rates, strict=True):
            group["lr"] = rate
            if "capturable" in group:  # AdamW's, which counts its steps
                group["capturable"] = device.type == "cuda"
        yield rates
    finally:
        for group, usual in zip(optimizer.param_groups, before, strict=True):
            group.update({name: value for name, value in usual.items() if name in group})


def set_learning_rate(
    optimizer: torch.optim.Optimizer,
    schedule: Schedule,
    step: int,
    steps: int,
    warm_up: float = 0.1,
) -> float:
    """Set each group's rate for step `step` of `steps`; returns the one that all go by."""
    share = 1.0 if schedule == "constant" else cosine_share(step, steps, warm_up)
    for group in optimizer.param_groups:
        group["lr"] = group["peak_lr"] * share
    return float(optimizer.defaults["lr"] * share)


def cosine_share(step: int, steps: int, warm_up: float = 0.1) -> float:
    """Linear rise over `warm_up` of the steps, then half a cosine down to zero."""
    rise = max(1, round(warm_up * steps))
    if step < rise:
        return (step + 1) / rise
    return 0.5 * (1 + math.cos(math.pi * (step - rise) / max(1, steps - rise)))


class WeightAverage:
    """An exponential moving average of a model's weights; its buffers are the model's own.

    Early on it forgets faster, so that a short run is not averaged with where it began:
    after n steps the decay is at most (1 + n) / (10 + n). Source: TensorFlow's
    ExponentialMovingAverage, `num_updates`.

    Attributes:
        model: the average, in eval mode.
    """

    def __init__(self, model: nn.Module, decay: float) -> None:
        self.model = copy.deepcopy(model).eval().requires_grad_(False)
        self._decay, self._steps = decay, 0

    @property
    def steps(self) -> int:
        """The number of steps that it has averaged."""
        return self._steps

    def restore(self, state: Mapping[str, torch.Tensor], steps: int) -> None:
        """Be what it was after so many steps."""
        load_state(self.model, state)
        self._steps = steps

    @torch.no_grad()
    def update(self, model: nn.Module) -> None:
        """Take in the weights after a step."""
        self._steps += 1
        decay = min(self._decay, (1 + self._steps) / (10 + self._steps))
        mine: list[torch.Tensor] = list(self.model.parameters())
        theirs: list[torch.Tensor] = list(model.parameters())
        torch._foreach_lerp_(mine, theirs, 1 - decay)
        buffers = list(self.model.buffers())
        if buffers:
            torch._foreach_copy_(buffers, list(model.buffers()))
