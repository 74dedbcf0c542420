"""Splits that are made of data which come without: by hashes of names, alike on every machine.

Names, or those of groups, are put in the order of their hashes, class by class; those below the
share that was asked for are set apart. So adding photos moves none of the others, and a `.beton` is
divided as the folder that it was converted from. But dice fall as they do: where a class's share
would be off by more than a quarter, as many as are needed nearest to the limit change sides, and
only such few can move when photos are added. Folds are equal parts of the same order.
"""

from __future__ import annotations

import heapq
import math
import re
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from pipelines.errors import DataError, UsageError
from pipelines.formats.columns import Columns, hash_words

#: The sides of a division.
SIDES = ("train", "val")
#: Deviation of a class's share from the one that was asked for, at most, as a part of it. Dice
#: exceed it once in 14,000 divisions of 1,000 photos with a share of 0.2, of 100 photos once in 6.
_OFF = 0.25
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

    Without groups, each class is divided by itself, so that its share is as asked for; with groups
    all samples are.

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
    _, which = np.unique(hashes, return_inverse=True)  # groups, in the order of their hashes
    groups = int(which.max()) + 1
    is_grouped = bool(division.group_by) or columns.groups is not None
    least = max(division.folds, 2)
    if groups < least:
        found = f"{groups:,} {'groups' if is_grouped else 'samples'}"
        found = f"all {len(names):,} samples are one group" if groups == 1 and is_grouped else found
        raise DataError(where, found, f"{least} or more to divide", "see --group-by and --folds")
    is_classes = columns.task == "classes"
    if is_grouped:
        side = _take_groups(which, hashes, division)
        if is_classes and not division.folds:
            side = _keep_classes(side, which, labels, len(classes))
    else:
        side = np.zeros(len(names), np.bool_)
        for label in range(len(classes)) if is_classes else (0,):
            own = np.flatnonzero(labels == label)
            own = own[np.argsort(hashes[own], kind="stable")]
            side[own[_take(hashes[own], division)]] = True
    if is_classes:
        _require_classes(where, side, labels, classes, division)
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


def _take(hashes: NDArray[np.uint64], division: Division) -> slice:
    """Those of N samples, in the order of their hashes, that are set apart."""
    count = len(hashes)
    if division.folds:
        # Classes of fewer samples than folds are spread over the folds.
        first, last = (
            -(-count * at // division.folds) for at in (division.fold, division.fold + 1)
        )
        return slice(first, last)
    below = int(np.searchsorted(_place(hashes), division.val_split))
    least, most = _bounds(count, division.val_split)
    return slice(0, min(max(below, least), most))


def _bounds(count: int, share: float) -> tuple[int, int]:
    """The least and the largest number of `count` samples to set apart."""
    least, most = math.ceil((1 - _OFF) * share * count), math.floor((1 + _OFF) * share * count)
    if least > most:
        least = most = round(share * count)
    least = min(max(least, 1), max(count - 1, 0))  # both sides have one, if there are two
    return least, max(min(most, count - 1), least)


def _take_groups(
    which: NDArray[np.int64], hashes: NDArray[np.uint64], division: Division
) -> NDArray[np.bool_]:
    """bool[N]: samples whose groups are set apart.

    Args:
        which: int64[N], each sample's group, numbered by hash.
        hashes: uint64[N], its group's.
        division: how.
    """
    sizes = np.bincount(which)
    if division.folds:
        in_fold: NDArray[np.bool_] = _assign_folds(sizes, division.folds)[which] == division.fold
        return in_fold
    ends, total = np.cumsum(sizes), len(which)
    share = division.val_split
    below = int(np.searchsorted(_place(np.unique(hashes)), share))
    shares = ends[:-1] / total  # set apart are the groups up to one, but not all
    near = np.flatnonzero(abs(shares - share) <= _OFF * share)
    if near.size:
        last = near[np.argmin(abs(near + 1 - below))]
    else:
        last = np.argmin(abs(shares - share))
    is_apart: NDArray[np.bool_] = which <= last
    return is_apart


def _assign_folds(sizes: NDArray[np.int64], folds: int) -> NDArray[np.int64]:
    """int64[G], the fold of each group: the largest first, each to the smallest fold so far."""
    filled = [(0, fold) for fold in range(folds)]
    assigned = np.empty(len(sizes), np.int64)
    for group in np.argsort(-sizes, kind="stable").tolist():
        size, assigned[group] = filled[0]
        heapq.heapreplace(filled, (size + int(sizes[group]), int(assigned[group])))
    return assigned


def _keep_classes(
    side: NDArray[np.bool_], which: NDArray[np.int64], labels: NDArray[np.int64], classes: int
) -> NDArray[np.bool_]:
    """bool[N]: the same sides, where a class on one alone gets its group next to the limit moved.

    Args:
        side: bool[N], by groups.
        which: int64[N], each sample's group, numbered by hash.
        labels: int64[N].
        classes: how many there are.
    """
    side = side.copy()
    for label in range(classes):
        own = np.flatnonzero(labels == label)
        if own.size and side[own].all():
            side[which == which[own].max()] = False
        elif own.size and not side[own].any():
            side[which == which[own].min()] = True
    return side


def _place(hashes: NDArray[np.uint64]) -> NDArray[np.float64]:
    """float64[N] in [0, 1)."""
    return hashes.astype(np.float64) * 2.0**-64


def _require_classes(
    where: object,
    side: NDArray[np.bool_],
    labels: NDArray[np.int64],
    classes: Sequence[str],
    division: Division,
) -> None:
    """Refuse a division that leaves a class without a sample where it must have one.

    A fold may lack a small class; the training side may not.

    Raises:
        DataError: it does.
    """
    total, apart = (np.bincount(each, minlength=len(classes)) for each in (labels, labels[side]))
    for label, name in enumerate(classes):
        if total[label] and (apart[label] == total[label] or not (division.folds or apart[label])):
            found = f"the images of {name} ({total[label]:,}) cannot be on both sides"
            remedy = "add some, remove it, or take another --split-seed"
            raise DataError(where, found, "two or more, of two groups", remedy)
