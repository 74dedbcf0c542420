import math
from typing import Any

import numpy as np
import pytest
from scipy import stats

from fastft.parity.equivalence import match_curves, paired_equivalence, runs_needed
from pipelines.errors import UsageError

FIRST = [96.5, 95.0, 97.5, 96.0, 95.5, 97.0]
SECOND = [96.0, 95.5, 96.5, 96.0, 95.0, 97.5]


def test_interval_and_p_are_scipys() -> None:
    result = paired_equivalence(FIRST, SECOND, margin=1.0)
    wanted = stats.ttest_rel(FIRST, SECOND).confidence_interval(0.95)
    assert (result.low, result.high) == pytest.approx((wanted.low, wanted.high))
    shifted = [value + 1 for value in SECOND], [value - 1 for value in SECOND]
    below = stats.ttest_rel(FIRST, shifted[0], alternative="less").pvalue
    above = stats.ttest_rel(FIRST, shifted[1], alternative="greater").pvalue
    assert result.p == pytest.approx(max(below, above))
    assert (result.n, result.verdict) == (6, "equivalent")


def test_by_hand() -> None:
    """Differences 1, 2, 3: mean 2, sd 1; t of 0.975 with two degrees of freedom is 4.3027."""
    result = paired_equivalence([1, 2, 3], [0, 0, 0], margin=5.0)
    assert (result.mean, result.sd) == (2, 1)
    assert result.low == pytest.approx(2 - 4.3027 / math.sqrt(3), abs=1e-4)
    assert result.high == pytest.approx(2 + 4.3027 / math.sqrt(3), abs=1e-4)
    # The distribution of two degrees has a closed form: 1/2 - t / (2 sqrt(2 + t^2)).
    t = 3 * math.sqrt(3)
    assert result.p == pytest.approx(0.5 - t / (2 * math.sqrt(2 + t * t)))


@pytest.mark.parametrize(
    ("differences", "verdict"),
    [
        ([0.1, -0.1, 0.2, 0.0], "equivalent"),
        ([0.5, 0.6, 0.7, 0.6], "equivalent"),  # not nought, but small: it does not matter
        ([1.5, 1.6, 1.4, 1.5], "different"),
        ([-1.5, -1.6, -1.4, -1.5], "different"),
        ([0.9, 1.2, 0.6, 0.9], "not shown"),  # surely not nought, perhaps below the margin
        ([3.0, -3.0, 2.0, -1.0], "not shown"),
        ([4.0, -3.0, 5.0, 1.0], "not shown"),  # beyond the margin, by chance for all we know
    ],
)
def test_verdicts(differences: list[float], verdict: str) -> None:
    result = paired_equivalence(differences, [0.0] * len(differences), margin=1.0)
    assert result.verdict == verdict
    # Equivalent at 5% is the same as a 90% interval within the margin.
    half = stats.t.ppf(0.95, result.n - 1) * result.sd / math.sqrt(result.n)
    assert (abs(result.mean) + half < 1) == (verdict == "equivalent")


@pytest.mark.parametrize(
    ("difference", "p", "verdict"),
    [
        (0.0, 0.0, "equivalent"),
        (0.3, 0.0, "equivalent"),
        (1.0, 1.0, "different"),
        (-2.0, 1.0, "different"),
    ],
)
def test_differences_that_do_not_spread(difference: float, p: float, verdict: str) -> None:
    # 0.1 + 0.3 - 0.1 is not 0.3: such dust is no spread.
    second = [0.1, 70.7, 33.3, 94.9]
    result = paired_equivalence([value + difference for value in second], second, margin=1.0)
    assert (result.sd, result.p, result.verdict) == (0.0, p, verdict)
    assert result.low == result.high == result.mean == pytest.approx(difference)
    assert result.runs_needed == 2


def simulate(true_mean: float, n: int, **options: Any) -> list[Any]:
    random = np.random.default_rng(7)
    rounds = random.normal(true_mean, 0.8, (2000, n))
    return [paired_equivalence(row, [0.0] * n, margin=1.0, **options) for row in rounds.tolist()]


@pytest.mark.parametrize("n", [8, 20])
def test_five_in_a_hundred_are_wrong(n: int) -> None:
    """At a true difference of the margin itself; 2000 rounds put 3 sigma at 1.5 points."""
    results = simulate(1.0, n)
    assert np.mean([r.verdict == "equivalent" for r in results]) == pytest.approx(0.05, abs=0.015)
    assert np.mean([r.low <= 1.0 <= r.high for r in results]) == pytest.approx(0.95, abs=0.015)


def test_hardly_anything_is_different_by_chance() -> None:
    assert np.mean([r.verdict == "different" for r in simulate(0.0, 8)]) < 0.02
    assert np.mean([r.verdict == "different" for r in simulate(2.5, 8)]) > 0.98


def test_the_runs_that_are_said_to_do_do() -> None:
    n = runs_needed(0.8, 1.0)
    assert n is not None
    share = np.mean([r.verdict == "equivalent" for r in simulate(0.0, n)])
    # Never less than promised; whole runs may give more.
    assert 0.78 < share < 0.93
    assert n == 8


def test_runs_needed() -> None:
    assert runs_needed(0.0, 1.0) == 2
    assert runs_needed(1000.0, 1.0) is None
    counts = [runs_needed(sd, 1.0) or 0 for sd in (0.01, 0.5, 1.0, 2.0, 4.0)]
    assert counts[0] == 2
    assert counts == sorted(counts)
    # Far from small samples: (z of 0.95 + z of 0.9)^2 sd^2 / margin^2.
    assert counts[-1] == pytest.approx((1.645 + 1.282) ** 2 * 16, abs=3)


@pytest.mark.parametrize(
    ("first", "second", "margin", "alpha"),
    [
        ([1.0], [1.0], 1.0, 0.05),
        ([1.0, 2.0], [1.0], 1.0, 0.05),
        ([1.0, math.nan], [1.0, 1.0], 1.0, 0.05),
        ([1.0, 2.0], [1.0, 1.0], 0.0, 0.05),
        ([1.0, 2.0], [1.0, 1.0], 1.0, 0.5),
    ],
)
def test_nonsense_is_refused(
    first: list[float], second: list[float], margin: float, alpha: float
) -> None:
    with pytest.raises(UsageError):
        paired_equivalence(first, second, margin=margin, alpha=alpha)


def test_curves_by_hand() -> None:
    reference = [[2.0] * 20, [1.0] * 20]
    control = [[2.0] * 5 + [2.1] * 15, [1.0] * 4 + [1.1] * 16]
    curve = [[2.0] * 20, [1.3] + [1.0] * 19]
    result = match_curves(curve, reference, control)
    assert result.first == pytest.approx(0.3)
    assert result.early_steps == 5
    assert result.early == pytest.approx(math.sqrt(0.09 / 10))
    assert result.early_limit == pytest.approx(3 * math.sqrt(0.01 / 10))
    assert result.rms == pytest.approx(math.sqrt(0.09 / 40))
    assert result.limit == pytest.approx(3 * math.sqrt(0.31 / 40))
    assert result.ratio == pytest.approx(3.0)


def test_early_steps_are_judged_apart() -> None:
    """A control that ends in chaos leaves room later on, not at the beginning."""
    reference = [[1.0] * 40]
    control = [[1.001] * 10 + [1.5] * 30]
    assert match_curves([[1.0] * 10 + [0.5] * 30], reference, control).within
    late, early = [[1.0] * 20 + [1.1] * 20], [[1.1] * 10 + [1.0] * 30]
    assert match_curves(late, reference, control).within
    result = match_curves(early, reference, control)
    assert not result.within
    assert result.rms < result.limit
    assert result.ratio == pytest.approx(100)


def test_curves_that_are_equal_need_no_room() -> None:
    same = [[1.0, 0.5]]
    assert match_curves(same, same, same).within
    assert not match_curves([[1.0, 0.6]], same, same).within
    for odd in ([[1.0]], [[]], []):
        with pytest.raises(UsageError, match="loss curves"):
            match_curves(odd, same, same)
    with pytest.raises(UsageError, match="loss curves"):
        match_curves([[]], [[]], [[]])
