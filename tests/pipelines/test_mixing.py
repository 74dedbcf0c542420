"""MixUp and CutMix: what the plan draws, and what becomes of a batch, against torchvision's own."""

from dataclasses import replace
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from effort import choose, rest
from scipy import stats
from torch.nn import functional
from torchvision.transforms import v2

from pipelines import operations, reference
from pipelines.augment import Augment
from pipelines.changing import mixing
from pipelines.changing.mixing import mix_batch
from pipelines.operations import Mix, draw_mix
from pipelines.plan import Plan, make_plan

COUNT, SIZE, CLASSES = 20_000, 224, 5
#: Seeds are fixed: what passes once passes for ever.
LEAST = 1e-4
#: MixUp and CutMix that do little, much, all and nothing.
MIXES = [
    Mix(0.3),
    Mix(0.7),
    Mix(1.0),
    Mix(0.0),
    Mix(0.99999998),
    Mix(1 - 12 / 49, (1, 2, 4, 6)),
    Mix(1 - 7 / 49, (0, 0, 1, 7)),
    Mix(0.0, (0, 0, 7, 7)),
    Mix(1.0, (3, 3, 3, 3)),
]
DTYPES = [torch.float32, torch.bfloat16, torch.float16]


def draw(count: int = COUNT, *, seed: int = 3, epoch: int = 0, **settings: Any) -> list[Mix]:
    """The mixes of the first batches of an epoch."""
    here = {"seed": seed, "epoch": epoch, "size": SIZE}
    return [draw_mix(Augment(**settings), batch=batch, **here) for batch in range(count)]


def record(transform: Any) -> list[dict[str, Any]]:
    """Draws of torchvision's own."""
    torch.manual_seed(2)
    images = [torch.zeros(1).expand(2, 3, SIZE, SIZE)]
    shares = iter(transform._dist.sample((COUNT,))[:, 0].tolist())  # at once
    transform._dist = SimpleNamespace(sample=lambda shape: next(shares))
    return [transform.make_params(images) for _ in range(COUNT)]


def make_batch(count: int, dtype: torch.dtype = torch.float32) -> tuple[torch.Tensor, torch.Tensor]:
    """[count, 3, 7, 7], channels_last, and int64[count] labels."""
    generator = torch.Generator().manual_seed(count)
    images = torch.randn(count, 7, 7, 3, generator=generator).permute(0, 3, 1, 2)
    return images.to(dtype), torch.randint(0, CLASSES, (count,), generator=generator)


def mix_by_torchvision(
    images: torch.Tensor, labels: torch.Tensor, how: Mix
) -> tuple[torch.Tensor, torch.Tensor]:
    transform: Any
    if how.box is None:
        transform, params = v2.MixUp(num_classes=CLASSES), {"lam": how.share}
    else:
        top, left, bottom, right = how.box
        transform = v2.CutMix(num_classes=CLASSES)
        params = {"box": (left, top, right, bottom), "lam_adjusted": how.share}
    transform.make_params = lambda images: params
    mixed, targets = transform(images, labels)
    return mixed, targets


def assert_same_law(ours: Any, theirs: Any) -> None:
    """Kolmogorov-Smirnov."""
    ours, theirs = np.asarray(ours, float), np.asarray(theirs, float)
    assert stats.ks_2samp(ours, theirs, method="asymp").pvalue > LEAST


@pytest.mark.parametrize("alpha", [0.2, *rest(2.0)])
def test_mixup_shares_are_torchvisions(alpha: float) -> None:
    ours = draw(mixup=alpha)
    assert all(mix.box is None for mix in ours)
    shares = [mix.share for mix in ours]
    torch.manual_seed(2)
    assert_same_law(shares, v2.MixUp(alpha=alpha)._dist.sample((COUNT,))[:, 0])  # at once
    assert stats.kstest(shares, "beta", args=(alpha, alpha)).pvalue > LEAST


def test_cutmix_boxes_are_torchvisions() -> None:
    ours, params = draw(cutmix=1.0), record(v2.CutMix(alpha=1.0))
    assert_same_law([mix.share for mix in ours], [each["lam_adjusted"] for each in params])
    boxes = np.array([mix.box for mix in ours])
    theirs = np.array([each["box"] for each in params])[:, [1, 0, 3, 2]]

    # top, left, bottom, right; then height, width, and how far from the diagonal
    def features(boxes: np.ndarray) -> list[np.ndarray]:
        top, left, bottom, right = boxes.T
        return [*boxes.T, bottom - top, right - left, top + bottom - left - right]

    for ours_of, theirs_of in zip(features(boxes), features(theirs), strict=True):
        assert_same_law(ours_of, theirs_of)


class _Drawing:
    """In place of NumPy's random numbers, chosen ones."""

    def __init__(self, numbers: list[float], share: float) -> None:
        self._numbers, self._share = numbers, share

    def random(self, count: int) -> np.ndarray:
        assert count == len(self._numbers)
        return np.array(self._numbers)

    def beta(self, a: float, b: float) -> float:
        assert a == b
        return self._share


@pytest.mark.parametrize("size", [1, 2, 7, 64, 224])
def test_boxes_of_a_draw_are_torchvisions(size: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """The share before it is adjusted is the same, and the centre."""
    random = np.random.default_rng(0)
    images = [torch.zeros(1).expand(2, 3, size, size)]
    transform: Any = v2.CutMix()
    for share in (0.0, 1e-9, *random.random(40).tolist(), 1 - 1e-9, 1.0):
        for y, x in (*random.random((4, 2)).tolist(), [0.0, 1 - 2**-53]):
            monkeypatch.setattr(
                operations.np.random,
                "Generator",
                lambda bits, y=y, x=x, share=share: _Drawing([0.0, 0.0, y, x], share),
            )
            ours = draw_mix(Augment(cutmix=1.0), seed=0, epoch=0, batch=0, size=size)
            centers = iter((int(x * size), int(y * size)))  # torchvision draws x first
            monkeypatch.setattr(
                torch, "randint", lambda n, size, c=centers: torch.tensor([next(c)])
            )
            transform._dist = type("Beta", (), {"sample": lambda self, shape, s=share: s})()
            theirs = transform.make_params(images)
            left, top, right, bottom = theirs["box"]
            assert ours == Mix(theirs["lam_adjusted"], (top, left, bottom, right))


def test_batches_mix_as_often_as_asked() -> None:
    both = {"mixup": 0.2, "cutmix": 1.0}
    count = choose(COUNT // 2, COUNT)
    sometimes = draw(count, mix_prob=0.7, mix_switch=0.2, **both)
    nothing = np.array([mix == Mix(1.0) for mix in sometimes])
    assert stats.binomtest(int(nothing.sum()), count, 0.3).pvalue > LEAST
    cuts = np.array([mix.box is not None for mix in sometimes])
    assert stats.binomtest(int(cuts.sum()), int((~nothing).sum()), 0.2).pvalue > LEAST
    few = 200
    assert all(mix.box for mix in draw(few, mix_switch=1.0, **both))
    assert not any(mix.box for mix in draw(few, mix_switch=0.0, **both))
    # The switch is nothing where one is asked for alone.
    assert all(mix.box for mix in draw(few, cutmix=1.0, mix_switch=0.0))
    assert not any(mix.box for mix in draw(few, mixup=1.0, mix_switch=1.0))
    # Others draw as they would: those that mix, mix; and other settings say nothing.
    always = draw(few, mix_switch=0.2, **both)
    for kept, mix, is_none in zip(always, sometimes[:few], nothing, strict=False):
        assert is_none or kept == mix
    assert draw(few, cutmix=1.0, policy="trivial", vflip=0.5) == draw(few, cutmix=1.0)


def test_batches_epochs_and_seeds_are_independent() -> None:
    count = choose(2500, 5000)
    first = [mix.share for mix in draw(count, mixup=1.0)]
    for other in (
        [*first[1:], first[0]],
        *(
            [mix.share for mix in draw(count, mixup=1.0, **other)]
            for other in ({"epoch": 1}, {"seed": 0})
        ),
    ):
        assert len({*first, *other}) >= count
        assert abs(np.corrcoef(first, other)[0, 1]) < 4 / count**0.5


def make_mixing_plan(count: int, **settings: Any) -> Plan:
    sides = np.full(count, 9, np.int32)
    return make_plan(
        sides, sides, view="train", size=7, seed=5, epoch=2, augment=Augment(**settings)
    )


def test_a_plan_mixes_by_batch() -> None:
    plan = make_mixing_plan(40, mixup=0.2, cutmix=1.0)
    wanted = [draw_mix(plan.augment, seed=5, epoch=2, batch=batch, size=7) for batch in range(9)]
    assert [plan.mix(batch) for batch in range(9)] == wanted
    assert len({mix.share for mix in wanted}) > 5
    assert replace(plan, epoch=3).mix(0) != wanted[0]
    for settings in ({}, {"mixup": 0.2, "mix_prob": 0.0}, {"vflip": 1.0}):
        assert make_mixing_plan(40, **settings).mix(0) is None


@pytest.mark.parametrize("how", MIXES)
@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("wraps", [True, False])
def test_a_batch_mixes_as_torchvisions(how: Mix, dtype: torch.dtype, wraps: bool) -> None:
    for count in (1, 2, 5):
        images, labels = make_batch(count, dtype)
        exact = images.float(), functional.one_hot(labels, CLASSES).float()
        given, given_labels = images.clone(), labels.clone()
        if not wraps:  # each image's partner lies before it, the first one's, too
            given, given_labels = (torch.cat((each[-1:], each)) for each in (given, labels))
            given = given.contiguous(memory_format=torch.channels_last)
        place = given.data_ptr()
        mixed, targets = mix_batch(given, given_labels, how, classes=CLASSES, wraps=wraps)
        assert mixed.is_contiguous(memory_format=torch.channels_last)
        assert mixed.dtype == dtype
        assert mixed.shape == images.shape
        assert mixed.data_ptr() == place + (not wraps) * 3 * 7 * 7 * images.element_size()
        assert targets.dtype == torch.float32
        one_ulp = 0 if how.box is not None else torch.finfo(dtype).eps
        for wanted_images, wanted in (
            reference.mix(*exact, how),
            mix_by_torchvision(exact[0], labels, how),
        ):
            distance = (mixed.float() - wanted_images).abs()
            assert (distance <= 1e-6 + one_ulp * wanted_images.abs()).all()
            assert (targets - wanted).abs().max() <= 1e-6
        assert (targets.sum(1) - 1).abs().max() <= 1e-6


@pytest.mark.parametrize("how", MIXES)
def test_a_gpus_operations_mix_alike(how: Mix) -> None:
    """Those for a batch at once, on a CPU."""
    images, labels = make_batch(5)
    wanted, _ = reference.mix(images.clone(), functional.one_hot(labels, CLASSES).float(), how)
    assert (mixing._mix(images, how) - wanted).abs().max() <= 1e-6


@pytest.mark.gpu
@pytest.mark.parametrize("how", MIXES)
@pytest.mark.parametrize("wraps", [True, False])
def test_a_gpu_mixes_alike(how: Mix, wraps: bool) -> None:
    images, labels = make_batch(5)
    there = images.cuda(), labels.cuda()
    mixed, targets = mix_batch(*there, how, classes=CLASSES, wraps=wraps)
    assert mixed.is_contiguous(memory_format=torch.channels_last)
    here, wanted = mix_batch(images, labels, how, classes=CLASSES, wraps=wraps)
    assert (mixed.cpu() - here).abs().max() <= 1e-6
    assert (targets.cpu() - wanted).abs().max() <= 1e-6


@pytest.mark.parametrize("wraps", [True, False])
def test_an_empty_share_stays_empty(wraps: bool) -> None:
    for how in MIXES:
        images, targets = mix_batch(*make_batch(0), how, classes=CLASSES, wraps=wraps)
        assert images.shape == (0, 3, 7, 7)
        assert targets.shape == (0, CLASSES)


@pytest.mark.parametrize("world", [1, 2, 3, 5])
@pytest.mark.parametrize("count", [11, 9])  # last batches of 3, and of 1
def test_any_world_mixes_alike(count: int, world: int) -> None:
    """To the bit, with last batches of fewer images than there are ranks."""
    plan = make_mixing_plan(count, mixup=0.5, cutmix=1.0, mix_prob=0.8)
    images, labels = make_batch(count)
    classes = {"classes": CLASSES}
    for batch, share in enumerate(plan.shares(4)):
        how = plan.mix(batch)
        assert how is not None
        alone = mix_batch(images[share], labels[share], how, **classes, wraps=True)
        targets = functional.one_hot(labels[share], CLASSES).float()
        for found, wanted in zip(alone, reference.mix(images[share], targets, how), strict=True):
            assert (found - wanted).abs().max() <= 1e-6
        parts = []
        for rank in range(world):
            ranks = list(plan.shares(4, rank=rank, world=world, partners=True))
            own = ranks[batch]
            parts.append(mix_batch(images[own], labels[own], how, **classes, wraps=False))
        for found, of_ranks in zip(alone, zip(*parts, strict=True), strict=True):
            assert torch.equal(torch.cat(of_ranks), found)


@pytest.mark.parametrize("drop_last", [False, True])
def test_partners_come_before_a_share(drop_last: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("pipelines.order.BLOCK", 10)  # several groups of batches
    plan = make_mixing_plan(47)
    for size, world, start in ((8, 1, 0), (8, 3, 16), (1, 1, 0), (1, 2, 0), (5, 7, 0), (99, 2, 0)):
        here = {"start": start, "drop_last": drop_last}
        whole = list(plan.shares(size, **here))
        for rank in range(world):
            plain = list(plan.shares(size, rank=rank, world=world, **here))
            found = list(plan.shares(size, rank=rank, world=world, partners=True, **here))
            assert len(found) == len(plain) == len(whole)
            for batch, own, with_partner in zip(whole, plain, found, strict=True):
                assert with_partner[1:].tolist() == own.tolist()
                assert with_partner.dtype == np.int64
                if len(own):
                    at = batch.tolist().index(own[0])
                    assert with_partner[0] == batch[at - 1]
                else:
                    assert not len(with_partner)
