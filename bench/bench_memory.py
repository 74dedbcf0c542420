"""Peak memory of a loader when one photo of 24 megapixels comes among small ones.

It should grow by about one decoded image (72 MB; Pillow holds four bytes a pixel and a crop beside
it) for each worker that meets it, never by the largest image times the batch (4.6 GB). Stock FFCV
makes room for that five times over, and touches what it uses of it.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from pytest_benchmark.fixture import BenchmarkFixture

from bench.conftest import BATCH, ROOT, Photos, Tables
from pipelines.conversion.run import ConvertConfig, convert

PROBE = Path(__file__).with_name("peak_memory.py")
SIDES = (6000, 4000)
IMAGE_BYTES = SIDES[0] * SIDES[1] * 3
#: Loose, as an allocator may keep what is free.
MAX_GROWTH_BYTES = 1 << 30
#: Of the resident loader in each process, beside its pixels.
MAX_WORK_BYTES = 300_000_000

#: A sample goes to any worker process: in five epochs to both of two, 15 times out of 16.
EPOCHS = 5
#: Of a smoke run.
SMALL_EPOCHS = 1

#: What the first of these tests measures, for the others.
STOCK_PEAK: dict[str, int] = {}

pytestmark = pytest.mark.benchmark(group="memory")


@pytest.fixture(scope="module")
def data(photos: Photos, workspace: Path) -> dict[str, Path]:
    """Two sets that differ in one photo: 'small' and 'large'."""
    outputs = {}
    for kind in ("small", "large"):
        root, out = workspace / f"memory-{kind}", workspace / f"memory-{kind}.beton"
        (root / "all").mkdir(parents=True)
        for number, file in enumerate(photos.files):
            os.symlink(file, root / "all" / f"{number:05}.jpg")
        if kind == "large":
            one = root / "all" / f"{len(photos) // 2:05}.jpg"
            one.unlink()
            coarse = np.random.default_rng(0).integers(0, 256, (400, 600, 3), np.uint8)
            Image.fromarray(coarse).resize(SIDES).save(one, quality=90)
        convert(ConvertConfig(src=root, out=out, verify=False))
        shutil.rmtree(root)
        outputs[kind] = out
    return outputs


@pytest.mark.parametrize("loader", ["stock ffcv", "ffcv", "torchvision", "dali", "resident"])
def test_peak_memory(
    loader: str,
    data: dict[str, Path],
    photos: Photos,
    cores: int,
    benchmark: BenchmarkFixture,
    tables: Tables,
) -> None:
    if loader.endswith("ffcv"):
        pytest.importorskip("ffcv", reason="needs ffcv")
    if loader == "dali":
        pytest.importorskip("nvidia.dali", reason="needs nvidia-dali")

    def measure() -> dict[str, list[int]]:
        if photos.is_smoke:  # once, as figures say nothing
            return dict.fromkeys(data, measured_bytes(loader, data["large"], cores, SMALL_EPOCHS))
        # One after the other: what one keeps in memory would be taken from the next.
        return {kind: measured_bytes(loader, path, cores, EPOCHS) for kind, path in data.items()}

    measured = benchmark.pedantic(measure)
    peak = {kind: each[0] for kind, each in measured.items()}
    growth_bytes = peak["large"] - peak["small"]
    name = loader if loader.startswith("stock") else f"fastft {loader}"
    benchmark.extra_info.update(
        contender=name,
        peak_bytes=peak["small"],
        peak_bytes_with_large=peak["large"],
        growth_bytes=growth_bytes,
        growth_decoded_images=round(growth_bytes / IMAGE_BYTES, 2),
        workers=cores,
    )
    title = f"peak memory, all processes: {SIDES[0]} x {SIDES[1]} px among {len(photos)}"
    head = ["", "without it, MB", "with it, MB", "growth, MB", "decoded images", "of stock ffcv's"]
    table = tables.setdefault(f"{title}, batch {BATCH}", [head])
    cells = (peak["small"] / 1e6, peak["large"] / 1e6, growth_bytes / 1e6)
    growth = f"{growth_bytes / IMAGE_BYTES:.1f}, {cores} workers"
    if loader == "stock ffcv":
        STOCK_PEAK["large"] = peak["large"]
    elif STOCK_PEAK:
        benchmark.extra_info["ratio_to_stock_ffcv"] = round(peak["large"] / STOCK_PEAK["large"], 3)
    share = f"{peak['large'] / STOCK_PEAK['large']:.2f}" if STOCK_PEAK else ""
    table.append([name, *(f"{cell:,.0f}" for cell in cells), growth, share])
    if loader != "stock ffcv":
        assert growth_bytes < MAX_GROWTH_BYTES
    if loader == "resident":
        report_work(measured, benchmark, tables)


def report_work(
    measured: dict[str, list[int]], benchmark: BenchmarkFixture, tables: Tables
) -> None:
    """Memory of the resident loader beside its pixels and its imports."""
    work = {kind: peak - imported - store for kind, (peak, imported, store) in measured.items()}
    title = f"resident: peak memory beside imports and pixels, batch {BATCH}, 224 px"
    table = [["", "peak, MB", "imports, MB", "pixels, MB", "the rest, MB", "goal"]]
    for kind, each in measured.items():
        cells = (f"{size / 1e6:,.0f}" for size in (*each, work[kind]))
        table.append([f"{kind} photos", *cells, f"{MAX_WORK_BYTES / 1e6:.0f} MB"])
    tables[title] = table
    benchmark.extra_info.update(work_bytes=work, goal_work_bytes=MAX_WORK_BYTES)


def measured_bytes(loader: str, data: Path, cores: int, epochs: int) -> list[int]:
    """Peak memory of epochs in a process of their own, and what `peak_memory` says beside."""
    ended = subprocess.run(
        [sys.executable, str(PROBE), loader, *map(str, (data, BATCH, cores, epochs))],
        cwd=ROOT,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
        check=False,
    )
    assert not ended.returncode, ended.stderr
    return [int(word) for word in ended.stdout.split()]
