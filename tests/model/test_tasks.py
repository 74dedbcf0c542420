"""The tasks by hand: losses, right answers, averages over views, what is refused."""

import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from targets import write_targets

from fastft.config.train import TrainConfig
from fastft.model.loss import LabelLoss, NumberLoss, label_weights
from fastft.model.tasks import find_goal, goal_of, judge_numbers, require_variety
from fastft.runs.meaning import Meaning, read_meaning
from fastft.train.evaluate import average
from pipelines.errors import DataError, UsageError
from pipelines.formats.beton import read_index

LOGITS = torch.tensor([[0.5, -2.0], [3.0, 0.25]])
LABELS = torch.tensor([[1.0, 0.0], [0.0, 1.0]])


def by_hand(logit: float, label: float, weight: float = 1.0) -> float:
    probability = 1 / (1 + math.exp(-logit))
    return -weight * label * math.log(probability) - (1 - label) * math.log(1 - probability)


@pytest.mark.parametrize("smoothing", [0.0, 0.2])
@pytest.mark.parametrize("weights", [None, (4.0, 0.5)])
def test_binary_cross_entropy_by_hand(
    weights: tuple[float, float] | None, smoothing: float
) -> None:
    wanted = []
    for logits, labels in zip(LOGITS.tolist(), LABELS.tolist(), strict=True):
        costs = [
            by_hand(logit, label * (1 - smoothing) + smoothing / 2, weight)
            for logit, label, weight in zip(logits, labels, weights or (1.0, 1.0), strict=True)
        ]
        wanted.append(sum(costs) / 2)
    options: dict[str, Any] = {
        "label_smoothing": smoothing,
        "class_weights": None if weights is None else torch.tensor(weights),
    }
    assert LabelLoss(**options)(LOGITS, LABELS).item() == pytest.approx(sum(wanted) / 2)
    assert LabelLoss(reduction="sum", **options)(LOGITS, LABELS).item() == pytest.approx(
        sum(wanted)
    )
    part = LabelLoss(**options)(LOGITS[:1], LABELS[:1], 2).item()
    assert part == pytest.approx(wanted[0] / 2)
    empty = LabelLoss(**options)(LOGITS[:0], LABELS[:0], 2).item()
    assert empty == 0


def test_a_label_more_costs_no_more() -> None:
    doubled = [each.repeat(1, 2) for each in (LOGITS, LABELS)]
    assert LabelLoss()(*doubled).item() == pytest.approx(LabelLoss()(LOGITS, LABELS).item())


def test_images_with_all_labels_right_are_counted() -> None:
    assert LabelLoss().count_right(LOGITS, LABELS).item() == 1
    assert LabelLoss().count_right(LOGITS, torch.tensor([[0.7, 0.2], [0.9, 0.8]])).item() == 2
    assert LabelLoss().count_right(LOGITS[:0], LABELS[:0]).item() == 0


def test_squared_error_by_hand() -> None:
    loss = NumberLoss(mean=10.0, deviation=4.0)
    outputs, numbers = torch.tensor([[0.5], [-1.0]]), torch.tensor([[14.0], [10.0]])
    assert loss(outputs, numbers).item() == pytest.approx((0.25 + 1.0) / 2)
    assert loss.training_score(0.25, 0.0) == 0.75
    assert loss.count_right(outputs, numbers).item() == 0


def test_balanced_weights_are_clipped() -> None:
    targets = np.zeros((100, 4), np.float32)
    targets[:20, 0], targets[:1, 1], targets[:99, 2] = 1, 1, 1
    found = label_weights("balanced", tuple("abcd"), targets)
    assert found is not None
    assert found.tolist() == pytest.approx([4, 20, 0.05, 20])
    named = label_weights("b=3,*=0.5", tuple("abcd"), targets)
    assert named is not None
    assert named.tolist() == [0.5, 3, 0.5, 0.5]
    assert label_weights("", tuple("abcd"), targets) is None
    with pytest.raises(UsageError, match="'e', which is no class"):
        label_weights("e=2", tuple("abcd"), targets)


def test_views_of_labels_average_probabilities() -> None:
    goal = goal_of(Meaning(task="labels"))
    views = [torch.tensor([[at, -2.0 * at, 90.0 * at]]) for at in (-1.5, 0.5, 2.0)]
    wanted = torch.stack([each.double().sigmoid() for each in views]).mean(0)
    found = goal.read(average(views, goal))
    np.testing.assert_allclose(found, wanted.numpy(), rtol=1e-5)


def test_views_of_a_number_average_it() -> None:
    goal = goal_of(Meaning(task="number", mean=100.0, deviation=10.0))
    views = [torch.tensor([[at]]) for at in (-1.0, 0.5, 2.0)]
    assert goal.read(average(views, goal)).item() == pytest.approx(105.0)


def test_numbers_are_judged_by_hand() -> None:
    truth = np.array([1.0, 2.0, 3.0, 6.0])
    found = judge_numbers(np.array([1.0, 2.0, 5.0, 5.0]), truth)
    assert found.others == {"mae": 0.75, "rmse": pytest.approx(math.sqrt(5 / 4))}
    assert found.score == pytest.approx(1 - 5 / 14)
    assert math.isnan(judge_numbers(truth, np.ones(4)).score)


def test_a_numbers_meaning_is_the_training_splits(tmp_path: Path) -> None:
    source = read_index(write_targets(tmp_path / "a.beton", "number", 20))
    goal = find_goal(source)
    targets = source.columns.targets
    assert targets is not None
    assert goal.meaning.mean == pytest.approx(targets.astype(float).mean())
    assert goal.meaning.deviation == pytest.approx(targets.astype(float).std())
    loss = goal.make_loss(TrainConfig(data=tmp_path, out=tmp_path), source, torch.device("cpu"))
    zeros = torch.zeros(20, 1)
    assert loss(zeros, torch.from_numpy(targets)).item() == pytest.approx(1, rel=1e-4)
    for option, name in (
        ({"class_weight": "balanced"}, "class-weight"),
        ({"label_smoothing": 0.1}, "label-smoothing"),
    ):
        config = TrainConfig(data=tmp_path, out=tmp_path, **option)
        with pytest.raises(UsageError, match=f"--{name}: .*a number for each image"):
            goal.make_loss(config, source, torch.device("cpu"))


def test_labels_that_teach_nothing_are_named(tmp_path: Path) -> None:
    targets = np.zeros((6, 3))
    targets[:, 0], targets[1, 1] = 1, 1
    file = write_targets(
        tmp_path / "a.beton", "labels", 6, targets=targets, classes=("all", "one", "none")
    )
    source = read_index(file)
    assert find_goal(source).remark(source) == (
        "no training image has none; every training image has all: nothing to learn of it"
    )


def test_nothing_to_learn_is_refused(tmp_path: Path) -> None:
    file = write_targets(tmp_path / "a.beton", "labels", 6, targets=np.zeros((6, 2)))
    with pytest.raises(DataError, match=r"a\.beton: no image has any label"):
        find_goal(read_index(file))
    file = write_targets(tmp_path / "b.beton", "number", 6, targets=np.full((6, 1), 2.5))
    with pytest.raises(DataError, match=r"the number of every image is 2\.5"):
        require_variety(read_index(file))


@pytest.mark.parametrize(
    "packed",
    [
        {"task": "poems"},
        {"task": "labels", "thresholds": [0.5]},
        {"task": "labels", "thresholds": [0.5, 1.5]},
        {"task": "labels", "thresholds": [0.5, float("nan")]},
        {"task": "number"},
        {"task": "classes", "thresholds": [0.5, 0.5]},
        {"task": "labels", "deviation": 0.0},
        {"task": "labels", "mean": float("inf")},
        {"task": "labels", "score": 2.0},
        {"task": "labels", "score": "0.5"},
        {"task": "labels", "colour": 1},
    ],
)
def test_odd_meanings_are_refused(packed: dict[str, Any]) -> None:
    with pytest.raises((TypeError, ValueError)):
        read_meaning(packed, 2)
    whole = {"task": "labels", "thresholds": [0.5, 0.25], "score": 0.5}
    assert read_meaning(whole, 2).thresholds == (0.5, 0.25)
