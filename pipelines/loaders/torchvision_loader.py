"""The plain loader: Pillow, torchvision's functional operations, DataLoader workers.

It is the one that needs nothing but torchvision, and the yardstick of the others: its pixels are
the reference's. A worker process takes a batch of plan rows, with their size, and gives back uint8
pixels; floats are made once, on the device, from a quarter of the bytes.
"""

from __future__ import annotations

from collections.abc import Generator, Iterator
from functools import partial
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch.utils.data import DataLoader, Dataset

from pipelines.errors import FastftError
from pipelines.forks import is_daemonic
from pipelines.formats.encode import decode
from pipelines.formats.source import Source
from pipelines.loaders.base import Loader
from pipelines.loaders.worker_processes import (
    end_workers,
    live_for_parent,
    out_of_memory,
    raise_errors,
    share,
)
from pipelines.plan import Plan, Rows, resized_geometry
from pipelines.vision import functional
from pipelines.workers import in_order, make_threads


class TorchvisionLoader(Loader):
    """Executes the plan with torchvision's functional operations on Pillow images."""

    name = "torchvision"
    stated = (0, 0)

    def _begin(self) -> None:
        self._sampler = _RowSampler()
        self._dataset = _PlanDataset(self.source, self.plan.clips_at_box)
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
        items = ((rows, plan.size) for rows in self._rows(plan, start))
        if is_daemonic():
            yield from self._to_device(self._decode_here(items))
            return
        self._sampler.items = items
        yield from self._to_device(raise_errors(self.source, self._workers))

    def _decode_here(
        self, items: Iterator[tuple[Rows, int]]
    ) -> Iterator[tuple[torch.Tensor, torch.Tensor]]:
        """Decode in threads, where there may be no processes: of what Pillow does, most is C."""
        with make_threads(self.workers, "fastft-decode") as threads:
            tasks = (partial(self._dataset.render, *item) for item in items)
            for pixels, labels in in_order(threads, tasks, ahead=self.workers):
                yield pixels, torch.from_numpy(labels)

    def _end(self) -> None:
        """End the worker processes."""
        end_workers(self._workers)


class _RowSampler:
    """Hands the rows of the current epoch to DataLoader, which asks anew each epoch."""

    items: Iterator[tuple[Rows, int]] = iter(())

    def __iter__(self) -> Iterator[tuple[Rows, int]]:
        return self.items


class _PlanDataset(Dataset[Any]):
    """Indexed by rows and their output side, px: one item is a whole batch."""

    def __init__(self, source: Source, clips_at_box: bool) -> None:
        self._source, self._clips_at_box = source, clips_at_box

    def __getitem__(
        self, item: tuple[Rows, int]
    ) -> tuple[torch.Tensor, NDArray[np.int64]] | FastftError:
        # Errors travel as values: DataLoader would rebuild an exception from its text alone.
        try:
            pixels, labels = self.render(*item)
            return share(pixels), labels
        except FastftError as error:
            return error
        except MemoryError:
            return out_of_memory(self._source)

    def render(self, rows: Rows, size: int) -> tuple[torch.Tensor, NDArray[np.int64]]:
        """uint8[B, S, S, 3] and int64[B].

        Raises:
            DataError: a sample is broken.
        """
        pixels = np.empty((len(rows), size, size, 3), np.uint8)
        for row, sample in enumerate(rows.samples):
            box, flip = rows.boxes[row], bool(rows.flips[row])
            pixels[row] = self._render(int(sample), box, flip, size)
        return torch.from_numpy(pixels), self._source.labels[rows.samples]

    def _render(self, sample: int, box: NDArray[np.float64], flip: bool, size: int) -> Any:
        """A Pillow image of the output size."""
        name = f"{self._source.path}: {self._source.name(sample)}"
        image = decode(self._source.stored(sample), name)
        if self._clips_at_box:
            top, left, height, width = (int(edge) for edge in box)
            image = functional.resized_crop(image, top, left, height, width, [size, size])
        else:
            sides = np.array((image.height, image.width))
            resized, corner = resized_geometry(box, sides, size)
            image = functional.resize(image, resized.tolist())
            image = functional.crop(image, *corner.tolist(), size, size)
        return functional.hflip(image) if flip else image


def _as_it_is(batch: Any) -> Any:
    """Labels as an array travel through the pipe, and take no shared memory."""
    return batch
