"""Class folders in a zip: the same samples, in the same order, as of the zip extracted.

Nothing is extracted. `zipfile` reads the central directory and says what the members are called;
which of them are samples, and of which class, is settled here; `archive_member` reads
their bytes.
"""

from __future__ import annotations

import os
import zipfile
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import BinaryIO, TypeAlias

import numpy as np
from numpy.typing import NDArray

from pipelines.errors import DataError, FormatError
from pipelines.formats.archive_member import UnreadableMember, read_member
from pipelines.formats.columns import NONE, Columns
from pipelines.formats.folder import (
    IMAGE_SUFFIXES,
    MACOS_FOLDER,
    MAX_DEPTH,
    Levels,
    is_class,
    label_images,
    require_classes,
    suffix,
)
from pipelines.formats.splits import Layout, read_layout, require_no_splits, require_train, split_of

_REDO = "make the zip anew"

#: A folder in the zip: what it holds by name.
_Node: TypeAlias = "dict[str, _Node | zipfile.ZipInfo]"


@dataclass(frozen=True, slots=True)
class ZipFolder:
    """The samples below one folder of class folders in a zip; see `conversion.inputs.Listing`.

    Attributes:
        path: the zip.
        prefix: the folder in it, empty or ending in `/`.
        classes: class names; a label is an index into them.
        names: each sample's path relative to `prefix`, in sample order.
        labels: int64[N].
        ignored: suffix -> how many files were passed over as no images.
        passed_over: folders beside it that are no split.
        columns: nothing is known beside the labels.
    """

    path: Path
    prefix: str
    classes: tuple[str, ...]
    names: tuple[str, ...]
    labels: NDArray[np.int64]
    ignored: dict[str, int]
    _members: tuple[zipfile.ZipInfo, ...] = field(repr=False)
    _file: int = field(repr=False)
    passed_over: tuple[str, ...] = ()
    columns: Columns = NONE

    def __len__(self) -> int:
        return len(self.names)

    def where(self, name: str) -> str:
        """The name of a sample or a class in an error."""
        return f"{self.path}: {self.prefix}{name}"

    def size_bytes(self, sample: int) -> int:
        """A sample's size as the zip declares it."""
        return self._members[sample].file_size

    def read(self, sample: int) -> bytes:
        """A sample's bytes; safe to call from several threads.

        Raises:
            DataError: the member is damaged, encrypted, too large, or of another compression.
        """
        member = self._members[sample]
        try:
            return read_member(self._file, member)
        except (UnreadableMember, OSError) as error:
            found = error.strerror if isinstance(error, OSError) else str(error)
            raise DataError(self.where(self.names[sample]), found or "cannot be read") from error


@contextmanager
def open_archive(path: Path) -> Iterator[dict[str, ZipFolder]]:
    """The listings of a zip of class folders: split -> listing, or '' -> the only one.

    The class folders, or `train` beside `val` or `test`, are at the zip's top, or below a folder
    that is alone there, as `hotdog/` in hotdog.zip; see `splits.read_layout` for which is
    which. They can be read until the block is left.

    Raises:
        FormatError: `path` is no zip, cut short, or a member's name is not a plain relative path.
        DataError: it cannot be read, or its folders are not as `folder.read_folder` wants them.
    """
    try:
        file = path.open("rb")
    except OSError as error:
        found = (error.strerror or type(error).__name__).lower()
        raise DataError(path, found, "a zip of class folders", "check the path") from error
    with file:
        top, prefix = _unwrap(path, _read_tree(path, file))
        where = f"{path}: {prefix}" if prefix else path
        folders = _folders(top)
        layout = _find_layout(where, folders)
        require_train(where, layout, f"make a zip of {layout.first} to take it alone")
        listings: dict[str, ZipFolder] = {}
        for split, name in layout.splits.items():
            classes = listings["train"].classes if listings else None
            listing = _list(path, f"{prefix}{name}/", folders[name], file.fileno(), classes)
            passed_over = () if listings else layout.passed_over
            listings[split] = replace(listing, passed_over=passed_over)
        yield listings or {"": _list(path, prefix, top, file.fileno(), None)}


def _read_tree(path: Path, file: BinaryIO) -> _Node:
    """The zip's folders and files, each name checked; macOS's notes left out.

    Raises:
        FormatError: see `open_archive`.
    """
    try:
        with zipfile.ZipFile(file) as opened:
            members = opened.infolist()
    except MemoryError:
        raise
    except Exception as error:  # whatever a hostile file makes the parser raise
        found = f"cannot be read as a zip ({error})"
        raise FormatError(path, found, "a whole zip", "fetch it or make it anew") from error
    size = os.fstat(file.fileno()).st_size
    tree: _Node = {}
    for member in members:
        parts = _parts(path, member)
        if not parts or parts[0] == MACOS_FOLDER:
            continue
        if member.header_offset < 0 or member.header_offset + member.compress_size > size:
            raise FormatError(
                f"{path}: {member.filename}", "lies outside the zip", "", "fetch it or make it anew"
            )
        node = tree
        for part in parts[:-1]:
            node = _enter(path, member, node, part)
        if member.filename.endswith("/"):
            _enter(path, member, node, parts[-1])
        elif parts[-1] in node:
            raise FormatError(
                f"{path}: {member.filename}", "is there twice", "each name once", _REDO
            )
        else:
            node[parts[-1]] = member
    return tree


def _parts(path: Path, member: zipfile.ZipInfo) -> list[str]:
    """The folders and the file that a member's name consists of; empty for `./`."""
    name = member.filename
    parts = name.removesuffix("/").split("/")
    if parts[0] == "." and (len(parts) > 1 or name == "./"):  # as bsdtar puts before every name
        parts = parts[1:]
    odd = "\\" in name or "\0" in member.orig_filename  # zipfile cuts a name at its first NUL
    if odd or any(part in ("", ".", "..") for part in parts) or len(parts) > MAX_DEPTH:
        raise FormatError(
            path,
            f"has a member named {member.orig_filename[:200]!r}",
            "plain relative names",
            _REDO,
        )
    return parts


def _enter(path: Path, member: zipfile.ZipInfo, node: _Node, name: str) -> _Node:
    below = node.setdefault(name, {})
    if isinstance(below, zipfile.ZipInfo):
        found = f"lies in {below.filename}, which is a file"
        raise FormatError(f"{path}: {member.filename}", found, "a folder", _REDO)
    return below


def _unwrap(path: Path, node: _Node) -> tuple[_Node, str]:
    """The folder that holds class or split folders, and its path: `hotdog/` of hotdog.zip.

    A folder alone holds them unless it is a split or, for want of folders in it, a class.

    Raises:
        DataError: it might be either.
    """
    prefix = ""
    while len(folders := _folders(node)) == 1:
        ((name, below),) = folders.items()
        if split_of(name) or not _folders(below):
            break
        if _has_images(below) and "train" not in map(split_of, _folders(below)):
            where, found = f"{path}: {prefix}{name}", "is the only folder, with images and folders"
            raise DataError(where, found, "class folders in it", "move its images into some")
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
        isinstance(below, zipfile.ZipInfo)
        and suffix(name) in IMAGE_SUFFIXES
        and not name.startswith(".")
        for name, below in node.items()
    )


def _list(
    path: Path, prefix: str, node: _Node, file: int, classes: tuple[str, ...] | None
) -> ZipFolder:
    """List the samples of one folder of class folders; see `folder.read_folder`."""
    where = f"{path}: {prefix}" if prefix else str(path)
    folders = _folders(node)
    found = tuple(sorted(folders))
    if not found:
        remedy = "put the images into one folder per class" if _has_images(node) else _REDO
        raise DataError(where, "holds no class folders", "one folder of images per class", remedy)
    if classes is None:
        require_no_splits(where, _find_layout(where, folders), "make the zip of what is in it")
    require_classes(where, found, classes)
    ignored: Counter[str] = Counter()
    members: dict[str, zipfile.ZipInfo] = {}
    images: dict[str, Levels] = {name: {} for name in found}
    for name in found:
        _walk(folders[name], name, images[name], members, ignored)
    names, labels = label_images(images, lambda name: f"{path}: {prefix}{name}")
    in_order = tuple(members[name] for name in names)
    counts = dict(sorted(ignored.items()))
    return ZipFolder(path, prefix, found, names, labels, counts, in_order, file)


def _walk(
    node: _Node,
    level: str,
    levels: Levels,
    members: dict[str, zipfile.ZipInfo],
    ignored: Counter[str],
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
