"""Time to the first batch in a second process: what was compiled is on disk.

Each in a process of its own, one after the other in every round: the imports, then from making the
loader to its first batch, then both together. Beside them what every command of ours pays.
"""

from __future__ import annotations

import faulthandler
import statistics
import subprocess
import sys
import tempfile
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import pytest
from pytest_benchmark.fixture import BenchmarkFixture

from bench.conftest import BATCH, ROOT, Photos, Tables
from bench.first_batch import OURS, READ_BETON, Missing, measure
from pipelines.conversion.run import ConvertConfig, convert

SIZE = 224
BASELINE = "FFCV"
#: Has to compile everything.
COLD = ", cold"
#: From making the loader to its first batch, as a share of stock FFCV's time, or in seconds.
GOALS = {
    "fastft torchvision": "ratio <= 0.25",
    "fastft dali": "ratio <= 0.25",
    "fastft ffcv": "ratio <= 0.25",
    "fastft resident": "ratio <= 0.25",
    f"fastft resident{COLD}": "10 s",
    BASELINE: "",
    "torchvision, Pillow": "",
    "torchvision, tensors": "",
    "timm": "",
    "SPDL": "",
    "DALI": "",
}
COMMANDS = {
    "python": ["-c", "pass"],
    "fastft --help": ["-m", "fastft", "--help"],
    "import torch": ["-c", "import torch"],
}
MOST_ROUNDS = 3

#: What is measured, by contender: one number for each round.
Measured = dict[str, dict[str, list[float]]]


@pytest.fixture(scope="module")
def beton(photos: Photos, workspace: Path) -> Path:
    out = workspace / "startup.beton"
    convert(ConvertConfig(src=photos.root, out=out, verify=False))
    return out


@pytest.mark.benchmark(group="start-up")
def test_first_batch(
    beton: Path,
    photos: Photos,
    cores: int,
    rounds: int,
    benchmark: BenchmarkFixture,
    tables: Tables,
) -> None:
    # pytest's limit is meant for one process; here each has one (`first_batch.PATIENCE_S`).
    faulthandler.cancel_dump_traceback_later()
    measured: Measured = {}
    missing: dict[str, str] = {}
    batch = min(BATCH, len(photos))  # timm gives none that is not full

    def start_all(names: Iterable[str] = GOALS) -> None:
        for name in names:
            if name in missing:
                continue
            data = beton if name.startswith(READ_BETON) else photos.root
            try:
                told = start(name, data, batch, cores)
            except Missing as error:
                missing[name] = str(error)
                continue
            for what, seconds in told.items():
                measured.setdefault(name, {}).setdefault(what, []).append(seconds)

    if rounds > 1:  # they may be the first processes on this machine, with all to compile
        start_all(name for name in GOALS if name.startswith(OURS) and not name.endswith(COLD))
        measured.clear()
    benchmark.pedantic(start_all, rounds=min(rounds, MOST_ROUNDS))
    title = f"first batch of a second process, batch {batch}, {SIZE} px"
    tables[title] = table_of(measured)
    if missing:
        tables["not started here"] = [["", ""], *([name, why] for name, why in missing.items())]
    benchmark.extra_info["contenders"] = [summary(name, measured) for name in measured]
    benchmark.extra_info["missing"] = missing


@pytest.mark.benchmark(group="start-up of commands")
@pytest.mark.parametrize("name", COMMANDS)
def test_command(name: str, rounds: int, benchmark: BenchmarkFixture, tables: Tables) -> None:
    def run() -> None:
        subprocess.run(
            [sys.executable, *COMMANDS[name]], cwd=ROOT, check=True, stdout=subprocess.DEVNULL
        )

    benchmark.pedantic(run, rounds=rounds, warmup_rounds=int(rounds > 1))
    if not benchmark.disabled:
        seconds = benchmark.stats.stats.median
        tables.setdefault("what a command pays", [["", "s"]]).append([name, f"{seconds:.2f}"])
        benchmark.extra_info.update(command=name, seconds=round(seconds, 4))


def start(name: str, data: Path, batch: int, cores: int) -> dict[str, float]:
    """Start a contender in a new process."""
    with tempfile.TemporaryDirectory() as empty:
        environment = {"NUMBA_CACHE_DIR": empty} if name.endswith(COLD) else None
        return measure(name.removesuffix(COLD), data, batch, cores, SIZE, environment=environment)


def table_of(measured: Measured) -> list[list[str]]:
    rows = [
        ["", "imports, s", "made to first batch, s", "ratio", "goal", "whole process, s", "ratio"]
    ]
    for name, seconds in measured.items():
        row = [name, f"{statistics.median(seconds['imported_s']):.1f}"]
        for what, digits in (("first_batch_s", 2), ("process_s", 1)):
            mine, share = statistics.median(seconds[what]), ""
            if BASELINE in measured:
                share = f"{mine / statistics.median(measured[BASELINE][what]):.2f}"
            row += [f"{mine:.{digits}f}", share]
            row += [GOALS[name]] if what == "first_batch_s" else []
        rows.append(row)
    return rows


def summary(name: str, measured: Measured) -> dict[str, Any]:
    """A contender's part of the JSON; `ratio_to` says how many times as fast it was."""
    told: dict[str, Any] = {
        "contender": name,
        "side": "fastft" if name.startswith(OURS) else "stock",
        **{what: round(statistics.median(each), 4) for what, each in measured[name].items()},
    }
    if GOALS[name]:
        told["goal"] = GOALS[name]
    if BASELINE in measured and name != BASELINE:
        pairs = zip(
            measured[BASELINE]["first_batch_s"], measured[name]["first_batch_s"], strict=True
        )
        ratios = sorted(theirs / mine for theirs, mine in pairs)
        told["ratio_to"] = {
            BASELINE: [
                round(statistics.median(ratios), 3),
                round(ratios[0], 3),
                round(ratios[-1], 3),
            ]
        }
    return told
