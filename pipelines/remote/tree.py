"""Class folders in a store: the same samples, in the same order, as of the same tree on a disk.

Stores know names, not folders. Their listing is put into a tree, whose folders are read as those of
a disk: see `formats.folder` for which files are samples, and `formats.splits` for splits.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import TypeAlias

import numpy as np
from numpy.typing import NDArray

from pipelines.errors import DataError, FastftError
from pipelines.formats.columns import NONE, Columns
from pipelines.formats.folder import (
    IMAGE_SUFFIXES,
    MAX_DEPTH,
    Levels,
    is_class,
    label_images,
    require_classes,
    suffix,
)
from pipelines.formats.splits import Layout, read_layout, require_no_splits, require_train
from pipelines.images.limits import MAX_FILE_BYTES
from pipelines.remote.address import join, show
from pipelines.remote.faults import Missing, StoreError
from pipelines.remote.store import Store

#: A folder: what it holds by name, files by their size in bytes.
Tree: TypeAlias = "dict[str, Tree | int]"


@dataclass(frozen=True, kw_only=True, slots=True)
class RemoteFolder:
    """The samples below one folder of class folders in a store; see `conversion.inputs.Listing`.

    Attributes:
        address: of the folder.
        classes: class names; a label is an index into them.
        names: each sample's address from the folder on, in sample order.
        labels: int64[N].
        ignored: suffix -> how many files were passed over as no images.
        passed_over: folders beside it that are no split.
        columns: nothing is known beside the labels.
    """

    address: str
    classes: tuple[str, ...]
    names: tuple[str, ...]
    labels: NDArray[np.int64]
    ignored: dict[str, int]
    passed_over: tuple[str, ...] = ()
    columns: Columns = NONE
    _sizes: NDArray[np.int64] = field(repr=False)
    _store: Store = field(repr=False)

    def __len__(self) -> int:
        return len(self.names)

    def where(self, name: str) -> str:
        """The name of a sample or a class in an error."""
        return show(join(self.address, name))

    def size_bytes(self, sample: int) -> int:
        """A sample's size as the store listed it."""
        return int(self._sizes[sample])

    def read(self, sample: int) -> bytes:
        """A sample's bytes; safe to call from several threads.

        Raises:
            DataError: it is gone, or larger than images are.
            FastftError: the store does not hand it out, which says nothing of the image.
        """
        address, size = join(self.address, self.names[sample]), self.size_bytes(sample)
        if size > MAX_FILE_BYTES:
            found = f"is {size:,} bytes long, more than {MAX_FILE_BYTES:,}"
            raise DataError(show(address), found)
        try:
            return self._store.read(address, 0, size)
        except Missing:
            raise
        except StoreError as error:
            # A DataError would leave the image out as a broken one.
            raise FastftError(error.where, error.found, error.expected, error.remedy) from error


def grow_tree(address: str, files: Iterable[tuple[str, int]]) -> Tree:
    """The tree of what lies below a folder.

    Args:
        address: of the folder.
        files: names from the folder on, and sizes; what ends in `/` is a folder that is known.

    Raises:
        DataError: a name is no plain relative path, or one of a file and a folder.
    """
    tree: Tree = {}
    for name, size in files:
        parts = name.removesuffix("/").split("/")
        where = show(join(address, name))
        if any(part in ("", ".", "..") or "\0" in part for part in parts):
            raise DataError(where, "is no plain relative name", "", "rename it")
        if len(parts) > MAX_DEPTH:
            raise DataError(
                where, f"lies more than {MAX_DEPTH} folders deep", "fewer", "move it up"
            )
        node = tree
        for part in parts if name.endswith("/") else parts[:-1]:
            below = node.setdefault(part, {})
            if isinstance(below, int):
                raise DataError(where, "lies in what is a file, too", "a folder", "rename one")
            node = below
        if not name.endswith("/") and node.setdefault(parts[-1], size) != size:
            raise DataError(where, "is a folder, too", "a file or a folder", "rename one")
    return tree


def read_tree(address: str, tree: Tree, store: Store) -> dict[str, RemoteFolder]:
    """The samples of a tree: split -> samples, or '' -> the only ones; all of one class list.

    Raises:
        DataError: as `formats.folder.read_folder` and `read_splits`.
    """
    layout = _find_layout(address, tree)
    require_train(show(address), layout, f"name {show(join(address, layout.first))} alone")
    found: dict[str, RemoteFolder] = {}
    for split, name in layout.splits.items():
        classes = found["train"].classes if found else None
        passed_over = () if found else layout.passed_over
        below, here = _folders(tree)[name], join(address, name)
        found[split] = _read_folder(here, below, store, classes, passed_over)
    return found or {"": _read_folder(address, tree, store, None)}


def has_class_images(tree: Tree) -> bool:
    """Whether there are images in folders."""
    return any(map(_has_images, _folders(tree).values()))


def _read_folder(
    address: str,
    tree: Tree,
    store: Store,
    classes: tuple[str, ...] | None,
    passed_over: tuple[str, ...] = (),
) -> RemoteFolder:
    """List the samples of one folder of class folders; see `folder.read_folder`."""
    where, folders = show(address), _folders(tree)
    found = tuple(sorted(folders))
    if not found:
        remedy = "see fastft convert --help for the layout"
        if any(isinstance(below, int) and _is_image(name) for name, below in tree.items()):
            remedy = "move the images into one folder per class"
        raise DataError(where, "holds no class folders", "one folder of images per class", remedy)
    if classes is None:
        layout = _find_layout(address, tree)
        require_no_splits(where, layout, f"name {show(join(address, layout.first))} instead")
    require_classes(where, found, classes)
    ignored: Counter[str] = Counter()
    sizes: dict[str, int] = {}
    images: dict[str, Levels] = {name: {} for name in found}
    for name in found:
        _walk(folders[name], name, images[name], sizes, ignored)
    names, labels = label_images(images, lambda name: show(join(address, name)))
    return RemoteFolder(
        address=address,
        classes=found,
        names=names,
        labels=labels,
        ignored=dict(sorted(ignored.items())),
        passed_over=passed_over,
        _sizes=np.fromiter((sizes[name] for name in names), np.int64, len(names)),
        _store=store,
    )


def _walk(
    tree: Tree, level: str, levels: Levels, sizes: dict[str, int], ignored: Counter[str]
) -> None:
    """Fill `levels` with the sorted image files of each folder from `tree` on."""
    files = levels[level] = []
    for name in sorted(tree):
        below = tree[name]
        if name.startswith("."):
            ignored["dot files"] += 1
        elif not isinstance(below, int):
            _walk(below, f"{level}/{name}", levels, sizes, ignored)
        elif suffix(name) in IMAGE_SUFFIXES:
            files.append(name)
            sizes[f"{level}/{name}"] = below
        else:
            ignored[suffix(name) or "no suffix"] += 1


def _find_layout(address: str, tree: Tree) -> Layout:
    folders = _folders(tree)
    return read_layout(show(address), folders, lambda name: bool(_folders(folders[name])))


def _folders(tree: Tree) -> dict[str, Tree]:
    return {
        name: below for name, below in tree.items() if isinstance(below, dict) and is_class(name)
    }


def _has_images(tree: Tree) -> bool:
    return any(
        _is_image(name) if isinstance(below, int) else _has_images(below)
        for name, below in tree.items()
    )


def _is_image(name: str) -> bool:
    return not name.startswith(".") and suffix(name) in IMAGE_SUFFIXES
