"""What the suites share: photos, rounds in pairs, CPU time, the closing tables, lean JSON.

A candidate's round follows directly after one of its baseline's, so that a machine that drifts
drifts under both; a ratio is the median over such pairs. Nothing here asserts a time.
"""

from __future__ import annotations

import hashlib
import importlib.metadata
import multiprocessing
import os
import resource
import shutil
import statistics
import tempfile
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from PIL import Image
from pytest_benchmark.fixture import BenchmarkFixture

from fastft.synth import SynthConfig, write_synth

ROOT = Path(__file__).resolve().parents[1]
#: Width and height about which ImageNet's photos vary, px.
MEAN_SIZE = (470, 400)
#: Below this many photos a run only shows that the suites still work: one round each.
SMOKE_BELOW = 200
#: Pairs of rounds. Odd, for the median; 7 held medians of ratios within 2 % on 2 cores.
ROUNDS = 7
CLASSES = 4
BATCH = 64
#: Whole batches: stock DALI decodes a short last one in full, which for 397 photos would flatter us
#: by 13 %.
IMAGES = 16 * BATCH
PACKAGES = (
    "torch", "torchvision", "nvidia-dali-cuda120", "ffcv", "numpy", "pillow", "pytest-benchmark",
)  # fmt: skip


@dataclass(frozen=True, slots=True)
class Photos:
    """A class folder of RGB and grayscale JPEGs.

    Attributes:
        root: the class folder.
        files: its files in ImageFolder's order.
        labels: of each file.
        facts: where they are from, how many and how large, for the tables and the JSON.
    """

    root: Path
    files: tuple[Path, ...]
    labels: tuple[int, ...]
    facts: dict[str, Any]

    def __len__(self) -> int:
        return len(self.files)


@dataclass(frozen=True, slots=True)
class Contender:
    """One side of a comparison.

    Attributes:
        name: in the tables.
        run: the timed work; gives the number of images that it did.
        prepare: what must be done before each round and is not timed.
    """

    name: str
    run: Callable[[], int]
    prepare: Callable[[], object] = lambda: None


@dataclass(slots=True)
class Timings:
    """What a contender's rounds took; `cpu_s` sums over its threads and processes."""

    wall_s: list[float]
    cpu_s: list[float]
    images: int = 0

    def time(self, contender: Contender) -> None:
        cpu_s, wall_s = used_cpu_s(), time.perf_counter()
        self.images = contender.run()
        self.wall_s.append(time.perf_counter() - wall_s)
        self.cpu_s.append(used_cpu_s() - cpu_s)

    def summary(self) -> dict[str, float]:
        return {
            "images": self.images,
            "img_per_s": round(self.images / statistics.median(self.wall_s), 1),
            "cpu_ms_per_image": round(1e3 * sum(self.cpu_s) / len(self.cpu_s) / self.images, 4),
        }


Duel = Callable[..., None]
Tables = dict[str, list[list[str]]]
TABLES = pytest.StashKey[Tables]()
FACTS = pytest.StashKey[dict[str, Any]]()


def pytest_addoption(parser: pytest.Parser) -> None:
    group = parser.getgroup("fastft")
    group.addoption("--images", type=int, help=f"how many photos ({IMAGES}; all of --photos)")
    group.addoption("--photos", type=Path, help="a folder of real photos instead of synthetic ones")
    group.addoption("--rounds", type=int, help=f"pairs of rounds ({ROUNDS}; 1 in a smoke run)")


def pytest_configure(config: pytest.Config) -> None:
    config.option.benchmark_quiet = True  # our tables show the pairs; -v shows the plugin's too
    config.stash[TABLES] = {}
    config.stash[FACTS] = {}


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
    """Where photos and outputs lie: in memory if there is room, so that no slow disk decides."""
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
        found = [path for path in sorted(real.rglob("*")) if is_plain_jpeg(path)]
        if not found:
            raise pytest.UsageError(f"--photos {real}: no JPEGs in class folders")
    limit = min(limit or len(found), len(found))
    limit -= limit % BATCH if limit > BATCH else 0
    # Evenly from the whole list, so that fewer photos are of as many classes.
    chosen = [found[number * len(found) // limit] for number in range(limit)]
    root = workspace / "photos"
    pixels = 0
    for path in chosen:
        # The folder above the class's tells splits apart, whose files may share names.
        copy = root / path.parent.name / f"{path.parents[1].name}_{path.name}"
        copy.parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(path, copy)
        with Image.open(copy) as image:
            pixels += image.width * image.height
    classes = sorted(folder.name for folder in root.iterdir())
    files = sorted(root.glob("*/*"))
    size_bytes = sum(path.stat().st_size for path in files)
    facts = {
        "photos": real.resolve().name if real else "synthetic",
        "images": len(files),
        "mean_px": round(pixels / len(files)),
        "mean_bytes": round(size_bytes / len(files)),
        "cores": core_count(),
    }
    pytestconfig.stash[FACTS].update(facts)
    labels = tuple(classes.index(path.parent.name) for path in files)
    return Photos(root, tuple(files), labels, facts)


def draw_photos(config: pytest.Config, images: int) -> Path:
    """Synthetic photos, kept in pytest's cache for as long as what draws them is the same."""
    digest = hashlib.sha256(f"{images} {MEAN_SIZE}".encode())
    for module in sorted((ROOT / "fastft").glob("synth*.py")):
        digest.update(module.read_bytes())
    folder = config.cache.mkdir("fastft-bench") / digest.hexdigest()[:16]
    if not folder.exists():
        write_synth(
            SynthConfig(
                out=folder, classes=CLASSES, per_class=-(-images // CLASSES), test_per_class=1,
                size=MEAN_SIZE,
            )
        )  # fmt: skip
    return folder / "train"


def is_plain_jpeg(path: Path) -> bool:
    """Whether every contender reads it: stock DALI and FFCV know no GIF, DALI no CMYK."""
    if not path.is_file():
        return False
    with path.open("rb") as file:
        if file.read(3) != b"\xff\xd8\xff":
            return False
    with Image.open(path) as image:
        return image.mode in ("RGB", "L")


# --- rounds ------------------------------------------------------------------------------------


@pytest.fixture(scope="session")
def rounds(pytestconfig: pytest.Config, photos: Photos) -> int:
    return pytestconfig.getoption("rounds") or (1 if len(photos) < SMOKE_BELOW else ROUNDS)


@pytest.fixture
def duel(benchmark: BenchmarkFixture, rounds: int, tables: Tables) -> Duel:
    """Time a candidate, each round right after one of its baseline's."""

    def run(candidate: Contender, baseline: Contender | None = None, goal: str = "") -> None:
        ours, theirs = Timings([], []), Timings([], [])

        def prepare() -> None:
            if baseline is not None:
                settle()
                baseline.prepare()
                theirs.time(baseline)
            settle()
            candidate.prepare()

        benchmark.pedantic(
            lambda: ours.time(candidate), setup=prepare, rounds=rounds, warmup_rounds=1
        )
        for timings in (ours, theirs):  # the warm-up's
            del timings.wall_s[:1], timings.cpu_s[:1]
        if not ours.wall_s:
            return  # --benchmark-disable runs everything once and times nothing
        info = benchmark.extra_info
        info.update(contender=candidate.name, **ours.summary())
        if goal:
            info["goal"] = goal
        ratio = ["", "", ""]
        rows: list[list[str]] = []
        if baseline is not None:
            other = theirs.summary()
            share = ours.images / theirs.images  # rounds need not be of one length
            pairs = sorted(share * t / o for o, t in zip(ours.wall_s, theirs.wall_s, strict=True))
            info.update(
                baseline=baseline.name,
                baseline_img_per_s=other["img_per_s"],
                baseline_cpu_ms_per_image=other["cpu_ms_per_image"],
                ratio=round(statistics.median(pairs), 3),
                ratio_range=[round(pairs[0], 3), round(pairs[-1], 3)],
                cpu_ratio=round(other["cpu_ms_per_image"] / info["cpu_ms_per_image"], 3),
            )
            span = f"{pairs[0]:.2f} - {pairs[-1]:.2f}"
            ratio = [f"{info['ratio']:.2f}", span, f"{info['cpu_ratio']:.2f}"]
            cpu = f"{other['cpu_ms_per_image']:.4g}"
            rows.append([baseline.name, f"{other['img_per_s']:,.0f}", "1", "", cpu, "1", ""])
        row = [candidate.name, f"{info['img_per_s']:,.0f}", *ratio[:2]]
        rows.append([*row, f"{info['cpu_ms_per_image']:.4g}", ratio[2], goal])
        table = tables.setdefault(
            benchmark.group,
            [["", "images/s", "ratio", "of pairs", "CPU ms/image", "CPU ratio", "goal"]],
        )
        table += rows

    return run


@pytest.fixture(scope="session")
def tables(pytestconfig: pytest.Config) -> Tables:
    """Title -> rows of the closing tables, the first row its head."""
    return pytestconfig.stash[TABLES]


def core_count() -> int:
    return len(os.sched_getaffinity(0))


def used_cpu_s() -> float:
    """CPU time of this process, of its worker processes and of those that have ended."""
    alive = [process.pid for process in multiprocessing.active_children()]  # reaps the others
    ended = resource.getrusage(resource.RUSAGE_CHILDREN)
    ticks = 0
    for pid in alive:
        after_name = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
        ticks += int(after_name[11]) + int(after_name[12])
    children_s = ended.ru_utime + ended.ru_stime + ticks / os.sysconf("SC_CLK_TCK")
    return time.process_time() + children_s


def settle() -> None:
    """Wait until no contender prefetches any more: it would take the next one's cores."""
    for _ in range(50):
        before_s = used_cpu_s()
        time.sleep(0.1)
        if used_cpu_s() - before_s < 0.02:
            return


# --- results -----------------------------------------------------------------------------------


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


def pytest_benchmark_update_machine_info(config: Any, machine_info: dict[str, Any]) -> None:
    """Keep what explains a figure; no name of the machine, no path on it."""
    cpu = machine_info.get("cpu", {})
    kept = {
        "system": machine_info["system"],
        "machine": machine_info["machine"],
        "python": machine_info["python_version"],
        "cpu": cpu.get("brand_raw", ""),
        "cores": core_count(),
        "versions": {name: importlib.metadata.version(name) for name in PACKAGES},
    }
    machine_info.clear()
    machine_info.update(kept)


def pytest_benchmark_update_commit_info(config: Any, commit_info: dict[str, Any]) -> None:
    for key in commit_info.keys() - {"id", "dirty"}:
        del commit_info[key]


def pytest_benchmark_update_json(
    config: pytest.Config, benchmarks: Any, output_json: dict[str, Any]
) -> None:
    output_json["photos"] = config.stash[FACTS]
    for bench in output_json["benchmarks"]:
        stats = bench["stats"]
        bench["stats"] = {key: stats[key] for key in ("min", "median", "max", "iqr", "rounds")}
        for key in ("options", "params", "param", "name"):
            bench.pop(key, None)
