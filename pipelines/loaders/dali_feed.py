"""Feeds DALI: for each batch encoded bytes, the regions of the plan's boxes, the flips.

Where it need not decode, `dali_pixels` feeds it. Else DALI gets JPEGs as they are wherever it
decodes them as the reference does. Its libjpeg-turbo writes a line without a name to the terminal
for stray bytes in a file, and its parser refuses some of these files, so such bytes are cut out.
What it refuses all the same, and what decoders do not agree on, it gets as pixels from the
reference decoder.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Executor, Future, wait
from itertools import islice
from typing import Any, ClassVar, NamedTuple

import numpy as np
from numpy.typing import NDArray

from pipelines.decoder import Known
from pipelines.errors import DataError
from pipelines.formats.beton import Index
from pipelines.formats.encode import LEAVE_OUT, decode
from pipelines.formats.layout import MODE_RAW, Stored
from pipelines.formats.source import Source
from pipelines.images.damage import find_stray_bytes
from pipelines.images.jpeg import find_oddity, read_header
from pipelines.images.scans import TOO_MANY_SCANS, has_too_many_scans
from pipelines.plan import Rows

#: The marker that ends a JPEG, and how many bytes alike before it look like padding: libjpeg says
#: nothing of fewer.
_END, _PADDING = b"\xff\xd9", 9
#: Feeds that are made before DALI asks for them.
_FEEDS_AHEAD = 2


class Feed:
    """One batch for DALI: the rows, the arrays that it reads in place, and what those lie in."""

    __slots__ = ("buffer", "inputs", "rows")

    def __init__(
        self, rows: Rows, inputs: tuple[Any, ...], buffer: NDArray[np.uint8] | None = None
    ) -> None:
        self.rows, self.inputs, self.buffer = rows, inputs, buffer


class FeedsAhead:
    """Feeds in order, of which a thread makes the next while others are in use.

    What it does is to read: most of a feed's time goes to the system's copies of the bytes.
    """

    def __init__(
        self, thread: Executor, make: Callable[[Rows], Feed], rows: Iterator[Rows]
    ) -> None:
        """Make none yet.

        Args:
            thread: of one worker, as batches are made in order.
            make: makes one.
            rows: of the batches.
        """
        self._thread, self._make, self._rows = thread, make, rows
        self._coming: deque[tuple[Rows, Future[Feed]]] = deque()

    def __iter__(self) -> Iterator[Feed]:
        return self

    def __next__(self) -> Feed:
        for rows in islice(self._rows, _FEEDS_AHEAD + 1 - len(self._coming)):
            self._coming.append((rows, self._thread.submit(self._make, rows)))
        if not self._coming:
            raise StopIteration
        return self._coming.popleft()[1].result()

    def take_back(self) -> list[Rows]:
        """End, and give the rows of the feeds that nobody took."""
        coming, self._coming, self._rows = self._coming, deque(), iter(())
        for _, feed in coming:
            feed.cancel()
        wait([feed for _, feed in coming])
        return [rows for rows, _ in coming]


class Feeder:
    """The source that DALI asks for its next inputs.

    Apart from the loader, which owns the pipeline: no reference cycle keeps a dropped pipeline and
    its threads alive.

    Attributes:
        feeds: that are still to come.
        in_flight: that DALI has and has not given back.
        error: what ended the feeds early.
    """

    def __init__(self, feeds: Iterable[Feed] = ()) -> None:
        self.feeds = iter(feeds)
        self.in_flight: deque[Feed] = deque()
        self.error: Exception | None = None

    def take_error(self) -> BaseException:
        """The error, let go of: its traceback will hold the frame that has the pipeline."""
        error, self.error = self.error, None
        assert error is not None
        return error

    def next_inputs(self) -> tuple[Any, ...]:
        """The inputs of the next batch.

        Raises:
            StopIteration: there is none.
        """
        try:
            feed = next(self.feeds)
        except StopIteration:
            raise
        except Exception as error:  # batches ahead of the caller, who may never get there
            self.error = error
            raise StopIteration from error
        # DALI reads the arrays in place (no_copy): they live until their batch has come out.
        self.in_flight.append(feed)
        return feed.inputs


class Regions(NamedTuple):
    """The part of each image that DALI is to resize from, and what of that.

    Attributes:
        start, shape: int32[B, 2] top and left, height and width of the part, px.
        roi_start, roi_end: float32[B, 2] top and left, bottom and right of what is resized,
            relative to the part.
    """

    start: NDArray[np.int32]
    shape: NDArray[np.int32]
    roi_start: NDArray[np.float32]
    roi_end: NDArray[np.float32]


def find_regions(rows: Rows) -> Regions:
    """Regions of the plan's boxes, with as much around them as the filter touches."""
    boxes, first = rows.boxes, rows.crops[:, :2]
    top_left, extent = boxes[:, :2], boxes[:, 2:]
    # The filter reaches one output pixel beyond the box, bicubic two, never less than so many
    # source pixels, and ends at the crop; one more for rounding.
    reach = (2 if rows.filter == "bicubic" else 1) * np.maximum(extent / rows.size, 1) + 1
    start = np.maximum(np.floor(top_left - reach), first).astype(np.int32)
    last = first + rows.crops[:, 2:]
    end = np.minimum(np.ceil(top_left + extent + reach), last).astype(np.int32)
    roi_start = (top_left - start).astype(np.float32)
    roi_end = (top_left + extent - start).astype(np.float32)
    return Regions(start, end - start, roi_start, roi_end)


class FeedMaker:
    """Makes feeds of encoded bytes; what a sample needs is found out once.

    Attributes:
        known: what has been found out.
        decodes: whether DALI gets pixels.
    """

    decodes: ClassVar[bool] = False

    def __init__(self, source: Source) -> None:
        """Find out nothing yet."""
        self.known = Known(source)
        self._source = source
        self._looked_at = bytearray(len(source.widths))
        #: sample -> the parts of its bytes that are left out
        self._cuts: dict[int, tuple[slice, ...]] = {}

    def make(self, rows: Rows) -> Feed:
        """Encoded bytes, region to decode, region to resize (relative to the former), flip.

        Raises:
            DataError: a sample cannot be had, or the reference decoder refuses it.
        """
        source, samples = self._source, rows.samples
        start, shape, roi_start, roi_end = find_regions(rows)
        encoded: list[NDArray[np.uint8]] = []
        for row, sample in enumerate(samples.tolist()):
            stored = source.stored(sample)
            jpeg = None if stored.mode == MODE_RAW else self._find_jpeg(sample, stored)
            if jpeg is None:
                end = start[row] + shape[row]
                encoded.append(as_netpbm(self._as_raw(sample, stored), start[row], end))
                start[row] = 0
            else:
                encoded.append(np.frombuffer(jpeg, np.uint8))
        flips = rows.flips.astype(np.int32)
        return Feed(rows, (encoded, start, shape, roi_start, roi_end, flips))

    def name(self, sample: int) -> str:
        """A sample's name in errors."""
        return f"{self._source.path}: {self._source.name(sample)}"

    def take_back(self, feed: Feed) -> None:
        """Take a feed that DALI has done with: its bytes are the samples' own."""

    def _find_jpeg(self, sample: int, stored: Stored) -> bytes | None:
        """The JPEG that DALI may have of a sample; None if the reference decoder is to decode it.

        Raises:
            DataError: no decoder may have it.
        """
        is_new = not self._looked_at[sample]
        if is_new and has_too_many_scans(stored.data):
            raise DataError(self.name(sample), TOO_MANY_SCANS, "a photo", LEAVE_OUT)
        if self.known.needs_reference(sample, stored):
            return None
        if is_new:
            self._looked_at[sample] = 1
            if said := self._find_remark(sample, stored.data):
                header = read_header(stored.data)
                cuts = find_stray_bytes(stored.data, header) if header else None
                if cuts is None or find_oddity(cut_out(stored.data, cuts)):
                    self.known.give_to_reference(sample, said)
                    return None
                self._cuts[sample] = cuts
        return cut_out(stored.data, self._cuts.get(sample, ()))

    def _find_remark(self, sample: int, data: bytes) -> str:
        """Find a reason to look at a sample twice; '' for nearly all."""
        source = self._source
        if isinstance(source, Index) and (
            said := source.odd.get(sample) or source.doubtful.get(sample)
        ):
            return said
        end = data.rfind(_END)
        if end > _PADDING and len(set(data[end - _PADDING : end])) == 1:
            return "padding behind its scan"  # which a class folder's image may have, too
        return find_oddity(data)

    def _as_raw(self, sample: int, stored: Stored) -> Stored:
        """A sample's pixels, by the reference decoder if it is a JPEG."""
        if stored.mode == MODE_RAW:
            return stored
        pixels = decode(stored, self.name(sample)).tobytes()
        return Stored(MODE_RAW, stored.width, stored.height, pixels)


def cut_out(data: bytes, parts: tuple[slice, ...]) -> bytes:
    """The bytes without some parts of them, which are in order."""
    if not parts:
        return data
    starts = (0, *(part.stop for part in parts))
    ends = (*(part.start for part in parts), len(data))
    return b"".join(data[start:end] for start, end in zip(starts, ends, strict=True))


def as_netpbm(
    stored: Stored, start: NDArray[np.int32], end: NDArray[np.int32]
) -> NDArray[np.uint8]:
    """A region of raw pixels as a binary PPM, the plainest image that DALI's decoder reads."""
    pixels = np.frombuffer(stored.data, np.uint8)
    pixels = pixels.reshape(stored.height, stored.width, 3)
    region = pixels[start[0] : end[0], start[1] : end[1]]
    header = b"P6\n%d %d\n255\n" % (region.shape[1], region.shape[0])
    return np.concatenate((np.frombuffer(header, np.uint8), region.ravel()))
