"""Decoded once, kept in memory: after that, a batch is one pass of the kernel.

Samples are decoded as their batches come, and ahead of them by idle threads; where a run is too
short for that, or may be, what their crops show is decoded instead (`resident.keeping`).
Where there is a GPU with room for the pixels they live there, else in the machine's memory, one
copy for all processes of a training; `resident.gpu` is what a GPU does with them. Several GPUs of a
machine are filled by way of such a copy, too, until each of them has all pixels.
Distance from the reference: none, as long as images keep their size and chroma.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Generator, Iterator, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from pipelines.errors import FastftError, UsageError
from pipelines.formats.beton import Index
from pipelines.formats.source import Source
from pipelines.loaders.base import Loader
from pipelines.plan import DECODES, SHUFFLED, Decode, Plan
from pipelines.resident.filler import Filler
from pipelines.resident.keeping import Keeping, choose_keeping
from pipelines.resident.on_cpu import BATCHES, StoreExecutor, StorelessExecutor
from pipelines.resident.placement import Place, choose_place, require_room
from pipelines.resident.store import StoreFormat, fingerprint, lay_out
from pipelines.resident.store_memory import (
    MAX_GROUP,
    FileMemory,
    GroupMemory,
    PrivateMemory,
    StoreMemory,
    promised_bytes,
)


class ResidentLoader(Loader):
    """Executes the plan on decoded pixels."""

    name = "resident"
    decodes = DECODES
    # None has been seen; Pillow may change the order of its two passes again, which costs one.
    stated: tuple[float, int] | None = (0.05, 1)

    def __init__(
        self,
        source: Source,
        *,
        store: str = "rgb",
        store_side: int = 0,
        store_file: str | Path | None = None,
        store_place: str = "auto",
        store_least: Callable[[float], float] | None = None,
        epochs: int | None = None,
        decode: Decode = "exact",
        **arguments: Any,
    ) -> None:
        """Take memory; see `make_loader`.

        Where the pixels go, and whether there is room beside the batches, is settled here, by the
        size that is given: whoever calls `set_size` later gives the largest first.

        Raises:
            UsageError: the pixels fit into no memory of this machine.
            DataError: the store's file cannot be made, is something else or in use.
        """
        kept = StoreFormat(kind=store, shorter_px=store_side, decode=decode)
        self._layout = lay_out(source, kept)
        self._file = None if store_file is None else Path(store_file)
        self._asked, self._least = store_place, store_least
        self._epochs = epochs
        self._keeps: Keeping = "at once"
        self._place = Place(on_gpu=False)
        self._notes: list[str] = []
        self._group: tuple[str, int, int] | None = None
        self._memory: StoreMemory | None = None
        self._executor: Any = None
        if store_side or self._layout.format.planar:
            self.stated = None
        super().__init__(source, decode=decode, **arguments)

    def _begin(self) -> None:
        source, share, changes = self.source, self._most_rows, self.augment.changes_pixels
        if self._executor is None:
            self._keeps = choose_keeping(
                source,
                self._layout.format,
                epochs=self._epochs,
                outlives=self._file is not None,
                on_gpu=self.device.type == "cuda" or self._asked == "gpu",
                alone=self.world == 1,
            )
            if self._keeps != "never":
                self._settle(share)
        # A fork has the memory already, with all that was decoded before.
        memory = self._memory
        if self.device.type == "cuda" or self._place.on_gpu:
            from pipelines.resident.gpu import GpuExecutor  # Triton takes 1 s

            self._executor = GpuExecutor(
                source,
                self._layout,
                memory,
                self.device,
                self.size,
                self._given,
                self.workers,
                changes=changes,
                preprocessing=self.preprocessing,
                on_gpu=self._place.on_gpu,
            )
        else:
            how: dict[str, Any] = {
                "batch": share,
                "workers": self.workers,
                "changes": changes,
                "preprocessing": self.preprocessing,
            }
            if self._keeps == "never":
                assert isinstance(source, Index)
                self._executor = StorelessExecutor(source, self.size, self._given, **how)
                return
            assert memory is not None
            self._executor = StoreExecutor(
                source,
                self._layout,
                memory,
                self.size,
                self._given,
                keeps_again=self._keeps == "again",
                **how,
            )

    def _settle(self, share: int) -> None:
        """Choose where the pixels go, and take memory for them."""
        # What is asked of this rank is the same in every epoch; a file is all ranks' alike.
        if self._file is None and self.view not in SHUFFLED:
            self._layout = lay_out(self.source, self._layout.format, self._held())
        self._place = place = choose_place(
            self._layout, self._asked, self.device, batch=share, size=self.size, least=self._least
        )
        # A loader from another process has no rank's own pixels.
        self._group = None if self._came or self.world == 1 else _group()
        on_host = "in memory" if self._file is None else f"in {self._file}"
        self._where = "on the GPU" if place.on_gpu else on_host
        try:
            self._memory = self._take_memory(share)
        except FastftError as error:
            if self._file is not None or not place.on_gpu:
                raise
            self._notes.append(
                "each process decodes for itself what its GPU needs: there is no room to share "
                f"pixels by ({error.where}: {error.found})"
            )
        if place.gpu_bytes is not None:
            each = "each" if self.world > 1 else "the"
            kept = "but in RAM: kept there" if self._file is None else f"kept {on_host}"
            self._notes.append(
                f"{self._layout.total / 1e9:.2f} GB of pixels do not fit on {each} GPU "
                f"({place.gpu_bytes / 1e9:.2f} GB free beside training), {kept}"
            )

    def _render_into(self, tensors: Sequence[torch.Tensor]) -> None:
        self._executor.render_into(tensors)

    def _arguments(self) -> dict[str, Any]:
        kept = self._layout.format
        return super()._arguments() | {
            "store": kept.kind,
            "store_side": kept.shorter_px,
            "store_file": self._file,
            "store_place": self._asked,
            "epochs": self._epochs,
        }

    @property
    def remarks(self) -> tuple[str, ...]:
        """The memory that is kept and where, and the images that lost chroma detail to `yuv420`."""
        kind, bytes_ = self._layout.format.kind, self._layout.total
        if not self.has_begun:
            return ()
        if self._keeps == "never":
            times = "once" if self._epochs == 1 else "twice"
            kept = f"each image comes {times}, and is decoded for what is shown: none is kept"
            return (kept, *self._executor.known.remarks)
        remarks = [f"{bytes_ / 1e9:.2f} GB of {kind} pixels {self._where}", *self._notes]
        averaged = self._executor.filler.sink.resampled
        if averaged:
            remarks.append(f"chroma of {averaged:,} images averaged over 2 x 2 px")
        return (*remarks, *self._executor.filler.sink.known.remarks)

    def _end(self) -> None:
        """End the threads and give the memory back."""
        self._executor.close()

    def _change_size(self, size: int) -> None:
        self._executor.set_size(size)

    def _batches(
        self, plan: Plan, start: int
    ) -> Generator[tuple[torch.Tensor, torch.Tensor], None, None]:
        shares = list(self._shares(plan, start))
        filler: Filler | None = self._executor.filler
        if filler is None:
            yield from self._executor.run(plan, shares, self._labels)
            return
        coming = np.concatenate([*shares, *self._beyond(filler), plan.order[:0]])
        filler.run_ahead(plan.samples(coming))
        try:
            yield from self._executor.run(plan, shares, self._labels)
        finally:
            filler.pause()

    def _planned(self) -> tuple[NDArray[np.int32], NDArray[np.int32], Decode]:
        # A store that decodes `scaled` holds what comes of it: that is cut as it is.
        return self._layout.widths, self._layout.heights, "exact"

    def _held(self) -> NDArray[np.bool_]:
        """The samples that can ever be asked of this rank."""
        held = np.zeros(len(self.source), np.bool_)
        for visits in self._shares(self._plan, 0):
            held[self._plan.samples(visits)] = True
        return held

    def _beyond(self, filler: Filler) -> Iterator[NDArray[np.int64]]:
        """All samples, for threads that run ahead of an epoch: this rank's part of the set first.

        Of several GPUs each comes to need every sample, whatever its share of this epoch is, and
        the sooner it has them the sooner the copy in memory is given back.
        """
        shares = self._place.on_gpu and self._memory is not None and self.view in SHUFFLED
        if shares and self._group is not None and filler.missing:
            _, rank, count = self._group
            samples = np.arange(len(self.source), dtype=np.int64)
            yield np.roll(samples, -(len(samples) * rank // count))

    def _take_memory(self, share: int) -> StoreMemory | None:
        """Memory of the host, as far as it takes some.

        Raises:
            UsageError: there is too little.
            DataError: there is none to share, or no file.
        """
        layout, promised, group = self._layout, promised_bytes(), self._group
        if self._file is not None:
            # The system writes a file out where memory is short: it need not fit.
            key = fingerprint(self.source, layout.format)
            return FileMemory(self._file, layout, key, is_shared=group is not None)
        if self.view not in SHUFFLED:
            group = None
        if self._place.on_gpu and group is None:
            return None
        pixel_bytes = 4 if self.device.type == "cpu" else 3
        require = partial(
            require_room,
            self.source,
            layout,
            promised=promised,
            batches=BATCHES * share * self.size**2 * 3 * pixel_bytes,
            gpu_bytes=self._place.gpu_bytes,
            gpus=1 if group is None else group[2],
        )
        if group is None:
            require(layout.total)
            return PrivateMemory(layout)
        memory = GroupMemory(layout, fingerprint(self.source, layout.format), *group)
        try:
            require(memory.missing_bytes())
        except UsageError:
            memory.close()
            raise
        return memory


def _group() -> tuple[str, int, int] | None:
    """A name for the processes of this training on this machine, this one's number, how many."""
    try:
        rank, count = int(os.environ["LOCAL_RANK"]), int(os.environ["LOCAL_WORLD_SIZE"])
    except (KeyError, ValueError):
        return None
    if not 0 <= rank < count <= MAX_GROUP or count == 1:
        return None
    names = ("TORCHELASTIC_RUN_ID", "TORCHELASTIC_RESTART_COUNT", "MASTER_ADDR", "MASTER_PORT")
    return " ".join(os.environ.get(name, "") for name in names), rank, count
