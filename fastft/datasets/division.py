"""Data without splits, divided where they are read; see `pipelines.formats.division`."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from fastft.datasets.splits import present_splits, training_split
from pipelines.errors import DataError, UsageError
from pipelines.formats.division import SIDES, Divided, Division, divide
from pipelines.formats.source import Source, open_source
from pipelines.formats.splits import EVAL_SPLITS, split_of


def find_undivided(data: Path, division: Division) -> Path:
    """The part of data that a division is made of: all, or a training split without others.

    Raises:
        UsageError: the data have a split to evaluate on.
        DataError: there is nothing, or two things are one split.
    """
    if not data.exists():
        raise DataError(data, "no such file or folder", "a .beton or a folder of class folders")
    whole = training_split(data)
    if whole != data:
        others = [present_splits(data).get(split) for split in EVAL_SPLITS]
        if found := ", ".join(path.name for path in others if path is not None):
            expected = "data without splits"
            raise UsageError(str(division), f"with {data}, which has {found}", expected)
    return whole


def has_splits(data: Path) -> bool:
    """Whether data have a split to evaluate on, and so need no division."""
    return any(split in present_splits(data) for split in EVAL_SPLITS)


def divide_source(source: Source, division: Division) -> Divided:
    """Divide the samples of a source; see `divide`."""
    return divide(
        source.path, source.names(), source.labels, source.classes, source.columns, division
    )


def open_sides(data: Path, division: Division, **how: object) -> tuple[Source, Source]:
    """Both sides of a division: to train on, and to evaluate on.

    Args:
        data: a `.beton`, a folder of class folders, or a folder with a training split alone.
        division: how.
        how: `apply_exif` and `depth`, as `open_source` takes them.

    Raises:
        As `find_undivided`, `open_source` and `divide`.
    """
    source = open_source(find_undivided(data, division), **how)  # type: ignore[arg-type]
    divided = divide_source(source, division)
    return source.take(divided.train), source.take(divided.val)


def take_side(source: Source, division: Division, split: str | None) -> Source:
    """One side of a division of a source.

    Args:
        source: all of it.
        division: how.
        split: the side by any word for it; None: what is set apart.

    Raises:
        UsageError: there is no such side.
    """
    side = SIDES[1] if split is None else split_of(split)
    if side not in SIDES:
        raise UsageError("--split", f"{split!r}", f"one of {', '.join(SIDES)}, of {division}")
    divided = divide_source(source, division)
    samples: np.ndarray[tuple[int], np.dtype[np.int64]] = getattr(divided, side)
    return source.take(samples)
