"""One epoch of ImageNet planned: the order, then each sample's crop box and flip."""

from __future__ import annotations

import numpy as np
import pytest

from bench.conftest import Contender, Duel
from pipelines.plan import Rows, make_plan

SAMPLES = 1_281_167

pytestmark = pytest.mark.benchmark(group="plan")


@pytest.mark.parametrize("view", ["train", "recordio", "eval"])
def test_plan(view: str, duel: Duel) -> None:
    rng = np.random.default_rng(0)
    widths = rng.normal(470, 120, SAMPLES).clip(40, 4000).astype(np.int32)
    heights = rng.normal(400, 100, SAMPLES).clip(40, 4000).astype(np.int32)
    planned: list[Rows] = []

    def run() -> int:
        plan = make_plan(widths, heights, view=view, epoch=1)
        planned[:] = [plan.rows(plan.order)]
        return len(plan)

    rate = round(2 * SAMPLES / 1e6, 1)
    duel(Contender(f"{view}, 1.28 M samples", run), goal=f"{rate:g} M/s: 0.5 s an epoch")
    (rows,) = planned
    assert np.array_equal(np.sort(rows.samples), np.arange(SAMPLES))
    bottom_right = rows.boxes[:, :2] + rows.boxes[:, 2:]
    assert (rows.boxes >= 0).all()
    sides = np.stack((heights, widths), axis=1)[rows.samples]
    # recordio magnifies what is too small for its crop; its boxes end at the image as well.
    assert (bottom_right <= sides + 1e-6).all()
