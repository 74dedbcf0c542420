"""Settings of augmentation: what is refused, what they say, and crops as torchvision cuts them."""

import math
from typing import Any

import numpy as np
import pytest
import torch
from effort import rest
from scipy import stats
from torchvision.transforms import RandomResizedCrop

from pipelines import codes
from pipelines.augment import USUAL, Augment
from pipelines.errors import UsageError
from pipelines.operations import Operations, draw_operations
from pipelines.plan import VIEWS, make_plan

COUNT = 20_000
NAN = math.nan
#: Every setting that changes pixels, in two forms.
ALL: dict[str, Any] = {
    "vflip": 0.5,
    "policy": "trivial",
    "color_jitter": (0.4, 0.4, 0.4, 0.1),
    "grayscale": 0.5,
    "erase": 0.5,
}
SIDES = (
    np.array([500, 300, 640, 1, 5000, 97, 224, 333], np.int32),
    np.array([375, 400, 427, 1, 20, 61, 224, 500], np.int32),
)


def crop(width: int, height: int, count: int = COUNT, **settings: Any) -> np.ndarray:
    """int32[count, 4]: crops of as many equal photos."""
    sides = np.full(count, width, np.int32), np.full(count, height, np.int32)
    plan = make_plan(*sides, view="train", seed=7, augment=Augment(**settings))
    return plan.rows(np.arange(count)).crops


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"policy": "auto"}, "augment: 'auto', expected one of none, trivial, rand, or like"),
        ({"policy": ""}, "augment: '', expected one of"),
        ({"policy": "rand-m9-n2"}, "augment: 'rand-m9-n2', expected one of"),
        ({"policy": "trivial\n"}, r"augment: 'trivial\\n', expected one of"),
        ({"policy": "rand-n99"}, "augment: 'rand-n99', expected at most n8 and m30"),
        ({"policy": "rand-n9-m9"}, "expected at most n8 and m30"),
        ({"policy": "rand-m31"}, "expected at most n8 and m30"),
        ({"scale": (1.0, 0.08)}, "scale: 1 to 0.08, expected"),
        ({"scale": (0.0, 1.0)}, "scale: 0 to 1, expected"),
        ({"scale": (0.08, 1.1)}, "scale: 0.08 to 1.1, expected"),
        ({"scale": (NAN, 1.0)}, "scale: nan to 1, expected"),
        ({"scale": (0.5,)}, "scale: 0.5, expected"),
        ({"ratio": (4 / 3, 3 / 4)}, "ratio: 1.33333 to 0.75, expected"),
        ({"ratio": (-1.0, 1.0)}, "ratio: -1 to 1, expected"),
        ({"ratio": (1.0, math.inf)}, "ratio: 1 to inf, expected"),
        ({"ratio": (0.5, 1.0, 2.0)}, "ratio: 0.5 to 1 to 2, expected"),
        *(
            ({name: value}, f"{name}: {value:g}, expected a probability, 0 to 1")
            for name in ("hflip", "vflip", "grayscale", "erase", "mix_prob", "mix_switch")
            for value in (2.0, -0.1, NAN)
        ),
        *(
            ({name: value}, f"{name}: {value:g}, expected an alpha")
            for name in ("mixup", "cutmix")
            for value in (-1.0, 101.0, NAN, math.inf)
        ),
        ({"color_jitter": (0.4, 0.4)}, "color_jitter: 2 numbers, expected 1, 3 or 4"),
        ({"color_jitter": (0.1,) * 5}, "color_jitter: 5 numbers, expected 1, 3 or 4"),
        ({"color_jitter": (0.4, 0.4, 0.4, 0.6)}, "color_jitter: 0.6, expected a hue of 0 to 0.5"),
        ({"color_jitter": (0.4, 0.4, 0.4, -0.1)}, "color_jitter: -0.1, expected a hue"),
        ({"color_jitter": (0.1, 0.1, 0.1, NAN)}, "color_jitter: nan, expected a hue"),
        ({"color_jitter": (-0.1,)}, "color_jitter: -0.1, expected 0 to 10"),
        ({"color_jitter": (0.4, 0.4, 11.0)}, "color_jitter: 11, expected 0 to 10"),
        ({"color_jitter": (NAN,)}, "color_jitter: nan, expected 0 to 10"),
    ],
)
def test_bad_settings_are_refused(settings: dict[str, Any], message: str) -> None:
    with pytest.raises(UsageError, match=message) as caught:
        Augment(**settings)
    assert str(caught.value).isprintable()  # one line


def test_limits_themselves_are_taken() -> None:
    for name in ("hflip", "vflip", "grayscale", "erase", "mix_prob", "mix_switch"):
        for value in (0.0, 1.0):
            assert getattr(Augment(**{name: value}), name) == value
    Augment(scale=(1e-4, 1.0), ratio=(0.01, 100.0), mixup=100.0, cutmix=100.0)
    Augment(scale=(0.5, 0.5), ratio=(1.0, 1.0), color_jitter=(0.0, 10.0, 10.0, 0.5))


@pytest.mark.parametrize(
    ("policy", "count", "strength"),
    [
        ("none", 0, 0),
        ("trivial", 0, 0),
        ("rand", 2, 9),
        ("rand-n2-m9", 2, 9),
        ("rand-n8", 8, 9),
        ("rand-m30", 2, 30),
        ("rand-n1-m0", 1, 0),
    ],
)
def test_policies_say_how_many_how_strong(policy: str, count: int, strength: int) -> None:
    augment = Augment(policy=policy)
    assert (augment.rand_count, augment.rand_strength) == (count, strength)
    assert augment.changes_pixels == (policy != "none")


def test_one_jitter_is_three() -> None:
    assert Augment().jitter == (0, 0, 0, 0)
    assert Augment(color_jitter=(0.4,)).jitter == (0.4, 0.4, 0.4, 0)
    assert Augment(color_jitter=(0.1, 0.2, 0.3)).jitter == (0.1, 0.2, 0.3, 0)
    assert Augment(color_jitter=(0.1, 0.2, 0.3, 0.4)).jitter == (0.1, 0.2, 0.3, 0.4)


def test_settings_know_what_they_need() -> None:
    for name, value in ALL.items():
        assert Augment(**{name: value}).changes_pixels, name
        assert not Augment(**{name: value}).mixes, name
    for settings in ({}, {"scale": (0.2, 1.0)}, {"hflip": 0.0}, {"color_jitter": (0.0,)}):
        assert not Augment(**settings).changes_pixels
    for name in ("mixup", "cutmix"):
        assert Augment(**{name: 0.2}).mixes
        assert not Augment(**{name: 0.2}).changes_pixels
        assert not Augment(**{name: 0.2, "mix_prob": 0.0}).mixes
    assert not Augment(mix_prob=1.0, mix_switch=1.0).mixes


@pytest.mark.parametrize(
    "settings", [*({name: value} for name, value in ALL.items()), {"hflip": 0.0}, {"mixup": 0.2}]
)
def test_only_training_views_take_settings(settings: dict[str, Any]) -> None:
    for view in VIEWS:
        if view in ("train", "recordio"):
            make_plan(*SIDES, view=view, augment=Augment(**settings))
            continue
        with pytest.raises(UsageError, match=f"augment: given with view '{view}', expected view"):
            make_plan(*SIDES, view=view, augment=Augment(**settings))
        assert make_plan(*SIDES, view=view, augment=Augment()).operations(np.arange(3)) is None


@pytest.mark.parametrize("settings", [{"scale": (0.2, 1.0)}, {"ratio": (1.0, 1.0)}])
def test_recordio_has_scales_of_its_own(settings: dict[str, Any]) -> None:
    with pytest.raises(UsageError, match="scale and ratio: given with view 'recordio'"):
        make_plan(*SIDES, view="recordio", augment=Augment(**settings))


def test_operations_say_what_they_do() -> None:
    drawn = [
        (codes.NOTHING, 0.0),
        (codes.FLIP_DOWN, 0.0),
        (codes.SHEAR_X, 0.3),
        (codes.TRANSLATE_Y, -32.0),
        (codes.ROTATE, 121.7),
        (codes.BRIGHTNESS, 1.462),
        (codes.HUE, -0.0996),
        (codes.GRAY, 0.0),
        (codes.POSTERIZE, 4.0),
        (codes.SOLARIZE, 102.0),
        (codes.AUTO_CONTRAST, 0.0),
        (codes.EQUALIZE, 0.0),
        (codes.ERASE, 0.0),
    ]
    code, value = np.array(drawn).T[:, None]
    operations = Operations(code.astype(np.int32), value, np.array([[1, 2, 30, 40]], np.int32))
    assert operations.describe(0) == [
        "upside down",
        "shear x 0.30",
        "translate y -32 px",
        "rotate 122°",
        "brightness 1.46",
        "hue -0.10",
        "gray",
        "posterize 4 bits",
        "solarize 102",
        "autocontrast",
        "equalize",
        "erase 30x40",
    ]
    assert operations.describe(0) == operations.take(slice(0, 1)).describe(0)
    nothing = Operations(np.zeros((1, 2), np.int32), np.zeros((1, 2)), np.zeros((1, 4), np.int32))
    assert nothing.describe(0) == []


@pytest.mark.parametrize(
    ("scale", "ratio"), [((0.8, 1.0), (3 / 4, 4 / 3)), *rest(((0.25, 0.6), (0.5, 1.0)))]
)
def test_crops_are_distributed_as_torchvisions(
    scale: tuple[float, float], ratio: tuple[float, float]
) -> None:
    """The first needs several tries for most, and some are central."""
    width, height = 500, 375
    ours = crop(width, height, scale=scale, ratio=ratio)
    torch.manual_seed(1)
    image = torch.empty(3, 1, 1).expand(3, height, width)
    drawn = [RandomResizedCrop.get_params(image, [*scale], [*ratio]) for _ in range(COUNT)]

    # top, left, height, width; then area, ratio, and where in its room the box lies
    def features(boxes: np.ndarray) -> list[np.ndarray]:
        top, left, h, w = boxes.T
        room = (top + 0.5) / (height - h + 1), (left + 0.5) / (width - w + 1)
        return [top, left, h, w, h * w, w / h, *room]

    boxes = ours.astype(float), np.array(drawn, float)
    for ours_of, theirs_of in zip(*map(features, boxes), strict=True):
        assert stats.ks_2samp(ours_of, theirs_of, method="asymp").pvalue > 1e-4
    area = boxes[0][:, 2] * boxes[0][:, 3] / (width * height)
    assert scale[0] * 0.98 <= area.min() <= area.max() <= scale[1] * 1.02


@pytest.mark.parametrize("ratio", [(2.0, 3.0), (0.25, 0.5), (1.0, 1.0), (4 / 3, 4 / 3)])
@pytest.mark.parametrize(("width", "height"), [(331, 300), (300, 320), (640, 107), (90, 480)])
def test_crops_that_never_fit_are_torchvisions(
    width: int, height: int, ratio: tuple[float, float]
) -> None:
    expected = RandomResizedCrop.get_params(torch.empty(1, height, width), [1.0, 1.0], [*ratio])
    assert crop(width, height, 20, scale=(1.0, 1.0), ratio=ratio).tolist() == [[*expected]] * 20


@pytest.mark.parametrize(("width", "height"), [(1, 400), (400, 1), (1, 1), (40, 3000)])
def test_narrow_images_show_a_pixel(width: int, height: int) -> None:
    """Where the largest crop of a ratio would be less."""
    for ratio in ((3.0, 3.0), (0.3, 0.3), (90.0, 100.0), (0.01, 0.02)):
        top, left, crop_h, crop_w = crop(width, height, 20, ratio=ratio).T
        assert min(crop_h.min(), crop_w.min()) >= 1
        assert min(top.min(), left.min()) >= 0
        assert (top + crop_h).max() <= height
        assert (left + crop_w).max() <= width


def test_mirror_images_are_as_many_as_asked() -> None:
    sides = np.full((2, COUNT), 50, np.int32)

    def flips(view: str, share: float) -> np.ndarray:
        plan = make_plan(*sides, view=view, seed=7, augment=Augment(hflip=share))
        return plan.rows(np.arange(COUNT)).flips

    for view in ("train", "recordio"):
        assert not flips(view, 0.0).any()
        assert flips(view, 1.0).all()
        assert stats.binomtest(int(flips(view, 0.2).sum()), COUNT, 0.2).pvalue > 1e-4
        assert (flips(view, 0.5) <= flips(view, 0.7)).all()  # of the same numbers


#: Rows of seed 0, as they were before there were settings: the order, crops, and mirror images;
#: of recordio's, how large a photo is resized, and where the output lies in that.
ORDER, FLIPS = [0, 7, 6, 3, 2, 5, 4, 1], [1, 0, 1, 0, 0, 1, 1, 1]
CROPS = [
    [159, 188, 209, 223],
    [18, 1, 332, 299],
    [209, 282, 183, 216],
    [0, 0, 1, 1],
    [0, 2486, 20, 27],
    [11, 46, 36, 40],
    [42, 18, 158, 190],
    [206, 46, 197, 259],
]
RESIZED = [
    [65, 86],
    [132, 99],
    [100, 149],
    [71, 71],
    [67, 16750],
    [95, 151],
    [107, 107],
    [130, 87],
]
CORNERS = [[1, 21], [21, 9], [25, 40], [1, 4], [1, 8170], [13, 76], [13, 0], [58, 9]]


def test_a_plan_without_settings_stays_itself() -> None:
    for settings in ({}, {"augment": USUAL}, {"augment": Augment(**ALL, cutmix=1.0)}):
        plans = [
            make_plan(*SIDES, view=view, size=64, **settings) for view in ("train", "recordio")
        ]
        for plan in plans:
            assert plan.order.tolist() == ORDER
            assert plan.rows(np.arange(8)).flips.astype(int).tolist() == FLIPS
            if not settings:
                assert plan.rows(np.arange(8)).operations is None
                assert plan.mix(0) is None
        train, recordio = (plan.rows(np.arange(8)) for plan in plans)
        assert train.crops.tolist() == CROPS
        assert recordio.resized.tolist() == RESIZED
        assert recordio.corners.tolist() == CORNERS


def test_a_seed_keeps_its_operations() -> None:
    """A run that resumes by a later version sees the same."""
    here = {"seed": 0, "epoch": 0, "samples": np.arange(3), "size": 224}
    drawn = draw_operations(Augment(**ALL), **here)
    assert drawn.codes.tolist() == [
        [0, 9, 11, 8, 9, 7, 12, 17],
        [0, 15, 8, 11, 9, 7, 0, 0],
        [1, 15, 7, 9, 8, 11, 0, 0],
    ]
    assert np.round(drawn.values, 4).tolist() == [
        [0, 1.462, 0.0727, 0.9886, 0.6787, 1.3101, 0, 0],
        [0, 0, 1.143, 0.029, 0.8644, 1.2851, 0, 0],
        [0, 0, 0.8231, 0.6037, 0.8041, -0.0996, 0, 0],
    ]
    assert drawn.boxes.tolist() == [[8, 61, 63, 140], [0] * 4, [0] * 4]
    drawn = draw_operations(Augment(policy="rand-n3-m9"), **here)
    assert drawn.codes.tolist() == [[16, 9, 4], [7, 16, 10], [16, 7, 8]]
    assert np.round(drawn.values, 4).tolist() == [[0, 1.27, -30], [0.73, 0, 1.27], [0, 0.73, 1.27]]
