"""Peak memory of a loader when one photo of 24 megapixels comes among 255 small ones.

It should grow by about one decoded image (72 MB; Pillow holds four bytes a pixel and a crop beside
it) for each worker that meets it, never by the largest image times the batch (4.6 GB).
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
from pipelines.convert import ConvertConfig, convert

PROBE = Path(__file__).with_name("peak_memory.py")
SIDES = (6000, 4000)
IMAGE_BYTES = SIDES[0] * SIDES[1] * 3
SAMPLES = 256
#: Loose, as an allocator may keep what is free.
MAX_GROWTH_BYTES = 1 << 30

pytestmark = pytest.mark.benchmark(group="memory")


@pytest.fixture(scope="module")
def data(photos: Photos, workspace: Path) -> dict[str, Path]:
    """Two sets that differ in one photo: 'small' and 'large'."""
    outputs = {}
    for kind in ("small", "large"):
        root, out = workspace / f"memory-{kind}", workspace / f"memory-{kind}.beton"
        (root / "all").mkdir(parents=True)
        for number in range(SAMPLES):
            os.symlink(photos.files[number % len(photos)], root / "all" / f"{number:03}.jpg")
        if kind == "large":
            one = root / "all" / "100.jpg"
            one.unlink()
            coarse = np.random.default_rng(0).integers(0, 256, (400, 600, 3), np.uint8)
            Image.fromarray(coarse).resize(SIDES).save(one, quality=90)
        convert(ConvertConfig(src=root, out=out, verify=False))
        shutil.rmtree(root)
        outputs[kind] = out
    return outputs


@pytest.mark.parametrize("loader", ["torchvision", "dali"])
def test_peak_memory(
    loader: str, data: dict[str, Path], cores: int, benchmark: BenchmarkFixture, tables: Tables
) -> None:
    if loader == "dali":
        pytest.importorskip("nvidia.dali", reason="needs nvidia-dali")

    def measure() -> dict[str, int]:
        probes = {
            kind: subprocess.Popen(
                [sys.executable, str(PROBE), loader, str(path), str(BATCH), str(cores)],
                cwd=ROOT,
                stdout=subprocess.PIPE,
                text=True,
            )
            for kind, path in data.items()
        }
        peaks = {kind: probe.communicate()[0] for kind, probe in probes.items()}
        assert not any(probe.returncode for probe in probes.values())
        return {kind: int(peak) for kind, peak in peaks.items()}

    peak = benchmark.pedantic(measure)
    growth_bytes = peak["large"] - peak["small"]
    benchmark.extra_info.update(
        contender=f"fastft {loader}",
        peak_bytes=peak["small"],
        peak_bytes_with_large=peak["large"],
        growth_bytes=growth_bytes,
        growth_decoded_images=round(growth_bytes / IMAGE_BYTES, 2),
        workers=cores,
    )
    table = tables.setdefault(
        f"peak memory, all processes: {SIDES[0]} x {SIDES[1]} px among {SAMPLES}, batch {BATCH}",
        [["", "without it, MB", "with it, MB", "growth, MB", "decoded images"]],
    )
    cells = (peak["small"] / 1e6, peak["large"] / 1e6, growth_bytes / 1e6)
    growth = f"{growth_bytes / IMAGE_BYTES:.1f}, {cores} workers"
    table.append([f"fastft {loader}", *(f"{cell:,.0f}" for cell in cells), growth])
    assert growth_bytes < MAX_GROWTH_BYTES
