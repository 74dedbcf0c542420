"""Samplers: how often samples come, in which order, and how their visits differ."""

import math
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from scipy import stats

from pipelines.augment import Augment
from pipelines.errors import DataError, UsageError
from pipelines.plan import Plan, make_plan
from pipelines.sampling import SAMPLERS, Frequencies, find_frequencies

#: Classes of 60, 25, 10 and 2 samples, mixed up.
LABELS = np.random.default_rng(5).permutation(np.repeat(np.arange(4), (60, 25, 10, 2)))
COUNT = len(LABELS)
WEIGHTS = np.random.default_rng(6).uniform(0.1, 4.0, COUNT).astype(np.float32)
SIDES = np.full(COUNT, 90, np.int32), np.full(COUNT, 70, np.int32)
#: float32[97, 3]: samples of several labels, of one, and of none.
TARGETS = (np.random.default_rng(7).random((COUNT, 3)) < (0.6, 0.2, 0.03)).astype(np.float32)


def frequencies(sampler: Any, **options: Any) -> Frequencies:
    found = find_frequencies(sampler, LABELS, **{"weights": WEIGHTS, **options})
    assert found is not None
    return found


def plan_of(sampler: str = "balanced", **options: Any) -> Plan:
    asked = {"view": "train", "size": 32, "seed": 3, "epoch": 1, **options}
    return make_plan(*SIDES, frequencies=frequencies(sampler), **asked)


def counts_of(found: Frequencies, epochs: int, seed: int = 0) -> np.ndarray:
    """int64[epochs, N]: how often samples come."""
    orders = (found.draw(seed=seed, epoch=epoch) % COUNT for epoch in range(epochs))
    return np.stack([np.bincount(order, minlength=COUNT) for order in orders])


@pytest.mark.parametrize("sampler", SAMPLERS[1:])
def test_counts_are_expectations_rounded(sampler: str) -> None:
    found = frequencies(sampler)
    assert found.expected.sum() == pytest.approx(COUNT)
    counts = counts_of(found, 200)
    assert (counts.sum(axis=1) == COUNT).all()
    assert (np.abs(counts - found.expected) < 1 + 1e-9).all()


@pytest.mark.parametrize("sampler", SAMPLERS[1:])
def test_class_shares_are_exact_within_one(sampler: str) -> None:
    found = frequencies(sampler)
    shares = counts_of(found, 100) @ np.eye(4, dtype=int)[LABELS]
    wanted = found.expected @ np.eye(4)[LABELS]
    assert (np.abs(shares - wanted) < 1 + 1e-9).all()
    if sampler == "balanced":
        assert wanted == pytest.approx([COUNT / 4] * 4)
    elif sampler == "sqrt":
        assert wanted / wanted[0] == pytest.approx(np.sqrt(np.array([60, 25, 10, 2]) / 60))
    else:
        assert found.expected / found.expected[0] == pytest.approx(WEIGHTS / WEIGHTS[0], rel=1e-6)


@pytest.mark.parametrize("sampler", SAMPLERS[1:])
def test_many_epochs_meet_every_expectation(sampler: str) -> None:
    found, epochs = frequencies(sampler), 4000
    total = counts_of(found, epochs, seed=1).sum(axis=0)
    # A count is one of two neighbours, by chance of the fraction between them.
    part = found.expected % 1
    spread = np.sqrt(epochs * part * (1 - part))
    sure = spread < 1e-3
    apart = total - epochs * found.expected
    assert np.abs(apart[sure]).max(initial=0) < 1e-3
    scores = apart[~sure] / spread[~sure]
    assert np.abs(scores).max() < 4.5
    # Within a stratum the counts' sum is fixed, which takes off some of the spread.
    assert stats.chi2.sf(float((scores**2).sum()), len(scores)) > 1e-3


def test_equal_frequencies_are_no_sampler() -> None:
    labels = np.arange(40) % 4
    for sampler in ("balanced", "sqrt"):
        assert find_frequencies(sampler, labels) is None
    same = np.full(40, 0.3, np.float32)
    assert find_frequencies("weights", labels, weights=same) is None
    assert find_frequencies("shuffle", LABELS, weights=WEIGHTS) is None
    assert find_frequencies("balanced", np.zeros(9, np.int64)) is None
    # Drawn all the same, each comes once.
    even = Frequencies(np.ones(40), labels.astype(np.uint8))
    for epoch in range(50):
        assert sorted(even.draw(seed=0, epoch=epoch)) == list(range(40))


def test_draws_depend_on_seed_and_epoch_alone() -> None:
    found = frequencies("balanced")
    keys = {found.draw(seed=s, epoch=e).tobytes() for s in range(4) for e in range(4)}
    assert len(keys) == 16
    again = frequencies("balanced").draw(seed=2, epoch=3)
    assert np.array_equal(again, found.draw(seed=2, epoch=3))
    # As it was when this was written: a run that resumes must find its order.
    assert again[:8].tolist() == [11, 35, 1094, 609, 512, 7, 72, 51]
    assert plan_of(seed=2, epoch=3).order.tolist() == again.tolist()


@pytest.mark.parametrize("sampler", SAMPLERS[1:])
def test_visits_number_a_samples_turns(sampler: str) -> None:
    visits = frequencies(sampler).draw(seed=0, epoch=0)
    assert visits.dtype == np.int64
    samples, turns = visits % COUNT, visits // COUNT
    for sample in range(COUNT):
        mine = sorted(turns[samples == sample])
        assert mine == list(range(len(mine)))
    assert turns.max() > 0


def test_neighbours_are_not_correlated() -> None:
    found, repeats, lags = frequencies("balanced"), 0, []
    for epoch in range(1500):
        samples = found.draw(seed=9, epoch=epoch) % COUNT
        labels = LABELS[samples]
        repeats += int((samples[:-1] == samples[1:]).sum())
        lags.append(np.corrcoef(labels[:-1], labels[1:])[0, 1])
    # As an epoch's labels are drawn without replacement, those of one class are a little rarer.
    assert np.mean(lags) == pytest.approx(-1 / (COUNT - 1), abs=4 * np.std(lags) / 1500**0.5)
    counts = found.expected
    assert repeats / 1500 == pytest.approx((counts * (counts - 1)).clip(0).sum() / COUNT, rel=0.1)


def test_places_do_not_depend_on_classes() -> None:
    found = frequencies("balanced")
    places: list[list[int]] = [[] for _ in range(4)]
    for epoch in range(300):
        labels = LABELS[found.draw(seed=4, epoch=epoch) % COUNT]
        for label in range(4):
            places[label] += np.flatnonzero(labels == label).tolist()
    for each in places:
        tally = np.histogram(each, bins=np.linspace(0, COUNT, 9))[0]
        wanted = len(each) * np.diff(np.ceil(np.linspace(0, COUNT, 9))) / COUNT
        assert stats.chisquare(tally, wanted).pvalue > 1e-4


def test_pairs_within_a_class_are_alike() -> None:
    """No two samples of a class come together more often than others do."""
    found = frequencies("balanced")
    members = np.flatnonzero(LABELS == 0)
    counts = counts_of(found, 6000, seed=2)[:, members]
    together = (counts.T @ counts)[np.triu_indices(len(members), 1)]
    mean, spread = together.mean(), math.sqrt(together.mean())
    assert np.abs(together - mean).max() < 5.5 * spread


def test_a_sample_counts_as_its_rarest_label() -> None:
    found = frequencies("balanced", task="labels", targets=TARGETS)
    sizes = TARGETS.sum(axis=0)
    without = (TARGETS.sum(axis=1) == 0).sum()
    wanted = [max([1 / sizes[k] for k in np.flatnonzero(row)] or [1 / without]) for row in TARGETS]
    assert found.expected == pytest.approx(np.array(wanted) * COUNT / sum(wanted))
    root = frequencies("sqrt", task="labels", targets=TARGETS).expected
    assert root / root[0] == pytest.approx(np.sqrt(found.expected / found.expected[0]))
    weighed = frequencies("weights", task="labels", targets=TARGETS).expected
    assert weighed / weighed[0] == pytest.approx(WEIGHTS / WEIGHTS[0], rel=1e-6)


def test_first_visits_are_as_without_a_sampler() -> None:
    augment = Augment(policy="rand-n2-m9", erase=0.5, vflip=0.5)
    plan = plan_of(augment=augment)
    plain = make_plan(*SIDES, view="train", size=32, seed=3, epoch=1, augment=augment)
    rows, wanted = (each.rows(np.arange(COUNT)) for each in (plan, plain))
    for name in ("samples", "crops", "flips", "shrinks"):
        assert np.array_equal(getattr(rows, name), getattr(wanted, name))
    assert rows.operations is not None
    assert wanted.operations is not None
    assert np.array_equal(rows.operations.values, wanted.operations.values)
    assert plain.samples(plain.order) is plain.order


@pytest.mark.parametrize("view", ["train", "recordio"])
def test_visits_of_a_sample_look_different(view: str) -> None:
    plan = plan_of(view=view, augment=Augment(policy="trivial", erase=1.0))
    sample = int(np.argmax(frequencies("balanced").expected))
    visits = plan.order[plan.samples(plan.order) == sample]
    assert len(visits) >= 12
    rows = plan.rows(visits)
    assert (rows.samples == sample).all()
    assert len(np.unique(rows.boxes, axis=0)) == len(visits)
    assert set(rows.flips.tolist()) == {False, True}
    assert rows.operations is not None
    assert len(np.unique(rows.operations.boxes, axis=0)) == len(visits)
    assert len(np.unique(rows.operations.codes[:, 0])) > 3
    # A visit's row depends on the visit alone.
    for at in (0, 5, 11):
        assert (plan.rows(visits[at : at + 1]).boxes == rows.boxes[at : at + 1]).all()


def test_further_visits_are_drawn_like_first_ones() -> None:
    count = 4000
    labels = np.array([0] * (count - 1) + [1])
    side = np.full(count, 300, np.int32)
    found = find_frequencies("balanced", labels)
    plan = make_plan(side, side, view="train", frequencies=found)
    rows = plan.rows(plan.order[plan.samples(plan.order) == count - 1])
    assert len(rows) == count // 2
    usual = plan.rows(np.arange(count))
    assert stats.binomtest(int(rows.flips.sum()), len(rows)).pvalue > 1e-4
    for at in range(4):
        assert stats.ks_2samp(rows.boxes[:, at], usual.boxes[:, at]).pvalue > 1e-4


def test_largest_visits_do_not_overflow() -> None:
    """A sample that is half of an epoch of 2^28 samples: its last numbers are below 2^63."""
    count = 1 << 28
    side = np.broadcast_to(np.int32(300), count)
    plan = replace(make_plan(side[:1], side[:1], view="train"), widths=side, heights=side)
    plan = replace(plan, repeats=True)
    visits = np.array([count - 1 + count * turn for turn in (0, 1, count // 2 - 1)])
    rows = plan.rows(visits)
    assert (rows.samples == count - 1).all()
    assert len(np.unique(rows.boxes, axis=0)) == 3
    assert int(visits[-1]) * 128 + 128 < 1 << 63


@pytest.mark.parametrize("world", [1, 2, 3])
def test_ranks_share_the_same_visits(world: int) -> None:
    plan = plan_of()
    alone = list(plan.shares(10))
    ranks = [list(plan.shares(10, rank=rank, world=world)) for rank in range(world)]
    for number, visits in enumerate(alone):
        assert np.array_equal(np.concatenate([each[number] for each in ranks]), visits)
    assert np.array_equal(np.concatenate(alone), plan.order)
    late = list(plan.shares(10, start=40))
    assert all(np.array_equal(*pair) for pair in zip(late, alone[4:], strict=True))


def test_what_takes_samples_refuses_visits() -> None:
    order = plan_of().order
    assert order.max() >= COUNT
    with pytest.raises(IndexError):
        LABELS[order]
    with pytest.raises(IndexError):
        make_plan(*SIDES, view="train").rows(order)


@pytest.mark.parametrize(
    ("sampler", "options", "error", "message"),
    [
        ("balance", {}, UsageError, "sampler: 'balance', expected one of shuffle, balanced"),
        (object(), {}, UsageError, "sampler: a object"),
        (None, {}, UsageError, "sampler: a NoneType"),
        ("balanced", {"task": "number"}, UsageError, "holds a number for each image"),
        ("sqrt", {"task": "number"}, UsageError, "take 'weights'"),
        ("weights", {"weights": None}, UsageError, "here.beton has no weights"),
        ("weights", {"weights": np.where(LABELS, 1, np.nan)}, DataError, "the weight nan"),
        ("weights", {"weights": np.where(LABELS, 1, np.inf)}, DataError, "the weight inf"),
        ("weights", {"weights": np.where(LABELS, 1, 0.0)}, DataError, "the weight 0"),
        ("weights", {"weights": np.where(LABELS, 1, -2.0)}, DataError, "the weight -2"),
        ("weights", {"weights": np.eye(COUNT)[3] * 1e30 + 1}, DataError, "gives sample 3 100%"),
    ],
)
def test_odd_samplers_are_refused_in_a_line(
    sampler: Any, options: dict[str, Any], error: type[Exception], message: str
) -> None:
    options = {"weights": WEIGHTS, "where": "here.beton", **options}
    with pytest.raises(error) as refused:
        find_frequencies(sampler, LABELS, **options)
    assert message in str(refused.value)
    assert "\n" not in str(refused.value)


@pytest.mark.parametrize("options", [{"view": "eval"}, {"widths": 3}])
def test_plans_refuse_what_does_not_fit(options: dict[str, Any]) -> None:
    sides = [side[: options.get("widths", COUNT)] for side in SIDES]
    with pytest.raises(UsageError, match="sampler: frequencies of 97 samples"):
        make_plan(*sides, view=options.get("view", "train"), frequencies=frequencies("balanced"))


def test_empty_classes_and_sets_are_taken() -> None:
    labels = np.array([0, 0, 0, 5])
    found = find_frequencies("balanced", labels)
    assert found is not None
    assert found.expected.tolist() == pytest.approx([2 / 3, 2 / 3, 2 / 3, 2])
    assert find_frequencies("balanced", np.zeros(0, np.int64)) is None
