"""The label field of a `.beton` where it is no class: FFCV's NDArrayField, a row for each sample.

Several labels are float32[C] of 0 and 1, a number float32[1]. Our files hold all rows behind the
images, one after the other, so that reading them costs a few calls; stock FFCV's writer puts
each behind its image, and is read all the same.

Source: FFCV 1.0.2, `fields/ndarray.py` (arguments), `types.py` (type numbers).
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from pipelines.errors import FormatError
from pipelines.formats.columns import Task
from pipelines.formats.held_file import HeldFile

#: FFCV's number of the field's type.
TYPE_NDARRAY = 4
#: Labels of one sample at most, and bytes of all labels that are taken into memory.
MOST_LABELS, _MOST_BYTES = 1 << 16, 8 << 30
_ARGUMENTS = np.dtype([("shape", "<u8", 32), ("type_bytes", "<u8")])
#: NumPy's names of what a label may be stored as, little-endian or of one byte.
_KINDS = "biuf"
_REDO = "rerun fastft convert"


def describe_rows(values: int) -> NDArray[np.uint8]:
    """uint8[...]: the field's arguments for rows of so many float32."""
    arguments = np.zeros(1, _ARGUMENTS)
    arguments["shape"][0, 0] = values
    kind = json.dumps(np.dtype("<f4").descr).encode()
    arguments["type_bytes"] = len(kind)
    return np.concatenate((arguments.view(np.uint8), np.frombuffer(kind, np.uint8)))


def read_description(path: Path, arguments: NDArray[np.uint8]) -> tuple[np.dtype[Any], int]:
    """The type of a row's values, and how many there are.

    Raises:
        FormatError: it is no vector of numbers.
    """
    head = np.frombuffer(arguments.tobytes(), _ARGUMENTS, 1)[0]
    shape, text_bytes = [int(side) for side in head["shape"]], int(head["type_bytes"])
    text = arguments[_ARGUMENTS.itemsize :].tobytes()
    try:
        ((name, kind),) = json.loads(text[:text_bytes].decode("ascii"))
        dtype = np.dtype(kind) if name == "" and isinstance(kind, str) else None
    except (ValueError, TypeError, RecursionError):
        dtype = None
    if text_bytes > len(text) or dtype is None or dtype.kind not in _KINDS or not dtype.itemsize:
        raise FormatError(path, "its labels are of no type that is read", "numbers", _REDO)
    if not 1 <= shape[0] <= MOST_LABELS or any(shape[1:]):
        sides = " x ".join(str(side) for side in shape if side) or "none"
        expected = f"a vector of 1 to {MOST_LABELS:,} for each image"
        raise FormatError(path, f"labels of shape {sides}", expected, _REDO)
    return dtype, shape[0]


def place_rows(start: int, samples: int, values: int, page_bytes: int) -> NDArray[np.uint64]:
    """uint64[N]: the places of rows of float32 from `start` on, none of which crosses a page."""
    row = 4 * values
    start = -(-start // 4) * 4
    next_page = -(-start // page_bytes) * page_bytes
    here = min((next_page - start) // row, samples)
    pages, places = np.divmod(np.arange(samples - here), page_bytes // row)
    behind = next_page + pages * page_bytes + places * row
    return np.concatenate((start + row * np.arange(here), behind)).astype(np.uint64)


def read_rows(
    file: HeldFile, pointers: NDArray[np.uint64], dtype: np.dtype[Any], values: int, end: int
) -> NDArray[np.float32]:
    """float32[N, C]: the rows at these places.

    Args:
        file: where they are.
        pointers: uint64[N].
        dtype, values: of a row.
        end: the end of what holds rows.

    Raises:
        FormatError: a row lies elsewhere, or they are too many for memory.
    """
    path, row = file.path, dtype.itemsize * values
    if len(pointers) * values * 4 > _MOST_BYTES:
        found = f"{len(pointers):,} x {values:,} labels"
        raise FormatError(path, found, f"at most {_MOST_BYTES:,} bytes of them", _REDO)
    # Compared, not added: a sum could wrap around.
    outside = pointers > np.uint64(max(end - row, 0))
    if end < row or outside.any():
        at = int(np.argmax(outside))
        raise FormatError(path, f"sample {at}'s labels lie outside the file's pages", "", _REDO)
    rows = np.empty((len(pointers), values), np.float32)
    places = pointers.astype(np.int64)
    runs = np.flatnonzero(np.diff(places) != row) + 1
    for first, last in zip(
        [0, *runs.tolist()], [*runs.tolist(), len(places)], strict=True
    ):  # neighbours are read at once
        part = file.array(dtype, (last - first) * values, int(places[first]))
        with np.errstate(over="ignore", invalid="ignore"):
            rows[first:last] = part.reshape(-1, values)
    if not np.isfinite(rows).all():
        at = int(np.argmax(~np.isfinite(rows).all(axis=1)))
        raise FormatError(path, f"sample {at}'s labels are no finite numbers", "", _REDO)
    return rows


def guess_task(path: Path, targets: NDArray[np.float32]) -> Task:
    """The meaning of labels of a file that does not say: stock FFCV's.

    Raises:
        FormatError: it is none that a model is trained for.
    """
    if ((targets == 0) | (targets == 1)).all():
        return "labels"
    if targets.shape[1] == 1:
        return "number"
    found = f"{targets.shape[1]} values for each image that are not 0 and 1"
    raise FormatError(path, found, "labels, 0 or 1, or one number", "write one of them")


def check_targets(path: Path, task: Task, targets: NDArray[np.float32], classes: int) -> None:
    """Refuse targets that are not what the file says.

    Raises:
        FormatError: they are not of its task, or not as many as it names classes.
    """
    if targets.shape[1] != classes:
        found = f"{targets.shape[1]} labels for each image"
        raise FormatError(path, found, f"{classes}, one for each name", _REDO)
    if task == "classes" or (task == "labels" and not ((targets == 0) | (targets == 1)).all()):
        raise FormatError(path, f"its labels are not of the task {task}", "0 or 1 each", _REDO)
