import pickle
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from effort import choose, rest, scale
from loader_kinds import require_library
from scipy import stats

from pipelines import order as orders
from pipelines.loaders import make_loader
from pipelines.order import WHOLE_LIMIT, ComputedOrder, FiledOrder, KeyedOrder, make_order, share_of
from pipelines.plan import VIEWS, Plan, make_plan

HUGE = 100_000_000


def keyed(count: int, seed: int, epoch: int) -> np.ndarray:
    return KeyedOrder(count, seed, epoch)[:]


def shuffled(count: int, seed: int, epoch: int) -> np.ndarray:
    return make_order(count, seed=seed, epoch=epoch, shuffled=True)


# Statistics that the bijection must pass are shown to be passed by numpy's own shuffle.
either = pytest.mark.parametrize("draw", [keyed, shuffled])
Draw = Callable[[int, int, int], np.ndarray]


def plan_of(count: int, view: str = "train", **options: int) -> Plan:
    side = np.broadcast_to(np.int32(500), count)
    return make_plan(side, side, view=view, **options)


@pytest.fixture
def computed(monkeypatch: pytest.MonkeyPatch) -> None:
    """Every order is computed, of small sets too."""
    monkeypatch.setattr(orders, "WHOLE_LIMIT", 0)


# --- a bijection -------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "count",
    [
        *range(1, 34),
        63,
        64,
        65,
        127,
        128,
        129,
        255,
        256,
        257,
        997,
        4095,
        4096,
        4097,
        7919,
        16_383,
        16_384,
        16_385,
        65_537,
        100_000,
        100_003,
        131_071,
        131_072,
        131_073,
        524_287,
    ],
)
def test_every_sample_comes_once(count: int) -> None:
    for seed, epoch in ((0, 0), (3, 1), (2**70, 10**6)):
        samples = keyed(count, seed, epoch)
        assert samples.dtype == np.int64
        assert np.array_equal(np.sort(samples), np.arange(count))


def test_large_numbers_come_back_apart() -> None:
    for count in (HUGE, 2**31 + 11, 2**40, 2**62 - 57):
        places = np.arange(50_000) * (count // 50_000)
        samples = KeyedOrder(count, 0, 0)[places]
        assert samples.min() >= 0
        assert samples.max() < count
        assert len(np.unique(samples)) == len(places)
        assert stats.kstest(samples / count, "uniform").pvalue > 1e-4


def test_orders_stay_what_they_are() -> None:
    # Whoever resumes a run must find these: a change here breaks every one that is under way.
    first = [88306628, 60020708, 40323377, 17094633, 6426950, 52986783]
    assert KeyedOrder(HUGE, 0, 0)[:6].tolist() == first
    assert KeyedOrder(HUGE, 0, 0)[-2:].tolist() == [40312954, 27934778]
    other = [13860002, 6628745, 19755065, 4265506, 9996396, 17373306]
    assert KeyedOrder(20_000_001, 7, 3)[:6].tolist() == other
    assert keyed(10, 0, 0).tolist() == [2, 3, 8, 5, 7, 0, 9, 4, 6, 1]


def test_trailing_zeros_do_not_collide() -> None:
    assert len({tuple(keyed(50, seed, epoch)) for seed in range(4) for epoch in range(4)}) == 16


# --- an array in what users ask of it ----------------------------------------------------------


@pytest.mark.parametrize("order", [KeyedOrder(40_000, 1, 2), FiledOrder(40_000)])
def test_it_is_indexed_as_an_array(order: ComputedOrder) -> None:
    whole = np.asarray(order)
    assert whole.dtype == np.int64
    assert len(order) == len(whole) == 40_000
    for at in (
        slice(None),
        slice(0, 0),
        slice(5, 2),
        slice(7, 20_000),
        slice(-3, None),
        slice(9, 10**9),
        slice(None, None, -1),
        slice(38_000, 100, -777),
        0,
        39_999,
        -1,
        np.int64(17),
        np.array([3, 3, -1, 0]),
        np.array([[1, 2], [3, 4]]),
        np.array([], np.int64),
        [4, 5],
        np.arange(40_000)[::-1],
        np.array([2, 200], np.int16),
        np.array([7], np.uint64),
    ):
        found, wanted = order[at], whole[at]
        assert found.dtype == np.int64
        assert type(found) is type(wanted)
        assert found.shape == wanted.shape
        assert np.array_equal(found, wanted)
    assert list(order) == whole.tolist()
    assert np.concatenate([order[:3], order[:0]]).tolist() == whole[:3].tolist()
    assert order[:9].flags.writeable
    assert np.asarray(order, np.float32).dtype == np.float32
    assert FiledOrder(40_000)[[5]].tolist() == [5]


@pytest.mark.parametrize("at", [10, -11, [3, 10], [-11], 1.5, [True] * 10, "x", None])
def test_missing_positions_are_index_errors(at: object) -> None:
    for order in (KeyedOrder(10, 0, 0), FiledOrder(10)):
        with pytest.raises(IndexError):
            order[at]


def test_asking_leaves_the_question_as_it_was() -> None:
    places = np.array([5, -1, 3])
    for order in (KeyedOrder(10, 0, 0), FiledOrder(10)):
        found = order[places]
        found += 1
    assert places.tolist() == [5, -1, 3]


def test_it_travels_light() -> None:
    order = KeyedOrder(HUGE, 1, 2)
    sent = pickle.dumps(order)
    assert len(sent) < 300
    assert pickle.loads(sent) == order
    with pytest.raises(ValueError, match="without making an array"):
        np.array(KeyedOrder(10, 0, 0), copy=False)


# --- by chance ---------------------------------------------------------------------------------


#: What all these are counted as; an ordinary run draws few, see `effort`.
DRAWN = "crops and orders drawn, held against their distribution"


@either
@pytest.mark.parametrize("count", choose([3, 13], [3, 8, 13, 37]))
def test_positions_are_uniform(count: int, draw: Draw, tried: Callable[..., None]) -> None:
    seen, epochs = np.zeros((count, count)), scale(10, 150)
    for seed in range(10):
        for epoch in range(epochs):
            seen[np.arange(count), draw(count, seed, epoch)] += 1
    # Rows and columns have fixed sums: (N - 1)^2 degrees of freedom, and deviations from them are
    # N / (N - 1) times those of independent counts, squared.
    wanted = 10 * epochs / count
    score = ((seen - wanted) ** 2).sum() / wanted * (count - 1) / count
    assert 1e-4 < stats.chi2.sf(score, (count - 1) ** 2) < 1 - 1e-4
    tried(DRAWN, 10 * epochs)


@either
def test_pairs_are_uniform(draw: Draw, tried: Callable[..., None]) -> None:
    pairs, epochs = np.zeros((7, 7)), scale(260, 2500)
    for epoch in range(epochs):
        first, *_, last = draw(7, 5, epoch)
        pairs[first, last] += 1
    assert not pairs.diagonal().any()
    assert stats.chisquare(pairs[~np.eye(7, dtype=bool)]).pvalue > 1e-4
    tried(DRAWN, epochs)


@either
def test_every_order_of_a_few_is_as_likely(draw: Draw, tried: Callable[..., None]) -> None:
    epochs = scale(240, 2500)
    found = [draw(4, 9, epoch) @ (64, 16, 4, 1) for epoch in range(epochs)]
    _, seen = np.unique(found, return_counts=True)
    assert len(seen) == 24
    assert stats.chisquare(seen).pvalue > 1e-4
    tried(DRAWN, epochs)


@either
@pytest.mark.parametrize("count", [65_536, 100_003, *rest(131_073)])
def test_a_large_order_is_spread_evenly(count: int, draw: Draw) -> None:
    for seed, epoch in ((0, 0), (0, 1), (1, 0)):
        samples, at = draw(count, seed, epoch), np.arange(count)
        cells = np.histogram2d(at, samples, bins=32)[0]
        assert stats.chi2_contingency(cells).pvalue > 1e-4
        # The distance of neighbours, and of those a half of the network's bits apart, is any.
        for lag in (1, 2, 255, 256, 257, 512, count // 2):
            steps = (samples[lag:] - samples[:-lag]) % count
            assert stats.chisquare(np.histogram(steps, 64, (0, count))[0]).pvalue > 1e-4
            assert abs(np.corrcoef(samples[lag:], samples[:-lag])[0, 1]) < 4.5 / np.sqrt(
                count - lag
            )
        # No bit of the position shows in a bit of the sample.
        bits = [(each[:, None] >> np.arange(16)) & 1 for each in (at, samples)]
        shown = np.corrcoef(bits[0], bits[1], rowvar=False)[:16, 16:]
        assert np.abs(shown).max() < 5 / np.sqrt(count)


@either
def test_epochs_and_seeds_are_independent(draw: Draw) -> None:
    count = 50_000
    first = draw(count, 0, 0)
    agreeing = []
    for seed, epoch in [
        (0, 1),
        (1, 0),
        (1, 1),
        (0, 2**32),
        (2**32, 0),
        *((2, e) for e in range(choose(15, 40))),
    ]:
        other = draw(count, seed, epoch)
        agreeing.append((first == other).sum())
        assert abs(np.corrcoef(first, other)[0, 1]) < 4.5 / np.sqrt(count)
        cells = np.histogram2d(first, other, bins=16)[0]
        assert stats.chi2_contingency(cells).pvalue > 1e-4
    # Two orders by chance agree in one place, give or take one.
    assert 1e-4 < stats.poisson.cdf(sum(agreeing), len(agreeing)) < 1 - 1e-4


def test_statistics_are_those_of_numpys_shuffle() -> None:
    def statistics(samples: np.ndarray) -> list[float]:
        at, count = np.arange(len(samples)), len(samples)
        cycle, lengths, left = 0, [], set(range(count))
        while left:
            start = cycle = left.pop()
            length = 1
            while (cycle := int(samples[cycle])) != start:
                left.remove(cycle)
                length += 1
            lengths.append(length)
        return [
            len(lengths),
            max(lengths),
            np.abs(samples - at).sum(),
            (samples == at).sum(),
            (np.diff(samples) > 0).sum(),
            np.abs(np.diff(samples)).sum(),
            samples[: count // 4].sum(),
            stats.kendalltau(at, samples).statistic,
        ]

    ours, theirs = (
        np.array([statistics(draw(300, 3, epoch)) for epoch in range(200)])
        for draw in (keyed, shuffled)
    )
    for one, other in zip(ours.T, theirs.T, strict=True):
        assert stats.ks_2samp(one, other).pvalue > 1e-3


# --- which order a plan has --------------------------------------------------------------------


def test_small_sets_are_shuffled_as_before() -> None:
    for count, seed, epoch in ((1, 0, 0), (1000, 0, 0), (4097, 5, 2)):
        wanted = np.arange(count)
        bits = np.random.Philox(np.random.SeedSequence((seed, epoch, 1)))
        np.random.Generator(bits).shuffle(wanted)
        assert np.array_equal(plan_of(count, seed=seed, epoch=epoch).order, wanted)
    assert WHOLE_LIMIT == 2**24
    assert plan_of(6).order.tolist() == [0, 3, 2, 5, 4, 1]


@pytest.mark.parametrize("view", VIEWS)
def test_the_limit_is_exact(view: str, monkeypatch: pytest.MonkeyPatch) -> None:
    above = plan_of(WHOLE_LIMIT + 1, view).order
    kind = KeyedOrder if view in ("train", "recordio") else FiledOrder
    assert type(above) is kind
    assert len(above) == WHOLE_LIMIT + 1
    monkeypatch.setattr(orders, "WHOLE_LIMIT", 100)
    assert type(plan_of(100, view).order) is np.ndarray
    assert type(plan_of(101, view).order) is kind


@pytest.mark.parametrize(
    ("view", "name"),
    [
        *(("train", name) for name in ("torchvision", "ffcv", "dali", "resident")),
        ("eval", "resident"),
        *rest(*(("eval", name) for name in ("torchvision", "ffcv", "dali"))),
    ],
)
@pytest.mark.usefixtures("computed")
def test_loaders_live_with_it(view: str, name: str, data: Path) -> None:
    require_library(name)
    options = {"view": view, "size": 32, "batch_size": 8, "workers": 1, "normalize": False}
    with make_loader(name, data / "train.beton", seed=4, **options) as loader:
        for epoch in (0, 3):
            loader.set_epoch(epoch)
            assert isinstance(loader.plan.order, ComputedOrder)
            labels = torch.cat([labels for _, labels in loader])
            order = np.asarray(loader.plan.order)
            assert labels.tolist() == loader.source.labels[order].tolist()
        state = {"seed": 4, "epoch": 3, "consumed": 16}
        loader.load_state_dict(state)
        assert torch.equal(torch.cat([labels for _, labels in loader]), labels[16:])


@pytest.mark.parametrize("world", [1, 2, 3, 7, 64, 1024])
def test_a_share_is_array_splits(world: int) -> None:
    for size in (*range(20), 63, 64, 65, 1023, 1024, 1025, 4096, 5000):
        wanted = np.array_split(np.arange(11, 11 + size), world)
        for rank in range(world):
            assert np.array_equal(share_of(11, size, rank, world), wanted[rank])
