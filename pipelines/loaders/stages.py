"""The loaders' parts, each without the others: what no loader can be faster than.

Who measures them has the clock and the threads: a part makes workers, one for each thread, that are
told again and again which of the samples to take.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from pipelines.changing.on_cpu import READ_PAST, Changer, find_changes, take
from pipelines.decoder import Known
from pipelines.formats.layout import MODE_RAW
from pipelines.formats.source import Source
from pipelines.kernels import cpu
from pipelines.kernels.changes import Changes
from pipelines.plan import Plan
from pipelines.reference import find_cover
from pipelines.regions import RegionDecoder
from pipelines.rendering.geometry import make_geometry
from pipelines.resident.store import PixelWriter, StoreFormat, lay_out
from pipelines.transfer import BatchPool, PinnedSlot, normalizing_factors
from pipelines.workers import make_threads

#: Samples that a thread meets before others are handed out.
_AT_ONCE = 16
#: Does a part's work on some of its samples, which are given by their places; what it gives is
#: memory of the worker's own, which the next call writes anew.
Work = Callable[[slice], object]


class Decoding:
    """The crops of samples to pixels, in a buffer that is used again: as `ffcv` decodes."""

    def __init__(self, source: Source, samples: NDArray[np.int64], plan: Plan) -> None:
        """Meet all samples once, as in a first epoch: what is found out then speeds up later ones.

        Raises:
            DataError: a sample is broken.
        """
        self._source, self._samples = source, samples
        rows = plan.rows(samples)
        self._shown = list(zip(rows.crops.tolist(), rows.shrinks.tolist(), strict=True))
        areas = source.heights[samples].astype(np.int64) * source.widths[samples]
        self._largest_bytes = 3 * int(areas.max())
        self._known = Known(source)
        count = len(samples)
        places = [slice(at, min(at + _AT_ONCE, count)) for at in range(0, count, _AT_ONCE)]
        with make_threads() as threads:
            list(threads.map(lambda place: self.worker()(place), places))

    def worker(self) -> Work:
        """One thread's; gives the last sample's pixels, raises DataError if one is broken."""
        source, regions = self._source, RegionDecoder(self._source, self._known)
        room = np.empty(self._largest_bytes, np.uint8)

        def decode(part: slice) -> NDArray[np.uint8]:
            pixels = room
            shown = zip(self._samples[part].tolist(), self._shown[part], strict=True)
            for sample, (crop, shrink) in shown:
                stored = source.stored(sample)
                shrink = 1 if stored.mode == MODE_RAW else shrink
                found = regions.crop(sample, stored, find_cover(crop, shrink)[0], shrink)
                if found is None:
                    regions.decoder.to_rgb(sample, room, shrink)
                pixels = room if found is None else found
            return pixels

        return decode


class Kernel:
    """Decoded pixels to rows of a batch, as `resident` renders: from crop to normalized floats."""

    def __init__(
        self, source: Source, samples: NDArray[np.int64], plan: Plan, *, normalize: bool = True
    ) -> None:
        """Decode the samples; all of their pixels are kept.

        Args:
            source: where they are.
            samples: which.
            plan: of an epoch.
            normalize: to float32; else rows are uint8.

        Raises:
            DataError: a sample is broken.
        """
        held = np.zeros(len(source), np.bool_)
        held[samples] = True
        layout = lay_out(source, StoreFormat(), held)
        pixels = np.empty(layout.total, np.uint8)

        def fill(some: NDArray[np.int64]) -> None:
            writer = PixelWriter(source, layout)
            for sample in some.tolist():
                writer.write(sample, pixels[layout.place(sample)])

        with make_threads() as threads:
            list(threads.map(fill, np.array_split(samples, min(16, len(samples)))))
        sides = np.stack((layout.heights[samples], layout.widths[samples]), axis=1)
        self._frames = cpu.Frames(
            pixels, layout.offsets[samples], layout.pitches[samples], sides.astype(np.int64)
        )
        plan = replace(plan, decode="exact")  # of pixels that were decoded whole
        rows = plan.rows(samples)
        self._shrinks, self._flips, self._size = rows.shrinks, rows.flips, plan.size
        self._geometry, self._down_first = make_geometry(rows, plan)
        self._changes: Changes | None = None
        if rows.operations is not None:
            self._changes = find_changes(rows.operations, len(rows), plan.size)
        self._preprocessing = plan.preprocessing
        self._written: type[np.generic] = np.float32 if normalize else np.uint8

    def worker(self, most: int) -> Work:
        """One thread's, for at most so many samples at once."""
        size, (pixels, *places) = self._size, self._frames
        form = self._preprocessing
        factors = normalizing_factors(size, form.mean, form.std)
        scratch = cpu.fit_scratch(None, self._geometry, size, cubic=form.filter == "bicubic")
        out = BatchPool((most, size, size * 3), self._written).take().numpy()
        changes, changer = self._changes, Changer(form)
        room = np.empty(most * size**2 * 3 + READ_PAST, np.uint8)[: most * size**2 * 3]
        drawn = out if changes is None else room.reshape(most, size, size * 3)

        def render(part: slice) -> NDArray[Any]:
            geometry = self._geometry[part]
            cpu.render_rows(
                cpu.Frames(pixels, *(each[part] for each in places)),
                False,
                geometry,
                self._shrinks[part],
                self._flips[part],
                self._down_first[part],
                *factors,
                scratch,
                drawn[: len(geometry)].view(np.uint8),
            )
            if changes is not None:
                changer.change(take(changes, part), drawn[: len(geometry)], out[: len(geometry)])
            return out[: len(geometry)]

        return render


class Copying:
    """A batch of uint8 pixels from pinned memory to a device."""

    def __init__(self, device: torch.device, bytes_: int) -> None:
        self._slot, self._bytes = PinnedSlot(device), bytes_
        self._slot.prepare(bytes_)

    def __call__(self) -> torch.Tensor:
        """Begin a copy, which is there when the device has been waited for."""
        return self._slot.send(self._bytes)
