"""The plain loader: Pillow, torchvision's functional operations, DataLoader workers.

It is the one that needs nothing but torchvision, and the yardstick of the others: its pixels are
the reference's. A worker process takes a batch of plan rows, with their size, and gives back uint8
pixels; floats are made once, on the device, from a quarter of the bytes. Of large photos only the
crop is decoded, by Pillow's libjpeg without Pillow; resized they are as ever.
"""

from __future__ import annotations

import math
import threading
from collections.abc import Generator, Iterator, Sequence
from dataclasses import replace
from functools import partial
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image
from torch.utils.data import DataLoader, Dataset

from pipelines.decoder import Known
from pipelines.errors import FastftError
from pipelines.forks import is_daemonic
from pipelines.formats.encode import decode
from pipelines.formats.layout import MODE_RAW, Stored
from pipelines.formats.source import Source
from pipelines.loaders.base import Loader
from pipelines.loaders.worker_processes import (
    end_workers,
    live_for_parent,
    out_of_memory,
    raise_errors,
    share,
)
from pipelines.plan import DECODES, Plan, Rows
from pipelines.reference import RESAMPLING, find_cover
from pipelines.vision import functional
from pipelines.workers import in_order, make_threads

if TYPE_CHECKING:
    from pipelines.changing.on_cpu import Changer
    from pipelines.regions import RegionDecoder

#: Bytes behind a batch that whatever executes operations touches, see `changing.on_cpu`.
_SPARE_BYTES = 16
#: Mean area from which on photos are decoded in part, px: numba, which that takes, is loaded in the
#: time in which 20 of them are decoded, and of smaller ones Pillow's own work is most.
_LARGE_PX = 1_000_000


class TorchvisionLoader(Loader):
    """Executes the plan with torchvision's functional operations on Pillow images."""

    name = "torchvision"
    decodes = DECODES
    stated = (0, 0)

    def _begin(self) -> None:
        self._sampler = _RowSampler()
        self._dataset = _PlanDataset(self.source, self.workers)
        self._workers: DataLoader[Any] = DataLoader(
            self._dataset,
            batch_size=None,
            sampler=self._sampler,
            num_workers=self.workers,
            prefetch_factor=2,
            persistent_workers=True,
            collate_fn=_as_it_is,
            worker_init_fn=live_for_parent,
        )

    def _batches(
        self, plan: Plan, start: int
    ) -> Generator[tuple[torch.Tensor, torch.Tensor], None, None]:
        items: Iterator[Rows] = map(plan.rows, self._shares(plan, start))
        if self.device.type == "cuda":  # where operations are executed
            items = (replace(rows, operations=None) for rows in items)
        if is_daemonic():
            yield from self._to_device(self._decode_here(items), plan, start)
            return
        self._sampler.items = items
        yield from self._to_device(raise_errors(self.source, self._workers), plan, start)

    def _decode_here(self, items: Iterator[Rows]) -> Iterator[tuple[torch.Tensor, torch.Tensor]]:
        """Decode in threads, where there may be no processes: of what Pillow does, most is C."""
        with make_threads(self.workers, "fastft-decode") as threads:
            tasks = (partial(self._dataset.render, rows) for rows in items)
            for pixels, labels in in_order(threads, tasks, ahead=self.workers):
                yield pixels, torch.from_numpy(labels)

    def _end(self) -> None:
        """End the worker processes."""
        end_workers(self._workers)


class _RowSampler:
    """Hands the rows of the current epoch to DataLoader, which asks anew each epoch."""

    items: Iterator[Rows] = iter(())

    def __iter__(self) -> Iterator[Rows]:
        return self.items


class _PlanDataset(Dataset[Any]):
    """Indexed by rows: one item is a whole batch."""

    def __init__(self, source: Source, workers: int) -> None:
        self._source, self._workers = source, workers
        self._answers = source.columns.answers(source.labels)
        areas = source.widths.astype(np.int64) * source.heights
        self._in_part = bool(areas.mean() >= _LARGE_PX)
        self._local = threading.local()

    def __reduce__(self) -> tuple[type[_PlanDataset], tuple[Source, int]]:
        return type(self), (self._source, self._workers)

    def __getitem__(self, item: Rows) -> tuple[torch.Tensor, NDArray[Any]] | FastftError:
        # Errors travel as values: DataLoader would rebuild an exception from its text alone.
        try:
            pixels, labels = self.render(item)
            return share(pixels), labels
        except FastftError as error:
            return error
        except MemoryError:
            return out_of_memory(self._source)

    def render(self, rows: Rows) -> tuple[torch.Tensor, NDArray[Any]]:
        """uint8[B, S, S, 3], and int64[B] or float32[B, C].

        Raises:
            DataError: a sample is broken.
        """
        shape = len(rows), rows.size, rows.size, 3
        bytes_ = math.prod(shape)
        pixels = np.empty(bytes_ + _SPARE_BYTES, np.uint8)[:bytes_].reshape(shape)
        for row in range(len(rows)):
            pixels[row] = self._render(rows, row)
        if rows.operations is not None:
            flat = pixels.reshape(len(rows), rows.size, rows.size * 3)
            self._changer().run(rows.operations, flat, flat)
        return torch.from_numpy(pixels), self._answers[rows.samples]

    def _render(self, rows: Rows, row: int) -> Any:
        """A Pillow image of the output size."""
        sample = int(rows.samples[row])
        name = f"{self._source.path}: {self._source.name(sample)}"
        stored = self._source.stored(sample)
        shrink = 1 if stored.mode == MODE_RAW else int(rows.shrinks[row])
        crop, part = find_cover(rows.crops[row].tolist(), shrink)
        resized = rows.resized[row].tolist()
        cut = crop[2:] != (-(-stored.height // shrink), -(-stored.width // shrink))
        image = self._decode_part(sample, stored, crop, shrink) if cut and self._in_part else None
        if image is None:
            image = decode(stored, name, shrink)
            if cut:
                image = functional.crop(image, *crop)
        if shrink == 1:
            image = functional.resize(image, resized, functional.InterpolationMode(rows.filter))
        else:  # torchvision resizes whole images alone
            image = image.resize((resized[1], resized[0]), RESAMPLING[rows.filter], part)
        if resized != [rows.size, rows.size]:
            image = functional.crop(image, *rows.corners[row].tolist(), rows.size, rows.size)
        return functional.hflip(image) if rows.flips[row] else image

    def _changer(self) -> Changer:
        """The calling thread's own."""
        changer: Changer | None = getattr(self._local, "changer", None)
        if changer is None:
            from pipelines.changing.on_cpu import Changer  # loads numba

            changer = self._local.changer = Changer()
            changer.load()
        return changer

    def _decode_part(
        self, sample: int, stored: Stored, crop: Sequence[int], shrink: int
    ) -> Image.Image | None:
        """The crop of an image; None if the image has to be decoded whole."""
        decoder: RegionDecoder | None = getattr(self._local, "decoder", None)
        if decoder is None:
            from pipelines.regions import RegionDecoder  # loads numba

            known = Known(self._source, self._workers)
            decoder = self._local.decoder = RegionDecoder(self._source, known)
        pixels = decoder.crop(sample, stored, crop, shrink)
        return None if pixels is None else Image.fromarray(pixels)


def _as_it_is(batch: Any) -> Any:
    """Labels as an array travel through the pipe, and take no shared memory."""
    return batch
