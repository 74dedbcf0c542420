"""Mixes a batch on the device that holds it, as the plan says: MixUp and CutMix.

Each image is mixed with the one before it in the global batch, the first with the last; of several
ranks each is given that one, too, so that the mixes are the same for any number of them. Labels
become shares of the classes, as torchvision's own MixUp and CutMix give them, which torch's
cross-entropy takes; rows of several labels, and numbers, are mixed by the same shares.
"""

from __future__ import annotations

import torch
from torch.nn import functional

from pipelines.operations import Mix


def mix_batch(
    images: torch.Tensor, labels: torch.Tensor, how: Mix, *, classes: int, wraps: bool
) -> tuple[torch.Tensor, torch.Tensor]:
    """Mix a batch; in host memory in its own place.

    Args:
        images: float[b, 3, S, S], whose memory is nobody else's.
        labels: int64[b]; of other tasks float32[b, C].
        how: of the batch.
        classes: C.
        wraps: the first image's partner is the last one; else the first is only a partner.

    Returns:
        [B, 3, S, S], and float32[B, C] targets, of classes such that add up to 1; B is b, or b - 1.
    """
    targets = labels
    if labels.ndim == 1:
        targets = functional.one_hot(labels, classes).to(torch.float32)
    first = 0 if wraps or not len(images) else 1
    if how.share == 1 or not len(images):
        return images[first:], targets[first:]
    targets = targets.lerp(targets.roll(1, 0), 1 - how.share)
    if images.device.type == "cpu":
        _mix_in_place(images, how, wraps)
    else:
        images = _mix(images, how)
    return images[first:], targets[first:]


def _mix(images: torch.Tensor, how: Mix) -> torch.Tensor:
    """A mixed batch, in new memory: a few kernels, whatever the batch."""
    others = images.roll(1, 0)
    if how.box is None:
        return images.lerp_(others, 1 - how.share)
    top, left, bottom, right = how.box
    images[..., top:bottom, left:right] = others[..., top:bottom, left:right]
    return images


def _mix_in_place(images: torch.Tensor, how: Mix, wraps: bool) -> None:
    """From the last image to the first, so that each still finds its partner as it was."""
    if how.box is None:
        parts = images
    else:
        top, left, bottom, right = how.box
        parts = images[..., top:bottom, left:right]
    weight = 1.0 if how.box is not None else 1 - how.share
    last = parts[-1].clone() if wraps else None
    for at in range(len(parts) - 1, 0, -1):
        _blend(parts[at], parts[at - 1], weight)
    if last is not None:
        _blend(parts[0], last, weight)


def _blend(image: torch.Tensor, other: torch.Tensor, weight: float) -> None:
    if weight == 1.0:
        image.copy_(other)
    else:
        image.lerp_(other, weight)
