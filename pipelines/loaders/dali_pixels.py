"""Feeds DALI with pixels, on a CPU: of each image what its crop shows, decoded by our own threads.

DALI then resizes and normalizes. Its own decoder gives the same pixels, but reads all codes down to
a crop's end, and a third more slowly. What a batch shows is held at once, and some batches are in
flight: where that would take too much memory, DALI decodes (`dali_feed`), and in the beginning, as
it takes time to load what decodes here.
"""

from __future__ import annotations

import threading
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING, ClassVar

import numpy as np
from numpy.typing import NDArray

from pipelines.decoder import Known
from pipelines.formats.layout import MODE_RAW
from pipelines.formats.source import Source
from pipelines.loaders.dali_feed import Feed, find_regions
from pipelines.plan import Rows
from pipelines.workers import make_threads, wait_for

if TYPE_CHECKING:
    from pipelines.regions import RegionDecoder

#: Bytes of pixels in flight at most, with every image counted whole: 64 photos of 0.2 megapixels
#: take 206 MB, of which a crop shows half on average.
_MOST_BYTES = 512 << 20
#: Batches in flight: two in DALI, two made ahead of them, one that is about to be given back.
_BATCHES = 5
#: Rows that a thread decodes at once: 6 ms of a core.
_TOGETHER = 8
#: Images begin at multiples of a cache line.
_ALIGN = 64


def has_room(source: Source, batch: int) -> bool:
    """Whether so many rows a batch are few enough to hold their pixels."""
    return _whole_bytes(source, batch) * _BATCHES <= _MOST_BYTES


def _whole_bytes(source: Source, batch: int) -> int:
    """Bytes of a batch of whole images, on average."""
    areas = source.heights.astype(np.int64) * source.widths
    return int(areas.mean() * 3 * batch) if len(areas) else 0


class PixelMaker:
    """Makes feeds of pixels, on threads.

    Attributes:
        known: what has been found out about samples.
        decodes: whether DALI gets pixels.
    """

    decodes: ClassVar[bool] = True

    def __init__(self, source: Source, known: Known, batch: int, workers: int) -> None:
        """Begin to load what decodes.

        Args:
            source: the samples.
            known: what has been found out about them.
            batch: rows of a feed at most.
            workers: threads.

        Raises:
            MemoryError: there is no room for them.
        """
        self.known, self._source = known, source
        self._local = threading.local()
        self._usual_bytes = _whole_bytes(source, batch)
        self._free: list[NDArray[np.uint8]] = []
        self._threads: ThreadPoolExecutor = make_threads(workers, "fastft-decode")
        self._loaded = self._threads.submit(_load)

    def is_ready(self) -> bool:
        """Whether all is loaded; never where there is no memory for that."""
        return self._loaded.done() and self._loaded.exception() is None

    def make(self, rows: Rows) -> Feed:
        """Regions, what to resize of them, flips.

        Raises:
            DataError: a sample cannot be had, or is broken.
        """
        start, shape, roi_start, roi_end = find_regions(rows)
        sides = shape.tolist()
        sizes = -(-shape.prod(1, dtype=np.int64) * 3 // _ALIGN) * _ALIGN
        ends = np.cumsum(sizes)
        buffer = self._take(int(sizes.sum()))
        rooms = [buffer[end - size : end] for end, size in zip(ends, sizes, strict=True)]
        boxes = np.concatenate((start, shape), axis=1).tolist()
        samples = rows.samples.tolist()
        parts = [slice(at, at + _TOGETHER) for at in range(0, len(rows), _TOGETHER)]
        wait_for(
            [
                self._threads.submit(self._decode, samples[part], boxes[part], rooms[part])
                for part in parts
            ],
            to_the_end=True,
        )
        images = [_image(room, *each) for room, each in zip(rooms, sides, strict=True)]
        inputs = (images, roi_start, roi_end, rows.flips.astype(np.int32))
        return Feed(rows, inputs, buffer)

    def name(self, sample: int) -> str:
        """A sample's name in errors."""
        return f"{self._source.path}: {self._source.name(sample)}"

    def take_back(self, feed: Feed) -> None:
        """Take a feed that DALI has done with; the next is made in its memory, if that is usual."""
        buffer, feed.buffer = feed.buffer, None
        if buffer is not None and buffer.nbytes <= self._usual_bytes:
            self._free.append(buffer)

    def close(self) -> None:
        """End the threads."""
        self._threads.shutdown(cancel_futures=True)

    def _take(self, bytes_: int) -> NDArray[np.uint8]:
        """Memory for a feed."""
        if bytes_ > self._usual_bytes:
            return np.empty(bytes_, np.uint8)
        try:
            return self._free.pop()
        except IndexError:
            return np.empty(self._usual_bytes, np.uint8)  # what is not written takes none

    def _decode(
        self, samples: list[int], boxes: list[list[int]], rooms: list[NDArray[np.uint8]]
    ) -> None:
        """Decode what boxes (top, left, height, width, px) show of samples."""
        for sample, box, room in zip(samples, boxes, rooms, strict=True):
            self._decode_one(sample, box, room)

    def _decode_one(self, sample: int, box: list[int], room: NDArray[np.uint8]) -> None:
        top, left, height, width = box
        image = _image(room, height, width)
        stored = self._source.stored(sample)
        sides = stored.height, stored.width
        if stored.mode == MODE_RAW:
            whole = np.frombuffer(stored.data, np.uint8).reshape(*sides, 3)
        else:
            regions = self._regions()
            if regions.crop_into(sample, stored, box, room, 3 * width):
                return
            whole = np.empty((*sides, 3), np.uint8)
            regions.decoder.to_rgb(sample, whole.reshape(-1), stored=stored)
        image[:] = whole[top : top + height, left : left + width]

    def _regions(self) -> RegionDecoder:
        """The calling thread's."""
        try:
            regions: RegionDecoder = self._local.regions
        except AttributeError:
            from pipelines.regions import RegionDecoder

            regions = self._local.regions = RegionDecoder(self._source, self.known)
        return regions


def _image(room: NDArray[np.uint8], height: int, width: int) -> NDArray[np.uint8]:
    """A crop in its room, uint8[height, width, 3]."""
    return room[: height * width * 3].reshape(height, width, 3)


def _load() -> None:
    """Load what decodes parts of images, which takes numba."""
    from pipelines.regions import load_parts

    load_parts()
