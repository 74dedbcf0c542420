"""Splits of a data set, recognized by the names of folders and files.

People call a split by several words, in any case; outputs and options have one word for each. A
class may be called like a split, too, so names alone do not decide: see `read_layout`.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from pipelines.errors import DataError

#: Split -> what people call it, in lower case; in the order in which splits are reported.
WORDS = {
    "train": ("train", "training"),
    "val": ("val", "valid", "validation", "dev", "eval"),
    "test": ("test", "testing"),
}
#: The names of the splits, of their outputs first of all.
SPLITS = tuple(WORDS)
#: Splits to evaluate on, by preference.
EVAL_SPLITS = ("test", "val")
#: Names that a message lists.
_NAMED = 5


@dataclass(frozen=True, slots=True)
class Layout:
    """The meaning of the folders in a folder.

    Attributes:
        splits: split -> what its folder is called, in the order of `SPLITS`; empty if the folders
            are classes.
        passed_over: the folders beside the splits, which belong to none.
    """

    splits: dict[str, str] = field(default_factory=dict)
    passed_over: tuple[str, ...] = ()

    @property
    def first(self) -> str:
        """The name of the first split's folder; empty if there is none."""
        return next(iter(self.splits.values()), "")


def split_of(name: str) -> str | None:
    """The split that a word means: `val` of `Validation`; None if it means none."""
    folded = name.lower()
    return next((split for split, words in WORDS.items() if folded in words), None)


def name_splits(
    where: object,
    names: Iterable[str],
    kind: str = "folder",
    word: Callable[[str], str] = str,
) -> dict[str, str]:
    """Split -> the one of `names` that means it, in the order of `SPLITS`; the others left out.

    Args:
        where: what to call the folder that they lie in.
        names: of folders or files.
        kind: what they are.
        word: the part of a name that says which split it is.

    Raises:
        DataError: two names mean the same split.
    """
    found: dict[str, str] = {}
    for name in names:
        split = split_of(word(name))
        if split is None:
            continue
        if split in found:
            raise DataError(
                where,
                f"holds {found[split]} and {name}",
                f"one {kind} for {split}",
                "rename one, or move it away",
            )
        found[split] = name
    return {split: found[split] for split in SPLITS if split in found}


def read_layout(
    where: object,
    names: Iterable[str],
    holds_folders: Callable[[str], bool],
    *,
    needs_train: bool = True,
) -> Layout:
    """Tell splits from classes, one of which may be called like a split.

    The folders are splits if all are called so. Beside others those are splits that are called so
    if a training split is among them and one of them holds folders, as a split does.

    Args:
        where: what to call the folder in an error.
        names: the folders in it.
        holds_folders: whether one of them holds folders.
        needs_train: False: an evaluation split alone is told from classes, too.

    Raises:
        DataError: two folders are the same split.
    """
    names = sorted(names)
    named = [name for name in names if split_of(name)]
    others = tuple(name for name in names if not split_of(name))
    if others:
        if needs_train and not any(split_of(name) == "train" for name in named):
            return Layout()
        if not any(map(holds_folders, named)):
            return Layout()
    return Layout(name_splits(where, named), others)


def require_train(where: object, layout: Layout, remedy: str = "", kind: str = " folder") -> None:
    """Raise DataError if there are evaluation splits without a training split."""
    if layout.splits and "train" not in layout.splits:
        found = f"has {', '.join(layout.splits.values())} but no train{kind}"
        raise DataError(where, found, "train beside test or val", remedy)


def require_no_splits(where: object, layout: Layout, remedy: str) -> None:
    """Raise DataError if the folders that should be classes are splits: all, or a pair of them.

    Beside others `train` alone may be a class whose images lie in folders.
    """
    splits = layout.splits
    if len(splits) > 1 or (splits and not layout.passed_over):
        are = "classes but splits" if len(splits) > 1 else "class but a split"
        found = f"holds {' and '.join(splits.values())}, by name no {are}"
        raise DataError(where, found, "one folder of images per class", remedy)


def require_no_splits_below(
    images: Mapping[str, Mapping[str, Sequence[str]]], where: Callable[[str], object]
) -> None:
    """Raise DataError if what should be a class holds splits.

    Args:
        images: class name -> each folder of it, from the class on, `/`-separated -> its images.
        where: what to call a class in an error.
    """
    for name, levels in images.items():
        if levels.get(name):
            continue
        paths = [level.split("/") for level in levels]
        parents = {path[1] for path in paths if len(path) > 2}
        below = {path[1] for path in paths if len(path) > 1}
        splits = read_layout(where(name), below, parents.__contains__).splits
        if "train" in splits and (len(splits) > 1 or len(images) == 1):
            expected, remedy = "images of one class", f"name {where(name)} instead"
            if len(images) > 1:
                remedy = f"put the splits above the classes, as in train/{name}"
            held = " and ".join(splits.values())
            raise DataError(where(name), f"is no class but holds {held}", expected, remedy)


def describe_loose_images(folder: Path) -> str:
    """The remedy for a folder that holds images where classes should be."""
    remedy = "move the images into one folder per class"
    return remedy if split_of(folder.name) else f"{remedy}; if it is a class, name {folder.parent}"


def describe_passed_over(names: Sequence[str]) -> str:
    """A line on folders beside the splits that are passed over; empty if there are none."""
    if not names:
        return ""
    return f"passed over beside the splits: {enumerate_some(names)} (not called train, val or test)"


def describe_lone_class(lone: str, names: Sequence[str], where: Callable[[str], object]) -> str:
    """A line on a data set of one class, which teaches a classifier nothing.

    Args:
        lone: the class.
        names: of its samples; in folders each is the class, `/`, and more.
        where: what to call the class.
    """
    said = f"only one class, {lone}: a classifier needs two or more"
    paths = [name.split("/", 2) for name in names]
    if all(len(path) == 3 and path[0] == lone for path in paths):
        below = sorted({path[1] for path in paths})
        return f"{said}; if its folders {enumerate_some(below)} are the classes, name {where(lone)}"
    return f"{said}; add one, or name the folder that holds them all"


def enumerate_some(names: Sequence[str]) -> str:
    """The first few names, and how many more there are."""
    more = len(names) - _NAMED
    return ", ".join(names[:_NAMED]) + (f" and {more:,} more" if more > 0 else "")
