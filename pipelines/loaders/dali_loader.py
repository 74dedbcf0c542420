"""NVIDIA DALI as an executor of the plan, with a GPU or without.

On a GPU encoded bytes go in with the boxes and flips of the plan (`dali_feed`), and DALI decodes
whole images, of which that is cut, unless a probe has found that regions work there
(`dali_decode`). On a CPU DALI decodes what the filter touches, or has it decoded (`dali_pixels`)
behind some thousand images and an epoch that loads what does, unless it would take much memory.

Distance from the reference: either decoder is exact on the CPU; DALI's resize keeps full precision
between the two passes where Pillow rounds to bytes (1 level), and where the filter runs past the
pixels, at the border of a train crop or of the image, it repeats the last one where Pillow leaves
the missing taps out (up to 13 levels seen, in the outermost rows and columns alone). Its bicubic
filter is Pillow's, too; where that overshoots at hard edges, Pillow cuts off at 0 and 255 between
the passes, and DALI behind both (up to 22 levels seen in photos, 33 where black meets white).
"""

from __future__ import annotations

import atexit
import weakref
from collections.abc import Generator, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from functools import partial
from itertools import chain
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np
import torch

from pipelines.changing.on_cpu import BatchChanger
from pipelines.errors import DataError, UsageError
from pipelines.forks import keep_for_good
from pipelines.formats.encode import LEAVE_OUT, decode
from pipelines.formats.layout import MODE_RAW
from pipelines.formats.source import Source
from pipelines.images.damage import Checker
from pipelines.images.jpeg import read_header
from pipelines.loaders.base import Loader
from pipelines.loaders.dali_decode import (
    HW_DECODER_LOAD,
    name_setup,
    read_findings,
    takes_regions,
)
from pipelines.loaders.dali_feed import Feeder, FeedMaker, FeedsAhead
from pipelines.loaders.dali_pixels import PixelMaker, has_room
from pipelines.operations import Operations
from pipelines.plan import Plan, Rows
from pipelines.workers import make_threads

if TYPE_CHECKING:
    from pipelines.changing.on_gpu import GpuChanger

try:
    from pipelines.loaders.dali_graph import build, images_decoded, images_to_decode
except ImportError as error:
    raise UsageError(
        "loader 'dali'",
        "nvidia-dali is not installed",
        "it beside fastft",
        'pip install "fastft[dali]", or take --loader torchvision',
    ) from error

#: Batches that DALI prepares ahead; 2 is its own default, 3 was no faster on 2 cores.
_AHEAD = 2
#: How DALI says that it got no memory; the second is of threads, whose stacks take some.
_NO_MEMORY = ("bad_alloc", "Resource temporarily unavailable", "Cannot allocate memory")
#: The line of DALI's errors behind which it says what went wrong, and lines that say nothing.
_ENCOUNTERED = "encountered:"
_SAYS_NOTHING = ("Critical error in pipeline:", "Current pipeline object is no longer valid.")


class DaliLoader(Loader):
    """Executes the plan in a DALI pipeline."""

    name = "dali"

    #: What keeps its pixels near the reference's.
    decode_options: ClassVar[dict[str, Any]] = {
        "adjust_orientation": False,
        "jpeg_fancy_upsampling": True,
    }
    resize_options: ClassVar[dict[str, Any]] = {"antialias": True}
    #: Whether DALI decodes regions, on a CPU, too; None: on a CPU if it has to decode, and on a GPU
    #: by what a probe has found.
    region: ClassVar[bool | None] = None
    #: Images behind which an epoch begins in which is loaded what then decodes for DALI: that takes
    #: 0.7 s of a core, and spares 0.5 ms each.
    pixels_after: ClassVar[int] = 2000

    def __init__(self, source: Source, **arguments: Any) -> None:
        super().__init__(source, **arguments)
        # Seen on the CPU: 0.21 in the mean, and 1 but for a crop's outermost lines and columns.
        # Past its ends DALI repeats the last pixel, by an eighth of an output pixel's weight, where
        # Pillow leaves taps out: 13 levels on photos of 0.2 megapixels, 22 on those of 12.9, and 32
        # where white ends in black. On a GPU, nvJPEG's distance has not been measured.
        # Bicubic: 0.18 in the mean and 22 at most on 48 photos of 0.2 megapixels at 64, 224 and 518
        # px; 0.41 and 30 on small images of noise.
        stated = (0.25, 32) if self.preprocessing.filter == "bilinear" else (0.5, 48)
        self.stated = stated if self.device.type == "cpu" else None
        _open.add(self)

    def _begin(self) -> None:
        self._feeder, self._images = Feeder(), 0
        self._maker: FeedMaker | PixelMaker = FeedMaker(self.source)
        self._coming: PixelMaker | None = None
        self._pipe: Any | None = None
        self._thread: ThreadPoolExecutor | None = None
        self._ahead: FeedsAhead | None = None
        self._changer: BatchChanger | None = None
        self._gpu_changer: GpuChanger | None = None
        if self.augment.changes_pixels and self.device.type == "cpu":
            self._changer = BatchChanger(self._given, self.workers, self.preprocessing)

    def _get_pixels_ready(self) -> None:
        """Begin to load what decodes for DALI, once that earns back what it takes.

        Not at the end of an epoch, which may be the only one: closing waits for what is loading.
        """
        source, batch = self.source, self._most_rows
        if self._coming is not None or self._images < self.pixels_after:
            return
        if self.device.type == "cpu" and self.region is None and has_room(source, batch):
            with suppress(MemoryError):  # then DALI goes on to decode
                self._coming = PixelMaker(source, self._maker.known, batch, self.workers)

    def _choose_maker(self) -> None:
        """Have images decoded for DALI from this epoch on, if all is ready for that."""
        if self._coming is not None and self._coming.is_ready() and self._maker is not self._coming:
            self._maker, self._pipe = self._coming, None

    def _leave_behind(self) -> None:
        super()._leave_behind()
        pipe = getattr(self, "_pipe", None)
        if pipe is not None:  # DALI takes apart what it knows of, when a process ends
            keep_for_good(pipe._pipe)
            pipe._pipe = None

    def _batches(
        self, plan: Plan, start: int
    ) -> Generator[tuple[torch.Tensor, torch.Tensor], None, None]:
        self._get_pixels_ready()
        self._choose_maker()
        feeder = self._feeder
        rows: Iterator[Rows] = map(plan.rows, self._shares(plan, start))
        feeder.error = None
        while True:
            try:
                yield from self._run(rows)
            except RuntimeError as error:  # DALI's own; the pipeline is of no further use
                self._pipe = None
                waiting, coming = [feed.rows for feed in feeder.in_flight], self._take_back()
                self._settle(waiting, error)
                # Behind a batch that could not be made, none is.
                rows = chain(waiting, coming, rows) if feeder.error is None else iter(waiting)
            else:
                if feeder.error is not None:
                    raise feeder.take_error()
                return
            finally:
                self._drain()

    def _run(
        self, rows: Iterator[Rows]
    ) -> Generator[tuple[torch.Tensor, torch.Tensor], None, None]:
        """Batches of these rows until DALI fails at one."""
        # Built with the first epoch: a loader that is only asked for its plan costs nothing.
        pipe = self._pipe = self._pipe or self._build(self._feeder)
        self._thread = self._thread or make_threads(1, "fastft-dali-feed")
        self._ahead = FeedsAhead(self._thread, self._maker.make, rows)
        self._feeder.feeds = self._ahead
        pipe.schedule_run()
        while not pipe.empty():
            pixels, labels = self._take(pipe)
            pipe.schedule_run()
            yield pixels, labels

    def _take_back(self) -> list[Rows]:
        """Rows of feeds that DALI has not asked for; no more of them are made."""
        ahead, self._ahead = self._ahead, None
        return ahead.take_back() if ahead is not None else []

    def _settle(self, waiting: list[Rows], error: RuntimeError) -> None:
        """Let the reference decoder decode what DALI refuses, and give up on anything else.

        Args:
            waiting: the batches of which one made DALI fail.
            error: what DALI said.

        Raises:
            DataError: a sample is broken, or DALI fails for another reason.
            MemoryError, torch.OutOfMemoryError: there is none for DALI, or for what it gives.
        """
        if isinstance(error, torch.OutOfMemoryError):
            raise error
        _raise_if_no_memory(error)
        settled = 0
        for rows in waiting:
            for sample, said in self._find_refused(rows):
                self._give_up_on(sample, said)
                settled += 1
        if not settled:
            names = [self.source.name(int(rows.samples[at])) for rows in waiting for at in (0, -1)]
            where = f"{self.source.path}: {names[0]} to {names[-1]}" if names else self.source.path
            remedy = "take --loader torchvision, ffcv or resident"
            raise DataError(where, f"DALI failed: {_said(error)}", "", remedy) from error

    def _find_refused(self, rows: Rows) -> Iterator[tuple[int, str]]:
        """The samples that DALI fails at by themselves, by halves, and what it says of each."""
        if not len(rows) or (said := self._try(rows)) is None:
            return
        if len(rows) == 1:
            yield int(rows.samples[0]), said
            return
        middle = len(rows) // 2
        for part in (slice(middle), slice(middle, None)):
            yield from self._find_refused(rows.take(part))

    def _try(self, rows: Rows) -> str | None:
        """Run a few rows in a pipeline of their own; gives what DALI says, None if all is well."""
        try:
            pipe = self._build(Feeder([self._maker.make(rows)]))
            pipe.run()
        except RuntimeError as error:
            _raise_if_no_memory(error)
            return _said(error)
        return None

    def _give_up_on(self, sample: int, said: str) -> None:
        """Have a sample decoded by the reference decoder from now on.

        Raises:
            DataError: it is broken, or pixels are refused, too.
        """
        name, stored = self._maker.name(sample), self.source.stored(sample)
        known = self._maker.known
        if self._maker.decodes or stored.mode == MODE_RAW or known.needs_reference(sample, stored):
            raise DataError(name, f"DALI fails at its pixels: {said}", "", "take another --loader")
        decode(stored, name)
        header = read_header(stored.data)
        broken = Checker().check(stored.data, header).broken if header else "no JPEG header"
        if broken:
            raise DataError(name, broken, "a whole JPEG", LEAVE_OUT)
        known.give_to_reference(sample, f"DALI refuses it ({said})")

    @property
    def remarks(self) -> tuple[str, ...]:
        """The images that DALI does not decode."""
        return self._maker.known.remarks if self.has_begun else ()

    def _change_size(self, size: int) -> None:
        self._pipe = None  # its size is a constant; the next epoch builds another

    def _take(self, pipe: Any) -> tuple[torch.Tensor, torch.Tensor]:
        """DALI's next batch, in DALI's own memory: it stays valid for as long as it is held."""
        on_gpu = self.device.type == "cuda"
        stream = torch.cuda.current_stream(self.device) if on_gpu else None
        (output,) = pipe.share_outputs(cuda_stream=stream)
        feed = self._feeder.in_flight.popleft()
        if not len(feed.rows):  # a rank's share of a last batch that is smaller than the world
            dtype = torch.float32 if self._is_normalized else torch.uint8
            images = torch.empty((0, self.size, self.size, 3), dtype=dtype, device=self.device)
        elif on_gpu:
            images = torch.utils.dlpack.from_dlpack(output.as_tensor())
        else:
            images = torch.from_numpy(np.asarray(output.as_tensor()))
        pipe.release_outputs()
        self._maker.take_back(feed)
        self._images += len(feed.rows)
        labels = self._labels[torch.from_numpy(feed.rows.samples)]
        if on_gpu:  # a copy from pageable memory may wait until the caller's stream gets to it
            labels = labels.pin_memory()
        if feed.rows.operations is not None:
            images = self._changed(images, feed.rows.operations)
        if self._is_normalized:
            images = images.permute(0, 3, 1, 2).to(self._given or torch.uint8)
        else:
            images = self._normalizer(images)
        return images, labels.to(self.device, non_blocking=True)

    def _changed(self, images: torch.Tensor, operations: Operations) -> torch.Tensor:
        """DALI's uint8[B, S, S, 3] behind the plan's operations; on a CPU normalized, too."""
        if self.device.type == "cpu":
            assert self._changer is not None
            return self._changer.run(operations, images.numpy())
        if self._gpu_changer is None:
            from pipelines.changing.on_gpu import GpuChanger  # Triton takes a second to load

            self._gpu_changer = GpuChanger(self.device)
        change = self._gpu_changer.of(operations, images.shape[1])
        # DALI's memory may not be written to.
        there = [torch.from_numpy(each).pin_memory() for each in change.arrays]
        tables = [each.to(self.device, non_blocking=True) for each in there]
        return change.run(images.clone(), tables)

    def _drain(self) -> None:
        """Drop what DALI has in flight after an early exit, so that the next epoch starts clean."""
        self._take_back()
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

    def _decodes_regions(self) -> bool:
        if self.region is not None or self.device.type == "cpu":
            return self.region is not False
        return takes_regions(read_findings(name_setup(self.device)))

    @property
    def _is_normalized(self) -> bool:
        """Whether batches need no more than a cast; a GPU's are normalized by a kernel of ours.

        Where DALI hands out bytes: it has no bfloat16, and operations come first.
        """
        is_on_gpu = self.device.type == "cuda"
        return not is_on_gpu or (self._given != torch.bfloat16 and not self.augment.changes_pixels)

    def _build(self, feeder: Feeder) -> Any:
        """A pipeline that asks `feeder` for its inputs."""
        on_gpu = self.device.type == "cuda"
        if self._maker.decodes:
            take = partial(images_decoded, feeder.next_inputs)
        else:
            options = {"device": "mixed" if on_gpu else "cpu", **self.decode_options}
            options |= {"hw_decoder_load": HW_DECODER_LOAD} if on_gpu else {}
            take = partial(
                images_to_decode,
                feeder.next_inputs,
                by_region=self._decodes_regions(),
                **options,
            )
        comes_as_bytes = self.augment.changes_pixels or not self._is_normalized
        return build(
            take,
            size=self.size,
            preprocessing=self.preprocessing,
            normalized=None if comes_as_bytes else self._given,
            resize_options=self.resize_options,
            batch_size=self._most_rows,
            num_threads=self.workers,
            device_id=(self.device.index or 0) if on_gpu else None,
            prefetch_queue_depth=_AHEAD,
        )

    def _end(self) -> None:
        """Free DALI's threads and buffers, and the thread that feeds it."""
        self._take_back()
        self._pipe = None
        if self._thread is not None:
            self._thread.shutdown()
        if self._coming is not None:
            self._coming.close()
        if self._changer is not None:
            self._changer.close()


#: All that somebody still has.
_open: weakref.WeakSet[DaliLoader] = weakref.WeakSet()


@atexit.register
def _close_all() -> None:
    """Close what a program has left open; registered behind DALI, and so called before it.

    DALI takes its pipelines apart, which a suspended iteration would then ask for its batches.
    """
    for loader in list(_open):
        loader.close()


def _raise_if_no_memory(error: RuntimeError) -> None:
    """Raise MemoryError if that is what an error of DALI's is about."""
    for said in _NO_MEMORY:
        if said in str(error):
            raise MemoryError(f"DALI: {said}") from error


def _said(error: RuntimeError) -> str:
    """The reason in an error of DALI's, which also tells the operator and its whole definition."""
    lines = [line.strip() for line in str(error).splitlines()]
    behind = lines[lines.index(_ENCOUNTERED) + 1 :] if _ENCOUNTERED in lines else lines
    told = (line for line in behind if line and line not in _SAYS_NOTHING)
    return next(told, "an error without words").rstrip(": ")
