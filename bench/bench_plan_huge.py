"""One rank's part in planning 100 million samples for 1,024 ranks, and the memory that it takes.

The baseline shuffles the whole set in each process, as every set was once planned. Widths and
heights are one number that is shown as a column: what the plan itself takes is left.
"""

from __future__ import annotations

import tracemalloc
from collections.abc import Callable
from dataclasses import replace
from itertools import islice

import numpy as np
import pytest
from numpy.typing import NDArray
from pytest_benchmark.fixture import BenchmarkFixture

from bench.conftest import SMOKE_BELOW, Contender, Duel, Photos, Tables
from pipelines import order
from pipelines.plan import Plan, Rows, make_plan

SAMPLES, WORLD, BATCH = 100_000_000, 1024, 65_536
RANK = 700
#: Of a smoke run.
SMALL_LIMIT = 1 << 20
#: Of a process, beside widths and heights, with a rank's rows of the whole epoch held.
MAX_BYTES = 16_000_000

pytestmark = pytest.mark.benchmark(group=f"plan, batches of {BATCH:,} over {WORLD:,} ranks")


@pytest.fixture
def side(photos: Photos, monkeypatch: pytest.MonkeyPatch) -> NDArray[np.int32]:
    count = SAMPLES
    if len(photos) < SMOKE_BELOW:  # as few as are planned in this way at all, which begins sooner
        monkeypatch.setattr(order, "WHOLE_LIMIT", SMALL_LIMIT)
        count = SMALL_LIMIT + 1
    return np.broadcast_to(np.int32(500), count)


@pytest.mark.parametrize("batches", [None, 1], ids=["epoch", "first batch"])
def test_plan_of_a_rank(
    batches: int | None,
    side: NDArray[np.int32],
    duel: Duel,
    benchmark: BenchmarkFixture,
    tables: Tables,
) -> None:
    def rows_of(plan: Plan) -> list[Rows]:
        return list(islice(plan.batches(BATCH, rank=RANK, world=WORLD), batches))

    def computed() -> list[Rows]:
        return rows_of(make_plan(side, side, view="train", epoch=1))

    def shuffled() -> list[Rows]:
        return rows_of(shuffled_plan(side))

    what = "epoch" if batches is None else "first batch"
    made: dict[str, list[Rows]] = {}

    def contender(name: str, run: Callable[[], list[Rows]]) -> Contender:
        def timed() -> int:
            made[name] = run()
            return sum(map(len, made[name]))

        return Contender(f"{name}, {what} of {len(side) / 1e6:.4g} M samples", timed)

    duel(contender("computed", computed), contender("whole shuffle", shuffled))
    check(made["computed"], side)
    assert list(map(len, made["computed"])) == list(map(len, made["whole shuffle"]))

    peaks = {run.__name__: peak_bytes(run) for run in (computed, shuffled)}
    benchmark.extra_info.update(
        peak_bytes=peaks["computed"],
        baseline_peak_bytes=peaks["shuffled"],
        goal_peak_bytes=MAX_BYTES,
    )
    head = [["", "computed, MB", "whole shuffle, MB", "goal"]]
    table = tables.setdefault(f"peak memory of a rank's plan of {len(side):,} samples", head)
    goal = f"{MAX_BYTES / 1e6:.0f} MB"
    table.append([what, *(f"{peak / 1e6:,.1f}" for peak in peaks.values()), goal])
    assert peaks["computed"] < MAX_BYTES


def shuffled_plan(side: NDArray[np.int32]) -> Plan:
    """The plan as it would be without a limit."""
    samples = np.arange(len(side), dtype=np.int64)
    np.random.Generator(np.random.Philox(np.random.SeedSequence((0, 1, 1)))).shuffle(samples)
    return replace(
        make_plan(side[:1], side[:1], view="train", epoch=1),
        order=samples,
        widths=side,
        heights=side,
    )


def check(rows: list[Rows], side: NDArray[np.int32]) -> None:
    """The boxes are the samples', and all ranks together see a batch's samples once."""
    plan = make_plan(side, side, view="train", epoch=1)
    samples = np.concatenate([each.samples for each in rows])
    assert len(np.unique(samples)) == len(samples)
    wanted = shuffled_plan(side[:1])
    again = replace(wanted, widths=side, heights=side).rows(samples)
    assert np.array_equal(np.concatenate([each.boxes for each in rows]), again.boxes)
    assert np.array_equal(np.concatenate([each.flips for each in rows]), again.flips)
    first = [next(plan.shares(BATCH, rank=rank, world=WORLD)) for rank in range(WORLD)]
    assert np.array_equal(np.concatenate(first), plan.order[:BATCH])
    assert np.array_equal(first[RANK], rows[0].samples)


def peak_bytes(run: Callable[[], object]) -> int:
    """Peak of allocated memory, numpy's arrays included."""
    tracemalloc.start()
    try:
        run()
        return tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
