"""All that `fastft parity` found about pixels: written as its JSON, and read back from it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from fastft.parity.distance import Distance

#: Name of the row that tells of the file, not of a loader.
AS_STORED = "as stored"
#: Below this, chance is no explanation, even among the dozens of tests of a report.
SUSPECT_P = 1e-4


@dataclass(frozen=True, slots=True)
class Row:
    """One loader's distance in one stage, of one view.

    Attributes:
        loader: its name.
        stage: `decode`, `resize`, `whole`, `scaled` or `operations`.
        view: which.
        distance: in levels.
    """

    loader: str
    stage: str
    view: str
    distance: Distance


@dataclass(frozen=True, slots=True)
class Verdict:
    """One loader in one sentence.

    Attributes:
        loader: its name.
        stated: the mean and the maximum that it promises, or None.
        passed: whether it kept that, and the plan's order.
        in_order: whether every label was where the plan has it.
        cause: where its distance comes from: `nothing`, `decode`, `resize` or `decode and resize`.
        scaled: the mean and the maximum that `scaled` pixels may be off the exact ones, if such
            were looked at.
        operations: the same of changed pixels and their definition.
    """

    loader: str
    stated: tuple[float, int] | None
    passed: bool
    in_order: bool
    cause: str
    scaled: tuple[float, int] | None = None
    operations: tuple[float, int] | None = None


@dataclass(frozen=True, slots=True)
class Likeness:
    """A two-sample Kolmogorov-Smirnov test, or a binomial test of a share."""

    what: str
    statistic: float
    p: float


@dataclass(frozen=True, slots=True)
class StockRow:
    """One stock pipeline.

    Attributes:
        name: of its library.
        evaluation: distance of its evaluation view from the reference's.
        crops: its training crops against the plan's: area, aspect ratio, position, flips.
        photos: its training pixels against the reference's: brightness, contrast, sharpness.
        sharpness: the median sharpness of its training pixels over the reference's.
    """

    name: str
    evaluation: Distance
    crops: tuple[Likeness, ...]
    photos: tuple[Likeness, ...]
    sharpness: float


@dataclass(frozen=True, slots=True)
class WorstSample:
    """The sample whose pixels a loader got least right, and their mean distance in levels."""

    loader: str
    view: str
    name: str
    mean: float


@dataclass(frozen=True, kw_only=True, slots=True)
class Pixels:
    """The content of a `pixels.json`."""

    config: dict[str, Any]
    environment: dict[str, Any]
    seconds: float
    images: int
    passed: bool
    rows: tuple[Row, ...]
    verdicts: tuple[Verdict, ...]
    worst: tuple[WorstSample, ...]
    stock: tuple[StockRow, ...] = ()
