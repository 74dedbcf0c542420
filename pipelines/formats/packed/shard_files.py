"""The files that a packed data set consists of: which of them is which split, read by position.

A name says its split by a word: `train-000012.tar`, `imagenet_val.tar`,
`validation-00000-of-00002.parquet`. Numbers in names are compared as numbers, so that shard 2 comes
before shard 10.
"""

from __future__ import annotations

import os
import re
import stat
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path

from pipelines.errors import DataError
from pipelines.formats.folder import list_folders, require_folder
from pipelines.formats.splits import SPLITS, Layout, name_splits, require_train, split_of

#: Files held open at most, as a process may have 1,024; others are opened for each read.
_MOST_HELD = 256
#: Separators of the words in a file's name.
_SEPARATORS = re.compile(r"[-_. ]")
#: More digits than Python turns into a number without complaint.
_DIGITS = re.compile(r"(\d{1,18})")


@dataclass(frozen=True, slots=True)
class ShardFile:
    """One file, read by position from any number of threads.

    Attributes:
        path: the file.
        size: bytes, when it was opened first.
    """

    path: Path
    size: int
    _identity: tuple[int, int, int, int]
    _descriptor: int

    def read(self, at: int, bytes_: int) -> bytes:
        """Bytes from a place on.

        Raises:
            DataError: the file is no longer as it was listed, or its disk fails.
        """
        with self.opened() as descriptor:
            try:
                data = os.pread(descriptor, bytes_, at)
            except OSError as error:
                raise DataError(self.path, error.strerror or "cannot be read") from error
        if len(data) != bytes_:
            raise self._changed()
        return data

    @contextmanager
    def opened(self) -> Iterator[int]:
        """A descriptor of the file, for this block.

        Raises:
            DataError: another file has its name, or it was written to.
        """
        descriptor = self._descriptor
        try:
            if descriptor < 0:
                descriptor = os.open(self.path, os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK)
        except OSError as error:
            raise DataError(self.path, error.strerror or "cannot be opened") from error
        try:
            if _identify(os.fstat(descriptor)) != self._identity:
                raise self._changed()
            yield descriptor
        finally:
            if descriptor != self._descriptor:
                os.close(descriptor)

    def require_unchanged(self) -> None:
        """Raise DataError if the file's name leads to another file, or it was written to."""
        try:
            identity = _identify(os.stat(self.path))
        except OSError as error:
            raise DataError(self.path, error.strerror or "is gone") from error
        if identity != self._identity:
            raise self._changed()

    def _changed(self) -> DataError:
        return DataError(self.path, "the file has changed since it was listed")


def _identify(state: os.stat_result) -> tuple[int, int, int, int]:
    return state.st_dev, state.st_ino, state.st_size, state.st_mtime_ns


@contextmanager
def open_shards(paths: Sequence[Path], *, held: bool = True) -> Iterator[tuple[ShardFile, ...]]:
    """Files that can be read until the block is left.

    Args:
        paths: of them.
        held: whether the first of them stay open, for many reads.

    Raises:
        DataError: one of them cannot be opened, or is a pipe or a device.
    """
    with ExitStack() as stack:
        files = []
        for number, path in enumerate(paths):
            try:
                # A pipe that nobody writes to would block a usual open for ever.
                descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK)
            except OSError as error:
                found = (error.strerror or type(error).__name__).lower()
                raise DataError(path, found, f"a {path.suffix}", "check the path") from error
            is_held = held and number < _MOST_HELD
            with ExitStack() as own:
                (stack if is_held else own).callback(os.close, descriptor)
                state = os.fstat(descriptor)
                if not stat.S_ISREG(state.st_mode):
                    raise DataError(path, "is no plain file", f"a {path.suffix}")
            kept = descriptor if is_held else -1
            files.append(ShardFile(path, state.st_size, _identify(state), kept))
        yield tuple(files)


@dataclass(frozen=True, slots=True)
class Found:
    """The files of a data set.

    Attributes:
        splits: split -> its files in order, the training split first; or '' -> all of them.
        passed_over: folders beside the splits that are none.
    """

    splits: dict[str, tuple[Path, ...]]
    passed_over: tuple[str, ...] = ()


def find_shards(src: Path, suffix: str, *, alone: bool = True) -> Found:
    """The files of a data set, told apart by split.

    Args:
        src: one file; a folder of them, whose names say their splits, or of which none does; or a
            folder of folders called train, val or test that hold them.
        suffix: of their names, such as `.tar`.
        alone: whether folders beside the files make it unclear what is meant.

    Raises:
        DataError: there are none, or it is unclear which of them is which split.
    """
    if not src.is_dir():
        return Found({"": (src,)})
    require_folder(src)
    folders = list_folders(src)
    if files := list_shards(src, suffix):
        if alone and folders:
            found = f"holds {files[0].name} and the folder {folders[0]}"
            raise DataError(src, found, f"{suffix} files alone", "name one, or move one")
        return Found(_divide(src, files, suffix))
    named = {name: files for name in folders if (files := list_shards(src / name, suffix))}
    splits = name_splits(src, (name for name in named if split_of(name)))
    if not splits:
        raise DataError(src, f"holds no {suffix} files", "some", "check the path")
    require_train(src, Layout(splits), f"name {src / next(iter(splits.values()))} to take it alone")
    others = tuple(name for name in folders if name not in splits.values())
    return Found({split: named[name] for split, name in splits.items()}, others)


def list_shards(folder: Path, suffix: str | tuple[str, ...]) -> tuple[Path, ...]:
    """The files in a folder whose names end so, in order of the numbers in their names.

    Raises:
        DataError: it cannot be listed.
    """
    try:
        with os.scandir(folder) as entries:
            names = [entry.name for entry in entries if entry.name.lower().endswith(suffix)]
    except OSError as error:
        found = error.strerror or "cannot be read"
        raise DataError(folder, found, "a readable folder") from error
    visible = (name for name in names if not name.startswith("."))
    return tuple(folder / name for name in sorted(visible, key=_natural))


def split_word(name: str) -> str | None:
    """The split that a file's name says by a word, the last one that is a split's."""
    words = _SEPARATORS.split(name)
    return next((split for word in reversed(words) if (split := split_of(word))), None)


def _divide(src: Path, files: Sequence[Path], suffix: str) -> dict[str, tuple[Path, ...]]:
    """Split -> its files; '' -> all where no name says one."""
    said = [split_word(file.name) for file in files]
    if not any(said):
        return {"": tuple(files)}
    for file, split in zip(files, said, strict=True):
        if split is None:
            expected = f"names such as train-000{suffix}, as the others have"
            remedy = "name one file alone to convert it, or move this one away"
            raise DataError(file, "is no split by its name", expected, remedy)
    splits = {
        split: tuple(file for file, each in zip(files, said, strict=True) if each == split)
        for split in SPLITS
        if split in said
    }
    if len(splits) == 1:  # then there is nothing to tell apart
        return {"": tuple(files)}
    require_train(src, Layout({split: split for split in splits}), kind=suffix)
    return splits


def _natural(name: str) -> list[tuple[int, str]]:
    """A key to sort names by: numbers in them as numbers, however many zeros they begin with."""
    parts = _DIGITS.split(name)
    return [(int(part) if i % 2 else -1, part) for i, part in enumerate(parts)]
