"""Class folders in an archive, by the names of its members: the same samples as of it unpacked.

The rules are `folder`'s and `splits`'s.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable
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

#: A folder: what it holds by name, folders and numbers of members.
_Node: TypeAlias = "dict[str, _Node | int]"


@dataclass(frozen=True, slots=True)
class ClassTree:
    """The samples below one folder of class folders.

    Attributes:
        prefix: the folder, empty or ending in `/`.
        classes: class names; a label is an index into them.
        names: each sample's path relative to `prefix`.
        labels: int64[N].
        members: int64[N], the numbers of the samples' members.
        ignored: suffix -> how many files are no images.
        passed_over: folders beside it that are no split.
    """

    prefix: str
    classes: tuple[str, ...]
    names: tuple[str, ...]
    labels: NDArray[np.int64]
    members: NDArray[np.int64]
    ignored: dict[str, int]
    passed_over: tuple[str, ...] = ()


def read_trees(where: object, names: Iterable[str], kind: str = "archive") -> dict[str, ClassTree]:
    """Split -> the samples of its class folders; or '' -> those of the only ones.

    The class folders, or the splits, are at the top, or below a folder that is alone there.

    Args:
        where: the archive, as errors name it.
        names: of its members, each relative and plain; what ends in `/` is a folder.
        kind: what to call an archive in advice.

    Raises:
        FormatError: a name is there twice.
        DataError: its folders are not as `folder.read_folder` wants them.
    """
    top, prefix = _unwrap(where, _plant(where, names, _redo(kind)))
    folders = _folders(top)
    place = f"{where}: {prefix}" if prefix else where
    layout = _find_layout(place, folders)
    require_train(place, layout, f"make a {kind} of {layout.first} to take it alone")
    trees: dict[str, ClassTree] = {}
    for split, name in layout.splits.items():
        classes = trees["train"].classes if trees else None
        passed_over = () if trees else layout.passed_over
        trees[split] = _list(where, kind, f"{prefix}{name}/", folders[name], classes, passed_over)
    return trees or {"": _list(where, kind, prefix, top, None, ())}


def _redo(kind: str) -> str:
    return f"make the {kind} anew"


def _plant(where: object, names: Iterable[str], redo: str) -> _Node:
    """All folders and members by name; what macOS adds is left out."""
    tree: _Node = {}
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


def _unwrap(where: object, node: _Node) -> tuple[_Node, str]:
    """The folder that holds class or split folders, and its path.

    Raises:
        DataError: what is alone at the top might be a class or hold classes.
    """
    prefix = ""
    while len(folders := _folders(node)) == 1:
        ((name, below),) = folders.items()
        if split_of(name) or not _folders(below):
            break
        if _has_images(below) and "train" not in map(split_of, _folders(below)):
            found = "is the only folder, with images and folders"
            remedy = "move its images into some"
            raise DataError(f"{where}: {prefix}{name}", found, "class folders in it", remedy)
        node, prefix = below, f"{prefix}{name}/"
    return node, prefix


def _folders(node: _Node) -> dict[str, _Node]:
    return {
        name: below for name, below in node.items() if isinstance(below, dict) and is_class(name)
    }


def _find_layout(where: object, folders: dict[str, _Node]) -> Layout:
    return read_layout(where, folders, lambda name: bool(_folders(folders[name])))


def _has_images(node: _Node) -> bool:
    return any(
        isinstance(below, int) and suffix(name) in IMAGE_SUFFIXES and not name.startswith(".")
        for name, below in node.items()
    )


def _list(
    where: object,
    kind: str,
    prefix: str,
    node: _Node,
    classes: tuple[str, ...] | None,
    passed_over: tuple[str, ...],
) -> ClassTree:
    place = f"{where}: {prefix}" if prefix else str(where)
    folders = _folders(node)
    found = tuple(sorted(folders))
    if not found:
        is_flat = _has_images(node)
        remedy = "put the images into one folder per class" if is_flat else _redo(kind)
        raise DataError(place, "holds no class folders", "one folder of images per class", remedy)
    if classes is None:
        advice = f"make the {kind} of what is in it"
        require_no_splits(place, _find_layout(place, folders), advice)
    require_classes(place, found, classes)
    ignored: Counter[str] = Counter()
    members: dict[str, int] = {}
    images: dict[str, Levels] = {name: {} for name in found}
    for name in found:
        _walk(folders[name], name, images[name], members, ignored)
    names, labels = label_images(images, lambda name: f"{where}: {prefix}{name}")
    in_order = np.array([members[name] for name in names], np.int64)
    counts = dict(sorted(ignored.items()))
    return ClassTree(prefix, found, names, labels, in_order, counts, passed_over)


def _walk(
    node: _Node, level: str, levels: Levels, members: dict[str, int], ignored: Counter[str]
) -> None:
    """Fill `levels` with the sorted image files of each folder below `node`, as a folder's are."""
    files = levels[level] = []
    for name in sorted(node):
        below = node[name]
        if name.startswith("."):
            ignored["dot files"] += 1
        elif isinstance(below, dict):
            _walk(below, f"{level}/{name}", levels, members, ignored)
        elif suffix(name) in IMAGE_SUFFIXES:
            files.append(name)
            members[f"{level}/{name}"] = below
        else:
            ignored[suffix(name) or "no suffix"] += 1
