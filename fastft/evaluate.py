"""Evaluation: every sample of a loader once, in eval mode."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

import torch
from torch import nn
from torch.nn import functional


@dataclass(frozen=True, slots=True)
class Evaluation:
    """Mean loss and share of right answers over `samples` samples."""

    loss: float
    accuracy: float
    samples: int


@torch.inference_mode()
def evaluate(
    model: nn.Module,
    batches: Iterable[tuple[torch.Tensor, torch.Tensor]],
    *,
    device: torch.device,
    amp_dtype: torch.dtype | None,
) -> Evaluation:
    """Run `model` over `batches` of images and labels on `device`."""
    model.eval()
    # Sums stay on the device: one synchronization at the end, none per batch.
    loss = torch.zeros((), device=device)
    right = torch.zeros((), dtype=torch.int64, device=device)
    samples = 0
    for images, labels in batches:
        with torch.autocast(device.type, dtype=amp_dtype, enabled=amp_dtype is not None):
            logits = model(images)
        loss += functional.cross_entropy(logits.float(), labels, reduction="sum")
        right += (logits.argmax(1) == labels).sum()
        samples += len(labels)
    return Evaluation(loss.item() / samples, right.item() / samples, samples)
