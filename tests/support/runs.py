"""A checkpoint as `fastft train` would leave it, for tests of what comes after training."""

from collections.abc import Callable
from pathlib import Path

import torch
from torch import nn

from fastft.model.classifier import build_model
from fastft.runs.checkpoint import Checkpoint
from pipelines.loaders import make_loader

Batches = list[tuple[torch.Tensor, torch.Tensor]]
Command = Callable[..., tuple[int, str, str]]
SIZE = 40
#: A fifth of the default's work, and a thirtieth of its bytes.
ARCH = "shufflenet_v2_x0_5"


def batches_of(
    data: Path, split: str = "test", *, batch_size: int = 4, view: str = "eval"
) -> Batches:
    with make_loader(
        "torchvision",
        data / f"{split}.beton",
        view=view,
        size=SIZE,
        batch_size=batch_size,
        workers=1,
    ) as loader:
        return list(loader)


def make_checkpoint(data: Path, classes: tuple[str, ...], arch: str = ARCH) -> Checkpoint:
    """A model that does not say the same of every image."""
    model = build_model(len(classes), "none", seed=3, arch=arch).model.train()
    images = torch.cat([images for images, _ in batches_of(data, "train", batch_size=11)])
    for module in model.modules():
        if isinstance(module, nn.BatchNorm2d):
            module.momentum = 1.0  # one pass gives its statistics, as if trained
    with torch.no_grad():
        model(images)
        model.eval()
        assert isinstance(model.fc, nn.Linear)
        model.fc.bias -= model(images).mean(0)
        model.fc.weight *= 3
    return Checkpoint(
        model=model.state_dict(),
        arch=arch,
        classes=classes,
        size=SIZE,
        view="eval",
        epoch=3,
        accuracy=0.5,
        optimizer={},
        scaler={},
        config={"loader": "torchvision", "batch_size": 4, "amp": "off", "workers": 1},
    )
