"""The inputs of a conversion: class folders, zips, RecordIO, tables, tars, Hugging Face data sets.

A listing says which samples there are, what they are called and labelled, and hands out their
bytes as they are; what the bytes mean is the encoder's business.
"""

from __future__ import annotations

import hashlib
import os
import re
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import fields
from pathlib import Path
from typing import Literal, Protocol

import numpy as np
from numpy.typing import NDArray

from pipelines.errors import DataError, UsageError
from pipelines.formats.archive import open_archive
from pipelines.formats.columns import UNNAMED, ColumnNames, Columns
from pipelines.formats.folder import find_clash, read_folder, read_splits, require_folder
from pipelines.formats.packed.huggingface import is_arrow_folder, is_image_parquet, open_arrow
from pipelines.formats.packed.webdataset import is_tars, open_tars
from pipelines.formats.recordio import open_records
from pipelines.formats.splits import (
    Layout,
    describe_lone_class,
    describe_passed_over,
    name_splits,
    require_train,
    split_of,
)
from pipelines.formats.tables.manifest import open_manifest
from pipelines.formats.tables.opening import TABLE_SUFFIXES

#: The ways in which data are packed.
Kind = Literal["folder", "zip", "records", "table", "tars", "arrow"]
_KINDS: dict[str, Kind] = {
    ".zip": "zip",
    ".rec": "records",
    **dict.fromkeys(TABLE_SUFFIXES, "table"),
}
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
        """The unique name of each sample: in folders its class, `/`, and a path below that."""
        ...

    @property
    def labels(self) -> NDArray[np.int64]:
        """int64[N], indices into `classes`."""
        ...

    @property
    def columns(self) -> Columns:
        """Each sample's columns beside its label."""
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
        src: a folder of class folders, a zip of them, or a `.rec`, or what holds one of each
            split; a table; tars, or arrow or parquet files with images, or a folder of them.
        classes: what labels that are numbers mean; default: their numbers.
        names: of columns, where there are any.
        image_root: the folder that a table's paths are relative to; None: the table's own.

    Raises:
        DataError: it is none of these, or something in it is wrong.
        UsageError: `classes` are given for what has class names of its own, or cannot be told apart
            everywhere; names or a root for what has no columns.
    """
    kind = find_kind(src)
    _refuse_classes(src, kind, classes)
    refuse_unheard(src, kind, names, image_root)
    if not src.is_dir() and src.exists() and not src.is_file():
        # A pipe's reader would wait for a writer.
        raise DataError(src, "is no plain file", f"a {src.suffix}")
    with ExitStack() as stack:
        listings: dict[str, Listing] = {}
        if kind == "zip":
            listings.update(stack.enter_context(open_archive(src)))
        elif kind == "table":
            listings.update(
                stack.enter_context(open_manifest(src, names, classes, root=image_root))
            )
        elif kind == "tars":
            listings.update(stack.enter_context(open_tars(src, names, classes)))
        elif kind == "arrow":
            listings.update(stack.enter_context(open_arrow(src, names, classes)))
        elif kind == "records":
            files = _split_records(src) if src.is_dir() else {"": src}
            for split, file in files.items():
                if file.exists() and not file.is_file():
                    raise DataError(file, "is no plain file", f"a {file.suffix}")
                listings[split] = stack.enter_context(open_records(file, classes))
                classes = listings[split].classes
        else:
            listings.update(read_splits(src) or {"": read_folder(src)})
        yield listings


def find_kind(src: Path) -> Kind:
    """The way in which data are packed, by names alone; `folder` where it is none of the others."""
    if src.is_dir():
        require_folder(src)
        if is_arrow_folder(src) or is_image_parquet(src):
            return "arrow"
        if is_tars(src):
            return "tars"
        return "records" if _split_records(src) else "folder"
    suffix = src.suffix.lower()
    if suffix == ".parquet" and is_image_parquet(src):
        return "arrow"
    if is_tars(src):
        return "tars"
    return _KINDS.get(suffix, "folder")


def _refuse_classes(src: Path, kind: Kind, classes: tuple[str, ...]) -> None:
    """Refuse names of classes that have some, or that cannot be told apart."""
    if classes and kind in ("folder", "zip"):
        raise UsageError(
            "--classes",
            f"given for {src}",
            "labels that are numbers",
            "leave it out: class folders are named already",
        )
    if clash := find_clash(classes):
        raise UsageError(
            "--classes",
            f"{clash}, one name on other file systems",
            "names that differ in more than case or Unicode form",
            "rename one",
        )


def refuse_unheard(src: Path, kind: Kind, names: ColumnNames, image_root: Path | None) -> None:
    """Refuse names of columns, or a root of paths, for data that have none.

    Raises:
        UsageError: they are given.
    """
    if names != UNNAMED and kind in ("folder", "zip", "records"):
        given = (field.name for field in fields(names) if getattr(names, field.name))
        options = " ".join("--task" if name == "task" else f"--{name}-column" for name in given)
        raise UsageError(options, f"given for {src}", "a table, or data with columns")
    if image_root is not None and kind != "table":
        raise UsageError("--image-root", f"given for {src}", "a table of paths")


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
    if len(listing.classes) == 1 and listing.columns.task == "classes":
        lines.append(describe_lone_class(listing.classes[0], listing.names, listing.where))
    return tuple(filter(None, lines))
