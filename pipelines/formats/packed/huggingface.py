"""Hugging Face data sets as listings: folders of `save_to_disk`, and Parquet with images in it.

An image is a struct of its `bytes` and the `path` that it came from. Where the bytes are missing,
the path is followed, but not out of the data set's folder; else the image counts as broken.
"""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from itertools import chain
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from pipelines.errors import DataError, FormatError
from pipelines.formats.columns import ColumnNames, Columns
from pipelines.formats.folder import IMAGE_SUFFIXES, list_folders, suffix
from pipelines.formats.packed.arrow_files import ArrowFile, RowFile
from pipelines.formats.packed.features import (
    INFO,
    Feature,
    choose,
    find_image_column,
    is_struct_of_bytes,
    read_features,
    read_json,
)
from pipelines.formats.packed.parquet_files import ParquetFile, Window
from pipelines.formats.packed.rows import (
    Cells,
    make_cells,
    name_sample,
    read_labels,
    require_no_split_column,
    to_value,
)
from pipelines.formats.packed.shard_files import Found, find_shards, list_shards, open_shards
from pipelines.formats.plain_file import read_bytes
from pipelines.formats.splits import Layout, name_splits, require_train, split_of
from pipelines.formats.tables.choice import Choice
from pipelines.images.limits import MAX_FILE_BYTES

ARROW, PARQUET = ".arrow", ".parquet"
_DICT, _STATE = "dataset_dict.json", "state.json"
#: Longer paths are not taken for names of samples.
_MOST_LETTERS = 1024
_REDO = "write it anew by datasets' save_to_disk"


@dataclass(frozen=True, kw_only=True, slots=True)
class Rows:
    """The samples of one split; see `conversion.inputs.Listing`.

    Attributes:
        path: the file or folder.
        classes: class names; a label is an index into them.
        names: each sample's class, and its path if each has one of its own, else split, file, row.
        labels: int64[N].
        columns: what is known of the samples beside their labels.
        ignored: each row is a sample.
        passed_over: folders beside the splits that are none.
    """

    path: Path
    classes: tuple[str, ...]
    names: tuple[str, ...]
    labels: NDArray[np.int64]
    columns: Columns
    passed_over: tuple[str, ...]
    _files: tuple[RowFile, ...] = field(repr=False)
    _starts: NDArray[np.int64] = field(repr=False)
    _sizes: NDArray[np.int64] = field(repr=False)
    _image: str
    ignored: dict[str, int] = field(default_factory=dict)

    def __len__(self) -> int:
        return len(self.names)

    def where(self, name: str) -> str:
        """The name of a sample or a class in an error."""
        return f"{self.path}: {name}"

    def size_bytes(self, sample: int) -> int:
        """The size of a sample's image file; in Parquet the mean of its row group."""
        return int(self._sizes[sample])

    def read(self, sample: int) -> bytes:
        """The bytes of a sample's image file; safe to call from several threads.

        Raises:
            DataError: they are not there, larger than images are, or the file has changed.
        """
        number = int(np.searchsorted(self._starts, sample, "right")) - 1
        file, where = self._files[number], self.where(self.names[sample])
        try:
            value = file.read(self._image, sample - int(self._starts[number]))
            data = value.get("bytes") if isinstance(value, dict) else value
            if data is None:
                path = value.get("path") if isinstance(value, dict) else None
                return _read_path(self.path, file.file.path.parent, path)
            if not isinstance(data, bytes):
                raise DataError(where, f"is no image but {type(data).__name__}")
            if len(data) > MAX_FILE_BYTES:
                raise DataError(where, f"{len(data):,} bytes, more than {MAX_FILE_BYTES:,}")
            return data
        except DataError as error:
            raise DataError(where, error.found, error.expected, error.remedy) from error


def is_arrow_folder(path: Path) -> bool:
    """Whether a folder is what `datasets` saves: Arrow files and what describes them."""
    if not path.is_dir():
        return False
    if (path / _DICT).is_file():
        return True
    described = (path / _STATE).is_file() or (path / INFO).is_file()
    return described and bool(list_shards(path, ARROW))


def is_image_parquet(path: Path) -> bool:
    """Whether a Parquet file holds images, not paths alone; or the first of a folder of them does.

    Raises:
        DataError: the file cannot be read as Parquet.
        UsageError: pyarrow is not installed, and it is Parquet by its name.
    """
    if path.is_dir():
        folders = [path, path / "data", *_split_folders(path)]
        files = list(chain(*(list_shards(each, PARQUET) for each in folders if each.is_dir())))
    else:
        files = [path] if path.suffix.lower() == PARQUET and path.is_file() else []
    if not files:
        return False
    with open_shards(files[:1], held=False) as (shard,):
        opened = ParquetFile(shard, Window())
        features = read_features(files[0], opened.said)
        structs = any(is_struct_of_bytes(files[0], kind) for kind in opened.kinds.values())
        return structs or find_image_column(files[0], opened.kinds, features) is not None


@contextmanager
def open_arrow(
    src: Path, names: ColumnNames, classes: tuple[str, ...] = ()
) -> Iterator[dict[str, Rows]]:
    """The listings of a data set: split -> listing, or '' -> the only one; readable in the block.

    Args:
        src: a folder that `save_to_disk` wrote; a `.parquet`; or a folder of these, whose names
            say their splits, or that lie in folders called so, or in `data/`.
        names: of its columns; by default the one of images, and that of a `ClassLabel` or by a
            usual name.
        classes: what labels that are numbers mean; default: what the file says, else their
            numbers.

    Raises:
        FormatError: a file is damaged, or not as `datasets` writes it.
        DataError: it cannot be read, a label is missing or does not fit.
        UsageError: pyarrow is not installed, it is unclear which column is meant, or `classes` are
            given for names.
    """
    require_no_split_column(names, "Hugging Face data sets")
    is_arrow = is_arrow_folder(src)
    found = _find_arrow(src) if is_arrow else _find_parquet(src)
    window = Window()
    with ExitStack() as stack:
        files: dict[str, tuple[RowFile, ...]] = {}
        for split, paths in found.splits.items():
            shards = stack.enter_context(open_shards(paths, held=False))
            files[split] = tuple(
                ArrowFile(shard) if is_arrow else ParquetFile(shard, window) for shard in shards
            )
            for file in files[split]:
                stack.callback(file.close)
        yield _list(src, files, found.passed_over, names, classes)


def _split_folders(src: Path) -> list[Path]:
    return [src / name for name in list_folders(src) if split_of(name)]


def _find_parquet(src: Path) -> Found:
    data = src / "data"  # as in repositories of the Hub
    if src.is_dir() and not list_shards(src, PARQUET) and data.is_dir():
        return find_shards(data, PARQUET)
    return find_shards(src, PARQUET, alone=False)


def _find_arrow(src: Path) -> Found:
    """The files of each split, as `datasets` lists them.

    Raises:
        FormatError: its lists are damaged, or name what is no file in the folder.
        DataError: it has evaluation splits without a training split.
    """
    if not (src / _DICT).is_file():
        if (src / _STATE).is_file():
            return Found({"": _state_files(src)})
        return find_shards(src, ARROW, alone=False)
    said = read_json(src / _DICT)
    listed = said.get("splits") if isinstance(said, dict) else None
    if not isinstance(listed, list) or not listed or not all(map(_is_plain, listed)):
        raise FormatError(src / _DICT, "lists no splits", "the names of folders", _REDO)
    splits = name_splits(src, listed)
    if not splits:
        found, expected = f"has the splits {', '.join(listed[:5])}", "train, val or test"
        raise DataError(src, found, expected, f"name {src / listed[0]} to take it alone")
    first = next(iter(splits.values()))
    require_train(src, Layout(splits), f"name {src / first} to take it alone")
    others = tuple(name for name in listed if name not in splits.values())
    return Found({split: _state_files(src / name) for split, name in splits.items()}, others)


def _state_files(folder: Path) -> tuple[Path, ...]:
    """The files of a folder that was saved, in their order."""
    if not (folder / _STATE).is_file():
        files = list_shards(folder, ARROW) if folder.is_dir() else ()
        if not files:
            raise FormatError(folder, f"holds no {_STATE} and no {ARROW}", "one split's", _REDO)
        return files
    said = read_json(folder / _STATE)
    listed = said.get("_data_files") if isinstance(said, dict) else None
    entries = listed if isinstance(listed, list) else []
    names = [each.get("filename") if isinstance(each, dict) else None for each in entries]
    if not names or not all(map(_is_plain, names)):
        raise FormatError(folder / _STATE, "lists no files", "the names of files", _REDO)
    if isinstance(said, dict) and said.get("_indices_data_files"):
        remedy = "save it by a newer version of datasets, or call flatten_indices() before"
        raise FormatError(folder, "picks its rows by another file", "all rows, in order", remedy)
    return tuple(folder / name for name in map(str, names))


def _is_plain(name: object) -> bool:
    """Whether something is the name of a file or folder in a folder."""
    return isinstance(name, str) and name not in ("", ".", "..") and not {*"/\\\0"} & {*name}


def _list(
    src: Path,
    files: Mapping[str, tuple[RowFile, ...]],
    passed_over: tuple[str, ...],
    names: ColumnNames,
    classes: tuple[str, ...],
) -> dict[str, Rows]:
    first = next(iter(files.values()))[0]
    features = _features(first)
    choice = choose(first.file.path, first.kinds, features, names)
    meant = features.get(choice.labels[0], Feature(""))
    for file in chain(*files.values()):
        _require_alike(file, first, choice, meant)
    wanted = ColumnNames(weight=choice.weight, group=choice.group, task=names.task)
    cells = make_cells(choice.labels, wanted)
    for split, of_split in files.items():
        for file in of_split:
            _read_cells(file, choice, cells)
        cells.counts[split] = sum(file.count for file in of_split)
        if not cells.counts[split]:
            raise DataError(f"{src}: split {split}" if split else src, "holds no rows")
    raw = {split: _name_rows(split, each, choice.image) for split, each in files.items()}
    all_names = [name for each in raw.values() for name in each]
    labels = read_labels(
        src,
        cells,
        all_names.__getitem__,
        wanted,
        classes or meant.names,
        are_numbers=bool(meant.names),
    )
    listings: dict[str, Rows] = {}
    for split, of_split in files.items():
        known = labels[split]
        listings[split] = Rows(
            path=src,
            classes=known.classes,
            names=tuple(name_sample(known, i, name) for i, name in enumerate(raw[split])),
            labels=known.labels,
            columns=known.columns,
            passed_over=() if listings else passed_over,
            _files=of_split,
            _starts=np.cumsum([0, *(file.count for file in of_split)])[:-1],
            _sizes=np.concatenate([file.sizes(choice.image) for file in of_split]),
            _image=choice.image,
        )
    return listings


def _features(file: RowFile) -> dict[str, Feature]:
    path = file.file.path
    return read_features(path, file.said)


def _require_alike(file: RowFile, first: RowFile, choice: Choice, meant: Feature) -> None:
    """Raise FormatError unless a file's columns are those of the first, and mean the same."""
    for name in filter(None, (choice.image, *choice.labels, choice.weight, choice.group)):
        kind = file.kinds.get(name)
        wanted = first.kinds[name]
        if kind is None or (name == choice.image and kind != wanted):
            found = f"column {name!r} is {str(kind)[:80]}" if kind else f"has no column {name!r}"
            expected = f"{str(wanted)[:80]}, as in {first.file.path.name}"
            raise FormatError(file.file.path, found, expected, _REDO)
    said = _features(file).get(choice.labels[0], meant)
    if said.names != meant.names:
        found = f"its numbers in {choice.labels[0]!r} mean other classes"
        raise FormatError(file.file.path, found, f"those of {first.file.path}", _REDO)


def _read_cells(file: RowFile, choice: Choice, cells: Cells) -> None:
    codings = list(zip(choice.labels, cells.labels, strict=True))
    codings += [(choice.weight, cells.weights)] if cells.weights is not None else []
    codings += [(choice.group, cells.groups)] if cells.groups is not None else []
    for name, coding in codings:
        for values in file.cells(name):
            coding.add([_to_value(file, name, value) for value in values])


def _to_value(file: RowFile, name: str, value: object) -> str | tuple[str, ...]:
    text = "" if value is None else to_value(value)
    if text is None:
        found = f"column {name!r} is {str(file.kinds[name])[:80]}"
        expected = "text, numbers or lists of them"
        raise FormatError(file.file.path, found, expected, "name another column")
    return text


def _name_rows(split: str, files: Sequence[RowFile], image: str) -> list[str]:
    """Each row's own path, if all have one; else split, file and row."""
    kind = files[0].kinds[image]
    has_paths = is_struct_of_bytes(files[0].file.path, kind) and kind.get_field_index("path") >= 0
    paths: list[Any] = []
    if has_paths:
        paths = [path for file in files for cells in file.cells(image, "path") for path in cells]
        if all(map(_is_name, paths)) and len(set(paths)) == len(paths):
            return [path.lstrip("/") for path in paths]
    ends = iter(paths)
    numbered = ((shard, row) for shard, file in enumerate(files) for row in range(file.count))
    return [
        f"{split or 'rows'}-{shard:05d}-{row:07d}{_suffix(next(ends, None))}"
        for shard, row in numbered
    ]


def _is_name(path: object) -> bool:
    return isinstance(path, str) and 0 < len(path) <= _MOST_LETTERS and "\0" not in path


def _suffix(path: object) -> str:
    end = suffix(path) if isinstance(path, str) else ""
    return end if end in IMAGE_SUFFIXES else ""


def _read_path(src: Path, folder: Path, path: object) -> bytes:
    """The bytes of an image that lies beside the rows.

    Raises:
        DataError: there is no path, it leads elsewhere, or cannot be read.
    """
    if not isinstance(path, str) or not path or "\0" in path:
        raise DataError(src, "has neither bytes nor a path")
    inside = os.path.realpath(src if src.is_dir() else src.parent)
    file = os.path.realpath(os.path.join(folder, path))
    if os.path.commonpath((inside, file)) != inside:
        raise DataError(src, f"holds no bytes but the path {path[:200]!r}, out of its folder")
    try:
        return read_bytes(file)
    except OSError as error:
        found = f"holds no bytes but the path {path[:200]!r}: {error.strerror or 'cannot be read'}"
        raise DataError(src, found) from error
