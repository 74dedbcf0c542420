"""Evaluation: every sample of a loader once, in eval mode.

Training asks for mean loss and accuracy, `fastft evaluate` for every output as well. What the
outputs mean is told by `evaluate.scores`.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn
from torch.nn import functional

from fastft.train.distributed import ALONE, World
from pipelines.errors import DataError


@dataclass(frozen=True, slots=True)
class Outputs:
    """The model's outputs for each sample, in the order in which the samples came.

    Attributes:
        logits: float32[N, C], whose softmax are the probabilities.
        labels: int64[N].
        plain: float32[N, C], of the images alone, where `logits` are of images and mirror images.
    """

    logits: NDArray[np.float32]
    labels: NDArray[np.int64]
    plain: NDArray[np.float32] | None = None


@dataclass(frozen=True, slots=True)
class Evaluation:
    """Mean loss and share of right answers over `samples` samples; all outputs if kept."""

    loss: float
    accuracy: float
    samples: int
    outputs: Outputs | None = field(default=None, compare=False, repr=False)


@torch.inference_mode()
def evaluate(
    model: nn.Module,
    batches: Iterable[tuple[torch.Tensor, torch.Tensor]],
    *,
    device: torch.device,
    amp_dtype: torch.dtype | None,
    flip: bool = False,
    keep: bool = False,
    world: World = ALONE,
) -> Evaluation:
    """Run `model` over `batches` of images and labels on `device`.

    Args:
        model: the classifier; it is put into eval mode.
        batches: images [B, 3, S, S] and labels int64[B], on `device`.
        device: where the model is.
        amp_dtype: what autocast computes in; None for float32.
        flip: average the probabilities of each image and its mirror image.
        keep: give all outputs back, too. They lie on the device until the end.
        world: who else evaluates: of each batch this process has its share alone, every sample is
            one process's, and the result is of all.

    Raises:
        DataError: there is no sample.
    """
    model.eval()
    # Sums stay on the device: one synchronization at the end, none per batch.
    loss = torch.zeros((), device=device)
    right = torch.zeros((), dtype=torch.int64, device=device)
    samples = 0
    kept: list[tuple[torch.Tensor, torch.Tensor, torch.Tensor]] = []
    for images, labels in batches:
        if not len(labels):  # a last batch with fewer samples than processes
            continue
        logits, plain = classify(model, images, amp_dtype, flip=flip)
        loss += functional.cross_entropy(logits, labels, reduction="sum")
        right += (logits.argmax(1) == labels).sum()
        samples += len(labels)
        if keep:
            kept.append((logits, labels, plain))
    total_loss, total_right, total = world.sum([loss.item(), right.item(), samples])
    if not total:
        raise DataError("evaluation", "no samples", "at least one", "see fastft inspect")
    outputs = _join(kept, flip) if keep else None
    return Evaluation(total_loss / total, total_right / total, int(total), outputs)


def classify(
    model: nn.Module, images: torch.Tensor, amp_dtype: torch.dtype | None, *, flip: bool
) -> tuple[torch.Tensor, torch.Tensor]:
    """The outputs for some images, wherever they lie.

    Args:
        model: the classifier, in eval mode.
        images: [B, 3, S, S].
        amp_dtype: what autocast computes in; None for float32.
        flip: average the probabilities of each image and its mirror image.

    Returns:
        float32[B, C], whose softmax are the probabilities; float32[B, C] of the images alone, the
        same unless `flip`.
    """
    plain = _run(model, images, amp_dtype)
    if not flip:
        return plain, plain
    mirrored = _run(model, images.flip(3), amp_dtype)
    # Logarithms throughout: the mean of two probabilities that are too small for a float would be
    # 0, and its loss infinite. The sum serves as well as the mean: softmax ignores the log 2.
    return torch.logaddexp(plain.log_softmax(1), mirrored.log_softmax(1)), plain


def _run(model: nn.Module, images: torch.Tensor, amp_dtype: torch.dtype | None) -> torch.Tensor:
    with torch.autocast(images.device.type, dtype=amp_dtype, enabled=amp_dtype is not None):
        logits: torch.Tensor = model(images)
    return logits.float()


def _join(kept: list[tuple[torch.Tensor, torch.Tensor, torch.Tensor]], flip: bool) -> Outputs:
    """Move the outputs of all batches off the device, each kind at once."""
    logits, labels, plain = zip(*kept, strict=True)
    return Outputs(_fetch(logits), _fetch(labels), _fetch(plain) if flip else None)


def _fetch(parts: tuple[torch.Tensor, ...]) -> Any:
    return torch.cat(parts).cpu().numpy()
