"""Class folders by names alone, as archives and stores list them: samples as of the same on a disk.

The rules are `folder`'s and `splits`'s.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import TypeAlias

import numpy as np
from numpy.typing import NDArray

from pipelines.errors import DataError, FormatError
from pipelines.formats.folder import (
    IMAGE_SUFFIXES,
    MACOS_FOLDER,
    Levels,
    is_class,
    label_images,
    require_classes,
    suffix,
)
from pipelines.formats.splits import Layout, read_layout, require_no_splits, require_train, split_of

#: A folder: what it holds by name; a file is a number of the caller's.
Tree: TypeAlias = "dict[str, Tree | int]"


@dataclass(frozen=True, slots=True)
class ClassTree:
    """The samples below one folder of class folders.

    Attributes:
        prefix: the folder, empty or ending in `/`.
        classes: class names; a label is an index into them.
        names: each sample's path relative to `prefix`.
        labels: int64[N].
        numbers: int64[N], the samples' files.
        ignored: suffix -> how many files are no images.
        passed_over: folders beside it that are no split.
    """

    prefix: str
    classes: tuple[str, ...]
    names: tuple[str, ...]
    labels: NDArray[np.int64]
    numbers: NDArray[np.int64]
    ignored: dict[str, int]
    passed_over: tuple[str, ...] = ()


@dataclass(frozen=True, kw_only=True, slots=True)
class Advice:
    """The words of errors about a tree.

    Attributes:
        place: what to call a path; a folder's ends in `/`, that of all is empty.
        take_alone: the remedy to take the folder at a path alone.
        take_inside: the remedy to take the folder at a path, where classes were expected.
        of_loose_images: the remedy where images lie beside no class folder.
        of_nothing: the remedy where there is no class folder.
    """

    place: Callable[[str], str]
    take_alone: Callable[[str], str]
    take_inside: Callable[[str], str]
    of_loose_images: str
    of_nothing: str


def read_trees(where: object, names: Iterable[str], kind: str = "archive") -> dict[str, ClassTree]:
    """Split -> the samples of an archive's class folders; or '' -> those of the only ones.

    The class folders, or the splits, are at the top, or below a folder that is alone there.

    Args:
        where: the archive, as errors name it.
        names: of its members, each relative and plain; what ends in `/` is a folder. A sample's
            number is its member's.
        kind: what to call an archive in advice.

    Raises:
        FormatError: a name is there twice.
        DataError: its folders are not as `folder.read_folder` wants them.
    """
    redo = f"make the {kind} anew"
    top, prefix = _unwrap(where, _plant(where, names, redo))
    advice = Advice(
        place=lambda path: f"{where}: {path}" if path else str(where),
        take_alone=lambda path: f"make a {kind} of {path.removeprefix(prefix)} to take it alone",
        take_inside=lambda _: f"make the {kind} of what is in it",
        of_loose_images="put the images into one folder per class",
        of_nothing=redo,
    )
    return read_splits(top, advice, prefix)


def read_splits(tree: Tree, advice: Advice, prefix: str = "") -> dict[str, ClassTree]:
    """Split -> the samples of class folders; or '' -> those of the only ones.

    Args:
        tree: holds the splits or the classes.
        advice: what errors say.
        prefix: the path of `tree`, empty or ending in `/`.

    Raises:
        DataError: its folders are not as `folder.read_folder` wants them.
    """
    folders, layout = folders_in(tree), _find_layout(tree, advice.place(prefix))
    require_train(advice.place(prefix), layout, advice.take_alone(prefix + layout.first))
    found: dict[str, ClassTree] = {}
    for split, name in layout.splits.items():
        classes = found["train"].classes if found else None
        passed_over = () if found else layout.passed_over
        found[split] = _list(folders[name], f"{prefix}{name}/", advice, classes, passed_over)
    return found or {"": _list(tree, prefix, advice, None, ())}


def folders_in(tree: Tree) -> dict[str, Tree]:
    """The folders that may be classes or splits."""
    return {
        name: below for name, below in tree.items() if isinstance(below, dict) and is_class(name)
    }


def is_image(name: str) -> bool:
    """Whether a file of this name is taken for an image."""
    return not name.startswith(".") and suffix(name) in IMAGE_SUFFIXES


def _plant(where: object, names: Iterable[str], redo: str) -> Tree:
    """All folders and members by name; what macOS adds is left out."""
    tree: Tree = {}
    for number, name in enumerate(names):
        *above, last = name.split("/")
        node = tree
        for depth, part in enumerate(above, 1):
            below = node.setdefault(part, {})
            if isinstance(below, int):
                found = f"lies in {'/'.join(above[:depth])}, which is a file"
                raise FormatError(f"{where}: {name}", found, "a folder", redo)
            node = below
        if last in node:
            raise FormatError(f"{where}: {name}", "is there twice", "each name once", redo)
        if last:
            node[last] = number
    tree.pop(MACOS_FOLDER, None)
    return tree


def _unwrap(where: object, node: Tree) -> tuple[Tree, str]:
    """The folder that holds class or split folders, and its path.

    Raises:
        DataError: what is alone at the top might be a class or hold classes.
    """
    prefix = ""
    while len(folders := folders_in(node)) == 1:
        ((name, below),) = folders.items()
        if split_of(name) or not folders_in(below):
            break
        if _has_images(below) and "train" not in map(split_of, folders_in(below)):
            found = "is the only folder, with images and folders"
            remedy = "move its images into some"
            raise DataError(f"{where}: {prefix}{name}", found, "class folders in it", remedy)
        node, prefix = below, f"{prefix}{name}/"
    return node, prefix


def _find_layout(tree: Tree, place: str) -> Layout:
    folders = folders_in(tree)
    return read_layout(place, folders, lambda name: bool(folders_in(folders[name])))


def _has_images(tree: Tree) -> bool:
    return any(isinstance(below, int) and is_image(name) for name, below in tree.items())


def _list(
    tree: Tree,
    prefix: str,
    advice: Advice,
    classes: tuple[str, ...] | None,
    passed_over: tuple[str, ...],
) -> ClassTree:
    place, folders = advice.place(prefix), folders_in(tree)
    found = tuple(sorted(folders))
    if not found:
        remedy = advice.of_loose_images if _has_images(tree) else advice.of_nothing
        raise DataError(place, "holds no class folders", "one folder of images per class", remedy)
    if classes is None:
        layout = _find_layout(tree, place)
        require_no_splits(place, layout, advice.take_inside(prefix + layout.first))
    require_classes(place, found, classes)
    ignored: Counter[str] = Counter()
    numbers: dict[str, int] = {}
    images: dict[str, Levels] = {name: {} for name in found}
    for name in found:
        _walk(folders[name], name, images[name], numbers, ignored)
    names, labels = label_images(images, lambda name: advice.place(prefix + name))
    in_order = np.fromiter((numbers[name] for name in names), np.int64, len(names))
    counts = dict(sorted(ignored.items()))
    return ClassTree(prefix, found, names, labels, in_order, counts, passed_over)


def _walk(
    node: Tree, level: str, levels: Levels, numbers: dict[str, int], ignored: Counter[str]
) -> None:
    """Fill `levels` with the sorted image files of each folder below `node`, as a folder's are."""
    files = levels[level] = []
    for name in sorted(node):
        below = node[name]
        if name.startswith("."):
            ignored["dot files"] += 1
        elif isinstance(below, dict):
            _walk(below, f"{level}/{name}", levels, numbers, ignored)
        elif suffix(name) in IMAGE_SUFFIXES:
            files.append(name)
            numbers[f"{level}/{name}"] = below
        else:
            ignored[suffix(name) or "no suffix"] += 1
