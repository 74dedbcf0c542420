"""The resident loader's kernel alone, on one core, and what it is bound by.

RandomResizedCrop to 224 px of photos of 470 x 400 on average, float32 normalized: what a batch of a
later epoch is made of. Pixels are random: the kernel does the same whatever they are.

The roofline: what a photo moves (its crop is read once, its part of the batch written once, past
the cache) over what this core copies in a second, and the products of the two passes. What memory
alone would allow stands beside what is reached; the rest of the time is arithmetic.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from types import SimpleNamespace
from typing import Any, NamedTuple

import numpy as np
import pytest
from numpy.typing import NDArray
from pytest_benchmark.fixture import BenchmarkFixture

from bench.conftest import MEAN_SIZE, Tables
from pipelines import reference
from pipelines.formats.layout import MODE_RAW, Stored
from pipelines.kernels import cpu
from pipelines.plan import Plan, Rows, make_plan
from pipelines.preprocessing import MEAN, STD
from pipelines.rendering.geometry import make_geometry
from pipelines.resident.store import KINDS, Layout, StoreFormat, lay_out
from pipelines.transfer import BatchPool, normalizing_factors

SIZE = 224
#: 0.3 GB of pixels: more than caches hold.
PHOTOS = 512
BATCH = 64
GOAL_PER_S = 4000
COPY_BYTES = 256 << 20

pytestmark = pytest.mark.benchmark(group="kernel")


class Photos(NamedTuple):
    """Random pixels in a store's layout, and all that the kernel takes of an epoch of them."""

    layout: Layout
    plan: Plan
    rows: Rows
    pixels: NDArray[np.uint8]
    geometry: NDArray[np.int32]
    down_first: NDArray[np.bool_]

    def frames(self, part: slice) -> cpu.Frames:
        samples = self.rows.samples[part]
        sides = np.stack((self.plan.heights[samples], self.plan.widths[samples]), axis=1)
        layout = self.layout
        return cpu.Frames(
            self.pixels, layout.offsets[samples], layout.pitches[samples], sides.astype(np.int64)
        )


@pytest.fixture(params=KINDS)
def random_photos(request: pytest.FixtureRequest) -> Photos:
    random = np.random.default_rng(0)
    spread = random.uniform(0.85, 1.15, (2, PHOTOS))
    widths, heights = (
        (side * factors).astype(np.int32) for side, factors in zip(MEAN_SIZE, spread, strict=True)
    )
    source: Any = SimpleNamespace(widths=widths, heights=heights)
    layout = lay_out(source, StoreFormat(kind=request.param))
    plan = make_plan(widths, heights, view="train", size=SIZE)
    rows = plan.rows(plan.order)
    pixels = random.integers(0, 256, layout.total, np.uint8)
    return Photos(layout, plan, rows, pixels, *make_geometry(rows, plan))


def test_one_core(
    random_photos: Photos, rounds: int, benchmark: BenchmarkFixture, tables: Tables
) -> None:
    layout, rows = random_photos.layout, random_photos.rows
    geometry, down_first = random_photos.geometry, random_photos.down_first
    planar, kind = layout.format.planar, layout.format.kind
    factors = normalizing_factors(SIZE, MEAN, STD)
    scratch = cpu.fit_scratch(None, geometry, SIZE, planar)
    memory = BatchPool((PHOTOS, SIZE, SIZE * 3), np.float32).take().numpy()

    def render(out: NDArray[Any]) -> None:
        for begin in range(0, PHOTOS, BATCH):
            part = slice(begin, begin + BATCH)
            cpu.render_rows(
                random_photos.frames(part),
                planar,
                geometry[part],
                rows.shrinks[part],
                rows.flips[part],
                down_first[part],
                *factors,
                scratch,
                out[part].view(np.uint8),
            )

    benchmark.pedantic(render, args=(memory,), rounds=rounds, warmup_rounds=1)
    check(random_photos, render)
    if benchmark.disabled:
        return
    img_per_s = PHOTOS / benchmark.stats.stats.median
    areas = geometry[..., cpu.LENGTH].astype(float).prod(1)
    crop_bytes = areas.mean() * (1.5 if planar else 3)
    batch_bytes = SIZE * SIZE * 3 * 4
    copied = copy_bytes_per_s()
    by_memory = copied / (crop_bytes + batch_bytes)
    macs = mean_multiply_adds(geometry)
    title = f"kernel alone, one core: {SIZE} px of {MEAN_SIZE[0]} x {MEAN_SIZE[1]}, float32"
    head = [
        "",
        "images/s",
        "us",
        "goal",
        "crop + batch, kB",
        "copied, GB/s",
        "memory allows",
        "share",
        "M multiply-adds",
        "G/s",
    ]
    goal = f"{GOAL_PER_S:,} images/s" if kind == "rgb" else ""
    tables.setdefault(title, [head]).append(
        [
            kind,
            f"{img_per_s:,.0f}",
            f"{1e6 / img_per_s:.0f}",
            goal,
            f"{crop_bytes / 1e3:.0f} + {batch_bytes / 1e3:.0f}",
            f"{copied / 1e9:.1f}",
            f"{by_memory:,.0f}",
            f"{img_per_s / by_memory:.0%}",
            f"{macs / 1e6:.2f}",
            f"{macs * img_per_s / 1e9:.1f}",
        ]
    )
    benchmark.extra_info.update(
        img_per_s=round(img_per_s),
        crop_bytes=round(crop_bytes),
        batch_bytes=batch_bytes,
        copied_bytes_per_s=round(copied),
        memory_allows_img_per_s=round(by_memory),
        share_of_memory_roofline=round(img_per_s / by_memory, 3),
        multiply_adds=round(macs),
        multiply_adds_per_s=round(macs * img_per_s),
        goal=goal,
    )


def check(photos: Photos, render: Callable[[NDArray[Any]], None]) -> None:
    """The reference's pixels, exactly; of planes there is no reference but their own decoder."""
    if photos.layout.format.planar:
        return
    found = np.empty((PHOTOS, SIZE, SIZE * 3), np.uint8)
    render(found)
    for row in range(0, PHOTOS, 16):
        sample = photos.rows.samples[row]
        height, width = int(photos.plan.heights[sample]), int(photos.plan.widths[sample])
        pixels = photos.pixels[photos.layout.place(sample)]
        stored = Stored(MODE_RAW, width, height, pixels.tobytes())
        wanted = reference.render(stored, photos.rows, row)
        assert np.array_equal(found[row].reshape(wanted.shape), wanted)


def mean_multiply_adds(geometry: NDArray[np.int32]) -> float:
    """Products of a pixel and a weight that a photo's three channels take, both passes together."""
    length, size = geometry[..., cpu.LENGTH].astype(float), SIZE
    scale = length / geometry[..., cpu.RESIZED]
    support = np.maximum(scale, 1)
    center = (geometry[..., cpu.OFFSET, None] + np.arange(size) + 0.5) * scale[..., None]
    low = np.maximum((center - support[..., None] + 0.5).astype(int), 0)
    high = np.minimum((center + support[..., None] + 0.5).astype(int), length[..., None])
    down, across = np.moveaxis((high - low).sum(2), 1, 0)
    return float((3 * (length[:, 0] * across + size * down)).mean())


def copy_bytes_per_s() -> float:
    """Bytes that one core reads and writes in a second, copying; the best of a few."""
    source, target = np.ones(COPY_BYTES, np.uint8), np.empty(COPY_BYTES, np.uint8)
    seconds = []
    for _ in range(7):
        started = time.perf_counter()
        np.copyto(target, source)
        seconds.append(time.perf_counter() - started)
    return 2 * COPY_BYTES / min(seconds)
