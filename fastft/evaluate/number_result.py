"""All that `fastft evaluate` found of a number: written as its JSON, and read back from it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final, Literal

from fastft.evaluate.result import Setting

NUMBER_FORMAT: Final = "fastft-number-evaluation"


@dataclass(frozen=True, slots=True)
class NumberSample:
    """The model's word on one sample: `error` is what was predicted minus the truth."""

    name: str
    truth: float
    predicted: float
    error: float


@dataclass(frozen=True, kw_only=True, slots=True)
class NumberEvaluation(Setting):
    """The content of an `evaluation.json` of a number, no figure rounded.

    Attributes:
        number: what the number is.
        samples: how many.
        mae, rmse: mean and root mean square of the errors, in the number's unit.
        bias: the mean error.
        median_error: the median of the errors without their sign.
        r2: share of the truth's variance that is explained; below 0 a constant would be better.
        plain_r2: of the images alone, if other views were averaged in.
        mean, deviation: of the truth.
        top_losses: the largest errors.
        format, version: what tells it from other JSON.
    """

    format: Literal["fastft-number-evaluation"] = NUMBER_FORMAT
    version: Literal[1] = 1
    number: str
    samples: int
    mae: float
    rmse: float
    bias: float
    median_error: float
    r2: float
    plain_r2: float | None
    mean: float
    deviation: float
    top_losses: tuple[NumberSample, ...]
