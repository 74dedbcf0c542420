"""The resident store and a GPU: pixels live there, or crops cross the bus; one kernel either way.

Host work per batch is a few arrays of its rows; the host waits for the GPU nowhere, but where
pinned memory of three batches ago is still being copied.
"""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor, wait
from dataclasses import dataclass
from itertools import islice
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from pipelines.changing.on_gpu import GpuChange, GpuChanger
from pipelines.compiling import compiling
from pipelines.decoder import Known
from pipelines.formats.source import Source
from pipelines.kernels import cpu, gpu
from pipelines.kernels.normalizing import normalize
from pipelines.plan import Plan
from pipelines.preprocessing import IMAGENET, Preprocessing
from pipelines.regions import load_whole
from pipelines.rendering.geometry import make_geometry
from pipelines.resident.filler import Filler, HostSink, Sink, Writers
from pipelines.resident.in_turn import InTurn
from pipelines.resident.store import Layout
from pipelines.resident.store_memory import StoreMemory
from pipelines.transfer import (
    PinnedSlot,
    PinnedSlots,
    hand_over,
    make_stream,
    normalizing_factors,
)
from pipelines.workers import wait_for

#: Batches whose samples are decoded, or whose crops are gathered, ahead of the one asked for.
_AHEAD = 1
#: Rows of a piece of work for a thread.
_PIECE_ROWS = 8


class GpuExecutor:
    """Renders on the GPU, on a stream of its own beside the caller's kernels."""

    def __init__(
        self,
        source: Source,
        layout: Layout,
        memory: StoreMemory | None,
        device: torch.device,
        size: int,
        dtype: torch.dtype | None,
        workers: int,
        *,
        on_gpu: bool,
        changes: bool = False,
        preprocessing: Preprocessing = IMAGENET,
    ) -> None:
        """Take the GPU's memory.

        Args:
            source: the samples.
            layout: of the store.
            memory: the store on the host; None if there is one on the GPU alone.
            device: the GPU; the CPU where Triton interprets its kernels.
            size: output side, px.
            dtype: of normalized batches, None for uint8.
            workers: threads.
            on_gpu: whether the store is on the GPU; then `memory`, a file or what processes of this
                machine share, is where it comes from. What processes share is let go of when the
                GPU has all of it; where one of them never comes, it stays, with all its bytes.
            changes: whether rows' operations are executed, too.
            preprocessing: the form of the model's images, which plans have, too.
        """
        self._changer = GpuChanger(device) if changes else None
        self._layout, self._memory, self._device = layout, memory, device
        self._preprocessing = preprocessing
        self._dtype = dtype or torch.uint8
        self._outputs: InTurn | None = None
        self._threads = ThreadPoolExecutor(workers, thread_name_prefix="fastft-resident")
        self._stream = make_stream(device)
        self._tables, self._crops = PinnedSlots(device), PinnedSlots(device)
        self.set_size(size)
        self._on_gpu = on_gpu
        sink: Sink
        if on_gpu:
            bytes_ = layout.total + gpu.SLACK_BYTES
            # On the stream that fills and reads it: other memory the caller's kernels may still
            # use, and his may not use this before ours have ended.
            with torch.cuda.stream(self._stream):
                self._pixels = torch.empty(bytes_, dtype=torch.uint8, device=device)
            sink = _GpuSink(source, layout, self._pixels, self._stream, memory)
        else:
            assert memory is not None
            sink = HostSink(source, layout, memory)
            self._compiled = self._threads.submit(_compile)
        self.filler = Filler(sink, len(source), self._threads, workers)
        if not layout.format.planar:
            self._threads.submit(load_whole)

    def set_size(self, size: int) -> None:
        """Render at another size from the next `run` on.

        Pinned slots stay, since pinning is slow: they hold source pixels, which other sizes need
        alike.
        """
        form = self._preprocessing
        factors = normalizing_factors(size, form.mean, form.std)
        # On the stream that reads them: memory of the old ones is used again when that is done.
        with torch.cuda.stream(self._stream):
            self._scale, self._bias = (torch.from_numpy(each).to(self._device) for each in factors)
            self._scratch: gpu.Scratch | None = None

    def render_into(self, tensors: Sequence[torch.Tensor]) -> None:
        """See `Loader.render_into`."""
        self._outputs = InTurn(tensors, self._stream) if tensors else None

    def run(
        self, plan: Plan, shares: list[NDArray[np.int64]], labels: torch.Tensor
    ) -> Iterator[tuple[torch.Tensor, torch.Tensor]]:
        """Batches of these visits, on the GPU."""
        waiting: deque[_Batch] = deque()
        coming = iter(shares)
        try:
            for _ in shares:
                for visits in islice(coming, _AHEAD + 1 - len(waiting)):
                    waiting.append(self._start(plan, visits, labels))
                yield self._finish(waiting.popleft(), plan.size)
        finally:
            futures = [future for batch in waiting for future in batch.futures]
            for future in futures:
                future.cancel()
            wait(futures)  # what still runs writes to a slot that will be used again

    def close(self) -> None:
        """End the threads and give the memory back, to other processes, too."""
        self._threads.shutdown(cancel_futures=True)
        if self._memory is not None:
            self._memory.close()
        del self._tables, self._crops, self._scale, self._bias, self._scratch, self._outputs
        if self._on_gpu:
            # Whoever still refers to it, such as the traceback of an error that somebody keeps.
            self._pixels.untyped_storage().resize_(0)
            if self._device.type == "cuda":
                # All that torch holds on to and does not use, for lack of a call that gives back
                # the store alone: DALI and other processes cannot have it else. Who takes memory
                # next asks the driver for it, once.
                torch.cuda.empty_cache()

    def _start(self, plan: Plan, visits: NDArray[np.int64], labels: torch.Tensor) -> _Batch:
        """Set threads to work on a batch."""
        layout = self._layout
        rows = plan.rows(visits)
        samples = rows.samples
        geometry, down_first = make_geometry(rows, plan)
        cubic = rows.filter == "bicubic"
        windows = gpu.find_windows(geometry, rows.flips, down_first, plan.size, cubic=cubic)
        sides = np.stack((layout.heights[samples], layout.widths[samples]), axis=1)
        offsets, pitches, crops = layout.offsets[samples], layout.pitches[samples], None
        pieces = [slice(at, at + _PIECE_ROWS) for at in range(0, len(samples), _PIECE_ROWS)]
        if self._on_gpu:
            pieces = [part for part in pieces if not self.filler.has(samples[part])]
            futures = [self._threads.submit(self.filler.ensure, samples[part]) for part in pieces]
        else:
            blocks, offsets, pitches, bytes_ = gather_crops(layout, samples, windows)
            crops = self._crops.take(bytes_ + gpu.SLACK_BYTES), bytes_ + gpu.SLACK_BYTES
            futures = [
                self._threads.submit(self._gather, samples[part], blocks[part], crops[0].array)
                for part in pieces
            ]
        tables = (
            offsets,
            pitches,
            sides.astype(np.int64),
            labels.numpy()[samples],
            geometry,
            windows,
        )
        planar = layout.format.planar
        needs = gpu.find_needs(windows, plan.size, planar=planar, cubic=cubic)
        change = None
        if self._changer is not None and rows.operations is not None:
            change = self._changer.of(rows.operations, plan.size)
        return _Batch(tables, needs, futures, crops, change)

    def _gather(
        self, samples: NDArray[np.int64], blocks: NDArray[np.int64], out: NDArray[np.uint8]
    ) -> None:
        assert self._memory is not None
        self.filler.ensure(samples)
        self._compiled.result()
        cpu.copy_blocks(self._memory.pixels, blocks.reshape(-1, 6), out)

    def _finish(self, batch: _Batch, size: int) -> tuple[torch.Tensor, torch.Tensor]:
        """Wait for the threads, then queue copies and kernel, for which nobody waits."""
        wait_for(batch.futures)
        out = None
        if self._outputs is not None:  # on the caller's stream
            out = self._outputs.take(len(batch.tables[0]), size, self._dtype)
        with torch.cuda.stream(self._stream):
            pixels = self._pixels if batch.crops is None else batch.crops[0].send(batch.crops[1])
            change = batch.change
            sent = self._tables.send((*batch.tables, *(() if change is None else change.arrays)))
            *frame, labels, geometry, windows = sent[: len(batch.tables)]
            count = len(labels)
            if self._scratch is None or not gpu.fits(self._scratch, count, batch.needs):
                self._scratch = gpu.make_scratch(count, size, batch.needs, self._device)
            if out is None:
                out = torch.empty((count, size, size, 3), dtype=self._dtype, device=self._device)
            drawn = out
            if change is not None:
                drawn = torch.empty(out.shape, dtype=torch.uint8, device=self._device)
            frames = gpu.Frames(pixels, *frame)
            planar = self._layout.format.planar
            gpu.render_rows(
                frames,
                planar,
                geometry,
                windows,
                self._scale,
                self._bias,
                batch.needs,
                self._scratch,
                drawn,
            )
            if change is not None:
                changed = change.run(drawn, sent[len(batch.tables) :])
                if out.dtype == torch.uint8:
                    out.copy_(changed)
                else:
                    normalize(changed, self._scale, self._bias, out)
        hand_over(self._stream, out, labels)
        return out.permute(0, 3, 1, 2), labels


@dataclass(frozen=True, slots=True)
class _Batch:
    """One batch on its way.

    Attributes:
        tables: of its rows, on the host: offsets int64[B, 3], pitches int64[B, 2], sides
            int64[B, 2], labels int64[B]; geometry and windows, int32[B, 2, 4] each.
        needs: see `gpu.find_needs`.
        futures: the work of threads that it waits for.
        crops: where they are gathered, and how many bytes; None where the GPU has the pixels.
        change: their operations; None: there are none.
    """

    tables: tuple[NDArray[Any], ...]
    needs: gpu.Needs
    futures: list[Future[None]]
    crops: tuple[PinnedSlot, int] | None
    change: GpuChange | None = None


class _GpuSink:
    """Decodes to the GPU's memory by way of pinned memory, and of a store on the host if any."""

    def __init__(
        self,
        source: Source,
        layout: Layout,
        pixels: torch.Tensor,
        stream: Any,
        host: StoreMemory | None,
    ) -> None:
        self._layout, self._host = layout, host
        self._pixels, self._stream = pixels, stream
        self._on_host = HostSink(source, layout, host) if host is not None else None
        self._writers, self._local = Writers(source, layout), threading.local()

    @property
    def resampled(self) -> int:
        """See Sink."""
        return (self._on_host or self._writers).resampled

    @property
    def known(self) -> Known:
        """See Sink."""
        return (self._on_host or self._writers).known

    def holds(self, sample: int) -> bool:
        """See Sink."""
        return False

    def write(self, sample: int) -> None:
        """See Sink."""
        place = self._layout.place(sample)
        try:
            slots: PinnedSlots = self._local.slots
        except AttributeError:
            slots = self._local.slots = PinnedSlots(self._pixels.device)
        slot = slots.take(place.stop - place.start)
        pinned = slot.array[: place.stop - place.start]
        if self._on_host is None or self._host is None:
            self._writers.own().write(sample, pinned)
        else:
            if not self._on_host.holds(sample):
                self._on_host.write(sample)
            pinned[:] = self._host.pixels[place]
        with torch.cuda.stream(self._stream):
            slot.send_to(self._pixels[place])

    def complete(self) -> None:
        """See Sink; what is shared on the host has been copied, by this process at least."""
        if self._host is not None:
            self._host.release()


def _compile() -> None:
    """Compile what gathers crops, or load it from numba's cache; see `rendering`."""
    with compiling():
        cpu.copy_blocks(np.empty(0, np.uint8), np.empty((0, 6), np.int64), np.empty(0, np.uint8))


def gather_crops(
    layout: Layout, samples: NDArray[np.int64], windows: NDArray[np.int32]
) -> tuple[NDArray[np.int64], NDArray[np.int64], NDArray[np.int64], int]:
    """Plan to copy what the taps touch of some rows, closely packed.

    Args:
        layout: of the store.
        samples: int64[B].
        windows: int32[B, 2, 4], see `gpu.find_windows`.

    Returns:
        int64[B, planes, 6], see `cpu.copy_blocks`; int64[B, 3] offsets and int64[B, 2] pitches of
        the frames, see `gpu.Frames`; bytes.
    """
    first, end = windows[..., 0].astype(np.int64), windows[..., :2].sum(-1, dtype=np.int64)
    offsets, pitches = layout.offsets[samples], layout.pitches[samples]
    sides = np.stack((layout.heights[samples], layout.widths[samples]), axis=1).astype(np.int64)
    if not layout.format.planar:
        lines, columns = (end - first).T
        new_pitches = np.stack((columns * 3, columns), axis=1)
        planes = [(first, lines, columns * 3, 3, 0)]
    else:
        # Smoothing takes the chroma pixels beside the touched ones.
        low, high = np.maximum((first - 1) >> 1, 0), np.minimum((end >> 1) + 1, (sides + 1) >> 1)
        lines, columns = (end - first).T
        half_lines, half_columns = (high - low).T
        new_pitches = np.stack((columns, half_columns), axis=1)
        planes = [(first, lines, columns, 1, 0), *((low, half_lines, half_columns, 1, 1),) * 2]
    sizes = np.stack([lines * length for _, lines, length, _, _ in planes], axis=1)
    ends = np.cumsum(sizes).reshape(sizes.shape)
    begins = ends - sizes
    blocks = np.empty((len(samples), len(planes), 6), np.int64)
    new_offsets = np.zeros((len(samples), 3), np.int64)
    for plane, (corner, lines, length, px_bytes, kind) in enumerate(planes):
        into = corner[:, 0] * pitches[:, kind] + corner[:, 1] * px_bytes
        blocks[:, plane, 0] = offsets[:, plane] + into
        blocks[:, plane, 1] = pitches[:, kind]
        blocks[:, plane, 2], blocks[:, plane, 3] = lines, length
        blocks[:, plane, 4], blocks[:, plane, 5] = begins[:, plane], new_pitches[:, kind]
        gathered = corner[:, 0] * new_pitches[:, kind] + corner[:, 1] * px_bytes
        new_offsets[:, plane] = begins[:, plane] - gathered
    return blocks, new_offsets, new_pitches, int(ends[-1, -1]) if len(samples) else 0
