"""Scores of several labels, against their definitions written out slowly."""

import numpy as np
import pytest

from fastft.model.label_scores import (
    average_precisions,
    best_thresholds,
    count,
    mean_average_precision,
    sigmoid,
)

RANDOM = np.random.default_rng(4)


def slow_average_precision(scores: np.ndarray, has: np.ndarray) -> float:
    """Over thresholds that occur, from the highest down: precision times the recall it adds."""
    total, recall_before = 0.0, 0.0
    for threshold in sorted(set(scores.tolist()), reverse=True):
        told = scores >= threshold
        right = int((told & has).sum())
        recall = right / int(has.sum())
        total += (recall - recall_before) * right / int(told.sum())
        recall_before = recall
    return total


def slow_f1(told: np.ndarray, has: np.ndarray) -> float:
    right = sum(bool(a and b) for a, b in zip(told, has, strict=True))
    wrong = sum(bool(a and not b) for a, b in zip(told, has, strict=True))
    missed = sum(bool(b and not a) for a, b in zip(told, has, strict=True))
    return 2 * right / (2 * right + wrong + missed) if right else 0.0


def draw(samples: int, *, ties: bool) -> tuple[np.ndarray, np.ndarray]:
    outputs = RANDOM.normal(size=(samples, 3)).astype(np.float32)
    if ties:
        outputs = np.round(outputs).astype(np.float32)
    has = RANDOM.random((samples, 3)) < 0.3
    has[0] = True
    return outputs, has


@pytest.mark.parametrize("ties", [False, True])
@pytest.mark.parametrize("samples", [1, 7, 60])
def test_average_precision_follows_its_definition(samples: int, ties: bool) -> None:
    outputs, has = draw(samples, ties=ties)
    found = average_precisions(outputs, has)
    wanted = [slow_average_precision(outputs[:, at], has[:, at]) for at in range(3)]
    np.testing.assert_allclose(found, wanted, rtol=1e-12)
    assert mean_average_precision(found) == pytest.approx(np.mean(wanted))


def test_average_precision_ignores_the_order_of_samples() -> None:
    outputs, has = draw(60, ties=True)
    order = RANDOM.permutation(60)
    again = average_precisions(outputs[order], has[order])
    assert average_precisions(outputs, has).tobytes() == again.tobytes()


def test_labels_of_no_sample_are_left_out() -> None:
    outputs, has = draw(20, ties=False)
    has[:, 1] = False
    found = average_precisions(outputs, has)
    assert np.isnan(found[1])
    assert mean_average_precision(found) == pytest.approx((found[0] + found[2]) / 2)
    assert best_thresholds(sigmoid(outputs), has)[1] == 0.5
    nothing = count(outputs > 0, has)
    assert nothing.macro_f1 == pytest.approx((nothing.f1[0] + nothing.f1[2]) / 2)
    assert np.isnan(mean_average_precision(np.array([np.nan])))


def test_counts_follow_their_definitions() -> None:
    outputs, has = draw(60, ties=True)
    told = outputs >= 0
    found = count(told, has)
    assert found.f1 == pytest.approx([slow_f1(told[:, at], has[:, at]) for at in range(3)])
    assert found.micro_f1 == pytest.approx(slow_f1(told.ravel(), has.ravel()))
    assert found.macro_f1 == pytest.approx(found.f1.mean())
    for at in range(3):
        right = (told & has)[:, at].sum()
        assert found.precision[at] == pytest.approx(right / told[:, at].sum())
        assert found.recall[at] == pytest.approx(right / has[:, at].sum())
    assert count(told & False, has & False).micro_f1 == 0


@pytest.mark.parametrize("ties", [False, True])
def test_thresholds_have_the_highest_f1(ties: bool) -> None:
    outputs, has = draw(40, ties=ties)
    probabilities = sigmoid(outputs)
    for at, threshold in enumerate(best_thresholds(probabilities, has)):
        column, true = probabilities[:, at], has[:, at]
        best = max(slow_f1(column >= each, true) for each in set(column.tolist()))
        assert slow_f1(column >= threshold, true) == pytest.approx(best)
        assert threshold not in column


def test_probabilities_of_huge_outputs_are_finite() -> None:
    found = sigmoid(np.array([[-1e30, 0, 1e30]], np.float32))
    assert found.tolist() == [[0, 0.5, 1]]
