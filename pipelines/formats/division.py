"""Splits that are made of data which come without: by hashes of names, alike on every machine.

A sample's side depends on its own name, or its group's, and the seed alone: adding photos moves
none, and a `.beton` is divided as the folder that it was converted from. So shares are met as
by throwing dice for each sample: of 100 photos of a class and a share of 0.2, 12 to 28 (95 %).
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from pipelines.errors import DataError, UsageError
from pipelines.formats.columns import Columns, hash_words

#: The sides of a division.
SIDES = ("train", "val")
#: Folds at most: more would leave few samples to judge by.
MOST_FOLDS = 100


@dataclass(frozen=True, kw_only=True, slots=True)
class Division:
    """A split to make.

    Attributes:
        val_split: the share of samples that are set apart, above 0 and below 1; 0: none.
        folds: into so many parts samples are divided, of which one is set apart; 0: none.
        fold: that one, from 0 on.
        group_by: a regular expression; samples of whose names it matches the same text (of its
            first group, if it has one) stay on one side. Empty: the data's own groups, if any.
        seed: another one divides otherwise.
    """

    val_split: float = 0.0
    folds: int = 0
    fold: int = 0
    group_by: str = ""
    seed: int = 0

    def __post_init__(self) -> None:
        if self.val_split and not 0 < self.val_split < 1:
            raise UsageError("--val-split", f"{self.val_split:g}", "a share between 0 and 1")
        if self.folds and not 2 <= self.folds <= MOST_FOLDS:
            raise UsageError("--folds", str(self.folds), f"2 to {MOST_FOLDS}")
        if self.folds and self.val_split:
            raise UsageError("--folds", "given with --val-split", "one of them")
        if not 0 <= self.fold < max(self.folds, 1):
            expected = f"0 to {self.folds - 1}" if self.folds else "--folds beside it"
            raise UsageError("--fold", str(self.fold), expected)
        if not 0 <= self.seed < 2**32:
            raise UsageError("--split-seed", str(self.seed), f"0 to {2**32 - 1}")
        if self.group_by and not self:
            raise UsageError(
                "--group-by", "given without a split to make", "--val-split or --folds"
            )
        try:
            re.compile(self.group_by)
        except re.error as error:
            found = f"{self.group_by!r} ({error})"
            raise UsageError("--group-by", found, "a regular expression") from None

    def __bool__(self) -> bool:
        return bool(self.val_split or self.folds)

    def __str__(self) -> str:
        """As options."""
        words = [f"--val-split {self.val_split:g}"] if self.val_split else []
        if self.folds:
            words.append(f"--folds {self.folds} --fold {self.fold}")
        if self.group_by:
            words.append(f"--group-by {self.group_by!r}")
        if self.seed:
            words.append(f"--split-seed {self.seed}")
        return " ".join(words)


#: Data stay as they come.
UNDIVIDED = Division()


@dataclass(frozen=True, slots=True)
class Divided:
    """The two sides of a division.

    Attributes:
        train, val: int64[...], the samples of each, in order.
        groups: how many groups there were; 0: each sample stands for itself.
        remarks: lines on what is not as one may expect.
    """

    train: NDArray[np.int64]
    val: NDArray[np.int64]
    groups: int
    remarks: tuple[str, ...]


def divide(
    where: object,
    names: Sequence[str],
    labels: NDArray[np.int64],
    classes: Sequence[str],
    columns: Columns,
    division: Division,
) -> Divided:
    """Divide samples into two sides.

    Of one class each: no class is without a sample on the training side, nor with `val_split` on
    the other one; where dice would leave it so, its sample (or group) nearest to that side moves.

    Args:
        where: what to call the data in an error.
        names: of the samples.
        labels: int64[N].
        classes: class names.
        columns: of the samples.
        division: how.

    Raises:
        DataError: a class, or all data, cannot be on both sides.
        UsageError: `group_by` matches no name, or all in one group.
    """
    remarks: list[str] = []
    if division.group_by:
        keys, matched = _find_groups(names, division.group_by)
        if not matched:
            found, expected = f"{division.group_by!r} matches no name", f"such as {names[0]!r}"
            raise UsageError("--group-by", found, expected)
        if rest := len(names) - matched:
            said = f"{rest:,} of {len(names):,} names" if rest > 1 else "one name"
            remarks.append(f"--group-by matches not {said}: each is a group of its own")
        hashes = hash_words(keys, _salt(division.seed))
    elif columns.groups is not None:
        # Hashed anew, with the seed.
        hashes = hash_words([f"{group:016x}" for group in columns.groups], _salt(division.seed))
    else:
        hashes = hash_words(names, _salt(division.seed))
    _, which = np.unique(hashes, return_inverse=True)
    groups = int(which.max()) + 1
    is_grouped = bool(division.group_by) or columns.groups is not None
    if groups == 1:
        found = f"all {len(names):,} samples are one group" if is_grouped else "holds one sample"
        raise DataError(where, found, "two or more to divide", "see --group-by")
    place = hashes.astype(np.float64) * 2.0**-64
    if division.folds:
        is_val = np.minimum((place * division.folds).astype(np.int64), division.folds - 1)
        side = is_val == division.fold
    else:
        side = place < division.val_split
    if columns.task == "classes":
        side = _keep_classes(where, side, place, which, labels, classes, division)
    if not side.any() or side.all():
        found = f"{division} leaves {'all' if side.all() else 'none'} of {len(names):,} samples"
        raise DataError(where, found, "some on both sides", "take another share or --split-seed")
    train, val = np.flatnonzero(~side), np.flatnonzero(side)
    return Divided(train, val, groups if is_grouped else 0, tuple(remarks))


def describe_division(divided: Divided, division: Division) -> str:
    """A line on a division that was made."""
    total = len(divided.train) + len(divided.val)
    said = f"split by {division}: {len(divided.train):,} to train"
    said += f", {len(divided.val):,} set apart ({len(divided.val) / total:.1%})"
    return said + (f", of {divided.groups:,} groups" if divided.groups else "")


def _salt(seed: int) -> str:
    return f"fastft split {seed}"


def _find_groups(names: Sequence[str], group_by: str) -> tuple[list[str], int]:
    """The group of each name, and how many the expression matches."""
    pattern, keys, matched = re.compile(group_by), [], 0
    for name in names:
        found = pattern.search(name)
        text = None if found is None else found[1 if pattern.groups else 0]
        matched += text is not None
        # A name that is its own group must not be taken for another's text.
        keys.append(f"\0{name}" if text is None else text)
    return keys, matched


def _keep_classes(
    where: object,
    side: NDArray[np.bool_],
    place: NDArray[np.float64],
    which: NDArray[np.int64],
    labels: NDArray[np.int64],
    classes: Sequence[str],
    division: Division,
) -> NDArray[np.bool_]:
    """bool[N], the side of each sample, such that no class lacks one that it must have.

    Raises:
        DataError: a class has too few samples or groups.
    """
    side = side.copy()
    for label, name in enumerate(classes):
        own = np.flatnonzero(labels == label)
        if not own.size:
            continue
        if side[own].all():
            if division.folds:
                found = f"all {len(own):,} images of {name} are in fold {division.fold}"
                remedy = "take fewer folds, another --split-seed, or add images"
                raise DataError(where, found, "some in another", remedy)
            side[which == which[own[np.argmax(place[own])]]] = False
        elif not division.folds and not side[own].any():
            side[which == which[own[np.argmin(place[own])]]] = True
    for label, name in enumerate(classes):  # a group that moved may have been another's last
        own = side[labels == label]
        if own.size and (own.all() or not (division.folds or own.any())):
            found = f"the images of {name} ({len(own):,}) cannot be on both sides"
            raise DataError(where, found, "two or more, of two groups", "add some, or remove it")
    return side
