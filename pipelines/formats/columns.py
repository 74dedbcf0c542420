"""Columns of a data set beside one class per sample: several labels, a number, groups, weights.

A listing has columns (`conversion.inputs.Listing.columns`), a `.beton` keeps them, and an index
gives them back (`beton.Index.columns`). Class folders have none of them: `NONE`.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal, TypeVar, get_args

import numpy as np
from numpy.typing import NDArray

_Number = TypeVar("_Number", np.float32, np.uint64)

#: The targets of a model: one class of each image, any number of labels, or a number.
Task = Literal["classes", "labels", "number"]
TASKS: tuple[Task, ...] = get_args(Task)


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class Columns:
    """The columns of N samples.

    Attributes:
        task: `classes`: a sample's label says all. `labels`: `targets` are float32[N, C], 1 where a
            sample has that label and 0 where it has not. `number`: float32[N, 1].
        targets: see there; None with `classes`. With other tasks a sample's number in `labels` is 0
            and says nothing, and the classes are the labels' names, or the number's one name.
        groups: uint64[N], equal where samples belong together (one patient, one scene), by
            `hash_words`; None: each stands for itself.
        weights: float32[N], above 0, how often a sample is drawn compared to others; None: alike.
    """

    task: Task = "classes"
    targets: NDArray[np.float32] | None = None
    groups: NDArray[np.uint64] | None = None
    weights: NDArray[np.float32] | None = None

    @property
    def is_empty(self) -> bool:
        """Whether the labels say all."""
        return self.targets is None and self.groups is None and self.weights is None

    def answers(self, labels: NDArray[np.int64]) -> NDArray[np.int64] | NDArray[np.float32]:
        """The right answer for each sample: its label of int64[N], else `targets`."""
        return labels if self.targets is None else self.targets

    def labels_of(self, sample: int, label: int) -> list[int]:
        """The labels that a sample has; `label` where these columns say nothing of it."""
        if self.targets is None or self.task == "number":
            return [label]
        found: list[int] = np.flatnonzero(self.targets[sample]).tolist()
        return found

    def count(self, labels: NDArray[np.int64], classes: int) -> NDArray[np.int64]:
        """int64[C]: samples of each class, or with each label; of a number, all."""
        if self.targets is None or self.task == "number":
            return np.bincount(labels, minlength=classes)
        counts: NDArray[np.int64] = np.count_nonzero(self.targets, axis=0)
        return counts

    def take(self, samples: NDArray[np.int64]) -> Columns:
        """The columns of some samples."""
        return Columns(
            task=self.task,
            targets=None if self.targets is None else self.targets[samples],
            groups=None if self.groups is None else self.groups[samples],
            weights=None if self.weights is None else self.weights[samples],
        )


#: The columns of samples that have nothing but a label.
NONE = Columns()


@dataclass(frozen=True, kw_only=True, slots=True)
class ColumnNames:
    """The names of columns in a table or a packed data set; empty: guessed by the usual names.

    Attributes:
        image: of the images, or of the paths to them.
        label: of the classes, labels or numbers.
        split, weight, group: of what they say.
        task: what `label` holds; empty: `classes`, or `labels` where a cell is a list.
    """

    image: str = ""
    label: str = ""
    split: str = ""
    weight: str = ""
    group: str = ""
    task: Task | Literal[""] = ""


#: Nothing is named.
UNNAMED = ColumnNames()


def join_columns(parts: Sequence[Columns]) -> Columns:
    """The columns of several data sets of one kind, one behind the other."""
    first = parts[0]
    return Columns(
        task=first.task,
        targets=_join([part.targets for part in parts]),
        groups=_join([part.groups for part in parts]),
        weights=_join([part.weights for part in parts]),
    )


def _join(columns: Sequence[NDArray[_Number] | None]) -> NDArray[_Number] | None:
    """All of a column; None where a part has none."""
    present = [column for column in columns if column is not None]
    return np.concatenate(present) if len(present) == len(columns) else None


def hash_words(words: Sequence[str], salt: str = "") -> NDArray[np.uint64]:
    """uint64[N]: a hash of each word, the same on every machine; another for each salt."""
    key = salt.encode("utf-8", "surrogateescape")
    digests = b"".join(
        hashlib.blake2b(
            word.encode("utf-8", "surrogateescape"), digest_size=8, key=key[:64]
        ).digest()
        for word in words
    )
    return np.frombuffer(digests, "<u8").astype(np.uint64)
