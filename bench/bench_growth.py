"""Cost by size of the set and by workers: images/s, peak memory, time to the first batch.

The photos are small (110 x 90 px) and so are the batches' images (64 px): what grows with a set is
what each sample costs beside its pixels (its path, its place in the file, in the order and in the
plan), and large photos would only hide that, and would not fit in memory a hundred thousand times.
A thousand of them are distinct, larger sets repeat them by hard links.

Each cell of the table is a process of its own: the first batch, then some seconds of reading, of
`resident` those behind its first two epochs, in which alone it decodes. Peak memory is the sum over
all processes; pages that several share count in each (FFCV maps its file, ours is read by
position).
"""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
from pytest_benchmark.fixture import BenchmarkFixture

from bench.conftest import SMOKE_BELOW, Tables, core_count
from bench.first_batch import OURS, READ_BETON, Missing, measure
from fastft.datasets.synth import SynthConfig, write_synth
from pipelines.conversion.run import ConvertConfig, convert
from pipelines.memory import free_memory

PHOTO_SIZE = (110, 90)
SIZE, BATCH = 64, 64
CLASSES, DISTINCT = 4, 1000
SAMPLES, SMALL_SAMPLES = (1000, 10_000, 100_000), (12, 48)
WORKERS = (1, 2)
#: 36 cells of 4 s, their start beside it, and `resident`'s first epochs: under 10 minutes.
SECONDS, SMALL_SECONDS = 4.0, 0.2
CONTENDERS = (
    "fastft torchvision",
    "fastft dali",
    "fastft ffcv",
    "fastft resident",
    "torchvision, Pillow",
    "FFCV",
)
SMALL_CONTENDERS = ("fastft resident", "torchvision, Pillow")
#: Of a sample: 30 KB of pixels in `resident`, its photo twice, and what its processes hold of it.
SAMPLE_BYTES = 60_000
#: Of the processes, whatever they read.
PROCESS_BYTES = 3 << 30

#: Gives a class folder and its `.beton`.
MakeSet = Callable[[int], tuple[Path, Path]]


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    small = is_small(metafunc.config)
    metafunc.parametrize("samples", SMALL_SAMPLES if small else SAMPLES)
    metafunc.parametrize("workers", WORKERS[:1] if small else WORKERS)
    # The innermost: what is compared is measured together.
    metafunc.parametrize("contender", SMALL_CONTENDERS if small else CONTENDERS)


def is_small(config: pytest.Config) -> bool:
    """Whether it is a smoke run."""
    limit: int | None = config.getoption("images")
    return limit is not None and limit < SMOKE_BELOW


@pytest.fixture(scope="module")
def make_set(workspace: Path) -> MakeSet:
    """Makes a set when it is first asked for."""
    made: dict[int, tuple[Path, Path]] = {}
    distinct: list[Path] = []

    def make(samples: int) -> tuple[Path, Path]:
        if samples not in made:
            if not distinct:
                distinct.extend(draw(workspace / "growth", min(DISTINCT, samples)))
            made[samples] = repeat(distinct, samples, workspace / f"growth-{samples}")
        return made[samples]

    return make


def draw(out: Path, photos: int) -> list[Path]:
    write_synth(
        SynthConfig(
            out=out,
            classes=CLASSES,
            per_class=-(-photos // CLASSES),
            test_per_class=1,
            size=PHOTO_SIZE,
        )
    )
    return sorted(out.glob("train/*/*.jpg"))


def repeat(photos: list[Path], samples: int, root: Path) -> tuple[Path, Path]:
    """A class folder of so many links to photos, and its `.beton`."""
    for sample in range(samples):
        photo = photos[sample % len(photos)]
        link = root / photo.parent.name / f"{sample:06}.jpg"
        if sample < len(photos):
            link.parent.mkdir(parents=True, exist_ok=True)
        os.link(photo, link)
    beton = root.with_suffix(".beton")
    convert(ConvertConfig(src=root, out=beton, verify=False))
    return root, beton


@pytest.mark.benchmark(group="growth")
def test_growth(
    contender: str,
    samples: int,
    workers: int,
    make_set: MakeSet,
    workspace: Path,
    benchmark: BenchmarkFixture,
    tables: Tables,
    pytestconfig: pytest.Config,
) -> None:
    if workers > core_count():
        pytest.skip(f"{workers} workers on {core_count()} core")
    needed = PROCESS_BYTES + samples * SAMPLE_BYTES
    free = min(free_memory().bytes, shutil.disk_usage(workspace).free)
    if free < needed:
        pytest.skip(
            f"{samples:,} samples want {needed / 1e9:.0f} GB of memory and of disk; "
            f"{free / 1e9:.0f} GB are free"
        )
    folder, beton = make_set(samples)
    data = beton if contender.startswith(READ_BETON) else folder
    seconds = SMALL_SECONDS if is_small(pytestconfig) else SECONDS
    told: dict[str, float] = {}

    def run() -> None:
        told.update(measure(contender, data, BATCH, workers, SIZE, seconds, samples))

    try:
        benchmark.pedantic(run)
    except Missing as missing:
        pytest.skip(f"{contender}: {missing}")
    info = benchmark.extra_info
    info.update(
        contender=contender,
        side="fastft" if contender.startswith(OURS) else "stock",
        samples=samples,
        workers=workers,
        img_per_s=round(told["img_per_s"], 1),
        peak_rss_bytes=round(told["peak_rss_bytes"]),
        first_batch_s=round(told["first_batch_s"], 4),
    )
    for title, cell in (
        ("images/s", f"{info['img_per_s']:,.0f}"),
        ("peak memory of all processes, MB", f"{info['peak_rss_bytes'] / 1e6:,.0f}"),
        ("made to first batch, s", f"{info['first_batch_s']:.2f}"),
    ):
        table = tables.setdefault(f"growth with samples and workers: {title}", [[""]])
        put(table, contender, f"{samples:,} x {workers}", cell)


def put(table: list[list[str]], row: str, column: str, cell: str) -> None:
    """Set a cell of a table that grows as cells come in."""
    if column not in table[0]:
        for line in table:
            line.append("")
        table[0][-1] = column
    line = next((line for line in table[1:] if line[0] == row), None)
    if line is None:
        line = [row, *[""] * (len(table[0]) - 1)]
        table.append(line)
    line[table[0].index(column)] = cell
