"""From label columns to classes, several labels of an image, or numbers.

A class is a name. Whole numbers from 0 on without a gap are class numbers, as RecordIO has them:
`--classes` names them, else they are their own names, in their order. Anything else is a name, and
names are sorted as torchvision sorts folders.

Several labels of an image are a list, or text with the first of `;`, `|` and `,` between them that
occurs in any cell of the column, else spaces; an empty cell is none of them. Or each label has a
column of 0 and 1, in the table's order or that of `--label-column a,b,c`. Lists of 0 and 1 are not
known here: see `values.unfold_flags`.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from pipelines.errors import DataError, UsageError
from pipelines.formats.beton_labels import MOST_LABELS
from pipelines.formats.columns import Task
from pipelines.formats.folder import require_classes
from pipelines.formats.splits import EVAL_SPLITS
from pipelines.formats.tables.table import MOST_CELLS, SPLIT_UP, Coded
from pipelines.formats.tables.values import (
    Context,
    are_flags,
    holds_lists,
    parse_number,
    read_flags,
    read_numbers,
    read_several,
    read_text,
)

#: Whole numbers from here on have gaps as floating-point numbers.
_MOST_NUMBER = 1 << 53


@dataclass(frozen=True, kw_only=True, slots=True)
class Labelling:
    """The labels or targets of a table's rows; see `columns.Columns`.

    Attributes:
        task: what is to be learned.
        classes: the names of classes or labels, or the number's one name.
        labels: int64[N].
        targets: float32[N, C], or None with `classes`.
    """

    task: Task
    classes: tuple[str, ...]
    labels: NDArray[np.int64]
    targets: NDArray[np.float32] | None = None


def read_labelling(
    columns: Sequence[Coded],
    task: Task | Literal[""],
    given: tuple[str, ...],
    context: Context,
    *,
    by_flags: bool = False,
) -> Labelling:
    """The labels or targets in label columns.

    Args:
        columns: one, or several of 0 and 1.
        task: what they hold; empty: several labels if there are several columns or a cell is a
            list, else classes.
        given: the classes that `--classes` gives; empty: none.
        context: the table.
        by_flags: one column, too, is of 0 and 1 and named like a label.

    Raises:
        DataError: a cell does not fit the task, or a split does not fit the training split.
        UsageError: `given` or several columns do not fit the task.
    """
    by_flags = by_flags or len(columns) > 1
    if not task:
        task = "labels" if by_flags or holds_lists(columns[0]) else "classes"
    if given and (task == "number" or by_flags):
        found = f"given for {context.path}"
        what = "numbers" if task == "number" else "columns, whose names are classes"
        raise UsageError("--classes", found, "labels that are class numbers", f"it has {what}")
    if task == "number":
        if len(columns) > 1:
            raise UsageError("--label-column", f"{len(columns)} columns", "one with --task number")
        numbers = read_numbers(columns[0], context)
        labels = np.zeros(len(numbers), np.int64)
        names = (columns[0].name,)
        return Labelling(task="number", classes=names, labels=labels, targets=numbers[:, None])
    if by_flags:
        return _label_by_flags(columns, task, context)
    reader = _label_several if task == "labels" else _label_one
    return reader(columns[0], given, context)


def find_flags(columns: Sequence[Coded], context: Context) -> list[Coded]:
    """The columns that hold only 0 and 1.

    Raises:
        UsageError: there are none.
    """
    found = [column for column in columns if are_flags(column)]
    if not found:
        raise UsageError(
            context.path,
            "no column by a usual name for labels, and none that holds only 0 and 1",
            "labels",
            f"name them by --label-column; others are {', '.join(c.name for c in columns[:20])}",
        )
    return found


def _label_one(column: Coded, given: tuple[str, ...], context: Context) -> Labelling:
    """One class for each row."""
    words = read_text(column, context)
    places = {word: code for code, word in reversed(list(enumerate(words)))}
    naming = _name_words(places, column, given, context)
    classes: tuple[str, ...] | None = given or None
    for split, rows in context.splits.items():
        found = naming.order({naming.names[words[code]] for code in np.unique(column.codes[rows])})
        if classes is None:
            _require_no_gap(naming, found, context.where(split), "add rows, or renumber them")
        may_lack = split in EVAL_SPLITS
        require_classes(context.where(split), found, classes, may_lack=may_lack)
        classes = classes or found
    numbers = {name: label for label, name in enumerate(classes or ())}
    labels = np.array([numbers[naming.names[word]] for word in words], np.int64)
    return Labelling(task="classes", classes=classes or (), labels=labels[column.codes])


def _label_several(column: Coded, given: tuple[str, ...], context: Context) -> Labelling:
    """Any number of labels for each row."""
    cells = read_several(column, context)
    places = {word: code for code, cell in reversed(list(enumerate(cells))) for word in cell}
    if not places:
        raise DataError(context.path, f"no labels in {column.name!r}", "at least one")
    naming = _name_words(places, column, given, context)
    classes = given
    for split, rows in context.splits.items():
        codes = np.unique(column.codes[rows])
        found = naming.order({naming.names[word] for code in codes for word in cells[code]})
        if not classes:
            _require_no_gap(naming, found, context.where(split), "name all labels by --classes")
            classes = found
        for extra in sorted(set(found) - set(classes)):
            said, expected = f"has the additional label {extra}", "those of the training split"
            raise DataError(context.where(split), said, expected, "rename it, or add rows")
    require_classes(context.path, classes, None)
    numbers = {name: label for label, name in enumerate(classes)}
    labelled = [[numbers[naming.names[word]] for word in cell] for cell in cells]
    _require_few(len(column.codes), len(classes), context)
    targets = np.zeros((len(column.codes), len(classes)), np.float32)
    targets[_spread(labelled, column.codes)] = 1
    labels = np.zeros(len(targets), np.int64)
    return Labelling(task="labels", classes=classes, labels=labels, targets=targets)


def _label_by_flags(columns: Sequence[Coded], task: Task, context: Context) -> Labelling:
    """Several labels for each row, or one, by columns of 0 and 1."""
    classes = tuple(column.name for column in columns)
    require_classes(context.path, classes, None)
    _require_few(len(columns[0].codes), len(classes), context)
    targets = read_flags(columns, context)
    labels = np.zeros(len(targets), np.int64)
    if task == "labels":
        return Labelling(task="labels", classes=classes, labels=labels, targets=targets)
    wrong = np.flatnonzero(targets.sum(1) != 1)
    if wrong.size:
        row = int(wrong[0])
        found = f"{int(targets[row].sum())} of {len(classes)} columns are 1"
        context.refuse(row, found, "one, with --task classes", "see --task labels")
    labels = targets.argmax(1).astype(np.int64)
    for split, rows in context.splits.items():
        present = tuple(classes[label] for label in np.unique(labels[rows]))
        may_lack = split in EVAL_SPLITS
        require_classes(context.where(split), present, classes, may_lack=may_lack)
    return Labelling(task="classes", classes=classes, labels=labels)


@dataclass(frozen=True, slots=True)
class _Naming:
    """The names of labels.

    Attributes:
        names: word in a table -> name.
        key: sorts names.
        is_numbered: whether they are class numbers that name themselves.
    """

    names: Mapping[str, str]
    key: Callable[[str], int] | None
    is_numbered: bool = False

    def order(self, names: set[str]) -> tuple[str, ...]:
        """Names in the order of their labels."""
        return tuple(sorted(names, key=self.key) if self.key is not None else sorted(names))


def _name_words(
    places: Mapping[str, int], column: Coded, given: tuple[str, ...], context: Context
) -> _Naming:
    """The names of labels.

    Args:
        places: word -> the first value of the column that has it.
        column: the column.
        given: what the numbers 0, 1, ... mean; empty: nothing is given.
        context: the table.

    Raises:
        DataError: a number is no class number.
        UsageError: names are given for names.
    """

    def refuse(word: str, expected: str, remedy: str) -> None:
        context.refuse(column.row(places[word]), f"{column.name!r} is {word!r}", expected, remedy)

    numbers = {word: parse_number(word) for word in places}
    if any(number is None and word.lower() != "nan" for word, number in numbers.items()):
        if given:
            found = f"given for {context.path}, whose labels are names"
            raise UsageError("--classes", found, "labels that are numbers", "leave it out")
        return _Naming({word: word for word in places}, None)
    whole: dict[str, int] = {}
    for word, number in numbers.items():
        if number is None or number < 0 or number != int(min(number, _MOST_NUMBER)):
            remedy = "see --task number" if number is not None else "remove the row"
            refuse(word, "a class number (0, 1, ...) or names", remedy)
        elif given and number >= len(given):
            expected = f"0 to {len(given) - 1}, for {len(given)} classes"
            refuse(word, expected, "name every class by --classes, in the order of their numbers")
        else:
            whole[word] = int(number)
    if given:
        return _Naming({word: given[number] for word, number in whole.items()}, given.index)
    if min(whole.values()) == 0:
        return _Naming({word: str(number) for word, number in whole.items()}, int, True)
    return _Naming({w: w if w.isdigit() else str(number) for w, number in whole.items()}, None)


def _require_no_gap(naming: _Naming, found: Sequence[str], where: str, remedy: str) -> None:
    """Raise DataError if class numbers that name themselves leave one out."""
    if naming.is_numbered:
        for number, name in enumerate(found):
            if name != str(number):
                expected = f"each of 0 to {found[-1]} to have some"
                raise DataError(where, f"label {number} has no rows", expected, remedy)


def _require_few(rows: int, labels: int, context: Context) -> None:
    if labels > MOST_LABELS:
        expected = f"at most {MOST_LABELS:,}"
        raise DataError(context.path, f"{labels:,} labels", expected, "see --label-column")
    if rows * labels > MOST_CELLS:
        found = f"{rows:,} rows of {labels:,} labels"
        raise DataError(context.path, found, f"at most {MOST_CELLS:,} targets", SPLIT_UP)


def _spread(
    labelled: Sequence[Sequence[int]], codes: NDArray[np.int32]
) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """int64[M] twice: the row and the label of every label that a row has.

    Args:
        labelled: the labels of each value.
        codes: int32[N], each row's value.
    """
    counts = np.array([len(cell) for cell in labelled], np.int64)
    flat = np.array([label for cell in labelled for label in cell], np.int64)
    starts = np.cumsum(counts) - counts
    each = counts[codes]
    rows = np.repeat(np.arange(len(codes)), each)
    within = np.arange(len(rows)) - np.repeat(np.cumsum(each) - each, each)
    return rows, flat[np.repeat(starts[codes], each) + within]
