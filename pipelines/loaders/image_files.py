"""Image files that nobody has looked at yet, to pixels as evaluation cuts them.

A loader knows all sizes before it begins, and ends at the first broken sample. Here a file is read
once, by the thread that decodes it; only then its size is known. What is broken is told beside the
others, and costs none of them. Pixels are those of the loaders that render by the same kernel, to
the bit.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass, replace
from itertools import chain
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from pipelines.errors import DataError
from pipelines.formats.encode import EncodePolicy, Encoder, read_stored
from pipelines.formats.layout import MODE_RAW, Preparation, Stored
from pipelines.kernels import cpu
from pipelines.loaders.completion import make_normalizer
from pipelines.plan import PLACES, Decode, Rows, make_plan
from pipelines.preprocessing import IMAGENET, Preprocessing
from pipelines.rendering.geometry import make_geometry
from pipelines.rendering.renderer import Renderer
from pipelines.rendering.row_worker import Piece, Worker
from pipelines.transfer import to_device

#: Bytes of files, or of pixels that were no JPEG, that a thread holds before it cuts them.
_HELD_BYTES = 32 << 20
_DEFAULT = Preparation()


@dataclass(frozen=True, slots=True)
class Cut:
    """Some files, cut.

    Attributes:
        numbers: the files that are whole.
        pixels: [crops, B, S, S, 3], B crops of theirs at each place, the centre first: uint8, or
            normalized.
        broken: the error of each other file, by its number.
    """

    numbers: tuple[int, ...]
    pixels: torch.Tensor
    broken: Mapping[int, DataError]

    @property
    def views(self) -> Iterator[torch.Tensor]:
        """[B, 3, S, S], channels_last, of each place in turn."""
        return (each.permute(0, 3, 1, 2) for each in self.pixels)


class FileRenderer(Renderer):
    """Reads, decodes and cuts image files; `cut` is for several threads at once.

    Attributes:
        paths: the files; their numbers are places in it.
    """

    _decodes = True

    def __init__(
        self,
        paths: Sequence[str],
        *,
        view: str,
        size: int,
        batch: int,
        workers: int,
        dtype: torch.dtype | None = torch.float32,
        crops: int = 1,
        decode: Decode = "exact",
        preparation: Preparation = _DEFAULT,
        preprocessing: Preprocessing = IMAGENET,
    ) -> None:
        """Prepare, and begin to load the kernel.

        Args:
            paths: the files.
            view: one of evaluation's, see `pipelines.plan`.
            size: output side S, px.
            batch: files that are cut at once at most.
            workers: threads, which are `threads`.
            dtype: of normalized pixels; None for uint8.
            crops: how many of `plan.PLACES` are cut out of each image.
            decode: see `make_loader`.
            preparation, preprocessing: as the model knows images.

        Raises:
            UsageError: no such view, or a size out of range.
        """
        self.paths, self._files = paths, _Files(paths)
        how: dict[str, Any] = {"view": view, "size": size, "decode": decode}
        how["preprocessing"] = preprocessing
        sides = self._files.widths, self._files.heights
        self._plans = [make_plan(*sides, **how, place=place) for place in PLACES[:crops]]
        self._encoder = Encoder(EncodePolicy(verify=False, **asdict(preparation)))
        self._shape = crops, batch, size, size, 3
        source: Any = self._files
        super().__init__(
            source,
            size,
            dtype,
            batch=crops * batch,
            workers=workers,
            preprocessing=preprocessing,
        )
        self.known.meet_once()

    def cut(self, numbers: Sequence[int]) -> Cut:
        """Read and cut some files; the thread that calls does all of it."""
        self._compiled.result()
        memory, worker = self.pool.take(), self.worker()
        shaped = memory.numpy().reshape(*self._shape[:3], -1).view(np.uint8)
        broken: dict[int, DataError] = {}
        rows: list[tuple[int, int]] = []  # the place of each whole one
        at = 0
        for group in self._read(numbers, broken):
            faults = self._cut_group(group, shaped[:, at : at + len(group)], worker)
            broken |= faults
            rows += [(at + row, each) for row, each in enumerate(group) if each not in faults]
            at += len(group)
        worker.relax()
        pixels = self.as_tensor(memory).view(self._shape)[:, :at]
        if len(rows) < at:
            pixels = pixels[:, [row for row, _ in rows]]
        return Cut(tuple(number for _, number in rows), pixels, broken)

    def _read(
        self, numbers: Sequence[int], broken: dict[int, DataError]
    ) -> Iterator[dict[int, Stored]]:
        """Files in groups that may be held at once; notes what is none."""
        group: dict[int, Stored] = {}
        held = 0
        for number in numbers:
            try:
                stored = read_stored(self.paths[number], self._encoder, number)
            except DataError as error:
                broken[number] = error
                continue
            group[number] = stored
            held += len(stored.data)
            if held > _HELD_BYTES:
                yield group
                group, held = {}, 0
        if group:
            yield group

    def _cut_group(
        self, group: dict[int, Stored], out: NDArray[np.uint8], worker: Worker
    ) -> dict[int, DataError]:
        """Cut some files into [crops, B, S, S * 3]; gives the errors of those that are broken."""
        with self._files.holding(group):
            samples = np.fromiter(group, np.int64, len(group))
            pieces = [self._plan(samples, at) for at in range(len(self._plans))]
            try:
                self._draw_all(pieces, worker, out)
            except DataError:  # which of them?
                return self._draw_each(pieces, worker, out)
        return {}

    def _plan(self, samples: NDArray[np.int64], at: int) -> Piece:
        """The rows of some files at a place, once their sizes are known."""
        plan = self._plans[at]
        rows = self._as_decoded(plan.rows(samples))
        geometry, down_first = make_geometry(rows, plan)
        return Piece(slice(None), samples, geometry, rows.shrinks, rows.flips, down_first)

    def _draw_each(
        self, pieces: Sequence[Piece], worker: Worker, out: NDArray[np.uint8]
    ) -> dict[int, DataError]:
        broken: dict[int, DataError] = {}
        for row, number in enumerate(pieces[0].samples.tolist()):
            part = slice(row, row + 1)
            try:
                self._draw_all([piece.cut(part) for piece in pieces], worker, out[:, part])
            except DataError as error:
                told = self.paths[number], error.found, error.expected, error.remedy
                broken[number] = DataError(*told)
        return broken

    def _draw_all(self, pieces: Sequence[Piece], worker: Worker, out: NDArray[np.uint8]) -> None:
        """Decode each image once; whole, where more is cut out of it than one crop."""
        if len(pieces) == 1:
            self._draw(pieces[0], worker, out[0])
            return
        for row in range(len(pieces[0].samples)):
            self._draw_whole(pieces, row, worker, out)

    def _draw(self, piece: Piece, worker: Worker, out: NDArray[np.uint8]) -> None:
        rows = range(len(piece.samples))
        jpegs = [row for row in rows if not self._files.is_raw(int(piece.samples[row]))]
        left = {*rows} - {*jpegs} | {*worker.render_jpegs(piece, jpegs, out)}
        for row in sorted(left):
            self._draw_whole([piece], row, worker, out[None])

    def _draw_whole(
        self, pieces: Sequence[Piece], row: int, worker: Worker, out: NDArray[np.uint8]
    ) -> None:
        number, shrink = int(pieces[0].samples[row]), int(pieces[0].shrinks[row])
        height, width = (-(-side // shrink) for side in self._files.sides(number))
        room = worker.room(height * width * 3)
        worker.regions.decoder.to_rgb(number, room, shrink)
        frames = cpu.Frames(
            room,
            np.zeros((1, 3), np.int64),
            np.array([[width * 3, width]], np.int64),
            np.array([[height, width]], np.int64),
        )
        part = slice(row, row + 1)
        for at, piece in enumerate(pieces):
            self._render_rows(frames, piece.cut(part), worker, out[at, part])

    def _as_decoded(self, rows: Rows) -> Rows:
        is_raw = np.array([self._files.is_raw(sample) for sample in rows.samples.tolist()])
        return replace(rows, shrinks=np.where(is_raw, np.int32(1), rows.shrinks))


class _Files:
    """Files as a source, of which those are known that are held; each is one thread's."""

    path = Path()

    def __init__(self, paths: Sequence[str]) -> None:
        self._paths = paths
        self.widths = np.zeros(len(paths), np.int32)
        self.heights = np.zeros_like(self.widths)
        self._held: dict[int, Stored] = {}

    @contextmanager
    def holding(self, group: Mapping[int, Stored]) -> Iterator[None]:
        """Know these files while a block lasts."""
        for number, stored in group.items():
            self.widths[number], self.heights[number] = stored.width, stored.height
        self._held.update(group)
        try:
            yield
        finally:
            for number in group:
                del self._held[number]

    def name(self, sample: int) -> str:
        """The file."""
        return self._paths[sample]

    def stored(self, sample: int) -> Stored:
        """A file's bytes."""
        return self._held[sample]

    def entry_points(self, sample: int) -> None:
        """None: a file holds none."""

    def is_raw(self, sample: int) -> bool:
        """Whether a file is none of the JPEGs that are decoded here."""
        return self._held[sample].mode == MODE_RAW

    def sides(self, sample: int) -> tuple[int, int]:
        """Height and width, px."""
        stored = self._held[sample]
        return stored.height, stored.width


def gather(
    cuts: Iterable[Cut],
    *,
    batch: int,
    device: torch.device,
    dtype: torch.dtype | None,
    preprocessing: Preprocessing,
) -> Iterator[Cut]:
    """Put cuts of uint8 pixels together, and move them to a device, where they are normalized.

    A batch is copied beside the caller's kernels, see `transfer.to_device`.

    Args:
        cuts: in host memory.
        batch: whole files of each batch at least, but for the last.
        device: where to.
        dtype: of normalized pixels.
        preprocessing: mean and deviation.
    """
    first = next(cuts := iter(cuts), None)
    if first is None:
        return
    crops, _, size, *_ = first.pixels.shape
    numbers: list[int] = []
    broken: dict[int, DataError] = {}
    told: deque[tuple[tuple[int, ...], dict[int, DataError]]] = deque()

    def join(parts: list[torch.Tensor]) -> tuple[torch.Tensor, torch.Tensor]:
        told.append((tuple(numbers), dict(broken)))
        labels = torch.tensor(numbers)
        numbers.clear()
        broken.clear()
        return torch.cat(parts, 1).flatten(0, 1), labels

    def joined() -> Iterator[tuple[torch.Tensor, torch.Tensor]]:
        parts: list[torch.Tensor] = []
        for cut in chain((first,), cuts):
            numbers.extend(cut.numbers)
            broken.update(cut.broken)
            parts.append(cut.pixels)
            if len(numbers) >= batch:
                yield join(parts)
                parts = []
        if numbers:
            yield join(parts)

    normalizer = make_normalizer(size, device, dtype, preprocessing)
    for images, _ in to_device(joined(), normalizer, device):
        yield Cut(
            told[0][0], images.permute(0, 2, 3, 1).reshape(crops, -1, size, size, 3), told[0][1]
        )
        told.popleft()
    if broken:  # behind the last whole one
        yield Cut((), first.pixels[:, :0], broken)
