"""A model's word on one image, by task: a class, the labels that it has, a number.

How each is written: in a table, a CSV, JSON, and below a photo.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from fastft.config.commands import PredictConfig, read_threshold
from fastft.model.label_scores import HALF
from fastft.runs.checkpoint import Checkpoint
from pipelines.errors import DataError, UsageError
from pipelines.formats.columns import Task

#: Labels that stand below a photo.
_SHOWN_LABELS = 4


class Told(Protocol):
    """A model's answer for an image, whatever its task."""

    @property
    def path(self) -> Path:
        """The file."""
        ...

    @property
    def is_right(self) -> bool | None:
        """Whether it is what the name of the file's folder says; None where that says nothing."""
        ...

    @property
    def row(self) -> list[object]:
        """Its row in a CSV, whose columns are `Teller.head`."""
        ...

    @property
    def plain(self) -> dict[str, Any]:
        """All of it as JSON values."""
        ...

    @property
    def caption(self) -> str:
        """The text below its photo."""
        ...

    def sentences(self, top: int) -> list[str]:
        """The lines that are printed for a single image."""
        ...

    def cells(self, top: int) -> dict[str, str]:
        """Its cells in a table, by the column."""
        ...


@dataclass(frozen=True, slots=True)
class Prediction:
    """The class of one image.

    Attributes:
        path: the file.
        label: the class of the highest probability.
        probability: that class's.
        truth: the name of the file's folder, if that is one of the classes.
        classes: all class names.
        probabilities: float32[C], one for each of them.
    """

    path: Path
    label: str
    probability: float
    truth: str | None
    classes: tuple[str, ...] = field(repr=False)
    probabilities: NDArray[np.float32] = field(repr=False, compare=False)

    def best(self, count: int) -> list[tuple[str, float]]:
        """The `count` likeliest classes with their probabilities, the likeliest first."""
        order = np.argsort(-self.probabilities, kind="stable")[:count]
        return [(self.classes[i], float(self.probabilities[i])) for i in order]

    @property
    def is_right(self) -> bool | None:
        """See `Told`."""
        return None if self.truth is None else self.truth == self.label

    @property
    def row(self) -> list[object]:
        """See `Told`."""
        return [self.path, self.label, self.probability, self.truth]

    @property
    def plain(self) -> dict[str, Any]:
        """See `Told`."""
        probabilities = dict(zip(self.classes, map(float, self.probabilities), strict=True))
        return {
            "path": str(self.path),
            "label": self.label,
            "probability": self.probability,
            "truth": self.truth,
            "probabilities": probabilities,
        }

    @property
    def caption(self) -> str:
        """See `Told`."""
        return f"{self.label} {self.probability:.2f}"

    def sentences(self, top: int) -> list[str]:
        """See `Told`."""
        return [f"With prob={probability:.3f}, {label}" for label, probability in self.best(top)]

    def cells(self, top: int) -> dict[str, str]:
        """See `Told`."""
        best = self.best(top)
        if len(best) == 1:
            return {"class": best[0][0], "probability": f"{best[0][1]:.3f}"}
        ranked = (f"{label} {share:.3f}" for label, share in best)
        return {str(rank): text for rank, text in enumerate(ranked, 1)}


@dataclass(frozen=True, slots=True)
class LabelPrediction:
    """The labels of one image.

    Attributes:
        path: the file.
        labels: those that it is said to have, in the model's order.
        classes: the names of all labels.
        probabilities: float64[C], one for each of them.
    """

    path: Path
    labels: tuple[str, ...]
    classes: tuple[str, ...] = field(repr=False)
    probabilities: NDArray[np.float64] = field(repr=False, compare=False)

    @property
    def is_right(self) -> None:
        """See `Told`: a folder's name tells no labels."""
        return

    @property
    def row(self) -> list[object]:
        """See `Told`."""
        return [self.path, ";".join(self.labels), *map(float, self.probabilities)]

    @property
    def plain(self) -> dict[str, Any]:
        """See `Told`."""
        probabilities = dict(zip(self.classes, map(float, self.probabilities), strict=True))
        return {
            "path": str(self.path),
            "labels": list(self.labels),
            "probabilities": probabilities,
        }

    @property
    def caption(self) -> str:
        """See `Told`."""
        ranked = [f"{label} {share:.2f}" for label, share in self._ranked()]
        more = len(ranked) - _SHOWN_LABELS
        rest = [f"and {more} more"] if more > 0 else []
        return "\n".join([*ranked[:_SHOWN_LABELS], *rest]) or "no label"

    def sentences(self, top: int) -> list[str]:
        """See `Told`."""
        ranked = [f"With prob={share:.3f}, {label}" for label, share in self._ranked()]
        if ranked:
            return ranked
        likeliest = int(self.probabilities.argmax())
        share, name = self.probabilities[likeliest], self.classes[likeliest]
        return [f"No label; the likeliest, with prob={share:.3f}, is {name}"]

    def cells(self, top: int) -> dict[str, str]:
        """See `Told`."""
        return {"labels": ", ".join(f"{label} {share:.3f}" for label, share in self._ranked())}

    def _ranked(self) -> list[tuple[str, float]]:
        """Its labels with their probabilities, the likeliest first."""
        known = zip(self.classes, map(float, self.probabilities), strict=True)
        own = set(self.labels)
        return sorted((each for each in known if each[0] in own), key=lambda each: -each[1])


@dataclass(frozen=True, slots=True)
class NumberPrediction:
    """The number of one image.

    Attributes:
        path: the file.
        name: what the number is.
        value: in its own unit.
    """

    path: Path
    name: str
    value: float

    @property
    def is_right(self) -> None:
        """See `Told`: a folder's name tells no number."""
        return

    @property
    def row(self) -> list[object]:
        """See `Told`."""
        return [self.path, self.value]

    @property
    def plain(self) -> dict[str, Any]:
        """See `Told`."""
        return {"path": str(self.path), "name": self.name, "value": self.value}

    @property
    def caption(self) -> str:
        """See `Told`."""
        return f"{self.name} {self.value:.5g}"

    def sentences(self, top: int) -> list[str]:
        """See `Told`."""
        return [f"{self.name}: {self.value:.6g}"]

    def cells(self, top: int) -> dict[str, str]:
        """See `Told`."""
        return {self.name: f"{self.value:.6g}"}


class Teller:
    """Makes predictions of what a model gives."""

    def __init__(self, checkpoint: Checkpoint, path: Path, config: PredictConfig) -> None:
        """Prepare.

        Raises:
            UsageError: options that say nothing of this model's task.
        """
        self._checkpoint, self._path = checkpoint, path
        self.thresholds = find_thresholds(checkpoint, path, config.threshold)
        if config.top != 1 and checkpoint.outputs.task != "classes":
            raise UsageError(
                "--top", f"{config.top}, and {path} tells no single class", "a run of classes"
            )

    @property
    def head(self) -> list[str]:
        """The columns of a CSV of predictions."""
        classes = self._checkpoint.classes
        of_task: dict[Task, list[str]] = {
            "classes": ["label", "probability", "truth"],
            "labels": ["labels", *classes],  # behind them each one's probability under its name
            "number": [classes[0]],
        }
        return ["path", *of_task[self._checkpoint.outputs.task]]

    def tell(self, path: Path, row: NDArray[Any]) -> Told:
        """The prediction for an image.

        Args:
            path: the file.
            row: its probabilities [C], or its number [1].

        Raises:
            DataError: they are not finite.
        """
        if not np.isfinite(row).all():
            found = f"its output for {path} is not finite"
            raise DataError(self._path, found, "finite weights", "take another checkpoint")
        told: Told = _MAKERS[self._checkpoint.outputs.task](self, path, row)
        return told

    def of_classes(self, path: Path, row: NDArray[Any]) -> Told:
        """The class of an image."""
        classes, best = self._checkpoint.classes, int(row.argmax())
        truth = path.absolute().parent.name
        known = truth if truth in classes else None
        return Prediction(path, classes[best], float(row[best]), known, classes, row)

    def of_labels(self, path: Path, row: NDArray[Any]) -> Told:
        """The labels of an image."""
        classes = self._checkpoint.classes
        told = (name for name, has in zip(classes, row >= self.thresholds, strict=True) if has)
        return LabelPrediction(path, tuple(told), classes, row)

    def of_number(self, path: Path, row: NDArray[Any]) -> Told:
        """The number of an image."""
        return NumberPrediction(path, self._checkpoint.classes[0], float(row[0]))


_MAKERS: dict[Task, Any] = {
    "classes": Teller.of_classes,
    "labels": Teller.of_labels,
    "number": Teller.of_number,
}


def find_thresholds(checkpoint: Checkpoint, path: Path, asked: str) -> NDArray[np.float64]:
    """float64[C]: the probability from which on each label is told.

    Args:
        checkpoint: the model.
        path: its file.
        asked: of `--threshold`; empty is one half.

    Raises:
        UsageError: it is asked for where there are no labels, or none was found in training.
    """
    meaning = checkpoint.outputs
    if asked and meaning.task != "labels":
        found = f"{asked}, and {path} tells no labels"
        raise UsageError("--threshold", found, "a run of several labels", "leave it out")
    wanted = read_threshold(asked)
    if wanted is None and not meaning.thresholds:
        found = f"{path} has been through no evaluation"
        raise UsageError("--threshold best", found, "a run's best.safetensors")
    chosen: Sequence[float] = meaning.thresholds
    if wanted is not None:
        chosen = [wanted] * len(checkpoint.classes)
    return np.array(chosen or [HALF], np.float64)
