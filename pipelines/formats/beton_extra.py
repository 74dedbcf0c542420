"""Reads what only our files hold: checksums, source names, a description, entry points.

See `layout` for the bytes.
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from pipelines.errors import DataError, FormatError
from pipelines.formats.crc import crc32
from pipelines.formats.held_file import HeldFile
from pipelines.formats.layout import POINT, POINTS, About, most_points
from pipelines.formats.shards import Shard, read_shard

_REDO = "rerun fastft convert"


@dataclass(frozen=True, slots=True)
class Extra:
    """The block's content, and the places of its parts in the file.

    Attributes:
        about: the file's own description.
        shard: which part of a conversion it is; None if it is all.
        checksums: uint32[N], CRC-32 of each sample's bytes.
        points: `layout.POINTS` of each sample; None: there are no entry points.
        at, ends_at, names_at, about_at, end: places.
        crc32: the checksum of all of it.
    """

    about: About
    shard: Shard | None
    checksums: NDArray[np.uint32]
    points: NDArray[np.void] | None
    at: int
    ends_at: int
    names_at: int
    about_at: int
    end: int
    crc32: int


def read_extra(file: HeldFile, head: Any, samples: int, start: int, end: int) -> Extra:
    """Read the block that a file's head points to.

    Args:
        file: the `.beton`.
        head: one `layout.EXTRA`.
        samples: how many the file holds.
        start, end: what of the file may hold the block.

    Raises:
        FormatError: it lies outside, or is not what we write.
    """
    path, pointer, names_bytes = file.path, int(head["pointer"]), int(head["names_bytes"])
    ends_at = pointer + 4 * samples
    names_at = ends_at + 8 * samples
    about_at = names_at + names_bytes
    block_end = about_at + int(head["about_bytes"])
    if not (start <= pointer and block_end <= end):
        raise FormatError(path, "its extra data lie outside the file", "", _REDO)
    name_ends = file.array("<i8", samples, ends_at)
    # Compared, not subtracted: a difference could wrap around.
    if name_ends[0] < 0 or (name_ends[1:] < name_ends[:-1]).any() or name_ends[-1] != names_bytes:
        raise FormatError(path, "its source names are out of order", "", _REDO)
    try:
        about = About.decode(file.read(about_at, block_end - about_at), samples)
        shard = None if about.shard is None else read_shard(about.shard)
    except (ValueError, KeyError, TypeError, RecursionError):
        raise FormatError(path, "its class names cannot be read", "", _REDO) from None
    return Extra(
        about=about,
        shard=shard,
        checksums=file.array("<u4", samples, pointer),
        points=_read_points_table(file, about.points_at, samples, start, pointer),
        at=pointer,
        ends_at=ends_at,
        names_at=names_at,
        about_at=about_at,
        end=block_end,
        crc32=int(head["block_crc32"]),
    )


def read_name(file: HeldFile, extra: Extra | None, number: int) -> str:
    """The source name of a sample, or its number where there is none."""
    unnamed = f"sample {number}"
    if extra is None:
        return unnamed
    # A file that is being destroyed may have lost its names first; an error wants one still.
    try:
        before = min(1, number)
        ends = file.array("<i8", 1 + before, extra.ends_at + 8 * (number - before))
        first, last = int(ends[0]) * before, int(ends[-1])
        if not 0 <= first <= last <= extra.about_at - extra.names_at:
            return unnamed
        return os.fsdecode(file.read(extra.names_at + first, last - first))
    except DataError:
        return unnamed


def read_names(file: HeldFile, extra: Extra | None, numbers: Sequence[int]) -> list[str]:
    """The source names of samples, or their numbers where there are none.

    Raises:
        DataError: the file has been cut, or cannot be read.
    """
    if extra is None:
        return [f"sample {number}" for number in numbers]
    ends = file.array("<i8", (extra.names_at - extra.ends_at) // 8, extra.ends_at)
    text = file.read(extra.names_at, extra.about_at - extra.names_at)
    places = [0, *ends.tolist()]
    return [os.fsdecode(text[places[n] : places[n + 1]]) for n in numbers]


def _read_points_table(
    file: HeldFile, at: int, samples: int, start: int, end: int
) -> NDArray[np.void] | None:
    if not at:
        return None
    if not start <= at <= end - samples * POINTS.itemsize:
        raise FormatError(file.path, "its entry points lie outside the file", "", _REDO)
    return file.array(POINTS, samples, at)


def pack_points(step: int, points: NDArray[np.int64]) -> bytes:
    """Entry points as a file holds them.

    Args:
        step: MCUs between them.
        points: int64[...], see `kernels.entries.find_entries`.
    """
    return np.array([step], POINT).tobytes() + points.astype(POINT).tobytes()


def read_points(
    file: HeldFile, row: np.void, at: int, jpeg_bytes: int
) -> tuple[int, NDArray[np.int64]]:
    """Read the entry points of a JPEG.

    Args:
        file: the `.beton`.
        row: one `layout.POINTS`.
        at: where they begin.
        jpeg_bytes: of the JPEG.

    Returns:
        MCUs between them; int64[...], see `kernels.entries.find_entries`.

    Raises:
        DataError: the file has been cut, or cannot be read.
        FormatError: they are not those that were written.
    """
    size = int(row["bytes"])
    if size % POINT.itemsize == 0 and size <= POINT.itemsize * (1 + most_points(jpeg_bytes)):
        data = file.read(at, size)
        if crc32(data) == int(row["crc32"]):
            points = np.frombuffer(bytearray(data), POINT)
            return int(points[0]), points[1:].astype(np.int64, copy=False)
    raise FormatError(file.path, "its entry points have changed", "those that were written", _REDO)
