"""The tasks: what a model says of an image, its loss, and how its outputs are read and judged.

One class for each: of one class of each image, of several labels, of a number. What their measures
are called is `runs.measures`' business.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, ClassVar

import numpy as np
import torch
from numpy.typing import NDArray
from torch.nn import functional

from fastft.config.train import TrainConfig
from fastft.model.label_scores import (
    HALF,
    average_precisions,
    best_thresholds,
    count,
    mean_average_precision,
    sigmoid,
)
from fastft.model.loss import (
    LabelLoss,
    Loss,
    NumberLoss,
    class_weights,
    count_right,
    label_weights,
)
from fastft.runs.meaning import CLASSES, Meaning
from fastft.runs.measures import MEASURES, Measures
from pipelines.errors import DataError, UsageError
from pipelines.formats.columns import Task
from pipelines.formats.source import Source

Floats = NDArray[np.float64]
#: Names that a line lists at most.
_NAMED = 5


@dataclass(frozen=True, slots=True)
class Judgement:
    """The measures of a model's outputs.

    Attributes:
        score: by which an epoch is the best.
        others: further measures by their keys.
        thresholds: the best of each label.
    """

    score: float
    others: Mapping[str, float] = field(default_factory=dict)
    thresholds: tuple[float, ...] = ()


class Goal(ABC):
    """One task.

    Attributes:
        meaning: of the outputs.
        needs_outputs: whether a score takes all outputs together; else right answers are counted.
    """

    needs_outputs: ClassVar[bool] = True

    def __init__(self, meaning: Meaning) -> None:
        self.meaning = meaning

    @property
    def measures(self) -> Measures:
        """The names of its measures."""
        return MEASURES[self.meaning.task]

    @abstractmethod
    def make_loss(self, config: TrainConfig, source: Source, device: torch.device) -> Loss:
        """The loss that a config asks for.

        Raises:
            UsageError: settings that make no sense for this task, or class weights of no class.
        """

    @abstractmethod
    def sum_losses(self, outputs: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
        """The sum of the images' losses, all alike: that of evaluation. A scalar."""

    @abstractmethod
    def judge(self, outputs: NDArray[np.float32], labels: NDArray[np.float32]) -> Judgement:
        """Judge all outputs float32[N, C] of a split by labels float32[N, C]."""

    @abstractmethod
    def read(self, outputs: torch.Tensor) -> NDArray[Any]:
        """The probabilities [N, C], or numbers [N, 1], that outputs [N, C] stand for."""

    @abstractmethod
    def begin(self, outputs: torch.Tensor) -> torch.Tensor:
        """Begin an average over several views of each image: what `add` adds up."""

    def add(self, total: torch.Tensor, more: torch.Tensor) -> torch.Tensor:
        """The sum of two beginnings."""
        return torch.logaddexp(total, more)

    def end(self, total: torch.Tensor, views: int) -> torch.Tensor:
        """Outputs for the mean of what so many views' outputs stand for."""
        return total

    def count_right(self, outputs: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
        """The number of right answers, a scalar, where they are counted."""
        raise NotImplementedError

    def remark(self, source: Source) -> str:
        """A line on what cannot be learnt from a training split; empty if all can."""
        return ""


class ClassGoal(Goal):
    """One class of each image."""

    needs_outputs = False

    def make_loss(self, config: TrainConfig, source: Source, device: torch.device) -> Loss:
        """See `Goal`."""
        weights = class_weights(config.class_weight, source.classes, source.labels)
        return Loss(
            reduction=config.loss,
            label_smoothing=config.label_smoothing,
            class_weights=None if weights is None else torch.from_numpy(weights).to(device),
        )

    def sum_losses(self, outputs: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
        """See `Goal`."""
        return functional.cross_entropy(outputs, labels, reduction="sum")

    def count_right(self, outputs: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
        """See `Goal`."""
        return count_right(outputs, labels)

    def judge(self, outputs: NDArray[np.float32], labels: NDArray[np.float32]) -> Judgement:
        """See `Goal`."""
        raise NotImplementedError("right answers are counted")

    def read(self, outputs: torch.Tensor) -> NDArray[Any]:
        """See `Goal`: float32."""
        return outputs.softmax(1).cpu().numpy()

    def begin(self, outputs: torch.Tensor) -> torch.Tensor:
        """See `Goal`.

        Logarithms throughout: the mean of two probabilities that are too small for a float would be
        0, and its loss infinite. The sum serves as well as the mean: softmax ignores a constant.
        """
        return outputs.log_softmax(1)


class LabelGoal(Goal):
    """Any number of labels of each image."""

    def make_loss(self, config: TrainConfig, source: Source, device: torch.device) -> Loss:
        """See `Goal`."""
        weights = label_weights(config.class_weight, source.classes, _targets(source))
        return LabelLoss(
            reduction=config.loss,
            label_smoothing=config.label_smoothing,
            class_weights=None if weights is None else torch.from_numpy(weights).to(device),
        )

    def sum_losses(self, outputs: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
        """See `Goal`."""
        return LabelLoss(reduction="sum")(outputs, labels)

    def judge(self, outputs: NDArray[np.float32], labels: NDArray[np.float32]) -> Judgement:
        """See `Goal`: mAP, micro F1 at one half, and the best threshold of each label."""
        has, probabilities = labels >= HALF, sigmoid(outputs)
        found = count(probabilities >= HALF, has)
        return Judgement(
            mean_average_precision(average_precisions(outputs, has)),
            {"f1": found.micro_f1},
            tuple(best_thresholds(probabilities, has).tolist()),
        )

    def read(self, outputs: torch.Tensor) -> NDArray[Any]:
        """See `Goal`: float64."""
        return sigmoid(outputs.cpu().numpy())

    def begin(self, outputs: torch.Tensor) -> torch.Tensor:
        """See `Goal`: logarithms of the probabilities of a label, and of none."""
        return torch.stack((functional.logsigmoid(outputs), functional.logsigmoid(-outputs)))

    def end(self, total: torch.Tensor, views: int) -> torch.Tensor:
        """See `Goal`: the ratio of both, whose sigmoid is the mean."""
        return total[0] - total[1]

    def remark(self, source: Source) -> str:
        """See `Goal`."""
        have = _targets(source).sum(0)
        lines = []
        for what, odd in (("no", have == 0), ("every", have == len(source))):
            names = [name for name, is_odd in zip(source.classes, odd, strict=True) if is_odd]
            if names:
                lines.append(f"{what} training image has {_name_some(names)}")
        return f"{'; '.join(lines)}: nothing to learn of it" if lines else ""


class NumberGoal(Goal):
    """A number of each image."""

    def make_loss(self, config: TrainConfig, source: Source, device: torch.device) -> Loss:
        """See `Goal`."""
        for option, value, remedy in (
            ("--class-weight", config.class_weight, "leave it out"),
            # A recipe may have asked for it.
            ("--label-smoothing", config.label_smoothing, "pass --label-smoothing 0"),
        ):
            if value:
                found = f"{value}, and {source.path} holds a number for each image"
                raise UsageError(option, found, "classes or labels", remedy)
        return NumberLoss(
            reduction=config.loss, mean=self.meaning.mean, deviation=self.meaning.deviation
        )

    def sum_losses(self, outputs: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
        """See `Goal`."""
        meaning = self.meaning
        loss = NumberLoss(reduction="sum", mean=meaning.mean, deviation=meaning.deviation)
        return loss(outputs, labels)

    def judge(self, outputs: NDArray[np.float32], labels: NDArray[np.float32]) -> Judgement:
        """See `Goal`: R2, MAE and RMSE, in the numbers' own unit."""
        numbers = self.scale(outputs).ravel()
        return judge_numbers(numbers, labels.ravel().astype(np.float64))

    def read(self, outputs: torch.Tensor) -> NDArray[Any]:
        """See `Goal`: float64."""
        return self.scale(outputs.cpu().numpy())

    def scale(self, outputs: NDArray[np.float32]) -> Floats:
        """float64[N, 1]: the numbers in their own unit."""
        return outputs.astype(np.float64) * self.meaning.deviation + self.meaning.mean

    def begin(self, outputs: torch.Tensor) -> torch.Tensor:
        """See `Goal`."""
        return outputs

    def add(self, total: torch.Tensor, more: torch.Tensor) -> torch.Tensor:
        """See `Goal`."""
        return total + more

    def end(self, total: torch.Tensor, views: int) -> torch.Tensor:
        """See `Goal`."""
        return total / views


_GOALS: Mapping[Task, type[Goal]] = {
    "classes": ClassGoal,
    "labels": LabelGoal,
    "number": NumberGoal,
}
#: The goal unless another is given.
OF_CLASSES = ClassGoal(CLASSES)


def goal_of(meaning: Meaning) -> Goal:
    """The goal of a model whose outputs mean this."""
    return _GOALS[meaning.task](meaning)


def find_goal(source: Source) -> Goal:
    """The goal of a training split.

    Raises:
        DataError: there is nothing to learn in it.
    """
    task = source.columns.task
    if task == "classes":
        return OF_CLASSES
    require_variety(source)
    meaning = Meaning(task=task)
    if task == "number":
        numbers = _targets(source).astype(np.float64)
        meaning = replace(meaning, mean=float(numbers.mean()), deviation=float(numbers.std()))
    return goal_of(meaning)


def require_variety(source: Source) -> None:
    """Refuse labels that no image has, and numbers that are all the same: no score is of them.

    Raises:
        DataError: they are such.
    """
    task = source.columns.task
    if task == "labels" and not _targets(source).any():
        found, expected = "no image has any label", "some that have"
        raise DataError(source.path, found, expected, "convert data with labels")
    if task == "number" and not np.ptp(_targets(source)):
        found = f"the number of every image is {_targets(source)[0, 0]:g}"
        raise DataError(source.path, found, "numbers that differ", "convert other data")


def require_same_task(source: Source, task: Task, whose: str) -> None:
    """Refuse data of another task.

    Args:
        source: the data.
        task: what is wanted.
        whose: who wants it.

    Raises:
        DataError: they are of another.
    """
    if source.columns.task != task:
        found = f"holds {_HOLDS[source.columns.task]} for each image"
        raise DataError(source.path, found, f"{_HOLDS[task]}, as {whose}", "take data of one kind")


_HOLDS: Mapping[Task, str] = {
    "classes": "one class",
    "labels": "any number of labels",
    "number": "a number",
}


def judge_numbers(predicted: Floats, truth: Floats) -> Judgement:
    """R2, MAE and RMSE of predictions float64[N]; R2 is NaN where the truth does not vary."""
    with np.errstate(over="ignore", invalid="ignore"):
        errors = predicted - truth
        squares = float(np.square(errors).mean())
        variance = float(truth.var())
    r2 = 1 - squares / variance if variance else float("nan")
    return Judgement(r2, {"mae": float(np.abs(errors).mean()), "rmse": squares**0.5})


def _name_some(names: Sequence[str]) -> str:
    """The names, or the first few and how many more there are."""
    more = f" and {len(names) - _NAMED:,} more" if len(names) > _NAMED else ""
    return ", ".join(names[:_NAMED]) + more


def _targets(source: Source) -> NDArray[np.float32]:
    targets = source.columns.targets
    assert targets is not None, "other tasks than classes have them"
    return targets
