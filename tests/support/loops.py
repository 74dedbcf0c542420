"""The examples of `pipelines/loaders/LOOPS.md`, and what their loops are given.

Programs named `loop_*.py` run one each: they are given the folder that `lay_out` has filled.

    python tests/support/loops.py FOLDER LIBRARY...

runs several, each in a fork of a process that has imported what they share, in a folder of its
library's name, and leaves what each says there as `stdout`.
"""

from __future__ import annotations

import gc
import importlib
import json
import os
import re
import runpy
import sys
import traceback
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
    "pretrained=True": "channels=[8, 8, 8, 8]",
    "ResNetConfig(d": "ResNetConfig(embedding_size=8, hidden_sizes=[8, 8, 8, 8], d",
}
EPOCHS, STEPS = 2, 4
#: The loader that the examples train on.
OPTIONS: dict[str, Any] = {"view": "train", "size": 32, "batch_size": 8, "drop_last": True}
#: Imported once, without what libraries would import beside because it is there.
_MODULES = {
    "lightning": "lightning.pytorch",
    "accelerate": "accelerate",
    "transformers": "transformers.trainer",
    "timm": "timm.data",
}
_LEFT_OUT = ("boto3", "datasets", "pandas", "sklearn", "wandb")

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


def main() -> None:
    """Run an example for each library."""
    folder, names = Path(sys.argv[1]), sys.argv[2:]
    sys.modules.update(dict.fromkeys(_LEFT_OUT))  # type: ignore[arg-type]
    for name in names:
        importlib.import_module(_MODULES[name])
    gc.freeze()  # what was imported need not be gone through each time that a library looks
    for name in names:
        child = os.fork()
        if child == 0:
            os._exit(_be_program(name, folder / name))
        if os.waitpid(child, 0)[1]:
            sys.exit(f"{name}: ended by an error")


def _be_program(name: str, folder: Path) -> int:
    file = os.open(folder / "stdout", os.O_WRONLY | os.O_CREAT)
    os.dup2(file, 1)
    sys.argv = [f"loop_{name}.py", str(folder)]
    try:
        runpy.run_path(str(Path(__file__).with_name(sys.argv[0])), run_name="__main__")
        sys.stdout.flush()
    except BaseException:
        traceback.print_exc()
        sys.stderr.flush()
        return 1
    return 0


if __name__ == "__main__":
    main()
