"""A run's folder, read back: its settings, its metrics and how it ended.

A run that was left in its middle is read as far as it got.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from fastft.results.numbers import is_known, mean
from fastft.results.read import check, parse_object, read_bytes
from fastft.runs.folder import CONFIG, METRICS, SUMMARY
from fastft.runs.measures import MEASURES, Measures
from fastft.runs.metrics import EpochMetrics, StepMetrics, read_metrics

#: Points of the line of losses by step: more than a chart has pixels show nothing.
_POINTS = 240


@dataclass(frozen=True, slots=True)
class Settings:
    """The content of a `config.json`."""

    config: dict[str, Any]
    environment: dict[str, Any]


@dataclass(frozen=True, slots=True)
class Bound:
    """The bottleneck of a run: a verdict in lines, and the rates of loader and model alone."""

    verdict: str
    loader_img_per_s: float | None = None
    model_img_per_s: float | None = None


@dataclass(frozen=True, slots=True)
class Summary:
    """The content of a `summary.json`, which a run writes at its end."""

    seconds: float | None
    bottleneck: Bound | None = None


@dataclass(frozen=True, slots=True)
class Run:
    """A run folder.

    Attributes:
        settings: what it was asked for, and where it ran.
        steps: one after another.
        epochs: those that ended.
        summary: None of a run that was left before its end.
    """

    settings: Settings
    steps: Sequence[StepMetrics]
    epochs: Sequence[EpochMetrics]
    summary: Summary | None

    @property
    def best(self) -> EpochMetrics | None:
        """The epoch with the best score, of equals the first."""
        known = [each for each in self.epochs if is_known(each.score)]
        return max(known, key=lambda each: each.score, default=None)

    @property
    def measures(self) -> Measures:
        """The measures of its epochs; those of classes if it has no epochs."""
        return self.epochs[0].measures if self.epochs else MEASURES["classes"]

    @property
    def bound(self) -> Bound:
        """Its bottleneck, as far as it was looked for."""
        return (self.summary and self.summary.bottleneck) or Bound("")

    @property
    def wait_share(self) -> float | None:
        """Share of the steps' time spent waiting for input: of all epochs but the first."""
        counted = self.epochs[1:] or self.epochs
        return mean(wait_share(each) for each in counted)


def wait_share(epoch: EpochMetrics) -> float | None:
    """Share of an epoch's training steps spent waiting for input."""
    return epoch.wait_s / epoch.train_s if epoch.train_s else None


def read_run(folder: Path) -> Run:
    """A run folder.

    Raises:
        DataError: a file cannot be read, or a field is missing or of another type.
    """
    steps, epochs = read_metrics(folder / METRICS)
    summary = folder / SUMMARY
    return Run(
        settings=check(Settings, _object(folder / CONFIG), str(folder / CONFIG)),
        steps=steps,
        epochs=epochs,
        summary=check(Summary, _object(summary), str(summary)) if summary.exists() else None,
    )


def thin_losses(steps: Sequence[StepMetrics]) -> tuple[tuple[float, float | None], ...]:
    """Mean losses over neighbouring steps, each at the end of them, in epochs."""
    if not steps:
        return ()
    first = steps[0].epoch
    # The first epoch is whole, unless it is the only one.
    per_epoch = sum(step.epoch == first for step in steps)
    width = -(-len(steps) // _POINTS)
    return tuple(
        (
            first + min(start + width, len(steps)) / per_epoch,
            mean(step.loss for step in steps[start : start + width]),
        )
        for start in range(0, len(steps), width)
    )


def _object(path: Path) -> Mapping[str, Any]:
    return parse_object(read_bytes(path), str(path))
