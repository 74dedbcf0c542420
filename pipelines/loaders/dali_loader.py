"""NVIDIA DALI as an executor of the plan: one pipeline definition, with a GPU or without.

Encoded bytes go in as they were read, with the boxes and flips of the plan; DALI
decodes only the region that the filter touches. Distance from the reference: DALI's decoder is
exact on the CPU; its resize keeps full precision between the two passes where Pillow rounds to
bytes (1 level), and where the filter runs past the pixels, at the border of a train crop or of the
image, it repeats the last one where Pillow leaves the missing taps out (up to 13 levels seen, in
the outermost rows and columns alone).
"""

from __future__ import annotations

import atexit
import weakref
from collections import deque
from collections.abc import Generator, Iterator
from typing import Any, ClassVar

import numpy as np
import torch
from numpy.typing import NDArray

from pipelines.encode import decode
from pipelines.errors import DataError, UsageError
from pipelines.forks import keep_for_good
from pipelines.jpeg import Checker, read_header
from pipelines.layout import MODE_RAW, Stored
from pipelines.loaders.base import Loader
from pipelines.plan import Plan, Rows
from pipelines.reference import MEAN, STD
from pipelines.scans import TOO_MANY_SCANS, has_too_many_scans
from pipelines.source import Source

try:
    from nvidia.dali import Pipeline, fn, types
except ImportError as error:
    raise UsageError(
        "loader 'dali'", "nvidia-dali is not installed", "it beside fastft",
        'pip install "fastft[dali]", or take --loader torchvision',
    ) from error  # fmt: skip

#: Batches that DALI prepares ahead; 2 is its own default, 3 was no faster on 2 cores.
_AHEAD = 2
#: How DALI says that it got no memory; the second is of threads, whose stacks take some.
_NO_MEMORY = ("bad_alloc", "Resource temporarily unavailable", "Cannot allocate memory")
#: What `_Feed.inputs` holds, in order.
_INPUT_TYPES = [types.UINT8, types.INT32, types.INT32, types.FLOAT, types.FLOAT, types.INT32]


class DaliLoader(Loader):
    """Executes the plan in a DALI pipeline."""

    name = "dali"

    #: What keeps its pixels near the reference's.
    decode_options: ClassVar[dict[str, Any]] = {
        "adjust_orientation": False, "jpeg_fancy_upsampling": True,
    }  # fmt: skip
    resize_options: ClassVar[dict[str, Any]] = {"antialias": True}

    def __init__(self, source: Source, **arguments: Any) -> None:
        super().__init__(source, **arguments)
        # Seen on the CPU: 0.21 and 13. On a GPU, nvJPEG's distance has not been measured.
        self.stated = (0.25, 16) if self.device.type == "cpu" else None
        _open.add(self)

    def _begin(self) -> None:
        self._feeder = _Feeder()
        self._pipe: Any | None = None

    def _leave_behind(self) -> None:
        super()._leave_behind()
        pipe = getattr(self, "_pipe", None)
        if pipe is not None:  # DALI takes apart what it knows of, when a process ends
            keep_for_good(pipe._pipe)
            pipe._pipe = None

    def _batches(
        self, plan: Plan, start: int
    ) -> Generator[tuple[torch.Tensor, torch.Tensor], None, None]:
        # Built with the first epoch: a loader that is only asked for its plan costs nothing.
        try:
            pipe = self._pipe = self._pipe or self._build()
        except RuntimeError as error:
            raise _memory_or(error) from error
        rows = self._rows(plan, start)
        self._feeder.feeds = (make_feed(self.source, batch, plan) for batch in rows)
        self._feeder.error = None
        try:
            pipe.schedule_run()
            while not pipe.empty():
                pixels, labels = self._take(pipe)
                pipe.schedule_run()
                yield pixels, labels
        except RuntimeError as error:  # DALI's own; the pipeline is of no further use
            self._pipe = None
            raise self._explain(error) from error
        else:
            if self._feeder.error is not None:
                raise self._feeder.take_error()
        finally:
            self._drain()

    def _change_size(self, size: int) -> None:
        self._pipe = None  # its size is a constant; the next epoch builds another

    def _take(self, pipe: Any) -> tuple[torch.Tensor, torch.Tensor]:
        """DALI's next batch, in DALI's own memory: it stays valid for as long as it is held."""
        on_gpu = self.device.type == "cuda"
        stream = torch.cuda.current_stream(self.device) if on_gpu else None
        (output,) = pipe.share_outputs(cuda_stream=stream)
        feed = self._feeder.in_flight.popleft()
        if not len(feed.rows):  # a rank's share of a last batch that is smaller than the world
            images = torch.empty((0, self.size, self.size, 3), device=self.device)
        elif on_gpu:
            images = torch.utils.dlpack.from_dlpack(output.as_tensor())
        else:
            images = torch.from_numpy(np.asarray(output.as_tensor()))
        pipe.release_outputs()
        labels = self._labels[torch.from_numpy(feed.rows.samples)]
        images = images.permute(0, 3, 1, 2).to(self.dtype or torch.uint8)
        return images, labels.to(self.device, non_blocking=True)

    def _drain(self) -> None:
        """Drop what DALI has in flight after an early exit, so that the next epoch starts clean."""
        pipe = self._pipe
        if pipe is None:
            self._feeder.in_flight.clear()
            return
        self._feeder.feeds = iter(())
        try:
            pipe.schedule_run()
            while not pipe.empty():
                pipe.share_outputs()
                pipe.release_outputs()
            pipe.reset()
        except RuntimeError:  # a broken sample in batches that nobody will see
            self._pipe = None
        self._feeder.in_flight.clear()

    def _build(self) -> Any:
        on_gpu = self.device.type == "cuda"
        pipe = Pipeline(
            batch_size=-(-self.batch_size // self.world),
            num_threads=self.workers,
            device_id=(self.device.index or 0) if on_gpu else None,
            prefetch_queue_depth=_AHEAD,
        )
        with pipe:
            encoded, start, shape, roi_start, roi_end, flip = fn.external_source(
                source=self._feeder.next_inputs, num_outputs=len(_INPUT_TYPES), batch=True,
                no_copy=True, dtype=_INPUT_TYPES, ndim=[1, 1, 1, 1, 1, 0],
            )  # fmt: skip
            image = fn.decoders.image_slice(
                encoded, start, shape, axes=[0, 1], device="mixed" if on_gpu else "cpu",
                output_type=types.RGB, **self.decode_options,
            )  # fmt: skip
            image = fn.resize(
                image, size=[self.size, self.size], roi_start=roi_start, roi_end=roi_end,
                interp_type=types.INTERP_LINEAR, **self.resize_options,
            )  # fmt: skip
            if self.dtype is None:
                image = fn.flip(image, horizontal=flip)
            else:
                # In DALI's threads, or in one GPU kernel; it has no bfloat16.
                half = self.dtype == torch.float16
                image = fn.crop_mirror_normalize(
                    image, mirror=flip, output_layout="HWC",
                    dtype=types.FLOAT16 if half else types.FLOAT,
                    mean=[255 * mean for mean in MEAN], std=[255 * std for std in STD],
                )  # fmt: skip
            pipe.set_outputs(image)
        pipe.build()
        return pipe

    def _explain(self, error: RuntimeError) -> Exception:
        """Find the sample that DALI could not decode; it names none."""
        checker = Checker()
        for feed in self._feeder.in_flight:
            for sample in feed.rows.samples:
                name = f"{self.source.path}: {self.source.name(int(sample))}"
                stored = self.source.stored(int(sample))
                decode(stored, name)  # raises the DataError that names the sample
                if stored.mode == MODE_RAW:
                    continue
                header = read_header(stored.data)
                broken = checker.check(stored.data, header).broken if header else "no JPEG header"
                if broken:
                    return DataError(name, broken, "a whole JPEG", "see fastft inspect --verify")
        return _memory_or(error)

    def _end(self) -> None:
        """Free DALI's threads and buffers."""
        self._pipe = None


#: All that somebody still has.
_open: weakref.WeakSet[DaliLoader] = weakref.WeakSet()


@atexit.register
def _close_all() -> None:
    """Close what a program has left open; registered behind DALI, and so called before it.

    DALI takes its pipelines apart, which a suspended iteration would then ask for its batches.
    """
    for loader in list(_open):
        loader.close()


def _memory_or(error: RuntimeError) -> Exception:
    """What an error of DALI's is, if it is that memory ran out: its own text takes many lines."""
    for said in _NO_MEMORY:
        if said in str(error):
            return MemoryError(f"DALI: {said}")
    return error


class _Feeder:
    """What DALI asks for its next inputs.

    Apart from the loader, which owns the pipeline: no reference cycle keeps a dropped pipeline and
    its threads alive.
    """

    def __init__(self) -> None:
        self.feeds: Iterator[_Feed] = iter(())
        self.in_flight: deque[_Feed] = deque()
        self.error: Exception | None = None

    def take_error(self) -> BaseException:
        """The error, let go of: its traceback will hold the frame that has the pipeline."""
        error, self.error = self.error, None
        assert error is not None
        return error

    def next_inputs(self) -> tuple[Any, ...]:
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


class _Feed:
    """What DALI needs for one batch: the rows, and the arrays that it reads in place."""

    __slots__ = ("inputs", "rows")

    def __init__(self, rows: Rows, inputs: tuple[Any, ...]) -> None:
        self.rows, self.inputs = rows, inputs


def make_feed(source: Source, rows: Rows, plan: Plan) -> _Feed:
    """Encoded bytes, region to decode, region to resize (relative to the former), flip."""
    samples = rows.samples
    sides = np.stack((source.heights[samples], source.widths[samples]), axis=1)
    top_left, extent = rows.boxes[:, :2], rows.boxes[:, 2:]
    if plan.clips_at_box:
        start = top_left.astype(np.int32)
        end = (top_left + extent).astype(np.int32)
    else:
        # The triangle filter reaches one output pixel beyond the box, never less than one source
        # pixel; one more for rounding.
        reach = np.maximum(extent / plan.size, 1) + 1
        start = np.maximum(np.floor(top_left - reach), 0).astype(np.int32)
        end = np.minimum(np.ceil(top_left + extent + reach), sides).astype(np.int32)
    roi_start = (top_left - start).astype(np.float32)
    roi_end = (top_left + extent - start).astype(np.float32)
    encoded: list[NDArray[np.uint8]] = []
    shape = end - start
    for row, sample in enumerate(samples):
        stored = source.stored(int(sample))
        if stored.mode == MODE_RAW:
            encoded.append(as_netpbm(stored, start[row], end[row]))
            start[row] = 0
        else:
            if has_too_many_scans(stored.data):
                name = f"{source.path}: {source.name(int(sample))}"
                raise DataError(name, TOO_MANY_SCANS, "a photo", "see fastft inspect --verify")
            encoded.append(np.frombuffer(stored.data, np.uint8))
    flips = rows.flips.astype(np.int32)
    return _Feed(rows, (encoded, start, shape, roi_start, roi_end, flips))


def as_netpbm(
    stored: Stored, start: NDArray[np.int32], end: NDArray[np.int32]
) -> NDArray[np.uint8]:
    """A region of raw pixels as a binary PPM, the plainest image that DALI's decoder reads."""
    pixels = np.frombuffer(stored.data, np.uint8)
    pixels = pixels.reshape(stored.height, stored.width, 3)
    region = pixels[start[0] : end[0], start[1] : end[1]]
    header = b"P6\n%d %d\n255\n" % (region.shape[1], region.shape[0])
    return np.concatenate((np.frombuffer(header, np.uint8), region.ravel()))
