"""Options, photos, duels, closing tables and lean JSON, which the suites share."""

from __future__ import annotations

import importlib.metadata
import os
import shutil
import tempfile
from collections.abc import Iterator
from dataclasses import asdict
from functools import partial
from pathlib import Path
from typing import Any

import pytest
from pytest_benchmark.fixture import BenchmarkFixture

from bench import against
from bench.duel import Contender, Duel, Tables, fight
from bench.photos import (
    BATCH,
    CLASSES,
    IMAGES,
    MEAN_SIZE,
    ROOT,
    SMOKE_BELOW,
    USUAL_PX,
    Photos,
    copy_photos,
    core_count,
    draw_photos,
    find_photos,
)
from bench.stock_ffcv import INTERPRETED
from bench.verdicts import Verdict

# What the suites take from here.
__all__ = [
    "BATCH",
    "CLASSES",
    "MEAN_SIZE",
    "ROOT",
    "SMOKE_BELOW",
    "USUAL_PX",
    "VERDICTS",
    "Contender",
    "Duel",
    "Photos",
    "Tables",
    "core_count",
]

#: Pairs of rounds. Odd, for the median; 7 held medians of ratios within 2 % on 2 cores.
ROUNDS = 7
#: Whose versions stand beside the figures, where they are installed.
PACKAGES = (
    "torch",
    "torchvision",
    "nvidia-dali-cuda120",
    "ffcv",
    "timm",
    "spdl",
    "numba",
    "numpy",
    "pillow",
    "pytest-benchmark",
)

TABLES = pytest.StashKey[Tables]()
VERDICTS = pytest.StashKey[list[Verdict]]()
FACTS = pytest.StashKey[dict[str, Any]]()


def pytest_addoption(parser: pytest.Parser) -> None:
    group = parser.getgroup("fastft")
    group.addoption("--images", type=int, help=f"how many photos ({IMAGES}; all of --photos)")
    group.addoption("--photos", type=Path, help="a folder of real photos instead of synthetic ones")
    group.addoption("--rounds", type=int, help=f"pairs of rounds ({ROUNDS}; 1 in a smoke run)")
    against.add_options(group)


def pytest_configure(config: pytest.Config) -> None:
    config.option.benchmark_quiet = True  # our tables show the pairs; -v shows the plugin's too
    config.stash[TABLES] = {}
    config.stash[VERDICTS] = []
    config.stash[FACTS] = {}
    against.prepare(config)


def pytest_report_header() -> str:
    return f"{core_count()} cores, load {os.getloadavg()[0]:.2f} (timings want a quiet machine)"


# --- photos ------------------------------------------------------------------------------------


@pytest.fixture(scope="session")
def cores() -> int:
    """Workers of every contender."""
    return core_count()


@pytest.fixture(scope="session")
def workspace(
    tmp_path_factory: pytest.TempPathFactory, pytestconfig: pytest.Config
) -> Iterator[Path]:
    """A folder for photos and outputs, in memory if there is room: no slow disk shall decide."""
    memory = Path("/dev/shm")
    # A photo, its copies in three outputs and the baseline's larger one: under 1 MB in all.
    needed = max(4 << 30, (pytestconfig.getoption("images") or 0) << 20)
    if not memory.is_dir() or shutil.disk_usage(memory).free < needed:
        yield tmp_path_factory.mktemp("workspace")
        return
    folder = Path(tempfile.mkdtemp(prefix="fastft-bench.", dir=memory))
    yield folder
    shutil.rmtree(folder)


@pytest.fixture(scope="session")
def photos(workspace: Path, pytestconfig: pytest.Config) -> Photos:
    limit: int | None = pytestconfig.getoption("images")
    real: Path | None = pytestconfig.getoption("photos")
    if real is None:
        found = sorted(draw_photos(pytestconfig, limit or IMAGES).glob("*/*.jpg"))
    else:
        found = find_photos(real)
    name = real.resolve().name if real else "synthetic"
    copied = copy_photos(found, limit, workspace / "photos", name)
    pytestconfig.stash[FACTS].update(copied.facts)
    if copied.is_smoke:
        os.environ[INTERPRETED] = "1"  # every process that is started has it
    return copied


# --- rounds ------------------------------------------------------------------------------------


@pytest.fixture(scope="session")
def rounds(pytestconfig: pytest.Config, photos: Photos) -> int:
    return pytestconfig.getoption("rounds") or (1 if photos.is_smoke else ROUNDS)


@pytest.fixture
def duel(benchmark: BenchmarkFixture, rounds: int, tables: Tables) -> Duel:
    """Time a candidate, each round right after one of its baseline's."""
    return partial(fight, benchmark, tables, rounds)


@pytest.fixture(scope="session")
def tables(pytestconfig: pytest.Config) -> Tables:
    """Title -> rows of the closing tables, the first row its head."""
    return pytestconfig.stash[TABLES]


# --- results -----------------------------------------------------------------------------------


def pytest_sessionfinish(session: pytest.Session) -> None:
    against.judge(session, session.config.stash[FACTS])


@pytest.hookimpl(trylast=True)
def pytest_terminal_summary(
    terminalreporter: pytest.TerminalReporter, config: pytest.Config
) -> None:
    facts = config.stash[FACTS]
    if facts:
        terminalreporter.section("figures")
        terminalreporter.write_line(
            f"{facts['images']:,} {facts['photos']} photos, mean {facts['mean_px']:,} px and "
            f"{facts['mean_bytes']:,} bytes; {facts['cores']} cores"
        )
    for title, table in config.stash[TABLES].items():
        widths = [max(map(len, column)) for column in zip(*table, strict=True)]
        terminalreporter.write_line("")
        terminalreporter.write_line(title, bold=True)
        for row in table:
            cells = [cell.rjust(width) for cell, width in zip(row, widths, strict=True)]
            cells[0], cells[-1] = row[0].ljust(widths[0]), row[-1]
            terminalreporter.write_line("  " + "  ".join(cells).rstrip())
    against.show(terminalreporter, config, facts)


def pytest_benchmark_update_machine_info(config: Any, machine_info: dict[str, Any]) -> None:
    """Keep what explains a figure; no name of the machine, no path on it."""
    cpu = machine_info.get("cpu", {})
    kept = {
        "system": machine_info["system"],
        "machine": machine_info["machine"],
        "python": machine_info["python_version"],
        "cpu": cpu.get("brand_raw", ""),
        "cores": core_count(),
        "versions": {name: version_of(name) for name in PACKAGES},
    }
    machine_info.clear()
    machine_info.update(kept)


def version_of(package: str) -> str | None:
    """None if it is not installed."""
    try:
        return importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:
        return None


def pytest_benchmark_update_commit_info(config: Any, commit_info: dict[str, Any]) -> None:
    for key in commit_info.keys() - {"id", "dirty"}:
        del commit_info[key]


def pytest_benchmark_update_json(
    config: pytest.Config, benchmarks: Any, output_json: dict[str, Any]
) -> None:
    output_json["photos"] = config.stash[FACTS]
    output_json["verdicts"] = [asdict(verdict) for verdict in config.stash[VERDICTS]]
    for bench in output_json["benchmarks"]:
        stats = bench["stats"]
        bench["stats"] = {key: stats[key] for key in ("min", "median", "max", "iqr", "rounds")}
        for key in ("options", "params", "param", "name"):
            bench.pop(key, None)
