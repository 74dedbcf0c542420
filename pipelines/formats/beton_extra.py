"""Reads our extra block of a `.beton`: checksums, source names, and the file's own description.

See `layout` for the bytes.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from pipelines.errors import FormatError
from pipelines.formats.held_file import HeldFile
from pipelines.formats.layout import About
from pipelines.formats.shards import Shard, read_shard

_REDO = "rerun fastft convert"


@dataclass(frozen=True, slots=True)
class Extra:
    """The block's content, and the places of its parts in the file.

    Attributes:
        about: the file's own description.
        shard: which part of a conversion it is; None if it is all.
        checksums: uint32[N], CRC-32 of each sample's bytes.
        at, ends_at, names_at, about_at, end: places.
        crc32: the checksum of all of it.
    """

    about: About
    shard: Shard | None
    checksums: NDArray[np.uint32]
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
        at=pointer,
        ends_at=ends_at,
        names_at=names_at,
        about_at=about_at,
        end=block_end,
        crc32=int(head["block_crc32"]),
    )
