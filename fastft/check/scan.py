"""A look at all images by several threads, and what is kept of them: 0.4 kB each."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from functools import partial

import numpy as np
from numpy.typing import NDArray

from fastft.check.hashes import CHROMA_PX, LUMA_PX, Prints, make_prints
from fastft.check.look import DIGEST_BYTES, SIDE_PX, Look, look_at
from fastft.check.parts import Part, Parts
from pipelines.errors import DataError, is_no_files
from pipelines.workers import cpu_count, in_order, make_threads

#: Images of a task: few enough for an even finish, and to move the bar.
_CHUNK = 32


@dataclass(frozen=True, slots=True)
class Scan:
    """All that is known of N images, split after split.

    Attributes:
        splits: int16[N], numbers of splits; numbers: int64[N], the images' numbers in them.
        labels: int32[N], indices into the names of all splits' classes; -1 for none.
        widths, heights: int32[N], px; 0 if it is broken.
        formats: int16[N], indices into `format_names`.
        orientations, marks: uint8[N], see `look.Look`.
        digests: V16[N].
        prints: see there.
        broken, doubtful: number of an image -> reason.
        format_names: in the order in which they were met.
    """

    splits: NDArray[np.int16]
    numbers: NDArray[np.int64]
    labels: NDArray[np.int32]
    widths: NDArray[np.int32]
    heights: NDArray[np.int32]
    formats: NDArray[np.int16]
    orientations: NDArray[np.uint8]
    marks: NDArray[np.uint8]
    digests: NDArray[np.void]
    prints: Prints
    broken: dict[int, str] = field(default_factory=dict)
    doubtful: dict[int, str] = field(default_factory=dict)
    format_names: list[str] = field(default_factory=list)

    def __len__(self) -> int:
        return len(self.splits)

    @property
    def whole(self) -> NDArray[np.bool_]:
        """bool[N]: those that are not broken."""
        return self.widths > 0


def scan(
    parts: Parts, *, verify: bool, workers: int, on_progress: Callable[[str, int, int], None]
) -> Scan:
    """Look at all images; what is found does not depend on the number of threads.

    Args:
        parts: the splits.
        verify: decode all data of JPEGs.
        workers: threads; 0 takes as many as CPUs.
        on_progress: called with a split's name, images done, and in all.
    """
    found, at = _make_room(parts), 0
    workers = workers or cpu_count()
    with make_threads(workers) as executor:
        for part in parts.all:
            starts = range(0, len(part), _CHUNK)
            tasks = (partial(_look_at_some, part, start, verify) for start in starts)
            for looks, prints in in_order(executor, tasks, 2 * workers):
                _keep(found, at, looks, prints, part)
                at += len(looks)
                on_progress(part.split or "images", int(found.numbers[at - 1]) + 1, len(part))
    return found


def _make_room(parts: Parts) -> Scan:
    sizes = [len(part) for part in parts.all]
    total = sum(sizes)
    return Scan(
        splits=np.repeat(np.arange(len(sizes), dtype=np.int16), sizes),
        numbers=np.concatenate([np.arange(size) for size in sizes]),
        labels=np.concatenate([parts.labels(part) for part in parts.all]),
        widths=np.zeros(total, np.int32),
        heights=np.zeros(total, np.int32),
        formats=np.full(total, -1, np.int16),
        orientations=np.ones(total, np.uint8),
        marks=np.zeros(total, np.uint8),
        digests=np.zeros(total, f"V{DIGEST_BYTES}"),
        prints=Prints(
            np.zeros(total, np.uint64),
            np.zeros((total, LUMA_PX, LUMA_PX), np.uint8),
            np.zeros((total, CHROMA_PX, CHROMA_PX, 2), np.uint8),
        ),
    )


def _look_at_some(part: Part, start: int, verify: bool) -> tuple[list[Look], Prints]:
    looks = []
    for sample in range(start, min(start + _CHUNK, len(part))):
        try:
            looks.append(look_at(part.read(sample), verify=verify))
        except DataError as error:  # the file is gone, or no longer what was written
            if is_no_files(error):
                raise
            looks.append(Look(broken=error.found))
    nothing = np.zeros((SIDE_PX, SIDE_PX, 3), np.uint8)
    pictures = [nothing if look.picture is None else look.picture for look in looks]
    return looks, make_prints(np.stack(pictures))


def _keep(found: Scan, at: int, looks: list[Look], prints: Prints, part: Part) -> None:
    stop = at + len(looks)
    for number, look in enumerate(looks, at):
        if look.broken:
            found.broken[number] = look.broken
            continue
        said = look.doubtful or part.doubtful.get(int(found.numbers[number]), "")
        if said:
            found.doubtful[number] = said
        if look.format not in found.format_names:
            found.format_names.append(look.format)
        found.formats[number] = found.format_names.index(look.format)
        found.widths[number], found.heights[number] = look.width, look.height
        found.orientations[number], found.marks[number] = look.orientation, look.marks
        found.digests[number] = np.void(look.digest)
    found.prints.hashes[at:stop] = prints.hashes
    found.prints.lumas[at:stop] = prints.lumas
    found.prints.chromas[at:stop] = prints.chromas
