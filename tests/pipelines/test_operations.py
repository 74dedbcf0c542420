"""The plan's draws beyond crop and mirror, against torchvision's own random transforms."""

import math
from collections.abc import Callable
from itertools import combinations, product
from typing import Any

import numpy as np
import pytest
import torch
from effort import rest
from scipy import stats
from torchvision.transforms import v2

from pipelines import codes
from pipelines.augment import USUAL, Augment
from pipelines.operations import Operations, draw_operations
from pipelines.plan import Plan, make_plan

COUNT, SIZE = 20_000, 224
SAMPLES = np.arange(COUNT)
#: Seeds are fixed: what passes once passes for ever. Of 1,000 sets of seeds, about 10 would not.
LEAST = 1e-4
#: Names of operations in torchvision's policies, in its order.
NAMES = {
    "Identity": codes.NOTHING,
    "ShearX": codes.SHEAR_X,
    "ShearY": codes.SHEAR_Y,
    "TranslateX": codes.TRANSLATE_X,
    "TranslateY": codes.TRANSLATE_Y,
    "Rotate": codes.ROTATE,
    "Brightness": codes.BRIGHTNESS,
    "Color": codes.SATURATION,
    "Contrast": codes.CONTRAST,
    "Sharpness": codes.SHARPNESS,
    "Posterize": codes.POSTERIZE,
    "Solarize": codes.SOLARIZE,
    "AutoContrast": codes.AUTO_CONTRAST,
    "Equalize": codes.EQUALIZE,
}
SIGNED = [code for name, code in NAMES.items() if v2.RandAugment._AUGMENTATION_SPACE[name][1]]
JITTERED = (codes.BRIGHTNESS, codes.CONTRAST, codes.SATURATION, codes.HUE)
#: Settings, and how many operations each of them makes.
SETTINGS: list[tuple[dict[str, Any], int]] = [
    ({"vflip": 0.5}, 1),
    ({"policy": "trivial"}, 1),
    ({"color_jitter": (0.4, 0.4, 0.4, 0.1)}, 4),
    ({"grayscale": 0.5}, 1),
    ({"erase": 0.5}, 1),
]


def draw(
    count: int = COUNT, *, seed: int = 1, epoch: int = 0, size: int = SIZE, **settings: Any
) -> Operations:
    here = {"seed": seed, "epoch": epoch, "size": size}
    return draw_operations(Augment(**settings), samples=np.arange(count), **here)


def many(width: int = 500, height: int = 375, **settings: Any) -> Plan:
    sides = np.full(COUNT, width, np.int32), np.full(COUNT, height, np.int32)
    return make_plan(*sides, view="train", seed=1, augment=Augment(**settings))


def image(height: int, width: int) -> torch.Tensor:
    """An image that takes no memory."""
    return torch.zeros(1, dtype=torch.uint8).expand(3, height, width)


def record_policy(transform: Any, count: int, size: int) -> list[tuple[str, float]]:
    """The names and magnitudes that a policy of torchvision draws."""
    found: list[tuple[str, float]] = []

    def keep(image: torch.Tensor, name: str, magnitude: float, **_: Any) -> torch.Tensor:
        found.append((name, magnitude))
        return image

    transform._apply_image_or_video_transform = keep
    torch.manual_seed(2)
    for _ in range(count):
        transform(image(size, size))
    return found


def record(transform: Any, size: int = SIZE, count: int = COUNT) -> list[dict[str, Any]]:
    """The parameters that a transform of torchvision draws."""
    torch.manual_seed(2)
    images = [image(size, size)]
    return [transform.make_params(images) for _ in range(count)]


def record_applied(transform: Any) -> np.ndarray:
    """bool[COUNT]: as many as a transform of torchvision does something to, those first."""
    applied: list[torch.Tensor] = []
    transform.make_params = lambda images: {}
    transform.transform = lambda image, params: applied.append(image)
    torch.manual_seed(2)
    for _ in range(COUNT):  # ours are held against the rate itself, too
        transform(image(1, 1))
    return np.arange(COUNT) < len(applied)


def to_value(name: str, magnitude: float) -> float:
    """Arguments that torchvision hands its functional."""
    if name.startswith("Translate"):
        # linspace's 16 px are 15.999999 on a CPU with AVX.
        return math.copysign(int(abs(magnitude) + 1e-4), magnitude)
    if name in ("Brightness", "Color", "Contrast", "Sharpness"):
        return 1.0 + magnitude
    return 255.0 * magnitude if name == "Solarize" else magnitude


def find_values(transform: Any, name: str, bins: slice, size: int) -> np.ndarray:
    """All values that a policy's operation takes, from torchvision's own table."""
    make, is_signed = transform._AUGMENTATION_SPACE[name]
    magnitudes = make(31, size, size)
    if magnitudes is None:
        return np.zeros(1)
    found = [float(each) for each in magnitudes[bins]]
    found += [-each for each in found if is_signed]
    return np.unique(np.round([to_value(name, each) for each in found], 4))


def assert_same_law(ours: Any, theirs: Any) -> None:
    """Kolmogorov-Smirnov."""
    ours, theirs = np.asarray(ours, float), np.asarray(theirs, float)
    assert min(len(ours), len(theirs)) > 500
    assert stats.ks_2samp(ours, theirs, method="asymp").pvalue > LEAST


def assert_independent(one: np.ndarray, other: np.ndarray) -> None:
    """Chi-square; of "ours or theirs" and a value: that both have it equally often."""
    rows, columns = (np.unique(each, return_inverse=True)[1] for each in (one, other))
    table = np.zeros((rows.max() + 1, columns.max() + 1))
    np.add.at(table, (rows, columns), 1)
    table = table[:, table.sum(0) >= 10]  # rarer ones say little
    assert min(table.shape) > 1
    assert stats.chi2_contingency(table).pvalue > LEAST


def assert_same_frequencies(ours: Any, theirs: Any) -> None:
    whose = np.repeat((0, 1), (len(ours), len(theirs)))
    assert_independent(whose, np.concatenate((ours, theirs)))


def assert_rate(happened: np.ndarray, rate: float) -> None:
    assert stats.binomtest(int(happened.sum()), happened.size, rate).pvalue > LEAST


@pytest.mark.parametrize(
    ("policy", "make", "columns"),
    [
        ("trivial", v2.TrivialAugmentWide, 1),
        ("rand-n3-m30", lambda: v2.RandAugment(num_ops=3, magnitude=30), 3),
        *rest(("rand-n2-m9", v2.RandAugment, 2)),
    ],
)
def test_policies_are_distributed_as_torchvisions(
    policy: str, make: Callable[[], Any], columns: int
) -> None:
    ours = draw(policy=policy)
    assert ours.codes.shape == (COUNT, columns)
    recorded = record_policy(make(), COUNT // columns, SIZE)
    their_codes = np.array([NAMES[name] for name, _ in recorded])
    their_values = np.round([to_value(name, magnitude) for name, magnitude in recorded], 4)
    for nth in range(columns):
        drawn, values = ours.codes[:, nth], np.round(ours.values[:, nth], 4)
        assert stats.chisquare(np.unique_counts(drawn).counts).pvalue > LEAST
        assert set(drawn) == set(NAMES.values())
        assert_same_frequencies(drawn, their_codes)
        for code in NAMES.values():
            assert_same_law(values[drawn == code], their_values[their_codes == code])
    for nth in range(1, columns):
        assert_independent(ours.codes[:, nth - 1], ours.codes[:, nth])
        signs = (ours.values[:, nth - 1 : nth + 1] < 0).T
        assert_independent(*signs[:, np.isin(ours.codes, SIGNED[:5])[:, nth - 1 : nth + 1].all(1)])


def test_trivial_magnitudes_are_uniform() -> None:
    ours = draw(policy="trivial")
    drawn, values = ours.codes[:, 0], ours.values[:, 0]
    for name, code in NAMES.items():
        wanted = find_values(v2.TrivialAugmentWide, name, slice(None), SIZE)
        assert np.allclose(np.unique(np.round(values[drawn == code], 4)), wanted, atol=2e-4), name
    chosen = np.isin(drawn, SIGNED) & ~np.isin(drawn, (codes.TRANSLATE_X, codes.TRANSLATE_Y))
    drawn = drawn[chosen]
    signed = values[chosen] - np.isin(drawn, [*JITTERED, codes.SHARPNESS])
    most = np.where(drawn == codes.ROTATE, 135.0, 0.99)
    bins = np.rint(np.abs(signed) / most * 30).astype(int)
    assert stats.chisquare(np.bincount(bins, minlength=31)).pvalue > LEAST
    assert_independent(drawn, bins)
    assert_rate(signed[bins > 0] < 0, 0.5)
    assert_independent((signed < 0)[bins > 0], bins[bins > 0])
    assert_independent((signed < 0)[bins > 0], drawn[bins > 0])


@pytest.mark.parametrize(
    ("count", "strength", "size"), [(1, 0, 224), (2, 9, 1), (2, 15, 97), (3, 30, 64), (8, 1, 224)]
)
def test_rand_has_one_magnitude(count: int, strength: int, size: int) -> None:
    """Each operation has both signs of it; a translation's depends on the size."""
    ours = draw(5000, policy=f"rand-n{count}-m{strength}", size=size)
    assert ours.codes.shape == (5000, count)
    for name, code in NAMES.items():
        wanted = find_values(v2.RandAugment, name, slice(strength, strength + 1), size)
        found = np.round(ours.values[ours.codes == code], 4)
        assert np.allclose(np.unique(found), wanted, atol=2e-4), name


@pytest.mark.parametrize("size", [1, 33, 224, 331, 512])
def test_policies_move_by_whole_pixels(size: int) -> None:
    for policy, most in (("trivial", 32), ("rand-n2-m30", int(150 / 331 * size))):
        ours = draw(policy=policy, size=size)
        values = ours.values[np.isin(ours.codes, (codes.TRANSLATE_X, codes.TRANSLATE_Y))]
        assert np.array_equal(values, np.trunc(values))
        assert (values.min(), values.max()) == (-most, most)


def test_jitter_is_distributed_as_torchvisions() -> None:
    reach = (0.4, 1.3, 0.2, 0.1)
    ours = draw(color_jitter=reach)
    params = record(v2.ColorJitter(*reach))
    factors = []
    kinds = ("brightness", "contrast", "saturation", "hue")
    for code, far, name in zip(JITTERED, reach, kinds, strict=True):
        values = ours.values[ours.codes == code]
        factors.append(values)
        assert len(values) == COUNT  # each once in each sample
        assert_same_law(values, [each[f"{name}_factor"] for each in params])
        low, high = (-far, far) if name == "hue" else (max(0, 1 - far), 1 + far)
        assert low <= values.min() < low + 0.001 * (high - low)
        assert high - 0.001 * (high - low) < values.max() <= high
        assert stats.kstest(values, "uniform", args=(low, high - low)).pvalue > LEAST
    # 4 standard deviations.
    assert np.abs(np.triu(np.corrcoef(factors), 1)).max() < 4 / math.sqrt(COUNT)


def test_jitter_comes_in_every_order() -> None:
    ours = draw(color_jitter=(0.4, 0.4, 0.4, 0.1))
    orders, counts = np.unique(ours.codes, axis=0, return_counts=True)
    assert {tuple(sorted(each)) for each in orders.tolist()} == {tuple(sorted(JITTERED))}
    assert len(orders) == 24
    assert stats.chisquare(counts).pvalue > LEAST
    number = ours.codes @ (1, 20, 400, 8000)
    factor = ours.values[ours.codes == codes.BRIGHTNESS]
    assert_independent(number, factor > 1)


@pytest.mark.parametrize("jitter", [(0, 0.4, 0, 0), (0.4, 0, 0.4, 0), (0, 0, 0, 0.2), (0.3,)])
def test_jitter_of_nothing_is_left_out(jitter: tuple[float, ...]) -> None:
    ours = draw(2000, color_jitter=jitter)
    reach = jitter if len(jitter) == 4 else (*jitter * 3, 0)
    wanted = {code for code, far in zip(JITTERED, reach, strict=True) if far}
    assert set(ours.codes.reshape(-1)) - {codes.NOTHING} == wanted
    assert not ours.values[ours.codes == codes.NOTHING].any()
    for code in wanted:
        assert (ours.codes == code).sum(1).tolist() == [1] * 2000


@pytest.mark.parametrize(
    ("field", "code", "make"),
    [
        ("grayscale", codes.GRAY, v2.RandomGrayscale),
        ("vflip", codes.FLIP_DOWN, v2.RandomVerticalFlip),
        ("erase", codes.ERASE, v2.RandomErasing),
    ],
)
def test_probabilities_are_as_asked(field: str, code: int, make: Callable[..., Any]) -> None:
    happens = draw(**{field: 0.3}).codes[:, 0] == code
    assert_rate(happens, 0.3)
    assert_same_frequencies(happens, record_applied(make(p=0.3)))
    assert_rate(draw(**{field: 0.95}).codes[:, 0] == code, 0.95)
    assert (draw(**{field: 1.0}).codes == code).all()
    assert Augment(**{field: 0.0}) == USUAL


def test_erased_boxes_are_distributed_as_torchvisions() -> None:
    ours = draw(erase=1.0)
    assert (ours.codes == codes.ERASE).all()
    params = record(v2.RandomErasing())
    theirs = np.array([[each[side] for side in "ijhw"] for each in params])

    # top, left, height, width; then area, ratio, and where in its room the box lies
    def features(boxes: np.ndarray) -> list[np.ndarray]:
        top, left, h, w = boxes.astype(float).T
        room = (top + 0.5) / (SIZE - h + 1), (left + 0.5) / (SIZE - w + 1)
        return [top, left, h, w, h * w, h / w, *room, room[0] - room[1]]

    for ours_of, theirs_of in zip(features(ours.boxes), features(theirs), strict=True):
        assert_same_law(ours_of, theirs_of)
    # The same the other way round, height by width is nearly of the same law: but for its ends.
    transform: Any = v2.RandomErasing()
    height, width = draw(erase=1.0, size=8192).boxes[:, 2:].T
    for found, (low, high) in (
        (height / width, transform.ratio),
        (height * width / 8192**2, transform.scale),
    ):
        assert found.min() == pytest.approx(low, rel=0.004)
        assert found.max() == pytest.approx(high, rel=0.004)


@pytest.mark.parametrize("size", [2, 3, 5, 224])
def test_erased_boxes_leave_something(size: int) -> None:
    ours = draw(erase=1.0, size=size)
    top, left, height, width = ours.boxes.T
    assert (ours.boxes >= 0).all()
    assert (top + height <= size).all()
    assert (left + width <= size).all()
    assert (ours.boxes[:, 2:] < size).all()
    # Those that are empty are not executed.
    assert np.array_equal(ours.codes[:, 0] == codes.ERASE, height > 0)


def test_few_pixels_are_erased_as_torchvisions() -> None:
    """Where many boxes are empty or do not fit."""
    boxes, params = draw(erase=1.0, size=3).boxes, record(v2.RandomErasing(), 3, COUNT)
    theirs = np.array([[each[side] for side in "ijhw"] for each in params])
    theirs[theirs[:, 2] == 3] = 0  # no try has fitted
    empty = [(each[:, 2] * each[:, 3] == 0) for each in (boxes, theirs)]
    assert_same_frequencies(*empty)
    assert_same_frequencies(
        *(each[~none] @ (27, 9, 3, 1) for each, none in zip((boxes, theirs), empty, strict=True))
    )


def test_one_pixel_is_never_erased() -> None:
    assert not draw(erase=1.0, size=1).codes.any()


def test_epochs_seeds_and_samples_are_independent() -> None:
    settings = {"policy": "trivial", "color_jitter": (0.4,), "grayscale": 0.3, "vflip": 0.5}
    first, *others = (
        draw(seed=seed, epoch=epoch, **settings) for seed, epoch in ((1, 0), (1, 1), (2, 0), (0, 1))
    )
    pairs = [(first.take(slice(0, -1)), first.take(slice(1, None)))]
    for one, other in [*pairs, *((first, other) for other in others)]:
        for nth in (0, 1, -1):  # vflip, policy, grayscale
            assert_independent(one.codes[:, nth], other.codes[:, nth])
        factors = [each.values[each.codes == codes.CONTRAST][:10_000] for each in (one, other)]
        assert abs(np.corrcoef(factors)[0, 1]) < 4 / math.sqrt(10_000)


def test_settings_are_independent() -> None:
    """They are independent of each other, and of the crop and the mirror image."""
    plan = many(policy="trivial", color_jitter=(0.4,), grayscale=0.3, vflip=0.5, erase=0.5)
    rows = plan.rows(SAMPLES)
    assert rows.operations is not None
    drawn = rows.operations.codes
    whether = [rows.flips, *(drawn[:, [0, -2, -1]] != codes.NOTHING).T]
    whether += [drawn[:, 1], rows.operations.values[:, 2:6].sum(1) > 3]
    for one, other in combinations(whether, 2):
        assert_independent(one, other)
    for one, crop in product(whether, (rows.crops[:, 1] > 100, rows.crops[:, 3] > 250)):
        assert_independent(one, crop)


def test_a_further_setting_changes_no_other() -> None:
    for policy, columns in (("trivial", 1), ("rand-n3-m4", 3)):
        settings = [
            ({"policy": policy}, columns) if "policy" in each else (each, n) for each, n in SETTINGS
        ]
        together: dict[str, Any] = {}
        for each, _ in settings:
            together |= each
        whole, at = draw(500, **together), 0
        for each, n in settings:
            alone, part = draw(500, **each), slice(at, at + n)
            assert np.array_equal(alone.codes, whole.codes[:, part]), each
            assert np.array_equal(alone.values, whole.values[:, part]), each
            at += n
        assert np.array_equal(draw(500, erase=0.5).boxes, whole.boxes)
        assert whole.codes.shape == (500, at)
    fewer, more = (draw(500, policy=policy) for policy in ("rand-n2-m9", "rand-n5-m9"))
    assert np.array_equal(fewer.values, more.values[:, :2])
    usual, changed = many().rows(SAMPLES), many(**together, mixup=1.0).rows(SAMPLES)
    assert np.array_equal(usual.crops, changed.crops)
    assert np.array_equal(usual.flips, changed.flips)
    assert usual.operations is None


def test_any_samples_draw_what_all_draw() -> None:
    together: dict[str, Any] = {}
    for each, _ in SETTINGS:
        together |= each
    plan = many(**together)
    whole = draw(**together)
    chosen = np.random.default_rng(0).permutation(COUNT)  # more than a block
    for samples in (chosen, chosen[:7], chosen[:1], chosen[:0]):
        rows = plan.rows(samples)
        for found in (plan.operations(samples), rows.operations):
            assert found is not None
            assert np.array_equal(found.codes, whole.codes[samples])
            assert np.array_equal(found.values, whole.values[samples])
            assert np.array_equal(found.boxes, whole.boxes[samples])
            assert found.codes.dtype == found.boxes.dtype == np.int32
            assert found.values.dtype == np.float64
            found.check(len(samples), SIZE)
    part = plan.rows(chosen[:7]).take(slice(2, 5)).operations
    assert part is not None
    assert np.array_equal(part.values, whole.values[chosen[2:5]])
