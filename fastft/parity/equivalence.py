"""Findings of a comparison of loaders, and the statistics behind them.

A usual test cannot show that two things are alike: with few runs it finds nothing, whatever is
true. Two one-sided tests turn this round: that the means differ by the margin or more is what has
to be refuted. So there are three outcomes, and too few runs give `not shown`, never `equivalent`.

Loss curves are judged by a control: the same run in another precision says how far rounding alone
carries a curve.

Knows numbers alone, no runs.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

from fastft.system import students_t
from pipelines.errors import UsageError

Verdict = Literal["equivalent", "different", "not shown"]
Curves = Sequence[Sequence[float]]

ALPHA = 0.05
#: A planned test shall conclude so often, if the true difference is nought.
POWER = 0.8
#: More runs than anybody makes: nothing to recommend.
_MOST_RUNS = 10_000
#: A curve may lie this many times as far away as the control. Measured on synthetic photos at
#: 64 px, 16 steps, bfloat16 against float32: DALI 0.5 to 1.0, one level of noise 0.7 to 1.3,
#: red and blue exchanged 7 to 70, another order of the samples 80 to 300.
CURVE_FACTOR = 3.0
#: Steps before chaos: a quarter of a curve, within these.
_EARLY_STEPS = (4, 16)


@dataclass(frozen=True, slots=True)
class Equivalence:
    """Statistics of paired differences.

    Attributes:
        n: pairs.
        mean: mean difference, first minus second.
        sd: standard deviation of the differences.
        low, high: the interval that covers the true mean difference with `1 - alpha`.
        margin: differences below it do not matter.
        p: of the two one-sided tests, the larger: how likely such differences are, or ones closer
            to nought, if the true means are the margin or more apart.
        verdict: `equivalent` if p is below alpha; `different` if the interval leaves out nought
            and the mean difference is the margin or more; else `not shown`.
        runs_needed: pairs with which differences that spread like these, around a true mean of
            nought, would give `equivalent` four times out of five; None past 10,000.
    """

    n: int
    mean: float
    sd: float
    low: float
    high: float
    margin: float
    alpha: float
    p: float
    verdict: Verdict
    runs_needed: int | None


@dataclass(frozen=True, slots=True)
class CurveMatch:
    """The distance of a loader's loss curves from the reference's, step by step.

    Attributes:
        first: the largest difference at the first step: equal weights, so pixels alone.
        early_steps: how many steps count as early, before small differences have grown.
        early, early_limit: root mean square of the differences over those steps; at most.
        rms, limit: over all steps; at most.
        ratio: the larger of both, in the control's: the limits lie at `CURVE_FACTOR`.
        within: whether both hold.
    """

    first: float
    early_steps: int
    early: float
    early_limit: float
    rms: float
    limit: float
    ratio: float
    within: bool


@dataclass(frozen=True, kw_only=True, slots=True)
class Findings:
    """The result of all runs together.

    Attributes:
        matrix: trained with -> evaluated with -> mean accuracy, in points.
        crossed: how many seeds, the first ones, `matrix` and `evaluation` are of.
        curves: loader -> its curves against the reference's.
        against_baseline, against_reference: loader -> its accuracies minus the other's, each
            evaluated with itself.
        evaluation: loader -> evaluated with it minus evaluated with the reference, all models of a
            seed together.
        passed: every curve is within its limits, and nothing is `different`.
    """

    matrix: dict[str, dict[str, float]]
    crossed: int
    curves: dict[str, CurveMatch]
    against_baseline: dict[str, Equivalence]
    against_reference: dict[str, Equivalence]
    evaluation: dict[str, Equivalence]
    passed: bool


@dataclass(frozen=True, kw_only=True, slots=True)
class AccuracyResult:
    """All of `fastft parity --accuracy`, as plain numbers.

    Attributes:
        passed: as in `experiments.results`.
        config: the settings, what was left open filled in.
        environment: machine and versions.
        seconds: of all of it.
        reference: the loader that executes the plan with the reference's pixels.
        baseline: the one with its library's own random transforms, which follows no plan.
        loaders: what was compared, reference first, baseline last.
        left_out: what was not: not asked for, not installed, or unable to read the data.
        start: where the runs' weights come from, in words.
        train_images, eval_images, steps: of each run.
        dtype, control_dtype: what the runs and the control compute in.
        losses: loader -> a curve per seed.
        control_losses: the reference's curves in the control's precision, for the first seeds.
        accuracies: trained with -> evaluated with -> a value per seed, in points; with another
            loader than the one trained with, of the first seeds alone.
        findings: what follows.
    """

    passed: bool
    config: dict[str, Any]
    environment: dict[str, Any]
    seconds: float
    reference: str
    baseline: str
    loaders: tuple[str, ...]
    left_out: tuple[str, ...]
    start: str
    train_images: int
    eval_images: int
    steps: int
    dtype: str
    control_dtype: str
    findings: Findings
    losses: dict[str, tuple[tuple[float, ...], ...]]
    control_losses: tuple[tuple[float, ...], ...]
    accuracies: dict[str, dict[str, tuple[float, ...]]]

    @property
    def margin(self) -> float:
        """Differences of accuracy below it do not matter, points."""
        return float(self.config["margin"])


def judge(
    losses: Mapping[str, Curves],
    controls: Curves,
    accuracies: Mapping[str, Mapping[str, Sequence[float]]],
    *,
    reference: str,
    baseline: str,
    margin: float,
) -> Findings:
    """Compare all loaders; arguments as the fields of `AccuracyResult`, `margin` in points."""
    plan_loaders = [name for name in losses if name != baseline]
    others = [name for name in plan_loaders if name != reference]
    own = {name: accuracies[name][name] for name in losses}
    crossed = min(len(values) for row in accuracies.values() for values in row.values())
    matrix = {
        trained: {name: values[:crossed] for name, values in row.items()}
        for trained, row in accuracies.items()
    }
    evaluated = {  # per seed, over all models: the same ones for every evaluating loader
        name: [
            math.fsum(values) / len(values)
            for values in zip(*(row[name] for row in matrix.values()), strict=True)
        ]
        for name in losses
    }
    curves = {
        name: match_curves(
            losses[name][: len(controls)], losses[reference][: len(controls)], controls
        )
        for name in others
    }
    against = [
        {name: paired_equivalence(values[name], values[other], margin=margin) for name in names}
        for values, names, other in (
            (own, plan_loaders, baseline),
            (own, others, reference),
            (evaluated, [*others, baseline], reference),
        )
    ]
    different = any(each.verdict == "different" for found in against for each in found.values())
    return Findings(
        matrix={
            trained: {name: math.fsum(values) / len(values) for name, values in row.items()}
            for trained, row in matrix.items()
        },
        crossed=crossed,
        curves=curves,
        against_baseline=against[0],
        against_reference=against[1],
        evaluation=against[2],
        passed=not different and all(curve.within for curve in curves.values()),
    )


def match_curves(
    curves: Curves, references: Curves, controls: Curves, *, factor: float = CURVE_FACTOR
) -> CurveMatch:
    """Compare loss curves with the reference's, by what another precision does to those.

    Early steps are judged apart: later ones differ by chaos too, which may hide an error.

    Args:
        curves, references, controls: one curve per seed, all of the same seeds and steps.
        factor: how many times as far as the control.
    """
    shapes = {tuple(map(len, each)) for each in (curves, references, controls)}
    if len(shapes) != 1 or not all(next(iter(shapes)) or (0,)):
        raise UsageError("loss curves", "of different lengths, or empty", "the same seeds, steps")
    steps = len(references[0])
    early_steps = min(steps, max(_EARLY_STEPS[0], min(_EARLY_STEPS[1], steps // 4)))
    early, early_control = (_rms(each, references, early_steps) for each in (curves, controls))
    rms, control = (_rms(each, references, steps) for each in (curves, controls))
    return CurveMatch(
        first=max(abs(a[0] - b[0]) for a, b in zip(curves, references, strict=True)),
        early_steps=early_steps,
        early=early,
        early_limit=factor * early_control,
        rms=rms,
        limit=factor * control,
        ratio=max(_ratio(early, early_control), _ratio(rms, control)),
        within=early <= factor * early_control and rms <= factor * control,
    )


def _rms(curves: Curves, references: Curves, steps: int) -> float:
    squares = [
        (a - b) ** 2
        for curve, reference in zip(curves, references, strict=True)
        for a, b in zip(curve[:steps], reference[:steps], strict=True)
    ]
    return math.sqrt(math.fsum(squares) / len(squares))


def _ratio(value: float, control: float) -> float:
    if control == 0:
        return 0.0 if value == 0 else 1e9  # no infinity: JSON has none
    return value / control


def paired_equivalence(
    first: Sequence[float], second: Sequence[float], *, margin: float, alpha: float = ALPHA
) -> Equivalence:
    """Compare paired measurements, the i-th of `first` with the i-th of `second`.

    Raises:
        UsageError: fewer than two pairs, numbers that are not finite, or no positive margin.

    Source: Schuirmann, J. Pharmacokinet. Biopharm. 15 (1987) 657: equivalent at alpha exactly
    where the `1 - 2 alpha` interval of the mean lies within the margin.
    """
    if len(first) != len(second) or len(first) < 2:
        raise UsageError("pairs", f"{len(first)} and {len(second)}", "two at least, equally many")
    if not 0 < margin < math.inf or not 0 < alpha < 0.5:
        raise UsageError("margin, alpha", f"{margin}, {alpha}", "a positive margin, alpha < 0.5")
    differences = [a - b for a, b in zip(first, second, strict=True)]
    if not all(map(math.isfinite, differences)):
        raise UsageError("pairs", "a number that is not finite", "finite ones")
    n = len(differences)
    mean = math.fsum(differences) / n
    sd = math.sqrt(math.fsum((d - mean) ** 2 for d in differences) / (n - 1))
    if sd <= _rounding(first, second):
        sd = 0.0  # all equal but for the last bits of their subtraction
    half = students_t.quantile(1 - alpha / 2, n - 1) * sd / math.sqrt(n)
    p = _tost_p(mean, sd, n, margin)
    verdict: Verdict = "not shown"
    if p < alpha:
        verdict = "equivalent"
    elif abs(mean) >= margin and abs(mean) > half:
        verdict = "different"
    return Equivalence(
        n=n,
        mean=mean,
        sd=sd,
        low=mean - half,
        high=mean + half,
        margin=margin,
        alpha=alpha,
        p=p,
        verdict=verdict,
        runs_needed=runs_needed(sd, margin, alpha),
    )


def runs_needed(sd: float, margin: float, alpha: float = ALPHA, power: float = POWER) -> int | None:
    """Pairs for `equivalent` with probability `power`, if the true mean difference is nought.

    Not for the mean that was seen: with few pairs it is chance itself. None: more than anybody
    makes.
    """
    low, high = 2, _MOST_RUNS
    if not _enough(high, sd, margin, alpha, power):
        return None
    while low < high:  # what is enough stays enough with more
        middle = (low + high) // 2
        if _enough(middle, sd, margin, alpha, power):
            high = middle
        else:
            low = middle + 1
    return low


def _enough(n: int, sd: float, margin: float, alpha: float, power: float) -> bool:
    # Both tests must conclude; to each falls half of the times that one may not.
    quantiles = students_t.quantile(1 - alpha, n - 1) + students_t.quantile((1 + power) / 2, n - 1)
    return quantiles * sd / math.sqrt(n) <= margin


def _tost_p(mean: float, sd: float, n: int, margin: float) -> float:
    """The larger p of the two tests that refute `mean >= margin` and `mean <= -margin`."""
    room = margin - abs(mean)
    if sd == 0:
        return 0.0 if room > 0 else 1.0
    return students_t.tail(room / (sd / math.sqrt(n)), n - 1)


def _rounding(first: Sequence[float], second: Sequence[float]) -> float:
    """The spread that subtraction alone may give equal differences."""
    return 8 * 2.0**-52 * max(map(abs, (*first, *second)))
