"""A network that is ready to train, and what is known of it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from torch import nn

from fastft.model.form import USUAL, Form


@dataclass(frozen=True, slots=True)
class BuiltModel:
    """A model ready to train.

    Attributes:
        model: the network, channels_last.
        arch: its name in torchvision, or `timm:` and its name in timm.
        head: its output layer.
        pretrained: whether its body carries weights.
        left_out: tensors of the weights that were not used, with their shapes: another task's
            output layer.
        reused: classes whose output row begins as the source model's, with that row's number.
        form: of its images.
        begun: tensors beside the output layer that the weights do not have; they are as drawn.
    """

    model: nn.Module
    arch: str
    head: nn.Module
    pretrained: bool
    left_out: tuple[str, ...]
    reused: Mapping[str, int]
    form: Form = USUAL
    begun: tuple[str, ...] = ()
