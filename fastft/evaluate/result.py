"""All that `fastft evaluate` found: written as its JSON, and read back from it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Final, Literal

FORMAT: Final = "fastft-evaluation"


@dataclass(frozen=True, slots=True)
class SampleRow:
    """The model's prediction for one sample.

    Attributes:
        name: the sample's.
        truth, predicted: class names.
        probability: of the predicted class.
        truth_probability: of the true class.
        loss: -log of that.
    """

    name: str
    truth: str
    predicted: str
    probability: float
    truth_probability: float
    loss: float


@dataclass(frozen=True, slots=True)
class ClassRow:
    """One class: its rates, how many samples are it, and how many were taken for it."""

    name: str
    precision: float
    recall: float
    f1: float
    support: int
    predicted: int


@dataclass(frozen=True, slots=True)
class ConfusedRow:
    """A mistake that is made: so many samples, and their share of those of the true class."""

    truth: str
    predicted: str
    count: int
    share: float


@dataclass(frozen=True, kw_only=True, slots=True)
class Setting:
    """The circumstances of an evaluation, whatever the model tells.

    Attributes:
        config, checkpoint, data, loader, batch_size, device, dtype: how it was made.
        environment: see `system.environment`.
        seconds: how long it took.
    """

    config: dict[str, Any]
    checkpoint: dict[str, Any]
    data: str
    loader: str
    batch_size: int
    device: str
    dtype: str
    environment: dict[str, Any]
    seconds: float


@dataclass(frozen=True, kw_only=True, slots=True)
class Evaluation(Setting):
    """The content of an `evaluation.json`, no figure rounded.

    Attributes:
        samples, right: how many, and how many of them were predicted right.
        accuracy, interval: their share, and Wilson's 95% interval of it.
        plain_accuracy: of the images alone, if mirrored ones or other crops were averaged in.
        loss, macro_f1: means over samples and over classes.
        classes: in the model's order.
        confused: mistakes, the most frequent first.
        confusion: samples by truth (rows) and prediction.
        top_losses: the worst mistakes.
        format, version: what tells it from other JSON.
    """

    format: Literal["fastft-evaluation"] = FORMAT
    version: Literal[1] = 1
    samples: int
    right: int
    accuracy: float
    interval: tuple[float, float]
    plain_accuracy: float | None
    loss: float
    macro_f1: float
    classes: tuple[ClassRow, ...]
    confused: tuple[ConfusedRow, ...]
    confusion: tuple[tuple[int, ...], ...]
    top_losses: tuple[SampleRow, ...]

    def __post_init__(self) -> None:
        """Check what the types do not say.

        Raises:
            ValueError: the confusion matrix is not one of the classes.
        """
        size = len(self.classes)
        if len(self.confusion) != size or any(len(row) != size for row in self.confusion):
            raise ValueError(f"a confusion matrix of {size} rows and columns")
