"""The optimizer, its schedule, and an average of the weights that it visits."""

from __future__ import annotations

import copy
import math
from collections.abc import Mapping

import torch
from torch import nn

from fastft.model import load_state
from fastft.train_config import Optimizer, Schedule

#: Peak rates where none is asked for: on weights, and from scratch. SGD's with momentum 0.9; on
#: weights a fifth of what the tutorial's 5e-5 on a loss summed over 128 images comes to, times ten
#: for the momentum.
PEAK_LR: dict[str, tuple[float, float]] = {"sgd": (0.002, 0.01), "adamw": (2e-4, 1e-3)}
#: How much faster a new output layer learns than a body that has learnt before.
HEAD_LR_FACTOR = 10.0


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
) -> torch.optim.Optimizer:
    """An optimizer of two groups: the body at `lr`, the output layer at `head_lr_factor` times it.

    Frozen parameters take part, too: without gradients they are passed over, decay included, until
    they are thawed.
    """
    last = list(head.parameters())
    known = {id(parameter) for parameter in last}
    body = [parameter for parameter in model.parameters() if id(parameter) not in known]
    groups = [
        {"params": body, "lr": lr, "peak_lr": lr},
        {"params": last, "lr": lr * head_lr_factor, "peak_lr": lr * head_lr_factor},
    ]
    if optimizer == "adamw":
        return torch.optim.AdamW(groups, weight_decay=weight_decay)
    return torch.optim.SGD(groups, momentum=momentum, weight_decay=weight_decay)


def set_learning_rate(
    optimizer: torch.optim.Optimizer,
    schedule: Schedule,
    step: int,
    steps: int,
    warm_up: float = 0.1,
) -> float:
    """Set each group's rate for step `step` of `steps`; returns the body's."""
    share = 1.0 if schedule == "constant" else cosine_share(step, steps, warm_up)
    for group in optimizer.param_groups:
        group["lr"] = group["peak_lr"] * share
    return float(optimizer.param_groups[0]["lr"])


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
        """How many it has seen."""
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
