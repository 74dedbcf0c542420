"""The inputs of a conversion: class folders, a zip of them, or RecordIO.

A listing says which samples there are, what they are called and labelled, and hands out their
bytes as they are; what the bytes mean is the encoder's business.
"""

from __future__ import annotations

import hashlib
import os
import re
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from pipelines.errors import DataError, UsageError
from pipelines.formats.archive import open_archive
from pipelines.formats.columns import UNNAMED, ColumnNames, Columns
from pipelines.formats.folder import find_clash, read_folder, read_splits, require_folder
from pipelines.formats.recordio import open_records
from pipelines.formats.splits import (
    Layout,
    describe_lone_class,
    describe_passed_over,
    name_splits,
    require_train,
    split_of,
)

#: What may stand between a data set's name and its split in the name of a `.rec`.
_SEPARATORS = "[-_. ]"


class Listing(Protocol):
    """Labelled image files by number; a `formats.folder.Folder` is one."""

    @property
    def classes(self) -> tuple[str, ...]:
        """Class names; each has samples."""
        ...

    @property
    def names(self) -> tuple[str, ...]:
        """The name of each sample: its class, `/`, and a name that is unique within it."""
        ...

    @property
    def labels(self) -> NDArray[np.int64]:
        """int64[N], indices into `classes`."""
        ...

    @property
    def columns(self) -> Columns:
        """What is known of each sample beside its label."""
        ...

    @property
    def ignored(self) -> dict[str, int]:
        """Kind -> how many files of it are no samples."""
        ...

    @property
    def passed_over(self) -> tuple[str, ...]:
        """Folders beside it that are no split."""
        ...

    def __len__(self) -> int: ...
    def where(self, name: str) -> str:
        """The name of a sample or a class in an error."""
        ...

    def size_bytes(self, sample: int) -> int:
        """The size of a sample's file, as far as it is known without reading it."""
        ...

    def read(self, sample: int) -> bytes:
        """A sample's bytes; called from several threads.

        Raises:
            DataError: they cannot be had; `found` says why.
        """
        ...


@contextmanager
def open_listings(
    src: Path,
    classes: tuple[str, ...] = (),
    *,
    names: ColumnNames = UNNAMED,
    image_root: Path | None = None,
) -> Iterator[dict[str, Listing]]:
    """The listings of a data set: split -> listing, or '' -> the only one; all of one class list.

    Args:
        src: a folder of class folders, a zip of them, or a `.rec`; or what holds one of each
            split.
        classes: what the labels of RecordIO mean; default: their numbers.

    Raises:
        DataError: it is none of these, or something in it is wrong.
        UsageError: `classes` are given for what has class names of its own, or cannot be told apart
            everywhere.
    """
    with ExitStack() as stack:
        kind = "" if src.is_dir() else src.suffix.lower()
        files = _split_records(src) if src.is_dir() else {}
        if kind == ".rec":
            files = {"": src}
        if classes and not files:
            raise UsageError(
                "--classes",
                f"given for {src}",
                "RecordIO, whose labels are numbers",
                "leave it out: class folders are named already",
            )
        for file in (src,) if kind == ".zip" else files.values():
            if file.exists() and not file.is_file():  # of a pipe the reader would wait for a writer
                raise DataError(file, "is no plain file", f"a {file.suffix}")
        if clash := find_clash(classes):
            raise UsageError(
                "--classes",
                f"{clash}, one name on other file systems",
                "names that differ in more than case or Unicode form",
                "rename one",
            )
        listings: dict[str, Listing] = {}
        for split, file in files.items():
            listings[split] = stack.enter_context(open_records(file, classes))
            classes = listings[split].classes
        if kind == ".zip":
            listings.update(stack.enter_context(open_archive(src)))
        elif not files:
            listings.update(read_splits(src) or {"": read_folder(src)})
        yield listings


def hash_labels(listing: Listing) -> bytes:
    """A hash of what a listing says of its samples beside names; empty if names say all.

    Names begin with their class where they come from class folders, zips or RecordIO.
    """
    columns, classes = listing.columns, listing.classes
    names_say_all = columns.is_empty and all(
        name.startswith(f"{classes[label]}/")
        for name, label in zip(listing.names, listing.labels.tolist(), strict=True)
    )
    if names_say_all:
        return b""
    digest = hashlib.sha256(listing.labels.astype("<i8").tobytes())
    for column in (columns.targets, columns.groups, columns.weights):
        digest.update(b"-" if column is None else column.tobytes())
    return digest.digest()


def _split_records(root: Path) -> dict[str, Path]:
    """The `.rec` files that a folder holds, by split; empty if it holds none.

    Raises:
        DataError: it is not clear which file is which split, or whether they are meant at all.
    """
    require_folder(root)
    with os.scandir(root) as entries:
        visible = [entry for entry in entries if not entry.name.startswith(".")]
    files = sorted(root / entry.name for entry in visible if entry.name.lower().endswith(".rec"))
    if not files:
        return {}
    if folders := sorted(entry.name for entry in visible if os.path.isdir(entry.path)):
        found = f"holds {files[0].name} and the folder {folders[0]}"
        raise DataError(root, found, "class folders or RecordIO, not both", "name one, or move one")
    for file in files:
        if split_of(_last_word(file.name)) is None:
            raise DataError(
                file,
                "is no split by its name",
                "names such as train.rec and x_test.rec",
                "name one file alone to convert it, or move this one away",
            )
    splits = name_splits(root, (file.name for file in files), "file", _last_word)
    require_train(root, Layout({split: split for split in splits}), kind=".rec")
    return {split: root / name for split, name in splits.items()}


def _last_word(name: str) -> str:
    """The last word of a file's name, which says its split: `Test` of `hotdog_Test.rec`."""
    return re.split(_SEPARATORS, os.path.splitext(name)[0])[-1]


def describe_remarks(listing: Listing) -> tuple[str, ...]:
    """Lines on what may be meant otherwise: a class alone, folders that belong to no split."""
    lines = [describe_passed_over(listing.passed_over)]
    if len(listing.classes) == 1:
        lines.append(describe_lone_class(listing.names, listing.where))
    return tuple(filter(None, lines))
