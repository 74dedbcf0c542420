"""The resident loader's kernel alone: images/s, bytes moved, share of what the GPU copies.

Pixels are random, of photos of 400 x 300 on average: the kernel does the same whatever they are.
What it moves is what it must: a crop's pixels read once, a batch's written once.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from functools import partial
from types import SimpleNamespace
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from bench.gpu.machine import copy_rates
from bench.gpu.task import Found, Task, answer, per_second
from pipelines.plan import make_plan
from pipelines.preprocessing import MEAN, STD
from pipelines.resident.store import StoreFormat, lay_out
from pipelines.transfer import normalizing_factors

#: Width and height about which photos vary, px.
MEAN_SIZE = (400, 300)
#: Photos in memory, of which a batch takes some: far more than the GPU's cache holds.
_PHOTOS, _FEW_PHOTOS = 4096, 4
DTYPES = {"bf16": torch.bfloat16, "fp32": torch.float32, "uint8": torch.uint8}
#: Store, dtype, batch of each row; a rehearsal's, which Triton interprets.
ROWS = (("rgb", "bf16", 256), ("rgb", "bf16", 1024), ("yuv420", "bf16", 1024))
FEW_ROWS = (("rgb", "uint8", 2), ("yuv420", "uint8", 2))


def main(arguments: list[str]) -> None:
    """See `task.answer`."""
    answer(measure, arguments)


def measure(task: Task) -> Iterator[Found]:
    """Rows: of each store, dtype and batch size."""
    if not task.on_gpu:  # Triton settles it when the kernels are imported
        os.environ["TRITON_INTERPRET"] = "1"
    copied = copy_rates(task)["within_device"]
    rows: list[dict[str, Any]] = []
    for row in ROWS if task.on_gpu else FEW_ROWS:
        rows.append(_row(task, *row, copied))
        yield {"rows": rows, "mean_size": MEAN_SIZE, "copied_bytes_per_s": copied}


def _row(task: Task, kind: str, dtype: str, batch: int, copied: float) -> dict[str, Any]:
    work, bytes_moved = prepare(task, kind, DTYPES[dtype], batch)
    rate = batch * per_second(work, task)
    return {
        "store": kind,
        "dtype": dtype,
        "batch": batch,
        "img_per_s": rate,
        "bytes_per_image": bytes_moved,
        "bytes_per_s": rate * bytes_moved,
        "share_of_copy": rate * bytes_moved / copied,
    }


def draw_sides(mean: tuple[int, int], photos: int) -> tuple[NDArray[np.int32], NDArray[np.int32]]:
    """Widths and heights about a mean, int32[photos] each, px."""
    spread = np.random.default_rng(0).uniform(0.85, 1.15, (2, photos))
    widths, heights = (
        (side * factors).astype(np.int32) for side, factors in zip(mean, spread, strict=True)
    )
    return widths, heights


def prepare(task: Task, kind: str, dtype: torch.dtype, batch: int) -> tuple[Any, float]:
    """A function that renders another batch at each call, and the bytes that an image moves."""
    from pipelines.kernels import gpu
    from pipelines.rendering.geometry import make_geometry

    photos, device = _PHOTOS if task.on_gpu else _FEW_PHOTOS, torch.device(task.device)
    size = task.size if task.on_gpu else 8
    widths, heights = draw_sides(MEAN_SIZE if task.on_gpu else (16, 12), photos)
    source: Any = SimpleNamespace(widths=widths, heights=heights)
    layout = lay_out(source, StoreFormat(kind=kind))  # type: ignore[arg-type]
    plan = make_plan(widths, heights, view="train", size=size)
    bytes_ = layout.total + gpu.SLACK_BYTES
    pixels = torch.randint(0, 256, (bytes_,), dtype=torch.uint8, device=device)
    on_device = partial(torch.as_tensor, device=device)
    scale, bias = (on_device(each) for each in normalizing_factors(size, MEAN, STD))
    out = torch.empty((batch, size, size, 3), dtype=dtype, device=device)
    batches, areas, scratch = [], [], None
    planar, turn = layout.format.planar, 0
    for begin in range(0, photos - batch + 1, batch):
        samples = np.asarray(plan.order[begin : begin + batch])
        rows = plan.rows(samples)
        geometry, down_first = make_geometry(rows, plan)
        sides = np.stack((layout.heights[samples], layout.widths[samples]), axis=1)
        frames = gpu.Frames(
            pixels,
            on_device(layout.offsets[samples]),
            on_device(layout.pitches[samples]),
            on_device(sides.astype(np.int64)),
        )
        windows = gpu.find_windows(geometry, rows.flips, down_first, size)
        needs = gpu.find_needs(windows, size, planar=planar)
        if scratch is None or not gpu.fits(scratch, batch, needs):
            scratch = gpu.make_scratch(batch, size, needs, device)
        areas.append(rows.boxes[:, 2:].astype(float).prod(1).mean())
        batches.append((frames, needs, on_device(geometry), on_device(windows)))

    def render() -> None:
        nonlocal turn
        frames, needs, geometry, windows = batches[turn % len(batches)]
        gpu.render_rows(frames, planar, geometry, windows, scale, bias, needs, scratch, out)
        turn += 1

    read = float(np.mean(areas)) * (1.5 if planar else 3)
    return render, read + size * size * 3 * out.element_size()
