"""The splits of a data set as they lie: a listing of class folders or a `.beton` each.

Nothing is decoded here, and classes may differ between splits: that is a finding, no error.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from fastft.config.check import CheckConfig
from fastft.datasets.division import divide_source
from fastft.datasets.splits import present_splits
from pipelines.conversion.division import divide_listings
from pipelines.conversion.inputs import Listing, find_kind, open_listings, refuse_unheard
from pipelines.errors import DataError
from pipelines.formats.beton import Index, read_index
from pipelines.formats.division import SIDES, describe_division
from pipelines.formats.folder import find_layout, read_folder
from pipelines.formats.layout import Stored
from pipelines.formats.splits import describe_passed_over


@dataclass(frozen=True, kw_only=True, slots=True)
class Part:
    """The samples of one split.

    Attributes:
        split: its name; empty if it is all there is.
        path: the file or folder.
        classes: class names; empty where samples have no one class each.
        labels: int64[N], indices into `classes`.
        name: of a sample.
        read: a sample's file, or what a `.beton` holds of it; called from several threads.
            Raises DataError where it cannot be had.
        doubtful: sample -> why its pixels may be wrong, as conversion said.
    """

    split: str
    path: str
    classes: tuple[str, ...]
    labels: NDArray[np.int64]
    name: Callable[[int], str]
    read: Callable[[int], bytes | Stored]
    doubtful: Mapping[int, str]

    def __len__(self) -> int:
        return len(self.labels)


@dataclass(frozen=True, slots=True)
class Parts:
    """All splits, the training split first, and the names of all of their classes, sorted."""

    all: tuple[Part, ...]
    classes: tuple[str, ...]
    remark: str

    def labels(self, part: Part) -> NDArray[np.int32]:
        """int32[N]: the labels of a split as indices into `classes`; -1 where there is no class."""
        if not part.classes:
            return np.full(len(part), -1, np.int32)
        places = {name: at for at, name in enumerate(self.classes)}
        return np.array([places[name] for name in part.classes], np.int32)[part.labels]


@contextmanager
def open_parts(config: CheckConfig) -> Iterator[Parts]:
    """Open each split of a data set.

    Raises:
        DataError: there is no such thing, or it is no data set.
        UsageError: columns or a division that do not fit it.
    """
    data, division = config.data, config.division
    if division and data.suffix == ".beton":
        index = read_index(data)
        divided = divide_source(index, division)
        sides = {side: index.take(getattr(divided, side)) for side in SIDES}
        said = describe_division(divided, division)
        yield _together([_of_index(side, each) for side, each in sides.items()], said)
        return
    if division or (data.exists() and find_kind(data) != "folder"):
        how = {"names": config.names, "image_root": config.image_root}
        with open_listings(data, **how) as listings:  # type: ignore[arg-type]
            splits, remarks = divide_listings(data, listings, division)
            parts = [_of_listing(split, data, each) for split, each in splits.items()]
            yield _together(parts, "; ".join(remarks))
        return
    refuse_unheard(data, "folder", config.names, config.image_root)
    remark = ""
    if data.is_dir():
        present = present_splits(data)
        layout = find_layout(data, needs_train=False)
        if not layout.splits:  # a class folder may be called like a split
            present = {split: path for split, path in present.items() if path.is_file()}
        remark = describe_passed_over(layout.passed_over)
    else:
        if not data.exists():
            raise DataError(data, "no such file or folder", "splits, a .beton or class folders")
        present = {}
    parts = [_open(split, path) for split, path in (present or {"": data}).items()]
    yield _together(parts, remark)


def _open(split: str, path: Path) -> Part:
    if path.is_dir():
        return _of_listing(split, path, read_folder(path))
    return _of_index(split, read_index(path))


def _of_listing(split: str, path: Path, listing: Listing) -> Part:
    has_classes = listing.columns.task == "classes"
    names = listing.names
    return Part(
        split=split,
        path=str(path),
        classes=listing.classes if has_classes else (),
        labels=listing.labels,
        name=lambda sample: names[sample],
        read=listing.read,
        doubtful={},
    )


def _of_index(split: str, index: Index) -> Part:
    return Part(
        split=split,
        path=str(index.path),
        classes=index.classes if index.columns.task == "classes" else (),
        labels=index.labels,
        name=index.name,
        read=index.stored,
        doubtful=index.doubtful,
    )


def _together(parts: list[Part], remark: str = "") -> Parts:
    classes = tuple(sorted({name for part in parts for name in part.classes}))
    return Parts(tuple(parts), classes, remark)
