"""WebDataset: samples in uncompressed tars, a member for each of their parts.

Members that follow each other and share a key, the path up to the first dot of the file's name,
are one sample: `n01/0042.jpg` and `n01/0042.cls`. The label is a member, too: `.cls` (or `.class`
or `.label`), a key of `.json`, or `.txt`, the first of these that is there. A tar without labels
whose images lie in folders is taken for class folders.

Listing reads headers and labels; images are read later, by position.

Source: webdataset, `tariterators.py` (`base_plus_ext`, `group_by_keys`).
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from pipelines.errors import DataError, FormatError, UsageError
from pipelines.formats.class_tree import ClassTree, read_trees
from pipelines.formats.columns import NONE, ColumnNames, Columns
from pipelines.formats.folder import list_folders, require_classes
from pipelines.formats.packed.rows import (
    Cells,
    make_cells,
    name_sample,
    read_labels,
    require_no_split_column,
)
from pipelines.formats.packed.shard_files import ShardFile, find_shards, list_shards, open_shards
from pipelines.formats.packed.tar_members import Member, read_members
from pipelines.formats.packed.tar_samples import (
    SampleReader,
    describe_missing,
    group,
    holds_labels,
    split_words,
)
from pipelines.formats.splits import split_of
from pipelines.images.limits import MAX_FILE_BYTES

SUFFIX = ".tar"
#: Suffixes of compressed tars.
_COMPRESSED = (".tar.gz", ".tgz", ".tar.bz2", ".tbz2", ".tar.xz", ".txz", ".tar.zst")


@dataclass(frozen=True, kw_only=True, slots=True)
class Tars:
    """The samples of one split; see `conversion.inputs.Listing`.

    Attributes:
        path: the tar, or the folder of tars.
        classes: class names; a label is an index into them.
        names: each sample's class, its tar if there are several, and its key.
        labels: int64[N].
        columns: what is known of the samples beside their labels.
        ignored: suffix -> how many members are no part of a sample that is read.
        passed_over: folders beside the splits that are none.
    """

    path: Path
    classes: tuple[str, ...]
    names: tuple[str, ...]
    labels: NDArray[np.int64]
    columns: Columns
    ignored: dict[str, int]
    passed_over: tuple[str, ...]
    _files: tuple[ShardFile, ...] = field(repr=False)
    _images: _Images = field(repr=False)

    def __len__(self) -> int:
        return len(self.names)

    def where(self, name: str) -> str:
        """The name of a sample or a class in an error."""
        return f"{self.path}: {name}"

    def size_bytes(self, sample: int) -> int:
        """The size of a sample's image file."""
        return int(self._images.sizes[sample])

    def read(self, sample: int) -> bytes:
        """The bytes of a sample's image file; safe to call from several threads.

        Raises:
            DataError: it is a link or the like, larger than images are, or the file has changed.
        """
        images, where = self._images, self.where(self.names[sample])
        if sample in images.unreadable:
            raise DataError(where, images.unreadable[sample])
        if (size := self.size_bytes(sample)) > MAX_FILE_BYTES:
            raise DataError(where, f"{size:,} bytes, more than {MAX_FILE_BYTES:,}")
        try:
            file = self._files[int(images.files[sample])]
            return file.read(int(images.places[sample]), size)
        except DataError as error:
            raise DataError(where, error.found, error.expected, error.remedy) from error


@dataclass(frozen=True, slots=True)
class _Images:
    """The places of N samples' images.

    Attributes:
        files: int32[N], indices of tars.
        places, sizes: int64[N], bytes.
        unreadable: sample -> why it cannot be read.
    """

    files: NDArray[np.int32]
    places: NDArray[np.int64]
    sizes: NDArray[np.int64]
    unreadable: dict[int, str]


def is_tars(src: Path) -> bool:
    """Whether a file is a tar by its name, or a folder holds tars alone, itself or for each split.

    Tars beside folders are not meant: they are what these were unpacked from.
    """
    names = (SUFFIX, *_COMPRESSED)
    if not src.is_dir():
        return src.name.lower().endswith(names)
    folders = _around(src) if list_folders(src) else [src]
    return any(list_shards(folder, names) and not list_folders(folder) for folder in folders)


@contextmanager
def open_tars(
    src: Path, names: ColumnNames, classes: tuple[str, ...] = ()
) -> Iterator[dict[str, Tars]]:
    """The listings of tars: split -> listing, or '' -> the only one; readable within the block.

    Args:
        src: a tar, or a folder of them; see `shard_files.find_shards`.
        names: `image` and `label` are members' suffixes, such as `seg.png`, or `label` a key of
            `.json`, as are `weight` and `group`.
        classes: what labels that are numbers mean; default: their numbers.

    Raises:
        FormatError: a tar is compressed, cut short, damaged or hostile; see `tar_members`.
        DataError: a file cannot be read, a sample lacks a label or is there twice, or labels do
            not fit.
        UsageError: `classes` are given for names, or a split column is named.
    """
    require_no_split_column(names, "tars")
    _refuse_compressed(src)
    found = find_shards(src, SUFFIX)
    with ExitStack() as stack:
        files = {
            split: stack.enter_context(open_shards(paths)) for split, paths in found.splits.items()
        }
        first = next(iter(files.values()))[0]
        members = tuple(_read_members(first))
        if holds_labels(members, names):
            yield _list_samples(src, files, found.passed_over, names, classes)
        else:
            yield _list_folders(src, files, found.passed_over, names, classes)


def _refuse_compressed(src: Path) -> None:
    """Raise FormatError if a tar is compressed by its name, or one in a folder is."""
    files = [src] if src.name.lower().endswith(_COMPRESSED) else []
    if src.is_dir():
        files = [file for folder in _around(src) for file in list_shards(folder, _COMPRESSED)]
    for file in files:
        expected = "a plain .tar, whose images are read by position"
        raise FormatError(file, "is compressed", expected, "decompress it")


def _around(src: Path) -> list[Path]:
    """A folder and those in it that can be splits."""
    return [src, *(src / name for name in list_folders(src) if split_of(name))]


def _read_members(file: ShardFile) -> Iterator[Member]:
    with file.opened() as descriptor:
        yield from read_members(file.path, descriptor, file.size)


def _list_samples(
    src: Path,
    files: Mapping[str, tuple[ShardFile, ...]],
    passed_over: tuple[str, ...],
    names: ColumnNames,
    classes: tuple[str, ...],
) -> dict[str, Tars]:
    """Samples of several members each."""
    cells = make_cells(split_words(names.label) or ["label"], names)
    found = {split: _Collected() for split in files}
    for split, shards in files.items():
        prefixes = _prefixes(shards)
        for number, (file, prefix) in enumerate(zip(shards, prefixes, strict=True)):
            _collect(file, number, prefix, names, cells, found[split])
        if not found[split].names:
            raise DataError(src if not split else f"{src}: split {split}", "holds no samples")
        cells.counts[split] = len(found[split].names)
    raw = [name for each in found.values() for name in each.names]
    labels = read_labels(src, cells, raw.__getitem__, names, classes)
    listings: dict[str, Tars] = {}
    for split, each in found.items():
        of_split = labels[split]
        listings[split] = Tars(
            path=src,
            classes=of_split.classes,
            names=tuple(name_sample(of_split, i, name) for i, name in enumerate(each.names)),
            labels=of_split.labels,
            columns=of_split.columns,
            ignored=dict(sorted(each.ignored.items())),
            passed_over=() if listings else passed_over,
            _files=files[split],
            _images=each.images(),
        )
    return listings


class _Collected:
    """The samples of a split as they are found.

    Attributes:
        names: of the samples, without their class.
        ignored: suffix -> how many members are no part of a sample.
    """

    def __init__(self) -> None:
        self.names: list[str] = []
        self.ignored: Counter[str] = Counter()
        self._places: list[tuple[int, int, int]] = []
        self._unreadable: dict[int, str] = {}

    def add(self, name: str, file: int, member: Member) -> None:
        """One sample more."""
        if member.unreadable:
            self._unreadable[len(self.names)] = member.unreadable
        self.names.append(name)
        self._places.append((file, member.at, member.size))

    def images(self) -> _Images:
        """The places of the images collected."""
        table = np.array(self._places, np.int64).reshape(-1, 3)
        files, places, sizes = table.T
        return _Images(files.astype(np.int32), places.copy(), sizes.copy(), self._unreadable)


def _collect(
    file: ShardFile, number: int, prefix: str, names: ColumnNames, cells: Cells, found: _Collected
) -> None:
    """Add the samples of a tar to those of its split."""
    reader = SampleReader(file, names)
    rows = []
    for sample in group(_read_members(file), found.ignored):
        image = reader.image(sample, found.ignored)
        if image is not None:
            rows.append(reader.values(sample))
            found.add(f"{prefix}{sample.key}.{image[0]}", number, image[1])
    for place, coding in enumerate(cells.labels):
        coding.add([labels[place] for labels, _, _ in rows])
    if cells.weights is not None:
        cells.weights.add([weight for _, weight, _ in rows])
    if cells.groups is not None:
        cells.groups.add([group for _, _, group in rows])


def _prefixes(shards: Sequence[ShardFile]) -> list[str]:
    """The tar in a sample's name, for each of several; empty for one alone."""
    if len(shards) == 1:
        return [""]
    stems = [file.path.name[: -len(SUFFIX)] for file in shards]
    is_unique = len(set(stems)) == len(stems)
    return [
        f"{each if is_unique else file.path.name}/"
        for each, file in zip(stems, shards, strict=True)
    ]


def _list_folders(
    src: Path,
    files: Mapping[str, tuple[ShardFile, ...]],
    passed_over: tuple[str, ...],
    names: ColumnNames,
    classes: tuple[str, ...],
) -> dict[str, Tars]:
    """Class folders: in one tar, which may hold splits, or in a tar for each split."""
    listings: dict[str, Tars] = {}
    for split, shards in files.items():
        members = tuple(_read_members(shards[0]))
        if len(shards) > 1 or not any("/" in each.name for each in members):
            found = "has no member that holds a label"
            expected, remedy = describe_missing(names), "name what holds it by --label-column"
            raise DataError(shards[0].path, found, expected, remedy)
        if classes:
            found = f"given for {src}, which holds class folders"
            raise UsageError("--classes", found, "labels that are numbers", "leave it out")
        trees = read_trees(shards[0].path, [each.name for each in members])
        if split and "" not in trees:
            expected = "class folders, as its name says a split"
            raise DataError(shards[0].path, f"holds {' and '.join(trees)}", expected)
        for inner, tree in trees.items():
            name = split or inner
            if listings:
                require_classes(shards[0].path, tree.classes, listings["train"].classes)
            listings[name] = _list_tree(src, shards, members, tree)
    if passed_over:
        first = next(iter(listings))
        listings[first] = replace(listings[first], passed_over=passed_over)
    return listings


def _list_tree(
    src: Path, shards: tuple[ShardFile, ...], members: Sequence[Member], tree: ClassTree
) -> Tars:
    found = _Collected()
    for name, member in zip(tree.names, tree.numbers.tolist(), strict=True):
        found.add(name, 0, members[member])
    return Tars(
        path=src,
        classes=tree.classes,
        names=tree.names,
        labels=tree.labels,
        columns=NONE,
        ignored=tree.ignored,
        passed_over=tree.passed_over,
        _files=shards,
        _images=found.images(),
    )
