"""Images that are out of the ordinary, by themselves or among the others."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np

from fastft.check.look import Mark
from fastft.check.parts import Parts
from fastft.check.result import KINDS, Finding, Kind
from fastft.check.scan import Scan
from pipelines.images.turning import UPRIGHT

_TINY_PX = 32
#: A photo that has to be enlarged by more is tiny.
_MOST_ENLARGED = 4
_HUGE_PIXELS, _HUGE_TIMES = 50_000_000, 10
_LONG = 4
#: Gray photos stand out where at most this share is gray.
_FEW_GRAY = 0.5


def find_odd(parts: Parts, found: Scan, size: int) -> list[tuple[int, Finding]]:
    """All of them with their numbers, kind by kind.

    Args:
        parts: the splits.
        found: what is known of their images.
        size: the side that a model will see, px.
    """
    said: dict[Kind, dict[int, str]] = {kind: {} for kind in KINDS}
    said["broken"], said["doubtful"] = found.broken, found.doubtful
    for kind, number, text in _by_size(found, size):
        said[kind][number] = text
    whole = found.whole
    for number in np.flatnonzero(whole & (found.orientations != UPRIGHT)).tolist():
        said["turned"][number] = f"orientation {found.orientations[number]}"
    marks: tuple[tuple[Kind, Mark, str], ...] = (
        ("gray", Mark.GRAY, "no colour"),
        ("deep", Mark.DEEP, "over 8 bits"),
        ("constant", Mark.CONSTANT, "one colour"),
    )
    for kind, mark, text in marks:
        has_it = whole & (found.marks & mark > 0)
        if kind == "gray":
            has_it &= found.marks & Mark.CONSTANT == 0
        if kind == "gray" and has_it.sum() > _FEW_GRAY * whole.sum():
            continue
        said[kind] = dict.fromkeys(np.flatnonzero(has_it).tolist(), text)
    rows = [(kind, number, said[kind][number]) for kind in KINDS for number in sorted(said[kind])]
    return [(number, _finding(parts, found, kind, number, text)) for kind, number, text in rows]


def label_of(parts: Parts, found: Scan, number: int) -> str:
    """The name of an image's class; empty if it has none."""
    label = int(found.labels[number])
    return parts.classes[label] if label >= 0 else ""


def name_of(parts: Parts, found: Scan, number: int) -> str:
    """An image's name in its split."""
    return parts.all[int(found.splits[number])].name(int(found.numbers[number]))


def _finding(parts: Parts, found: Scan, kind: Kind, number: int, text: str) -> Finding:
    split = parts.all[int(found.splits[number])].split
    name = name_of(parts, found, number)
    return Finding(kind, split, label_of(parts, found, number), name, text)


def _by_size(found: Scan, size: int) -> Iterator[tuple[Kind, int, str]]:
    whole = found.whole
    if not whole.any():
        return
    shorter = np.minimum(found.widths, found.heights)
    longer = np.maximum(found.widths, found.heights)
    pixels = found.widths.astype(np.int64) * found.heights
    median = float(np.median(pixels[whole]))
    least = max(_TINY_PX, -(-size // _MOST_ENLARGED))
    tests: tuple[tuple[Kind, np.ndarray[tuple[int], np.dtype[np.bool_]]], ...] = (
        ("tiny", shorter < least),
        ("huge", (pixels > _HUGE_PIXELS) | (pixels > _HUGE_TIMES * median)),
        ("long", longer > _LONG * shorter),
    )
    for kind, is_so in tests:
        for number in np.flatnonzero(whole & is_so).tolist():
            yield kind, number, f"{found.widths[number]} x {found.heights[number]} px"
