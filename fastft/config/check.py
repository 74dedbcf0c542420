"""Settings of `check`, as one frozen dataclass; the only place of their defaults."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from fastft.config.checks import require
from pipelines.formats.columns import UNNAMED, ColumnNames
from pipelines.formats.division import UNDIVIDED, Division


@dataclass(frozen=True, kw_only=True, slots=True)
class CheckConfig:
    """One look at a data set before training.

    Attributes:
        data: a folder with splits, class folders, a `.beton`, or what else `convert` reads.
        out: the folder for `check.json` and the contact sheets.
        threshold: bits of 64 in which the hashes of two copies of a photo may differ.
        size: the side that a model will see, px: much smaller photos are named.
        quick: whether JPEGs are not decoded whole, which misses some damage.
        strict: whether leaks and label conflicts end the command with status 1.
        max_sheet: pairs or images on a contact sheet at most.
        workers: threads that decode; 0 takes every CPU this process may use.
        names: columns of a table or packed data set.
        image_root: the folder that a table's paths are relative to; None: the table's own.
        division: the split to make of data that come without, as training would.
    """

    data: Path
    out: Path = Path("check")
    threshold: int = 8
    size: int = 224
    quick: bool = False
    strict: bool = False
    max_sheet: int = 48
    workers: int = 0
    names: ColumnNames = UNNAMED
    image_root: Path | None = None
    division: Division = UNDIVIDED

    def __post_init__(self) -> None:
        require("--threshold", self.threshold, 0, 12)
        require("--size", self.size, 16, 1024)
        require("--max-sheet", self.max_sheet, 1, 192)
        require("--workers", self.workers, 0, 1024)
