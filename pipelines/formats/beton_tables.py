"""Checks the tables of a `.beton`, ours or stock FFCV's: places, sizes, labels.

See `layout` for the bytes.
"""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from pipelines.errors import FormatError
from pipelines.formats.beton_extra import Extra
from pipelines.formats.beton_labels import (
    check_targets,
    guess_task,
    read_description,
    read_rows,
)
from pipelines.formats.columns import Columns
from pipelines.formats.crc import crc32
from pipelines.formats.held_file import HeldFile
from pipelines.formats.layout import MODE_JPG, MODE_RAW, About
from pipelines.images.limits import MAX_FILE_BYTES, MAX_SIDE_PX, MOST_PIXELS

_REDO = "rerun fastft convert"


def allocated_sizes(path: Path, pointers: NDArray[Any], allocation: NDArray[Any]) -> NDArray[Any]:
    """uint64[N]: how many bytes the allocation table gives each sample's pointer.

    Raises:
        FormatError: one of them is not in it.
    """
    order = np.argsort(allocation["pointer"], kind="stable")
    starts = allocation["pointer"][order]
    at = np.minimum(np.searchsorted(starts, pointers), len(starts) - 1)
    lost = np.flatnonzero(starts[at] != pointers)
    if lost.size:
        raise FormatError(path, f"sample {lost[0]} is not in the allocation table", "", _REDO)
    return allocation["size"][order][at]


def check_bounds(
    path: Path, metadata: NDArray[Any], sizes: NDArray[Any], start: int, end: int
) -> None:
    """Refuse samples that are none, or lie elsewhere than in the file's pages.

    Args:
        path: the file.
        metadata: `layout.METADATA` of each sample.
        sizes: uint64[N], bytes.
        start, end: the file's pages.

    Raises:
        FormatError: it names the first such sample.
    """
    pointers, modes = metadata["pointer"], metadata["mode"]
    # Written without a sum of two file values, which could wrap around.
    outside = (pointers < start) | (pointers > end) | (sizes > np.uint64(end) - pointers)
    pixels = metadata["height"].astype(np.uint64) * metadata["width"] * np.uint64(3)
    checks = {
        "lies outside the file's pages": outside | (sizes == 0),
        "has no pixels": pixels == 0,
        # A few bytes of JPEG may stand for any number of pixels, for which room would be made.
        f"has more than {MOST_PIXELS:,} pixels": (modes == MODE_JPG) & (pixels > MOST_PIXELS * 3),
        f"has more than {MAX_FILE_BYTES:,} bytes": (modes == MODE_JPG) & (sizes > MAX_FILE_BYTES),
        f"has a mode other than {MODE_JPG} (jpg) and {MODE_RAW} (raw)": modes > MODE_RAW,
        "has a raw size that is not height x width x 3": (modes == MODE_RAW) & (sizes != pixels),
    }
    for what, wrong in checks.items():
        if wrong.any():
            raise FormatError(path, f"sample {int(np.argmax(wrong))} {what}", "", _REDO)


def read_classes(
    path: Path, metadata: NDArray[Any], about: About
) -> tuple[NDArray[np.int64], tuple[str, ...]]:
    """int64[N] labels, and the names of their classes.

    Raises:
        FormatError: there is no such class, or the file says that its labels are none.
    """
    labels = metadata["label"].astype(np.int64)
    known = len(about.classes) if about.classes else MAX_SIDE_PX
    if labels.min() < 0 or labels.max() >= known:
        found = f"labels from {labels.min()} to {labels.max()}"
        raise FormatError(path, found, f"0 to {known - 1}", _REDO)
    if about.columns.task != "classes":
        raise FormatError(path, f"labels for the task {about.columns.task}", "a class", _REDO)
    return labels, about.classes or tuple(str(label) for label in range(int(labels.max()) + 1))


def read_targets(
    file: HeldFile,
    metadata: NDArray[Any],
    allocation: NDArray[Any],
    description: NDArray[np.uint8],
    extra: Extra | None,
    end: int,
) -> tuple[tuple[str, ...], Columns]:
    """The names of labels that are no classes, and columns with them as targets.

    Args:
        file: the `.beton`.
        metadata, allocation: its tables.
        description: the label field's arguments.
        extra: our block in it, if there is one.
        end: the end of its pages.

    Raises:
        FormatError: they are not what the file says.
    """
    path, pointers = file.path, metadata["label"].view("<u8")
    dtype, values = read_description(path, description)
    if (allocated_sizes(path, pointers, allocation) != dtype.itemsize * values).any():
        raise FormatError(path, "its labels are of another size than they say", "", _REDO)
    targets = read_rows(file, pointers, dtype, values, end)
    if extra is None:
        names = tuple(str(number) for number in range(values))
        return names, Columns(task=guess_task(path, targets), targets=targets)
    about = extra.about
    check_targets(path, about.columns.task, targets, len(about.classes))
    if crc32(targets.astype("<f4")) != about.targets_crc32:
        raise FormatError(path, "its labels have changed", "their checksum to hold", _REDO)
    return about.classes, replace(about.columns, targets=targets)
