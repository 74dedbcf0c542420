"""The measures of a task: what is told of its epochs, and by which of them one is the best.

How they are computed is `model.tasks`' business.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from fastft.results.numbers import Number, write_accuracy, write_measure
from pipelines.formats.columns import Task


@dataclass(frozen=True, slots=True)
class Measure:
    """A number that an epoch comes to.

    Attributes:
        key: its field of `EpochMetrics`, behind `train_` or `eval_`.
        name: within a sentence.
        write: how it is written.
        least: below it none can lie.
    """

    key: str
    name: str
    write: Number = write_accuracy
    least: float = 0.0

    @property
    def title(self) -> str:
        """Its name at the beginning of a title: `Accuracy`, but `mAP`."""
        return self.name.capitalize() if self.name.islower() else self.name


@dataclass(frozen=True, slots=True)
class Measures:
    """All measures of a task.

    Attributes:
        task: the task.
        score: of the evaluation split, by which an epoch is the best: the higher the better.
        others: what is told beside it.
        training: of an epoch's training steps.
        nouns: what a model says of an image: one, and several of them.
    """

    task: Task
    score: Measure
    others: tuple[Measure, ...]
    training: Measure
    nouns: tuple[str, str]

    @property
    def best_key(self) -> str:
        """The best score's name in `summary.json`."""
        return f"best_{self.score.key}"

    @property
    def fields(self) -> tuple[str, ...]:
        """The fields of `EpochMetrics` that it fills."""
        evaluated = (f"eval_{each.key}" for each in (self.score, *self.others))
        return f"train_{self.training.key}", *evaluated

    def count(self, names: Sequence[str]) -> str:
        """So many classes or labels, in words; a number by its name."""
        if self.task == "number":
            return f"the number {names[0]}"
        return f"{len(names):,} {self.nouns[len(names) != 1]}"


_ACCURACY = Measure("accuracy", "accuracy")
MEASURES: Mapping[Task, Measures] = {
    "classes": Measures("classes", _ACCURACY, (), _ACCURACY, ("class", "classes")),
    "labels": Measures(
        "labels",
        Measure("map", "mAP"),
        (Measure("f1", "F1"),),
        Measure("exact", "exact"),
        ("label", "labels"),
    ),
    "number": Measures(
        "number",
        Measure("r2", "R2", least=-math.inf),
        (Measure("mae", "MAE", write_measure), Measure("rmse", "RMSE", write_measure)),
        Measure("r2", "R2", least=-math.inf),
        ("number", "numbers"),
    ),
}


def score_name(tasks: Sequence[Task]) -> str:
    """The score's name of several runs: `score` where they differ."""
    names = {MEASURES[task].score.name for task in tasks}
    return names.pop() if len(names) == 1 else "score"
