"""The examples of `pipelines/loaders/LOOPS.md`, and what their loops are given.

Programs named `loop_*.py` run one each: they are given the folder that `lay_out` has filled.
"""

from __future__ import annotations

import json
import os
import re
import runpy
import sys
import zlib
from pathlib import Path
from typing import Any

import torch
from torch import nn
from torchvision import models

from pipelines.loaders import Loader, make_loader

TEXT = Path(__file__).parents[2] / "pipelines" / "loaders" / "LOOPS.md"
#: What an example says, and a test's smaller form of it.
SMALLER = {
    "= 224, 128, 5": "= 32, 8, 2",
    "pretrained=True": "pretrained=False",
    "ResNetConfig(d": "ResNetConfig(embedding_size=8, hidden_sizes=[8, 8, 8, 8], d",
}
EPOCHS, STEPS = 2, 4
#: The loader that the examples train on.
OPTIONS: dict[str, Any] = {"view": "train", "size": 32, "batch_size": 8, "drop_last": True}


#: Headings, by the library below.
_HEADINGS = {
    "lightning": "Lightning",
    "accelerate": "accelerate",
    "transformers": "Hugging Face's Trainer",
    "timm": "timm",
}


def read_examples() -> dict[str, str]:
    """The code blocks, by the library that they are about."""
    sections = dict(each.split("\n", 1) for each in TEXT.read_text().split("\n## ")[1:])
    return {
        name: re.search(r"^```python\n(.*?)^```", sections[heading], re.M | re.S)[1]  # type: ignore[index]
        for name, heading in _HEADINGS.items()
    }


def lay_out(name: str, data: Path, folder: Path) -> Path:
    """Write an example into a folder that has its data; gives its file."""
    code = read_examples()[name]
    for said, smaller in SMALLER.items():
        code = code.replace(said, smaller)
    (folder / "data").symlink_to(data)
    file = folder / "example.py"
    file.write_text(code)
    return file


def run_example(name: str = "__main__") -> dict[str, Any]:
    """Run the example in the folder that the command line names; gives its globals.

    Args:
        name: the module's.
    """
    os.chdir(sys.argv[1])
    models.resnet18 = _make_tiny
    return runpy.run_path("example.py", run_name=name)


def _make_tiny(num_classes: int) -> nn.Module:
    """A network in the place of a ResNet-18: loops are looked at here, not models."""
    return nn.Sequential(
        nn.Conv2d(3, 8, 4, stride=4, bias=False),
        nn.BatchNorm2d(8),
        nn.ReLU(),
        nn.AdaptiveAvgPool2d(1),
        nn.Flatten(),
        nn.Linear(8, num_classes),
    )


def look_at(images: torch.Tensor) -> int:
    """A checksum of a batch."""
    return zlib.crc32(images.contiguous().numpy())


def expected(epochs: int = EPOCHS, **options: Any) -> list[int]:
    """Checksums of the batches that the examples train on."""
    with make_loader("resident", "data/train.beton", **OPTIONS, **options) as loader:
        return [each for epoch in range(epochs) for each in _epoch(loader, epoch)]


def _epoch(loader: Loader, epoch: int) -> list[int]:
    loader.set_epoch(epoch)
    return [look_at(images) for images, _ in loader]


def tell(**found: Any) -> None:
    """Print what a program has found."""
    print(json.dumps(found))
