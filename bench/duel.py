"""Two contenders in this process, round after round in pairs.

A candidate's round follows directly after one of its baseline's, so that a machine that drifts
drifts under both; a ratio is the median over such pairs. Nothing here asserts a time.
"""

from __future__ import annotations

import multiprocessing
import os
import resource
import statistics
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from pytest_benchmark.fixture import BenchmarkFixture

#: A candidate, perhaps its baseline and, in words, the goal.
Duel = Callable[..., None]
#: Title -> rows of a closing table, the first one its head.
Tables = dict[str, list[list[str]]]


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
    """Times of a contender's rounds; `cpu_s` sums over its threads and processes."""

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


def fight(
    benchmark: BenchmarkFixture,
    tables: Tables,
    rounds: int,
    candidate: Contender,
    baseline: Contender | None = None,
    goal: str = "",
) -> None:
    """Time a candidate, each round right after one of its baseline's; file and show the figures."""
    ours, theirs = Timings([], []), Timings([], [])

    def prepare() -> None:
        if baseline is not None:
            settle()
            baseline.prepare()
            theirs.time(baseline)
        settle()
        candidate.prepare()

    benchmark.pedantic(lambda: ours.time(candidate), setup=prepare, rounds=rounds, warmup_rounds=1)
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
