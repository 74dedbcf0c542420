"""The loss: cross-entropy with smoothing and class weights, averaged or summed over the batch.

The batch may come in parts, over processes and over time: a part's loss is what it adds to the
whole one's.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from numpy.typing import NDArray
from torch.nn import functional

from fastft.config.train import LossReduction
from pipelines.errors import UsageError

_OTHERS = "*"
_MOST = 1e6


class Loss:
    """Cross-entropy of logits float[b, C], and labels int64[b] or shares of classes float[b, C].

    Of shares it is each class's loss by its share: smoothing and class weights mean what they mean
    for a class alone.

    A class weight multiplies its images' losses; unlike torch's own, the mean over the batch is not
    divided by the weights again, so that a step means the same whatever the batch holds.
    """

    def __init__(
        self,
        *,
        reduction: LossReduction = "mean",
        label_smoothing: float = 0.0,
        class_weights: torch.Tensor | None = None,
    ) -> None:
        """Prepare.

        Args:
            reduction: `mean` or `sum` over the batch.
            label_smoothing: share of the target that goes to all classes alike.
            class_weights: float32[C] on the logits' device; None weighs all alike.
        """
        self._reduction, self._smoothing, self._weights = reduction, label_smoothing, class_weights

    def __call__(
        self, logits: torch.Tensor, labels: torch.Tensor, count: int | None = None
    ) -> torch.Tensor:
        """Computes the loss, a scalar; of a part of a batch, its share of the whole batch's loss.

        Args:
            logits: float[b, C]; b may be 0.
            labels: int64[b], or float[b, C] that add up to 1 for each image.
            count: images of the whole batch, over which the mean goes; None: these are all.
        """
        if labels.ndim == 2:
            losses = self._of_shares(logits, labels)
        else:
            losses = functional.cross_entropy(
                logits, labels, reduction="none", label_smoothing=self._smoothing
            )
            if self._weights is not None:
                losses = losses * self._weights[labels]
        total = losses.sum()
        if self._reduction == "sum":
            return total
        return total / (len(labels) if count is None else count)

    def _of_shares(self, logits: torch.Tensor, shares: torch.Tensor) -> torch.Tensor:
        """Losses [b] of images that are of several classes."""
        logs = functional.log_softmax(
            logits, 1, dtype=torch.promote_types(logits.dtype, torch.float)
        )
        if self._weights is not None:
            shares = shares * self._weights
        losses = (shares * logs).sum(1)
        if self._smoothing:
            of_all = shares.sum(1) * logs.mean(1)
            losses = (1 - self._smoothing) * losses + self._smoothing * of_all
        return -losses

    def per_image(self, loss: float, count: int) -> float:
        """A batch's loss as the mean over its `count` images, which is what is reported."""
        return loss / count if self._reduction == "sum" else loss


def count_right(logits: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
    """The number of images whose likeliest class is theirs, or the one that they show most of.

    Args:
        logits: float[b, C].
        labels: int64[b], or float[b, C] shares.
    """
    answers = labels.argmax(1) if labels.ndim == 2 else labels
    return (logits.argmax(1) == answers).sum()


def class_weights(
    asked: str, classes: Sequence[str], labels: NDArray[np.int64]
) -> NDArray[np.float32] | None:
    """Computes the weight of each class in the loss.

    Args:
        asked: empty for none; `balanced`, which makes all classes count the same in sum and an
            image 1 in the mean; or `hotdog=6,*=0.5`, where the star is every other class and 1
            without it.
        classes: class names by label.
        labels: int64[N] of the training set.

    Returns:
        float32[C] by label, or None.

    Raises:
        UsageError: a class that is not there, or no positive number.
    """
    if not asked:
        return None
    if asked == "balanced":
        counts = np.bincount(labels, minlength=len(classes))
        return (len(labels) / (len(classes) * np.maximum(counts, 1))).astype(np.float32)
    given: dict[str, float] = {}
    for part in asked.split(","):
        name, equals, number = part.rpartition("=")
        try:
            given[name.strip()] = float(number)
        except ValueError:
            equals = ""
        if not equals or not 0 <= given[name.strip()] <= _MOST:
            raise UsageError("--class-weight", repr(part), "balanced, or like hotdog=6,*=0.5")
    if unknown := sorted(set(given) - {*classes, _OTHERS}):
        raise UsageError(
            "--class-weight",
            f"{unknown[0]!r}, which is no class",
            f"of {', '.join(classes)}",
            "name one of these, or pass balanced",
        )
    others = given.get(_OTHERS, 1.0)
    return np.array([given.get(name, others) for name in classes], np.float32)
