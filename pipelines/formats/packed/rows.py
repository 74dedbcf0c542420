"""Labels, weights and groups of the samples of a packed data set, by the rules of tables.

So a label means the same in a table, a tar and a Parquet file: see `tables.labelling`. One thing is
added: lists of 0 and 1, all of one length, are not the labels' numbers but say of each label
whether a sample has it.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from pipelines.errors import DataError, UsageError
from pipelines.formats.beton_labels import MOST_LABELS
from pipelines.formats.columns import ColumnNames, Columns, hash_words
from pipelines.formats.tables.labelling import read_labelling
from pipelines.formats.tables.table import Coded, Coding, name_number
from pipelines.formats.tables.values import Context, read_numbers, read_text

_FLAGS = {"0", "1"}


@dataclass(frozen=True, kw_only=True, slots=True)
class Labels:
    """The labels and columns of one split's samples.

    Attributes:
        classes: class names.
        labels: int64[N].
        columns: what is known beside the label.
    """

    classes: tuple[str, ...]
    labels: NDArray[np.int64]
    columns: Columns


@dataclass(kw_only=True, slots=True)
class Cells:
    """The contents of all splits' rows, piece by piece, the training split first.

    Attributes:
        labels: one coding, or several of 0 and 1.
        weights, groups: None: there are none.
        counts: split -> its rows.
    """

    labels: list[Coding]
    weights: Coding | None = None
    groups: Coding | None = None
    counts: dict[str, int] = field(default_factory=dict)


def make_cells(labels: Sequence[str], names: ColumnNames) -> Cells:
    """No rows yet, of label columns with these names and of weights and groups that are named."""
    return Cells(
        labels=[Coding(name) for name in labels],
        weights=Coding(names.weight) if names.weight else None,
        groups=Coding(names.group) if names.group else None,
    )


def read_labels(
    src: Path,
    cells: Cells,
    place: Callable[[int], str],
    names: ColumnNames,
    classes: tuple[str, ...],
    *,
    are_numbers: bool = False,
) -> dict[str, Labels]:
    """Split -> what is known of its samples.

    Args:
        src: the data set, as errors name it.
        cells: of all rows.
        place: names a row in an error.
        names: says what labels are.
        classes: what labels that are numbers mean; empty: their numbers.
        are_numbers: whether lists are known to hold the labels' numbers.

    Raises:
        DataError: a label is missing or does not fit, or a split has not the classes of train.
        UsageError: `classes` are given for names.
    """
    splits, start = {}, 0
    for split, count in cells.counts.items():
        splits[split] = np.arange(start, start + count)
        start += count
    context = Context(path=src, place=place, splits=splits)
    columns = [coding.finish() for coding in cells.labels]
    if len(columns) == 1 and not are_numbers:
        columns[0], width = _read_flags(columns[0])
        if width and not classes:
            classes = tuple(map(str, range(width)))
        elif width and width != len(classes):
            found = f"{width} labels for each image"
            raise DataError(src, found, f"{len(classes)}, as --classes says")
    labelling = read_labelling(columns, names.task, classes, context)
    weights = groups = None
    if cells.weights is not None:
        weights = read_numbers(cells.weights.finish(), context, positive=True)
    if cells.groups is not None:
        group = cells.groups.finish()
        groups = hash_words(read_text(group, context))[group.codes]
    known = Columns(task=labelling.task, targets=labelling.targets, groups=groups, weights=weights)
    return {
        split: Labels(
            classes=labelling.classes, labels=labelling.labels[rows], columns=known.take(rows)
        )
        for split, rows in splits.items()
    }


def require_no_split_column(names: ColumnNames, kind: str) -> None:
    """Raise UsageError if a column is to say splits, which files do here."""
    if names.split and names.split != "-":
        remedy = f"leave it out: of {kind} the names of files and folders say the splits"
        raise UsageError("--split-column", repr(names.split), "a table to convert", remedy)


def to_value(value: object) -> str | tuple[str, ...] | None:
    """A label as text, or texts of a list; None for what is none of it."""
    if isinstance(value, (list, tuple)):
        texts = [to_value(each) for each in value]
        if len(texts) > MOST_LABELS or not all(isinstance(text, str) for text in texts):
            return None
        return tuple(text for text in texts if isinstance(text, str))
    if isinstance(value, str):
        return value
    if isinstance(value, bool):
        return str(int(value))
    if isinstance(value, int):
        return str(value) if abs(value) < 1 << 63 else None
    return name_number(value) if isinstance(value, float) else None


def name_sample(labels: Labels, sample: int, name: str) -> str:
    """A sample's name as of a file in class folders; of other tasks no class stands before it."""
    if labels.columns.task != "classes":
        return name
    folder = labels.classes[int(labels.labels[sample])]
    return f"{folder.replace('/', '_')}/{name}"


def _read_flags(column: Coded) -> tuple[Coded, int]:
    """A column of lists of 0 and 1, as the numbers of the labels that are 1; and their length.

    Any other column is given back as it is, with 0.
    """
    cells = [value for value in column.values if isinstance(value, tuple)]
    width = len(cells[0]) if cells else 0
    if len(cells) < len(column.values) or width < 2:
        return column, 0
    if any(len(cell) != width or not set(cell) <= _FLAGS for cell in cells):
        return column, 0
    lists = tuple(tuple(str(i) for i in range(width) if cell[i] == "1") for cell in cells)
    return Coded(column.name, lists, column.codes), width
