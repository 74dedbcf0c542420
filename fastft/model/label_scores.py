"""Scores of several labels from a model's outputs: average precision, counts, thresholds; in numpy.

Definitions are the textbook's, in float64:

- average precision of a label: the sum over its distinct outputs, from the highest down, of what
  recall each adds times the precision down to it; NaN where no sample has the label;
- mAP: its mean over the labels that some sample has;
- precision, recall and F1 at a threshold as of classes, 0 where there is nothing of it; micro over
  all decisions together, macro as the mean over the labels that some sample has.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float64]
Bools = NDArray[np.bool_]
Ints = NDArray[np.int64]
#: The probability from which on a label is told where nothing else is asked for.
HALF = 0.5


@dataclass(frozen=True, slots=True)
class LabelScores:
    """Counts of the decisions about each label, and their scores.

    Attributes:
        right, predicted, support: int64[C]: samples that were told to have it and do, that were
            told to, and that do.
    """

    right: Ints
    predicted: Ints
    support: Ints

    @property
    def precision(self) -> Floats:
        """float64[C]."""
        return _ratio(self.right, self.predicted)

    @property
    def recall(self) -> Floats:
        """float64[C]."""
        return _ratio(self.right, self.support)

    @property
    def f1(self) -> Floats:
        """float64[C]."""
        return _ratio(2 * self.right, self.predicted + self.support)

    @property
    def macro_f1(self) -> float:
        """The mean over the labels that some sample has; NaN if there is none."""
        return _mean(self.f1[self.support > 0])

    @property
    def micro_f1(self) -> float:
        """F1 of all decisions together."""
        total = int(self.predicted.sum() + self.support.sum())
        return 2 * int(self.right.sum()) / total if total else 0.0


def sigmoid(outputs: NDArray[np.float32]) -> Floats:
    """float64[N, C]: the probabilities that outputs stand for."""
    # The half of both that does not overflow.
    small = np.exp(-np.abs(outputs.astype(np.float64)))
    return np.where(outputs >= 0, 1 / (1 + small), small / (1 + small))


def average_precisions(outputs: NDArray[np.float32], has: Bools) -> Floats:
    """float64[C]: average precision of each label; NaN where no sample has it.

    Args:
        outputs: float32[N, C].
        has: bool[N, C].
    """
    return np.array([_average_precision(*pair) for pair in _columns(outputs, has)])


def mean_average_precision(precisions: Floats) -> float:
    """The mean over the labels that some sample has; NaN if there is none."""
    return _mean(precisions[~np.isnan(precisions)])


def count(predicted: Bools, has: Bools) -> LabelScores:
    """Count decisions.

    Args:
        predicted, has: bool[N, C].
    """
    counts = (each.sum(0, dtype=np.int64) for each in (predicted & has, predicted, has))
    return LabelScores(*counts)


def best_thresholds(probabilities: Floats, has: Bools) -> Floats:
    """float64[C]: the threshold of the highest F1; of equals the highest; half where none has it.

    It lies halfway between two probabilities that occur, so that rounding does not cross it.

    Args:
        probabilities: float64[N, C].
        has: bool[N, C].
    """
    return np.array([_best_threshold(*pair) for pair in _columns(probabilities, has)])


def _columns(scores: NDArray[Any], has: Bools) -> Iterator[tuple[NDArray[Any], Bools]]:
    """Each label's scores and truth, in memory of one piece, which is sorted faster."""
    return zip(np.ascontiguousarray(scores.T), np.ascontiguousarray(has.T), strict=True)


def _steps(scores: NDArray[np.floating], has: Bools) -> tuple[Floats, Ints, Ints]:
    """Distinct scores from the highest down; how many samples reach each, and have the label."""
    order = np.argsort(-scores)  # samples of equal scores count together, in whatever order
    ordered = scores[order].astype(np.float64)
    ends = np.append(np.flatnonzero(np.diff(ordered)), len(ordered) - 1)
    return ordered[ends], ends + 1, np.cumsum(has[order], dtype=np.int64)[ends]


def _average_precision(scores: NDArray[np.float32], has: Bools) -> float:
    if not has.any():
        return float("nan")
    _, reached, right = _steps(scores, has)
    added = np.diff(right, prepend=0)
    return float((added * (right / reached)).sum() / has.sum())


def _best_threshold(probabilities: Floats, has: Bools) -> float:
    if not has.any():
        return HALF
    distinct, reached, right = _steps(probabilities, has)
    best = int(np.argmax(2 * right / (reached + has.sum())))
    below = distinct[best + 1] if best + 1 < len(distinct) else 0.0
    return float((distinct[best] + below) / 2)


def _mean(values: Floats) -> float:
    return float(values.mean()) if len(values) else float("nan")


def _ratio(part: Ints, whole: Ints) -> Floats:
    return np.divide(part, whole, out=np.zeros(len(part)), where=whole > 0)
