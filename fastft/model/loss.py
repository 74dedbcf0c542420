"""The loss of each task, averaged or summed over the batch.

Cross-entropy of classes, binary cross-entropy of several labels, squared error of a number. The
batch may come in parts, over processes and over time: a part's loss is what it adds to the whole
one's.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import ClassVar

import numpy as np
import torch
from numpy.typing import NDArray
from torch.nn import functional

from fastft.config.train import LossReduction
from pipelines.errors import UsageError
from pipelines.formats.columns import Task

_OTHERS = "*"
_MOST = 1e6
#: Bounds of a label's balanced weight: with more a batch would hang on the one image that has it.
_BALANCED = (0.05, 20.0)


class Loss:
    """Cross-entropy of logits float[b, C], and labels int64[b] or shares of classes float[b, C].

    Of shares it is each class's loss by its share: smoothing and class weights mean what they mean
    for a class alone.

    A class weight multiplies its images' losses; unlike torch's own, the mean over the batch is not
    divided by the weights again, so that a step means the same whatever the batch holds.

    Attributes:
        task: what it is the loss of.
    """

    task: ClassVar[Task] = "classes"

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
        total = self._losses(logits, labels).sum()
        if self._reduction == "sum":
            return total
        return total / (len(labels) if count is None else count)

    def count_right(self, logits: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
        """The number of images that the model is right about."""
        return count_right(logits, labels)

    def training_score(self, loss: float, right: float) -> float:
        """The measure of training steps, of their mean loss and their share of right answers."""
        return right

    def make_labels(self, images: int, outputs: int, device: torch.device) -> torch.Tensor:
        """Labels of anything, as data would have them."""
        return torch.randint(outputs, (images,), device=device)

    def _losses(self, logits: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
        """Losses [b] of the images."""
        if labels.ndim == 2:
            return self._of_shares(logits, labels)
        losses = functional.cross_entropy(
            logits, labels, reduction="none", label_smoothing=self._smoothing
        )
        return losses if self._weights is None else losses * self._weights[labels]

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


class LabelLoss(Loss):
    """Binary cross-entropy of logits float[b, C] and labels float[b, C], 0 to 1.

    An image's loss is the mean over its labels, so that it does not grow with their number. A
    class weight multiplies what a label costs where it is there, against where it is not. Smoothing
    by s makes 0 and 1 to s/2 and 1 - s/2.
    """

    task = "labels"

    def count_right(self, logits: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
        """The number of images of which each label is told right, at a probability of one half."""
        return ((logits >= 0) == (labels >= 0.5)).all(1).sum()

    def make_labels(self, images: int, outputs: int, device: torch.device) -> torch.Tensor:
        """Labels of anything, as data would have them."""
        return torch.randint(2, (images, outputs), device=device).float()

    def _losses(self, logits: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
        logits = logits.to(torch.promote_types(logits.dtype, torch.float))
        labels = labels.to(logits.dtype)
        if self._smoothing:
            labels = labels * (1 - self._smoothing) + self._smoothing / 2
        weights = None if self._weights is None else self._weights.to(logits.dtype)
        losses = functional.binary_cross_entropy_with_logits(
            logits, labels, reduction="none", pos_weight=weights
        )
        return losses.mean(1)


class NumberLoss(Loss):
    """Squared error of outputs float[b, 1] and numbers float[b, 1], in deviations from the mean."""

    task = "number"

    def __init__(
        self, *, reduction: LossReduction = "mean", mean: float = 0.0, deviation: float = 1.0
    ) -> None:
        """Prepare; `mean` and `deviation` are the training split's."""
        super().__init__(reduction=reduction)
        self._mean, self._deviation = mean, deviation

    def count_right(self, logits: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
        """None: a number is never just right."""
        return torch.zeros((), dtype=torch.int64, device=logits.device)

    def training_score(self, loss: float, right: float) -> float:
        """R2, against the variance of the training split, which is 1 in deviations."""
        return 1 - loss

    def make_labels(self, images: int, outputs: int, device: torch.device) -> torch.Tensor:
        """Labels of anything, as data would have them."""
        return torch.randn((images, outputs), device=device)

    def _losses(self, logits: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
        logits = logits.to(torch.promote_types(logits.dtype, torch.float))
        wanted = (labels.to(logits.dtype) - self._mean) / self._deviation
        return (logits - wanted).square().sum(1)


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
    return _read_weights(asked, classes)


def label_weights(
    asked: str, labels: Sequence[str], targets: NDArray[np.float32]
) -> NDArray[np.float32] | None:
    """Computes what each label costs where it is there, against where it is not.

    Args:
        asked: empty for none; `balanced`: how many images have not the label for one that has it,
            at least 0.05 and at most 20; or `hotdog=6,*=0.5`, as for classes.
        labels: their names.
        targets: float32[N, C] of the training set.

    Returns:
        float32[C], or None.

    Raises:
        UsageError: a label that is not there, or no positive number.
    """
    if not asked:
        return None
    if asked == "balanced":
        have = targets.sum(0, dtype=np.float64)
        ratios = (len(targets) - have) / np.maximum(have, 1)
        clipped: NDArray[np.float32] = np.clip(ratios, *_BALANCED).astype(np.float32)
        return clipped
    return _read_weights(asked, labels)


def _read_weights(asked: str, classes: Sequence[str]) -> NDArray[np.float32]:
    """float32[C]: the weights that are named.

    Raises:
        UsageError: a class that is not there, or no positive number.
    """
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
