"""A network of three layers by the name of a ShuffleNet: what goes over graphs is soon done."""

from __future__ import annotations

from functools import partial
from typing import Any

import pytest
import torch
from torch import nn
from torchvision.models import shufflenetv2


class Tiny(nn.Module):
    """Convolution, batch norm and an output layer; its outputs depend on the light in a photo."""

    def __init__(self, *_: Any, num_classes: int = 1000, drop: float = 0.0, **__: Any) -> None:
        super().__init__()
        self.conv = nn.Conv2d(3, 8, 5, stride=4)
        self.bn = nn.BatchNorm2d(8)
        self.drop = nn.Dropout(drop) if drop else nn.Identity()
        self.fc = nn.Linear(8, num_classes)

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        """Logits."""
        features = self.bn(self.conv(images)).relu()
        logits: torch.Tensor = self.fc(self.drop(features.mean((2, 3))))
        return logits


def make_tiny(patch: pytest.MonkeyPatch, *, drop: float = 0.0) -> None:
    """Give this process `Tiny` for every ShuffleNet that it builds; no other weights fit it.

    Args:
        patch: undoes it.
        drop: its dropout, which draws numbers in each step; none by default.
    """
    patch.setattr(shufflenetv2, "ShuffleNetV2", partial(Tiny, drop=drop))
