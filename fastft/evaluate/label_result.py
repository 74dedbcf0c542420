"""All that `fastft evaluate` found of several labels: written as its JSON, and read back."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final, Literal

from fastft.evaluate.result import Setting

LABEL_FORMAT: Final = "fastft-label-evaluation"


@dataclass(frozen=True, slots=True)
class LabelSample:
    """The model's word on one sample.

    Attributes:
        name: the sample's.
        truth, predicted: labels, with `;` between them.
        missed, added: those of the truth that were not told, and the other way round.
        loss: the mean cross-entropy of its labels.
    """

    name: str
    truth: str
    predicted: str
    missed: str
    added: str
    loss: float


@dataclass(frozen=True, slots=True)
class LabelRow:
    """One label.

    Attributes:
        name: its name.
        average_precision: see `model.label_scores`; None where no sample has it.
        precision, recall, f1: at `threshold`.
        threshold: the probability from which on it was told.
        best_f1, best_threshold: the highest F1 that a threshold comes to on these very samples,
            which flatters; None where no sample has it.
        support, predicted: samples that have it, and that were told to.
    """

    name: str
    average_precision: float | None
    precision: float
    recall: float
    f1: float
    threshold: float
    best_f1: float | None
    best_threshold: float | None
    support: int
    predicted: int


@dataclass(frozen=True, kw_only=True, slots=True)
class LabelEvaluation(Setting):
    """The content of an `evaluation.json` of several labels, no figure rounded.

    Attributes:
        samples, exact: how many, and of how many of them each label was told right.
        mean_average_precision: over labels that some sample has.
        plain_mean_average_precision: of the images alone, if other views were averaged in.
        micro_f1, macro_f1: over all decisions, and the mean over labels that some sample has.
        subset_accuracy: share of samples of which each label was told right.
        label_accuracy: share of all decisions that are right.
        loss: its mean.
        labels: in the model's order.
        top_losses: the worst mistakes.
        format, version: what tells it from other JSON.
    """

    format: Literal["fastft-label-evaluation"] = LABEL_FORMAT
    version: Literal[1] = 1
    samples: int
    exact: int
    mean_average_precision: float
    plain_mean_average_precision: float | None
    micro_f1: float
    macro_f1: float
    subset_accuracy: float
    label_accuracy: float
    loss: float
    labels: tuple[LabelRow, ...]
    top_losses: tuple[LabelSample, ...]
