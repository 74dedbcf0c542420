"""How long a loader takes to its first batch in a second process: what was compiled is on disk.

Measured from where the loader is made, everything imported; the whole process stands beside it.
"""

from __future__ import annotations

import os
import statistics
import subprocess
import sys
import tempfile
from pathlib import Path

import pytest
from pytest_benchmark.fixture import BenchmarkFixture

from bench.conftest import BATCH, ROOT, Photos, Tables
from pipelines.convert import ConvertConfig, convert

PROBE = Path(__file__).with_name("first_batch.py")
SIZE = 224
#: From making the loader: of stock FFCV's time, or seconds. `cold` has to compile everything.
GOALS = {
    "stock ffcv": "",
    "ffcv": "ratio <= 0.25",
    "resident": "1 s",
    "resident, cold": "10 s",
}

pytestmark = pytest.mark.benchmark(group="start-up")


@pytest.fixture(scope="module")
def data(photos: Photos, workspace: Path) -> Path:
    out = workspace / "startup.beton"
    convert(ConvertConfig(src=photos.root, out=out, verify=False))
    return out


def test_first_batch(
    data: Path, cores: int, rounds: int, benchmark: BenchmarkFixture, tables: Tables
) -> None:
    pytest.importorskip("ffcv", reason="needs ffcv")
    measured: dict[str, list[list[float]]] = {name: [] for name in GOALS}

    def start_all() -> None:
        for name, seconds in measured.items():
            seconds.append(first_batch_s(name, data, cores))

    start_all()  # the first processes on this machine, perhaps
    for seconds in measured.values():
        seconds.clear()
    benchmark.pedantic(start_all, rounds=min(rounds, 3))
    medians = {
        name: [statistics.median(each) for each in zip(*seconds, strict=True)]
        for name, seconds in measured.items()
    }
    table = [["", "made to first batch, s", "ratio", "goal", "whole process, s", "ratio"]]
    theirs = medians["stock ffcv"]
    for name, mine in medians.items():
        whole, made = (a / b for a, b in zip(mine, theirs, strict=True))
        title = name if name == "stock ffcv" else f"fastft {name}"
        table.append(
            [title, f"{mine[1]:.2f}", f"{made:.2f}", GOALS[name], f"{mine[0]:.1f}", f"{whole:.2f}"]
        )
    tables[f"first batch of a second process, batch {BATCH}, {SIZE} px"] = table
    benchmark.extra_info.update(
        process_to_first_batch_s={name: each[0] for name, each in medians.items()},
        made_to_first_batch_s={name: each[1] for name, each in medians.items()},
        goals=GOALS,
    )


def first_batch_s(name: str, data: Path, cores: int) -> list[float]:
    """Seconds to the first batch: of the process, and of the loader."""
    loader, _, state = name.partition(", ")
    with tempfile.TemporaryDirectory() as empty:
        environment = {**os.environ, "PYTHONPATH": str(ROOT)}
        if state == "cold":
            environment["NUMBA_CACHE_DIR"] = empty
        ended = subprocess.run(
            [sys.executable, str(PROBE), loader, str(data), str(BATCH), str(cores), str(SIZE)],
            cwd=ROOT, env=environment, capture_output=True, text=True, check=False,
        )  # fmt: skip
    assert not ended.returncode, ended.stderr
    return [float(word) for word in ended.stdout.split()]
