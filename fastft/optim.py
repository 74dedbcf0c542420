"""The optimizer and its schedule: SGD with an output layer that learns faster."""

from __future__ import annotations

import math

import torch
from torch import nn

from fastft.config import Schedule

_WARM_UP = 0.1


def make_optimizer(
    model: nn.Module, *, lr: float, head_lr_factor: float, momentum: float, weight_decay: float
) -> torch.optim.SGD:
    """SGD over two groups: the body at `lr`, the output layer `fc` at `head_lr_factor` times it."""
    head = [value for name, value in model.named_parameters() if name.startswith("fc.")]
    body = [value for name, value in model.named_parameters() if not name.startswith("fc.")]
    groups = [
        {"params": body, "lr": lr, "peak_lr": lr},
        {"params": head, "lr": lr * head_lr_factor, "peak_lr": lr * head_lr_factor},
    ]
    return torch.optim.SGD(groups, momentum=momentum, weight_decay=weight_decay)


def set_learning_rate(
    optimizer: torch.optim.Optimizer, schedule: Schedule, step: int, steps: int
) -> float:
    """Set each group's rate for step `step` of `steps`; returns the body's."""
    share = 1.0 if schedule == "constant" else cosine_share(step, steps)
    for group in optimizer.param_groups:
        group["lr"] = group["peak_lr"] * share
    return float(optimizer.param_groups[0]["lr"])


def cosine_share(step: int, steps: int) -> float:
    """Linear rise over the first tenth of the steps, then half a cosine down to zero."""
    rise = max(1, round(_WARM_UP * steps))
    if step < rise:
        return (step + 1) / rise
    return 0.5 * (1 + math.cos(math.pi * (step - rise) / max(1, steps - rise)))
