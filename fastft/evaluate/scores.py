"""Scores of a classifier from its outputs: counts, rates and losses, in numpy.

Arrays of N samples and C classes in, numbers out; where the outputs come from and how the numbers
are shown is left to others. Definitions are the textbook's, in float64:

- precision of a class: right among what was predicted to be it; 0 if nothing was;
- recall of a class: right among what is it; 0 if nothing is;
- F1: the harmonic mean of both, 0 if both are 0; macro F1 is its mean over all classes alike;
- loss: the cross entropy, -log of the probability of the truth.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float64]
Ints = NDArray[np.int64]

#: Of the normal distribution, for an interval that holds 95 % of it.
_Z_95 = 1.959963984540054


@dataclass(frozen=True, slots=True)
class Samples:
    """The findings for each sample.

    Attributes:
        labels: int64[N], the truth.
        predicted: int64[N], the class of the highest output; the first of equal ones.
        probability: float64[N], of the predicted class.
        truth_probability: float64[N], of the true class.
        losses: float64[N].
    """

    labels: Ints
    predicted: Ints
    probability: Floats
    truth_probability: Floats
    losses: Floats

    def __len__(self) -> int:
        return len(self.labels)

    @property
    def right(self) -> int:
        """The number of right predictions."""
        return int((self.labels == self.predicted).sum())

    def worst(self, count: int) -> Ints:
        """The `count` samples of the highest loss, the highest first; equal ones in order."""
        return np.argsort(-self.losses, kind="stable")[:count]


@dataclass(frozen=True, slots=True)
class ClassScores:
    """Precision, recall and F1 of each class.

    Attributes:
        precision, recall, f1: float64[C].
        support: int64[C], samples that are the class.
        predicted: int64[C], samples that were taken for it.
    """

    precision: Floats
    recall: Floats
    f1: Floats
    support: Ints
    predicted: Ints

    @property
    def macro_f1(self) -> float:
        """The mean of F1 over the classes, however large each is."""
        return float(self.f1.mean())


@dataclass(frozen=True, slots=True)
class ConfusedPair:
    """A mistake that is made: `count` samples of class `truth` were taken for `predicted`.

    Attributes:
        truth, predicted: class numbers.
        count: samples.
        share: of the samples that are `truth`, 0 to 1.
    """

    truth: int
    predicted: int
    count: int
    share: float


@dataclass(frozen=True, slots=True)
class Findings:
    """All that the outputs say.

    Attributes:
        samples: by sample.
        loss: its mean.
        accuracy: share of right answers.
        interval: Wilson's 95% interval of the accuracy.
        plain_accuracy: of the images alone, if mirrored ones or other crops were averaged in.
        matrix: int64[C, C], truth by prediction.
        scores: by class.
        pairs: mistakes, the most frequent first.
    """

    samples: Samples
    loss: float
    accuracy: float
    interval: tuple[float, float]
    plain_accuracy: float | None
    matrix: Ints
    scores: ClassScores
    pairs: list[ConfusedPair]


def judge(
    logits: NDArray[np.float32], labels: Ints, plain: NDArray[np.float32] | None = None
) -> Findings:
    """Judge a classifier by its outputs.

    Args:
        logits: float32[N, C], finite.
        labels: int64[N].
        plain: float32[N, C], of the images alone, where `logits` are an average over several views.
    """
    samples = judge_samples(logits, labels)
    matrix = confusion_matrix(labels, samples.predicted, logits.shape[1])
    return Findings(
        samples=samples,
        loss=float(samples.losses.mean()),
        accuracy=samples.right / len(labels),
        interval=wilson_interval(samples.right, len(labels)),
        plain_accuracy=None if plain is None else float((plain.argmax(1) == labels).mean()),
        matrix=matrix,
        scores=class_scores(matrix),
        pairs=confused_pairs(matrix),
    )


def judge_samples(logits: NDArray[np.float32], labels: Ints) -> Samples:
    """Judge each sample by its outputs.

    Args:
        logits: float32[N, C], finite.
        labels: int64[N].
    """
    scores = log_softmax(logits)
    # Of the outputs themselves: rounding must not make two of them equal.
    predicted = logits.argmax(1).astype(np.int64)
    rows = np.arange(len(labels))
    losses = -scores[rows, labels]
    return Samples(labels, predicted, np.exp(scores[rows, predicted]), np.exp(-losses), losses)


def log_softmax(logits: NDArray[np.float32]) -> Floats:
    """float64[N, C]: the logarithm of each class's probability."""
    wide = logits.astype(np.float64)
    wide -= wide.max(1, keepdims=True)
    wide -= np.log(np.exp(wide).sum(1, keepdims=True))
    return wide


def confusion_matrix(labels: Ints, predicted: Ints, classes: int) -> Ints:
    """int64[C, C]: how many samples of the row's class were taken for the column's."""
    counts = np.bincount(labels * classes + predicted, minlength=classes * classes)
    return counts.reshape(classes, classes).astype(np.int64)


def class_scores(matrix: Ints) -> ClassScores:
    """Precision, recall and F1 of each class of a confusion matrix."""
    right = np.diagonal(matrix)
    support, predicted = matrix.sum(1), matrix.sum(0)
    return ClassScores(
        precision=_ratio(right, predicted),
        recall=_ratio(right, support),
        # The same as 2 P R / (P + R), without dividing twice.
        f1=_ratio(2 * right, support + predicted),
        support=support,
        predicted=predicted,
    )


def confused_pairs(matrix: Ints) -> list[ConfusedPair]:
    """All mistakes, the most frequent first; of equally frequent ones those of the rarer truth."""
    wrong = matrix.copy()
    np.fill_diagonal(wrong, 0)
    support = matrix.sum(1)
    pairs = [
        ConfusedPair(int(t), int(p), int(wrong[t, p]), float(wrong[t, p] / support[t]))
        for t, p in zip(*np.nonzero(wrong), strict=True)
    ]
    return sorted(pairs, key=lambda pair: (-pair.count, -pair.share, pair.truth, pair.predicted))


def wilson_interval(right: int, samples: int) -> tuple[float, float]:
    """The 95% interval of a share of which `right` in `samples` were seen.

    Source: Wilson, "Probable inference, the law of succession, and statistical inference", JASA
    1927. Unlike the usual normal interval it stays within 0 and 1 and has a width at either end.
    """
    share, z2 = right / samples, _Z_95**2
    centre = share + z2 / (2 * samples)
    half = _Z_95 * math.sqrt(share * (1 - share) / samples + z2 / (4 * samples**2))
    low, high = ((centre + sign * half) / (1 + z2 / samples) for sign in (-1, 1))
    # Rounding alone would leave 1e-17 where the formula gives 0 or 1.
    return (low if right else 0.0), (high if right < samples else 1.0)


def _ratio(part: Ints, whole: Ints) -> Floats:
    """`part` / `whole`, 0 where there is nothing of it."""
    return np.divide(part, whole, out=np.zeros(len(part)), where=whole > 0)
