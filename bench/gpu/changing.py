"""Operations beyond crop and mirror alone, for whole batches on the GPU: their share of a copy.

A pass reads an image and writes it, so that many passes take as long as so many copies at best. A
batch's passes are those of its longest row; that sums read an image once more is not counted. What
is timed is the GPU's work, which is queued while the GPU sleeps: the host's part shows in
`augmented`. After timing, pixels are held against the definition.
"""

from __future__ import annotations

import os
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch.nn import functional

from bench.gpu.corruption import delay
from bench.gpu.machine import copy_rates
from bench.gpu.task import Found, Task, answer, wait
from fastft.parity.distance import Differences
from pipelines.augment import Augment
from pipelines.codes import ERASE, NOTHING
from pipelines.operations import Operations, draw_operations
from pipelines.reference import OPERATION
from pipelines.reference import change as define

if TYPE_CHECKING:
    from pipelines.changing.on_gpu import GpuChange

#: Augmentation that changes the pixels of single images.
ASKED = {
    "trivial, erase": Augment(policy="trivial", erase=0.25),
    "rand": Augment(policy="rand"),
    "jitter": Augment(color_jitter=(0.4, 0.4, 0.4, 0.1)),
}
BATCHES, FEW_BATCHES = (256, 1024), (2,)
#: Side of a rehearsal's images, which Triton interprets, px.
_FEW_PX = 8
#: Rows that are held against the definition.
CHECKED = 16
#: Calls that are queued while the GPU sleeps.
_AT_ONCE = 16
#: Side of the squares of random colours that images are blurred from, px.
_SQUARES = 8


def main(arguments: list[str]) -> None:
    """See `task.answer`."""
    answer(measure, arguments)


def measure(task: Task) -> Iterator[Found]:
    """Rows: of all that is asked and each batch size, in turn.

    Returns:
        `copied_bytes_per_s`; `rows`: `asked`, `batch`, `passes`, `bytes_per_image`, `img_per_s` by
        round; at the end `whole` and `operation`, see `check`.
    """
    if not task.on_gpu:  # Triton settles it when the kernels are imported
        os.environ["TRITON_INTERPRET"] = "1"
    copied = copy_rates(task)["within_device"]
    size = task.size if task.on_gpu else _FEW_PX
    works = [
        prepare(asked, batch, size, torch.device(task.device))
        for asked in ASKED
        for batch in (BATCHES if task.on_gpu else FEW_BATCHES)
    ]
    rows: list[dict[str, Any]] = [
        {
            "asked": work.asked,
            "batch": len(work.pixels),
            "passes": work.passes,
            "bytes_per_image": work.passes * 2 * size * size * 3,
            "img_per_s": [],
        }
        for work in works
    ]
    for _ in range(task.rounds):
        for work, row in zip(works, rows, strict=True):
            row["img_per_s"].append(row["batch"] / seconds_of(work, task))
            yield {"rows": rows, "copied_bytes_per_s": copied}
    for work, row in zip(works, rows, strict=True):
        row.update(check(work))
        yield {"rows": rows, "copied_bytes_per_s": copied}


@dataclass(frozen=True, slots=True)
class Work:
    """A batch, and what is to be done to it.

    Attributes:
        asked: one of ASKED.
        images: uint8[B, S, S, 3], as they are before.
        pixels: of the same shape, what is changed.
        operations: of the rows.
        change: the same as a GPU takes them.
        arrays: what they need there.
    """

    asked: str
    images: torch.Tensor
    pixels: torch.Tensor
    operations: Operations
    change: GpuChange
    arrays: Sequence[torch.Tensor]

    @property
    def passes(self) -> int:
        """Passes over the batch."""
        return len(self.change.steps.sums)

    def restore(self) -> None:
        """Bring the images back: what is changed again and again has no colours left."""
        self.pixels.copy_(self.images)

    def run(self) -> torch.Tensor:
        """Queue the operations; uint8[B, S, S, 3]."""
        return self.change.run(self.pixels, self.arrays)


def prepare(asked: str, batch: int, size: int, device: torch.device) -> Work:
    """A plan's operations on images without edges or noise, as of photos."""
    generator = torch.Generator().manual_seed(0)
    squares = torch.rand((batch, 3, _SQUARES, _SQUARES), generator=generator).to(device)
    blurred = functional.interpolate(squares, (size, size), mode="bilinear")
    images = (blurred * 255).to(torch.uint8).permute(0, 2, 3, 1).contiguous()
    operations = draw_operations(ASKED[asked], seed=0, epoch=0, samples=np.arange(batch), size=size)
    return Work(asked, images, images.clone(), operations, *_as_change(operations, size, device))


def _as_change(
    operations: Operations, size: int, device: torch.device
) -> tuple[GpuChange, list[torch.Tensor]]:
    from pipelines.changing.on_gpu import GpuChanger

    change = GpuChanger(device).of(operations, size)
    return change, [
        torch.from_numpy(np.ascontiguousarray(each)).to(device) for each in change.arrays
    ]


def seconds_of(work: Work, task: Task) -> float:
    """Seconds of one call, of the device; bringing the images back is not among them."""
    for _ in range(2):  # compiled, and with scratch
        work.restore()
        work.run()
    wait(task.device)
    time_some = _time_on_gpu if task.on_gpu else _time_on_cpu
    done, taken_s, started = 0, 0.0, time.perf_counter()
    while not done or time.perf_counter() - started < task.seconds:
        calls, seconds = time_some(work)
        done, taken_s = done + calls, taken_s + seconds
    return taken_s / done


def _time_on_gpu(work: Work) -> tuple[int, float]:
    """Calls, and seconds of the GPU: all is queued before it begins, so that it never waits."""
    delay(work.pixels.device)
    spans = []
    for _ in range(_AT_ONCE):
        begin, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))
        work.restore()
        begin.record()
        work.run()
        end.record()
        spans.append((begin, end))
    wait(work.pixels.device)
    return len(spans), sum(begin.elapsed_time(end) for begin, end in spans) / 1e3


def _time_on_cpu(work: Work) -> tuple[int, float]:
    work.restore()
    started = time.perf_counter()
    work.run()
    return 1, time.perf_counter() - started


def check(work: Work) -> dict[str, Any]:
    """Hold some rows against the definition, as a whole and operation by operation.

    Returns:
        `whole`: see `compare`; `operation`: the same of each operation on the definition's own
        pixels before it, which are to be within a level whatever comes behind.
    """
    work.restore()
    rows = slice(0, min(CHECKED, len(work.pixels)))
    before, operations = work.images[rows].cpu().numpy(), work.operations.take(rows)
    whole = compare(before, work.run()[rows].cpu().numpy(), operations)
    worst = {"mean": 0.0, "most": 0, "passed": True}
    for at in range(operations.codes.shape[1]):
        column = slice(at, at + 1)
        one = Operations(
            np.ascontiguousarray(operations.codes[:, column]),
            np.ascontiguousarray(operations.values[:, column]),
            operations.boxes,
        )
        change, arrays = _as_change(one, before.shape[1], work.pixels.device)
        given = torch.from_numpy(before.copy()).to(work.pixels.device)
        found = compare(before, change.run(given, arrays).cpu().numpy(), one)
        worst = {
            "mean": max(worst["mean"], found["mean"]),
            "most": max(worst["most"], found["most"]),
            "passed": worst["passed"] and found["passed"],
        }
        before = define_rows(before, one)
    return {"whole": whole, "operation": worst}


def define_rows(pixels: NDArray[np.uint8], operations: Operations) -> NDArray[np.uint8]:
    """uint8[B, S, S, 3]: the definition's."""
    return np.stack([define(image, operations, row) for row, image in enumerate(pixels)])


def compare(
    before: NDArray[np.uint8], after: NDArray[np.uint8], operations: Operations
) -> dict[str, Any]:
    """The distance of changed pixels from what the definition makes of those before.

    Returns:
        `mean` and `most`, levels; `passed`: whether they are what the definition allows. Behind
        another operation, a pixel that is a level off may become anything: then the mean alone
        counts. Erasing is never off.
    """
    differences = Differences()
    differences.add(after, define_rows(before, operations))
    distance, (mean, most) = differences.distance(), OPERATION
    can_be_off = ~np.isin(operations.codes, (NOTHING, ERASE)).all(axis=0)
    several = int(can_be_off.sum())
    passed = distance.mean <= mean * max(several, 1) and (several > 1 or distance.most <= most)
    return {"mean": distance.mean, "most": distance.most, "passed": passed}
