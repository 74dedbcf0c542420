"""Findings about classes: too few images, imbalance, one split alone, files unlike all others."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
from numpy.typing import NDArray

from fastft.check.look import Mark
from fastft.check.parts import Parts
from fastft.check.result import ClassRow
from fastft.check.scan import Scan

#: A class of fewer images than this, or than this share of the median class's, has few.
_FEW, _FEW_SHARE = 20, 0.1
#: A trait of this share of a class and of at most this one of all others sets the class apart.
_MOST, _HARDLY = 0.9, 0.1
#: Images that both a class and the others must have to be compared.
_ENOUGH = 10


def find_classes(parts: Parts, found: Scan) -> tuple[ClassRow, ...]:
    """A row for each class of any split, by name; none where samples have no class."""
    if not parts.classes:
        return ()
    shape = len(parts.all), len(parts.classes)
    counts = np.zeros(shape, np.int64)
    np.add.at(counts, (found.splits, found.labels), 1)
    few = (counts[0] > 0) & (counts[0] < max(_FEW, _FEW_SHARE * float(np.median(counts[0]))))
    return tuple(
        ClassRow(
            name,
            tuple(counts[:, at].tolist()),
            bool(few[at]),
            tuple(
                part.split
                for part, count in zip(parts.all, counts[:, at], strict=True)
                if not count and len(parts.all) > 1
            ),
            tuple(_unlike(found, found.labels == at)),
        )
        for at, name in enumerate(parts.classes)
    )


def imbalance_of(rows: tuple[ClassRow, ...]) -> float | None:
    """Images of the largest class over those of the smallest that has any; None without classes."""
    counts = [row.images[0] for row in rows if row.images[0]]
    return round(max(counts) / min(counts), 2) if counts else None


def _unlike(found: Scan, is_own: NDArray[np.bool_]) -> Iterator[str]:
    """Traits of a class's files that set them apart from all others, whatever they show."""
    own, others = is_own & found.whole, ~is_own & found.whole
    if own.sum() < _ENOUGH or others.sum() < _ENOUGH:
        return
    for at, name in enumerate(found.format_names):
        if _sets_apart(found.formats == at, own, others):
            yield f"{name} files, others hardly any"
    if _sets_apart(found.marks & Mark.GRAY > 0, own, others):
        yield "gray, others in colour"
    pixels = found.widths.astype(np.int64) * found.heights
    low, high = np.quantile(pixels[own], (0.1, 0.9))
    other_low, other_high = np.quantile(pixels[others], (0.1, 0.9))
    if low > other_high:
        yield "larger than others"
    elif high < other_low:
        yield "smaller than others"


def _sets_apart(
    is_so: NDArray[np.bool_], own: NDArray[np.bool_], others: NDArray[np.bool_]
) -> bool:
    return bool(is_so[own].mean() >= _MOST and is_so[others].mean() <= _HARDLY)
