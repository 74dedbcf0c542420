"""The networks that exports are of: what they take, and all that they give.

The graph of an export is what torch traces of `forward`; every operation here has a counterpart in
ONNX of opset 18.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import PIL
import torch
from torch import nn
from torch.nn import functional

from fastft.runs.checkpoint import Checkpoint
from fastft.runs.description import LOGITS, NUMBERS, PROBABILITIES
from pipelines.formats.columns import Task
from pipelines.preprocessing import Preprocessing

#: The value in a graph that is the pixels the network sees, before they are normalized.
PIXELS = "pixels"
_LEVELS = 255
#: Pillow rounds halves up, of sums of whole numbers; float32's come out a little lower.
_HALF = 0.5 + 2**-12
_PILLOW = tuple(map(int, PIL.__version__.split(".")[:2]))


class Exported(nn.Module):
    """A network with what its logits stand for.

    Takes float32[B, 3, S, S], normalized; gives logits float32[B, C], and the probabilities or
    numbers float32[B, C] that they are.
    """

    def __init__(self, model: nn.Module, checkpoint: Checkpoint) -> None:
        super().__init__()
        self.model = model
        meaning = checkpoint.outputs
        self._task: Task = meaning.task
        self._mean, self._deviation = meaning.mean, meaning.deviation

    def forward(self, images: torch.Tensor) -> tuple[torch.Tensor, ...]:
        """Logits, and what they stand for."""
        logits: torch.Tensor = self.model(images)
        if self._task == "classes":
            return logits, logits.softmax(1)
        if self._task == "labels":
            return logits, logits.sigmoid()
        return logits, logits * self._deviation + self._mean


class WholePhotos(nn.Module):
    """The same of photos as they are: uint8[B, H, W, 3] RGB of any size.

    They are resized, cut and normalized as evaluation does it.
    """

    def __init__(self, model: nn.Module, checkpoint: Checkpoint) -> None:
        super().__init__()
        self.prepare = Prepare(checkpoint.size, checkpoint.view, checkpoint.preprocessed)
        self.exported = Exported(model, checkpoint)

    def forward(self, images: torch.Tensor) -> tuple[torch.Tensor, ...]:
        """Logits, what they stand for, and the pixels that the network saw."""
        pixels = self.prepare(images)
        outputs: tuple[torch.Tensor, ...] = self.exported(self.prepare.normalize(pixels))
        return *outputs, pixels


class Prepare(nn.Module):
    """Resizing and cutting as `pipelines.plan` has it for evaluation, in a graph.

    Pillow resizes one way, rounds to whole levels, then resizes the other way; so does this, in
    float32, with torch's antialiased filters, which have Pillow's support and coefficients.
    """

    one: torch.Tensor
    steps: torch.Tensor
    mean: torch.Tensor
    std: torch.Tensor

    def __init__(self, size: int, view: str, form: Preprocessing) -> None:
        super().__init__()
        self._size, self._side = size, form.resize_side(size)
        self._is_square, self._filter = view == "eval-square", form.filter
        # Buffers, not constants: these would name the device that they were traced on.
        self.register_buffer("one", torch.ones((), dtype=torch.int64))
        self.register_buffer("steps", torch.arange(size))
        for name, values in (("mean", form.mean), ("std", form.std)):
            self.register_buffer(name, torch.tensor(values).reshape(1, 3, 1, 1))

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        """float32[B, 3, S, S], whole levels 0 to 255, of uint8[B, H, W, 3].

        Sides are tensors up to where they are sizes. As symbols they would stand in every assertion
        of the program, page-long, and tracing and loading it would take ten times as long.
        """
        height, width = self.one * images.shape[1], self.one * images.shape[2]
        if self._is_square:
            resized_h = resized_w = self.one * self._side
        else:  # torchvision's int(size * long / short): no float comes near it
            short = torch.minimum(height, width)
            resized_h, resized_w = (_divide(self._side * each, short) for each in (height, width))
        goes_down = _goes_down_first(height - resized_h, width - resized_w)
        first_h = height + goes_down * (resized_h - height)
        first_w = resized_w + goes_down * (width - resized_w)
        pixels = images.permute(0, 3, 1, 2).float().contiguous()
        pixels = self._resize(pixels, (first_h, first_w))
        pixels = self._resize(pixels, (resized_h, resized_w))
        rows, columns = self._places(resized_h), self._places(resized_w)
        return pixels.index_select(2, rows).index_select(3, columns)

    def normalize(self, pixels: torch.Tensor) -> torch.Tensor:
        """What the network is given of pixels."""
        return (pixels / _LEVELS - self.mean) / self.std

    def _resize(self, pixels: torch.Tensor, sides: Sequence[torch.Tensor]) -> torch.Tensor:
        sizes: list[Any] = [side.item() for side in sides]  # in a trace symbols
        for size in sizes:
            torch._check(size >= 1)  # which a tracer cannot know
        resized: torch.Tensor = functional.interpolate(
            pixels, sizes, mode=self._filter, antialias=True, align_corners=False
        )
        return (resized + _HALF).floor().clamp(0, _LEVELS)

    def _places(self, resized: torch.Tensor) -> torch.Tensor:
        """int64[S]: the rows or columns in the middle; halves are rounded to even, as Python's."""
        slack = resized - self._size
        return self.steps + _divide(slack + _divide(slack, 2) % 2, 2)


def _divide(number: torch.Tensor, by: torch.Tensor | int) -> torch.Tensor:
    """The whole part of a quotient of numbers that are not negative."""
    return torch.div(number, by, rounding_mode="trunc")


def _goes_down_first(down: torch.Tensor, across: torch.Tensor) -> torch.Tensor | int:
    """1 where Pillow resizes down before across, else 0.

    Args:
        down, across: by how many px an image shrinks.

    Source: pull request 9549 of python-pillow/Pillow.
    """
    if _PILLOW < (13, 0):
        return 0
    return (down > (2 * across).clamp(min=0)).long()


def list_outputs(checkpoint: Checkpoint) -> tuple[str, str]:
    """The names of the outputs."""
    return LOGITS, NUMBERS if checkpoint.outputs.task == "number" else PROBABILITIES
