"""Tables of the content of a `.beton`: the `fastft inspect` command."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from rich.console import Console
from rich.markup import escape
from rich.table import Table

from fastft.config.checks import defaults
from fastft.config.train import TrainConfig
from fastft.datasets.large_photos import advise
from pipelines.errors import DataError, one_line
from pipelines.formats.beton import Index, read_index
from pipelines.formats.columns import Columns
from pipelines.formats.layout import MODE_RAW, Preparation
from pipelines.resident.store import KINDS, StoreFormat, lay_out

#: Upper bounds of the histogram's bins, longer side in px.
_SIDES = (64, 128, 256, 384, 512, 768, 1024, 2048, 4096, 65535)
_BAR = 40
#: Samples that are named of each kind.
_NAMED = 10
#: Classes that are printed: all up to so many, else so many first and rarest ones.
_CLASSES, _FIRST, _RAREST = 100, 20, 20


@dataclass(frozen=True, slots=True)
class Picked:
    """The classes to show, if there are many.

    Attributes:
        first: labels, from 0 on.
        rarest: labels of those of the others that have the fewest images, the rarest first; none if
            all classes are as large.
        more: how many classes are neither.
    """

    first: tuple[int, ...]
    rarest: tuple[int, ...]
    more: int


def pick_classes(counts: NDArray[np.int64], most: int, first: int, rarest: int) -> Picked:
    """All classes, if they are few, else the first and the rarest ones.

    Args:
        counts: int64[C], images by label.
        most: so many are few.
        first, rarest: how many of each, of many; together fewer than `most`.
    """
    if len(counts) <= most:
        return Picked(tuple(range(len(counts))), (), 0)
    others = np.arange(first, len(counts))
    if counts.min() < counts.max():
        others = others[np.argsort(counts[first:], kind="stable")][:rarest]
    else:
        others = others[:0]
    picked = tuple(others.tolist())
    return Picked(tuple(range(first)), picked, len(counts) - first - len(picked))


def describe(
    path: Path, console: Console, *, verify: bool, on_progress: Callable[[int, int], None]
) -> None:
    """Print header, classes and sizes of a `.beton`; with `verify`, check every checksum.

    Raises:
        FormatError: the file is no whole `.beton`.
        DataError: samples do not match their checksums, or there are none.
    """
    index = read_index(path)
    console.print(_header(index))
    console.print(class_table(index.classes, index.columns.count(index.labels, len(index.classes))))
    console.print(_sizes(index))
    if advice := advise(index, defaults(TrainConfig).size):
        console.print(advice, markup=False)
    _print_remarks("doubtful", index, index.doubtful, console)
    _print_remarks("odd but whole", index, index.odd, console)
    if verify:
        bad = check(index, on_progress)
        if bad:
            names = ", ".join(index.name(sample) for sample in bad[:5])
            more = f" and {len(bad) - 5} more" if len(bad) > 5 else ""
            raise DataError(
                path,
                f"{len(bad)} of {len(index)} samples have changed: {names}{more}",
                "every checksum to hold",
                "rerun fastft convert",
            )
        console.print(f"{len(index):,} checksums hold")


def _print_remarks(what: str, index: Index, remarks: Mapping[int, str], console: Console) -> None:
    """Name the samples that conversion had something to say of."""
    for sample in sorted(remarks)[:_NAMED]:
        said = f"{what}: {index.name(sample)}: {remarks[sample]}"
        console.print(one_line(said), markup=False)
    if len(remarks) > _NAMED:
        console.print(f"{what}: {len(remarks) - _NAMED:,} more of {len(index):,}")


def check(index: Index, on_progress: Callable[[int, int], None]) -> list[int]:
    """The samples whose bytes do not match their checksums."""
    bad = []
    for done, sample in enumerate(index.damaged(), 1):
        if sample is not None:
            bad.append(sample)
        if done % 256 == 0 or done == len(index):
            on_progress(done, len(index))
    return bad


def _header(index: Index) -> Table:
    raw = int((index.modes == MODE_RAW).sum())
    table = Table(show_header=False, title=escape(one_line(str(index.path))), title_justify="left")
    rows = {
        "samples": f"{len(index):,}",
        "stored as": f"{len(index) - raw:,} JPEG, {raw:,} raw pixels",
        "file": f"{index.path.stat().st_size:,} bytes, {int(index.sizes.sum()):,} of them samples",
        "page size": f"{index.page_bytes:,} bytes",
        "written by": "fastft"
        if index.checksums is not None
        else "stock FFCV (no names, no checksums)",
        "mean size": f"{index.widths.mean():.0f} x {index.heights.mean():.0f} px, "
        f"{index.sizes.mean():,.0f} bytes",
        "largest": f"{index.widths.max()} px wide, {index.heights.max()} px high, "
        f"{index.sizes.max():,} bytes",
    }
    if index.preparation.apply_exif:
        rows["turned by EXIF"] = "yes, photos stand upright"
    if index.preparation.depth != Preparation().depth:
        rows["depth"] = f"{index.preparation.depth} (more than 8 bits mapped to 0-255)"
    rows |= describe_columns(index.columns)
    if index.division:
        rows["split by"] = escape(one_line(index.division))
    if index.shard is not None:
        shard = index.shard
        part = f"images {shard.start + 1:,} to {shard.stop:,} of {shard.samples:,}"
        rows["shard"] = f"{shard.index} of {shard.of} (see fastft merge): {part}"
    if index.points is not None:
        bytes_ = index.points["bytes"]
        of = f"{int((bytes_ > 0).sum()):,} samples, {int(bytes_.sum()):,} bytes"
        rows["entry points"] = f"{of}: a crop is decoded from near its first column on"
    rgb, planes = (lay_out(index, StoreFormat(kind=kind)).total for kind in KINDS)
    rows["decoded"] = f"{rgb / 1e9:,.2f} GB, {planes / 1e9:,.2f} GB as yuv420 (--loader resident)"
    for name, value in rows.items():
        table.add_row(name, value)
    return table


def describe_columns(columns: Columns) -> dict[str, str]:
    """Rows on what is known of samples beside one class each."""
    rows, targets = {}, columns.targets
    if targets is not None and columns.task == "labels":
        none = int((~targets.any(axis=1)).sum())
        each = targets.sum(axis=1).mean()
        rows["labels"] = f"any number of each image, {each:.1f} on average; {none:,} images of none"
    elif targets is not None:
        low, high, mean = targets.min(), targets.max(), targets.mean(dtype=np.float64)
        rows["labels"] = f"a number, {low:g} to {high:g}, {mean:g} on average"
    if columns.groups is not None:
        rows["groups"] = f"{len(np.unique(columns.groups)):,}"
    if columns.weights is not None:
        rows["weights"] = f"{columns.weights.min():g} to {columns.weights.max():g}"
    return rows


def class_table(classes: Sequence[str], counts: NDArray[np.int64]) -> Table:
    """A table of classes with their images.

    Args:
        classes: their names.
        counts: int64[C], images of each.
    """
    table = Table("label", "class", "images")
    picked = pick_classes(counts, _CLASSES, _FIRST, _RAREST)
    for label in picked.first:
        table.add_row(str(label), escape(one_line(classes[label])), f"{counts[label]:,}")
    if picked.rarest:
        table.add_row("", "rarest:", "")
    for label in picked.rarest:
        table.add_row(str(label), escape(one_line(classes[label])), f"{counts[label]:,}")
    if picked.more:
        table.add_row("", f"and {picked.more:,} more", "")
    return table


def _sizes(index: Index) -> Table:
    longer = np.maximum(index.widths, index.heights)
    counts = np.bincount(np.searchsorted(_SIDES, longer), minlength=len(_SIDES))
    table = Table("longer side", "images", "")
    first, last = np.flatnonzero(counts)[[0, -1]]
    for i in range(first, last + 1):
        bar = "█" * round(_BAR * counts[i] / counts.max())
        table.add_row(f"to {_SIDES[i]} px", f"{counts[i]:,}", bar)
    return table
