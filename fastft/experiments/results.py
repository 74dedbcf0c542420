"""Results of several runs together: accuracies with intervals, differences, a rate to take.

Knows nothing of how runs are made (`run`, `lr_find`) nor shown (`plots`).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from fastft.runs.measures import Measure
from fastft.runs.metrics import EpochMetrics
from fastft.system import students_t
from pipelines.errors import DataError
from pipelines.memory import require_blas_room

FINE_TUNED, SCRATCH, FROZEN = "fine-tuned", "scratch", "frozen"
#: Of every interval that is shown.
CONFIDENCE = 0.95
#: A loss this many times the lowest has run away.
AWAY = 4.0
#: Steps that an average reaches to either side, as a Gaussian's deviation: a third of a decade.
_REACH = 5.0


@dataclass(frozen=True, slots=True)
class Interval:
    """A mean over seeds with its 95% interval by Student's t; None where one seed tells nothing."""

    mean: float
    low: float | None
    high: float | None

    @property
    def is_positive(self) -> bool:
        """Whether zero lies below the interval."""
        return self.low is not None and self.low > 0


@dataclass(frozen=True, kw_only=True, slots=True)
class Run:
    """One run: its seed and fold, its epochs, and how long it trained and evaluated."""

    seed: int
    epochs: tuple[EpochMetrics, ...]
    seconds: float
    fold: int | None = None

    @property
    def accuracy(self) -> float:
        """Accuracy, or the task's score, after the last epoch: no epoch is picked by it."""
        return self.epochs[-1].score


@dataclass(frozen=True, kw_only=True, slots=True)
class Variant:
    """One of the things compared: its settings and its runs, by seed.

    Attributes:
        name: what it is called.
        lr, head_lr_factor: what its runs learnt at.
        runs: one for each seed.
    """

    name: str
    lr: float
    head_lr_factor: float
    runs: tuple[Run, ...]

    @property
    def accuracies(self) -> list[float]:
        """By seed."""
        return [run.accuracy for run in self.runs]

    @property
    def accuracy(self) -> Interval:
        """Over the seeds."""
        return mean_interval(self.accuracies)

    @property
    def seconds(self) -> float:
        """Mean seconds of a run."""
        return float(np.mean([run.seconds for run in self.runs]))


def score_of(variants: Sequence[Variant]) -> Measure:
    """The measure that the variants are compared by."""
    return variants[0].runs[0].epochs[-1].measures.score


def mean_interval(values: Sequence[float]) -> Interval:
    """The mean of independent values, and its interval by Student's t."""
    mean = float(np.mean(values))
    if len(values) < 2:
        return Interval(mean, None, None)
    error = float(np.std(values, ddof=1)) / len(values) ** 0.5
    reach = students_t.quantile((1 + CONFIDENCE) / 2, len(values) - 1) * error
    return Interval(mean, mean - reach, mean + reach)


def difference(first: Variant, second: Variant) -> Interval:
    """The first's accuracy minus the second's; runs of one seed are a pair, with the same plan."""
    pairs = zip(first.accuracies, second.accuracies, strict=True)
    return mean_interval([mine - other for mine, other in pairs])


@dataclass(frozen=True, slots=True)
class Comparison:
    """The content of a `compare.json`.

    Attributes:
        config: of the fine-tuned runs, as JSON values.
        environment: see `system.environment`.
        variants: fine-tuned, scratch, frozen.
        gains: name of another variant -> by how much fine-tuning is more accurate.
    """

    config: dict[str, Any]
    environment: dict[str, Any]
    variants: tuple[Variant, ...]
    gains: dict[str, Interval]

    def __post_init__(self) -> None:
        """Check what the types do not say.

        Raises:
            ValueError: there is a variant of no run, or a run of no epoch.
        """
        _require_runs(self.variants)


@dataclass(frozen=True, slots=True)
class Sweep:
    """The content of a `sweep.json`.

    Attributes:
        config: of the first runs, as JSON values.
        environment: see `system.environment`.
        variants: by start, then in the order of the rates.
        best: start -> the rate with the best mean accuracy; of equals the lowest.
    """

    config: dict[str, Any]
    environment: dict[str, Any]
    variants: tuple[Variant, ...]
    best: dict[str, float]

    def __post_init__(self) -> None:
        """Check what the types do not say.

        Raises:
            ValueError: there is a variant of no run, or a start of no variant.
        """
        _require_runs(self.variants)
        if not all(map(self.points, self.best)):
            raise ValueError("a best rate of each start that was tried")

    def points(self, start: str) -> tuple[Variant, ...]:
        """The variants of a start."""
        return tuple(each for each in self.variants if each.name.startswith(f"{start},"))

    def best_variant(self, start: str) -> Variant:
        """The one with the best rate."""
        return pick_best(self.points(start))


def _require_runs(variants: Sequence[Variant]) -> None:
    runs = [run for each in variants for run in each.runs]
    if not (runs and all(each.runs for each in variants) and all(run.epochs for run in runs)):
        raise ValueError("variants, each of a run or more, and of an epoch")


def pick_best(variants: Sequence[Variant]) -> Variant:
    """The variant with the best mean accuracy; of equals the one of the lowest rate."""
    return max(variants, key=lambda each: (each.accuracy.mean, -each.lr))


@dataclass(frozen=True, slots=True)
class LrFinding:
    """The result of a search for a learning rate.

    Attributes:
        suggestion: a peak rate for a schedule that warms up and falls.
        lowest: the rate with the lowest averaged loss.
        ran_away: the rate at which the loss ran away; None if it never did.
        lrs, losses, averaged: by step.
    """

    suggestion: float
    lowest: float
    ran_away: float | None
    lrs: tuple[float, ...]
    losses: tuple[float, ...]
    averaged: tuple[float, ...]

    def __str__(self) -> str:
        """The advice in one line."""
        away = "never ran away" if self.ran_away is None else f"ran away at {self.ran_away:.2g}"
        return (
            f"suggested: --lr {self.suggestion:.2g} (the loss is lowest at {self.lowest:.2g} and "
            f"{away})"
        )


def as_json(found: Comparison | Sweep) -> dict[str, Any]:
    """All that was found as JSON values, with each variant's accuracies beside its runs."""
    rows = [
        {
            **asdict(each),
            "runs": [
                {**asdict(run), "epochs": [row.pack() for row in run.epochs]} for run in each.runs
            ],
            "accuracies": each.accuracies,
            "accuracy": asdict(each.accuracy),
        }
        for each in found.variants
    ]
    return asdict(found) | {"variants": rows}


def suggest(lrs: NDArray[np.float64], losses: NDArray[np.float64], where: str) -> LrFinding:
    """Read a suggestion off losses at rising rates.

    Raises:
        DataError: the loss never fell.
    """
    kept = np.isfinite(losses)
    if kept.sum() < 3:
        raise _never_fell(where)
    away = not kept[-1] or losses[-1] > AWAY * losses[kept].min()
    ran_away = float(lrs[-1]) if away else None
    lrs, losses = lrs[kept], losses[kept]
    # What runs away at the end must not lift what comes before it.
    ceiling = 1.5 * float(np.median(losses[:10]))
    require_blas_room()
    from scipy.ndimage import gaussian_filter1d

    averaged = gaussian_filter1d(np.minimum(losses, ceiling), _REACH, mode="nearest")
    lowest = int(np.argmin(averaged))
    if lowest == 0:
        raise _never_fell(where)
    # Halfway by factors between the two. Of SGD that was 0.0027 on weights and 0.015 from scratch
    # where sweeps found 0.003 and 0.01 best, of AdamW 0.0005 where 0.0005 to 0.002 were alike (240
    # synthetic photos). Where the loss falls fastest, as others suggest, was a tenth of that.
    suggestion = float(lrs[lowest]) if ran_away is None else (lrs[lowest] * ran_away) ** 0.5
    return LrFinding(
        suggestion=float(suggestion),
        lowest=float(lrs[lowest]),
        ran_away=ran_away,
        lrs=tuple(lrs.tolist()),
        losses=tuple(losses.tolist()),
        averaged=tuple(averaged.tolist()),
    )


def _never_fell(where: str) -> DataError:
    return DataError(
        where,
        "the loss fell at none of the rates",
        "one that falls",
        "see whether the labels are right, or take larger batches",
    )
