"""Class folders in a zip: the same samples, in the same order, as of the zip extracted.

Nothing is extracted. `zipfile` reads the central directory and says what the members are called;
which of them are samples, and of which class, is settled here; `archive_member` reads
their bytes.
"""

from __future__ import annotations

import os
import zipfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import BinaryIO, TypeAlias

import numpy as np
from numpy.typing import NDArray

from pipelines.errors import DataError, FormatError
from pipelines.formats.archive_member import UnreadableMember, read_member
from pipelines.formats.class_tree import read_trees
from pipelines.formats.columns import NONE, Columns
from pipelines.formats.folder import (
    MACOS_FOLDER,
    MAX_DEPTH,
)

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
        members = _read_members(path, file)
        infos, listings = list(members.values()), dict[str, ZipFolder]()
        for split, tree in read_trees(path, members, "zip").items():
            listings[split] = ZipFolder(
                path,
                tree.prefix,
                tree.classes,
                tree.names,
                tree.labels,
                tree.ignored,
                tuple(infos[member] for member in tree.numbers.tolist()),
                file.fileno(),
                tree.passed_over,
            )
        yield listings


def _read_members(path: Path, file: BinaryIO) -> dict[str, zipfile.ZipInfo]:
    """The zip's members by name, each checked; a folder's ends in `/`.

    Raises:
        FormatError: see `open_archive`.
    """
    try:
        with zipfile.ZipFile(file) as opened:
            infos = opened.infolist()
    except MemoryError:
        raise
    except Exception as error:  # whatever a hostile file makes the parser raise
        found = f"cannot be read as a zip ({error})"
        raise FormatError(path, found, "a whole zip", "fetch it or make it anew") from error
    size = os.fstat(file.fileno()).st_size
    members: dict[str, zipfile.ZipInfo] = {}
    for info in infos:
        parts = _parts(path, info)
        if not parts or parts[0] == MACOS_FOLDER:
            continue
        if info.header_offset < 0 or info.header_offset + info.compress_size > size:
            raise FormatError(
                f"{path}: {info.filename}", "lies outside the zip", "", "fetch it or make it anew"
            )
        name = "/".join(parts) + ("/" if info.filename.endswith("/") else "")
        if name in members and not name.endswith("/"):
            raise FormatError(f"{path}: {info.filename}", "is there twice", "each name once", _REDO)
        members[name] = info
    return members


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
