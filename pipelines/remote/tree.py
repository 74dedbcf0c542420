"""Class folders in a store: the same samples, in the same order, as of the same tree on a disk.

Stores know names, not folders. Their listing is put into a tree, a file in it is its size in bytes;
`formats.class_tree` knows which of it are samples.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from pipelines.errors import DataError, FastftError
from pipelines.formats.class_tree import Advice, Tree, folders_in, is_image, read_splits
from pipelines.formats.columns import NONE, Columns
from pipelines.formats.folder import MAX_DEPTH
from pipelines.images.limits import MAX_FILE_BYTES
from pipelines.remote.address import join, show
from pipelines.remote.faults import Missing, StoreError
from pipelines.remote.store import Store


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

    def place(path: str) -> str:
        return show(join(address, path.removesuffix("/")) if path else address)

    advice = Advice(
        place=place,
        take_alone=lambda path: f"name {place(path)} alone",
        take_inside=lambda path: f"name {place(path)} instead",
        of_loose_images="move the images into one folder per class",
        of_nothing="see fastft convert --help for the layout",
    )
    return {
        split: RemoteFolder(
            address=join(address, found.prefix.removesuffix("/")) if found.prefix else address,
            classes=found.classes,
            names=found.names,
            labels=found.labels,
            ignored=found.ignored,
            passed_over=found.passed_over,
            _sizes=found.numbers,
            _store=store,
        )
        for split, found in read_splits(tree, advice).items()
    }


def has_class_images(tree: Tree) -> bool:
    """Whether there are images in folders."""
    return any(map(_has_images, folders_in(tree).values()))


def _has_images(tree: Tree) -> bool:
    return any(
        is_image(name) if isinstance(below, int) else _has_images(below)
        for name, below in tree.items()
    )
