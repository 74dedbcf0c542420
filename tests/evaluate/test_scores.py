import io
import math
from typing import Any

import numpy as np
import pytest
from effort import rest
from matplotlib.axes import Axes
from PIL import Image
from rich.console import Console

from fastft.evaluate.class_report import figures
from fastft.evaluate.plots import Shown, draw_confusion, draw_sheet, draw_top_losses, shorten
from fastft.evaluate.result import Evaluation, SampleRow
from fastft.evaluate.scores import (
    class_scores,
    confused_pairs,
    confusion_matrix,
    judge,
    judge_samples,
    log_softmax,
    wilson_interval,
)
from fastft.evaluate.section import enumerate_names, print_evaluation

#: Formulas, broken formulas, markup, letters that no font has, control characters, no Unicode.
HOSTILE = ("$a$", r"$\frac{$", "a$b", "[red]x[/]", "猫と犬", "line\nbreak", "\udcff", "x" * 300)

#: Ten samples of classes 0, 0, 0, 0, 1, 1, 1, 2, 2, 3; nothing is taken for class 3.
LABELS = np.array([0, 0, 0, 0, 1, 1, 1, 2, 2, 3])
PREDICTED = np.array([0, 0, 0, 1, 1, 1, 0, 0, 2, 2])


def outputs(predicted: np.ndarray, classes: int = 4) -> np.ndarray:
    """float32[N, C] with a maximum where it is wanted."""
    logits = np.random.default_rng(0).normal(size=(len(predicted), classes)).astype(np.float32)
    logits[np.arange(len(predicted)), predicted] = logits.max(1) + 0.5
    return logits


def test_counted_by_hand() -> None:
    matrix = confusion_matrix(LABELS, PREDICTED, 4)
    assert matrix.tolist() == [[3, 1, 0, 0], [1, 2, 0, 0], [1, 0, 1, 0], [0, 0, 1, 0]]
    scores = class_scores(matrix)
    assert scores.precision.tolist() == pytest.approx([3 / 5, 2 / 3, 1 / 2, 0])
    assert scores.recall.tolist() == pytest.approx([3 / 4, 2 / 3, 1 / 2, 0])
    # 2 P R / (P + R)
    assert scores.f1.tolist() == pytest.approx([2 / 3, 2 / 3, 1 / 2, 0])
    assert scores.macro_f1 == pytest.approx((2 / 3 + 2 / 3 + 1 / 2) / 4)
    assert scores.support.tolist() == [4, 3, 2, 1]
    assert scores.predicted.tolist() == [5, 3, 2, 0]


def test_f1_is_the_harmonic_mean() -> None:
    rng = np.random.default_rng(1)
    scores = class_scores(rng.integers(1, 50, (6, 6)))
    wanted = 2 * scores.precision * scores.recall / (scores.precision + scores.recall)
    np.testing.assert_allclose(scores.f1, wanted, rtol=1e-12)


def test_a_class_without_samples_counts_as_nothing() -> None:
    scores = class_scores(confusion_matrix(np.array([0, 0]), np.array([0, 1]), 3))
    assert scores.recall.tolist() == [0.5, 0, 0]
    assert scores.precision.tolist() == [1, 0, 0]


def test_pairs_come_by_count_then_share() -> None:
    matrix = np.array([[10, 3, 0, 2], [3, 2, 0, 0], [0, 0, 5, 0], [2, 0, 2, 0]])
    found = [(pair.truth, pair.predicted, pair.count) for pair in confused_pairs(matrix)]
    # Three of five are worse than three of fifteen, and two of four than two of fifteen.
    assert found == [(1, 0, 3), (0, 1, 3), (3, 0, 2), (3, 2, 2), (0, 3, 2)]
    assert [pair.share for pair in confused_pairs(matrix)] == [3 / 5, 3 / 15, 2 / 4, 2 / 4, 2 / 15]
    assert confused_pairs(np.diag([3, 4])) == []


@pytest.mark.parametrize(
    ("right", "samples", "low", "high"),
    [
        # Newcombe, "Two-sided confidence intervals for the single proportion", 1998, Table I.
        (81, 263, 0.2553, 0.3662),
        (15, 148, 0.0624, 0.1605),
        (0, 20, 0.0, 0.1611),
        (1, 29, 0.0061, 0.1718),
        (20, 20, 1 - 0.1611, 1.0),
    ],
)
def test_wilson_as_published(right: int, samples: int, low: float, high: float) -> None:
    assert wilson_interval(right, samples) == pytest.approx((low, high), abs=5e-5)


def test_the_interval_holds_what_it_promises() -> None:
    """Of many experiments about 95 in 100 give an interval with the truth in it."""
    rng = np.random.default_rng(2)
    truth, samples = 0.9, 200
    intervals = [
        wilson_interval(int(right), samples) for right in rng.binomial(samples, truth, 4000)
    ]
    assert 0.93 < np.mean([low <= truth <= high for low, high in intervals]) < 0.97


def test_samples_are_judged_by_their_outputs() -> None:
    logits = np.array([[0, math.log(3)], [2, 2], [1000, -1000]], np.float32)
    samples = judge_samples(logits, np.array([0, 1, 1]))
    assert samples.predicted.tolist() == [1, 0, 0]  # the first of equal ones, as in torch
    assert samples.probability.tolist() == pytest.approx([0.75, 0.5, 1])
    assert samples.truth_probability.tolist() == pytest.approx([0.25, 0.5, 0])
    # Not infinite: the probability is too small for a float, its logarithm is not.
    assert samples.losses.tolist() == pytest.approx([math.log(4), math.log(2), 2000])
    assert samples.right == 0
    assert samples.worst(2).tolist() == [2, 0]


def test_outputs_that_differ_little_are_told_apart() -> None:
    logits = np.array([[0, 1e-20]], np.float32)  # their log softmax in float64 is the same
    assert judge_samples(logits, np.array([1])).right == 1


def test_log_softmax_sums_to_one() -> None:
    scores = log_softmax(np.array([[1e4, -1e4, 0], [1, 2, 3]], np.float32))
    np.testing.assert_allclose(np.exp(scores).sum(1), 1, rtol=1e-12)
    np.testing.assert_allclose(scores[1, 2] - scores[1, 0], 2, rtol=1e-12)


def test_judge_puts_it_together() -> None:
    logits = outputs(PREDICTED)
    findings = judge(logits, LABELS)
    assert findings.accuracy == 0.6
    assert findings.interval == wilson_interval(6, 10)
    assert findings.plain_accuracy is None
    wide = logits.astype(np.float64)
    wanted = np.log(np.exp(wide).sum(1)) - wide[np.arange(10), LABELS]
    assert findings.loss == pytest.approx(wanted.mean())
    assert findings.matrix.tolist() == confusion_matrix(LABELS, PREDICTED, 4).tolist()
    assert judge(logits, LABELS, plain=outputs(LABELS)).plain_accuracy == 1


def test_sklearn_agrees() -> None:
    metrics = pytest.importorskip("sklearn.metrics", reason="scikit-learn is not installed")
    rng = np.random.default_rng(3)
    labels, predicted = rng.integers(0, 7, 300), rng.integers(0, 6, 300)
    scores = class_scores(confusion_matrix(labels, predicted, 7))
    wanted = metrics.precision_recall_fscore_support(labels, predicted, zero_division=0)
    for mine, theirs in zip(
        (scores.precision, scores.recall, scores.f1, scores.support), wanted, strict=True
    ):
        np.testing.assert_allclose(mine, theirs, rtol=1e-12)


def image_of(png: bytes) -> Image.Image:
    with Image.open(io.BytesIO(png)) as image:
        image.load()
    return image


def printed(labels: np.ndarray, predicted: np.ndarray, names: tuple[str, ...]) -> str:
    console = Console(file=io.StringIO(), width=200)
    made = {"config": {}, "checkpoint": {}, "environment": {}, "seconds": 1.0, "top_losses": ()}
    how = {"data": "d", "loader": "ffcv", "batch_size": 8, "device": "cpu", "dtype": "float32"}
    numbers = figures(judge(outputs(predicted, len(names)), labels), names)
    print_evaluation(Evaluation(**made, **how, **numbers), console)
    file: Any = console.file
    return str(file.getvalue())


def test_tables_name_what_they_leave_out() -> None:
    names = tuple(f"class{number:02}" for number in range(30))
    labels = np.repeat(np.arange(30), 4)
    predicted = labels.copy()
    predicted[::4] = (labels[::4] + 1) % 30
    predicted[:4] = 7  # class00 is never right
    text = printed(labels, predicted, names)
    rows = [line for line in text.splitlines() if "class" in line and "│" in line]
    assert "class00" in rows[0]
    assert len(rows) == 20 + 10
    assert "and 10 more of a higher F1" in text
    assert "and 20 more pairs" in text
    assert "never predicted" not in text
    text = printed(LABELS, PREDICTED, ("a", "b", "c", "d"))
    assert "never predicted, so precision counts as 0: d" in text
    assert "more" not in text
    assert "Most confused" not in printed(LABELS, LABELS, ("a", "b", "c", "d"))
    assert "[red]x[/]" in printed(LABELS, PREDICTED, HOSTILE[:4])


def test_names_are_cut_and_counted() -> None:
    assert shorten("abcdef", 6) == "abcdef"
    assert shorten("abcdefg", 6) == "abcde…"
    assert shorten("a\nb", 6) == "a\\nb"
    assert enumerate_names(["a", "b"]) == "a, b"
    assert enumerate_names(list("abcdefg")) == "a, b, c, d, e and 2 more"


@pytest.mark.parametrize(
    ("classes", "most", "written"),
    [
        (1, 9, 1),
        (2, 1_234_567, 4),
        (5, 99, 25),
        (28, 99, 28),
        (28, 12345, 0),
        *rest((10, 99, 100), (60, 99, 60), (60, 12345, 0), (200, 9, 0), (300, 9, 0)),
    ],
)
def test_counts_are_written_where_they_fit(
    classes: int, most: int, written: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    texts = []
    real = Axes.text

    def spy(axes: Axes, x: float, y: float, s: str, *rest: Any, **more: Any) -> Any:
        texts.append(s)
        return real(axes, x, y, s, *rest, **more)

    monkeypatch.setattr(Axes, "text", spy)
    # A text takes a millisecond or two: of many classes only the diagonal has counts.
    matrix = np.full((classes, classes), most) if classes <= 10 else np.diag([most] * classes)
    image = image_of(draw_confusion(matrix, [f"class {n}" for n in range(classes)], "title"))
    assert texts == [f"{most:,}"] * written
    assert 200 < image.width < 2500
    assert 200 < image.height < 2500


def test_colours_are_shares_of_the_row() -> None:
    """A rare class's mistakes are as red as a frequent one's, and nothing is white."""
    from fastft.evaluate.plots import _cell_colors

    colors = _cell_colors(np.array([[990, 10, 0], [1, 99, 0], [0, 0, 0]]))
    np.testing.assert_allclose(colors[0, 1], colors[1, 0])
    np.testing.assert_allclose(colors[0, 0], colors[1, 1])
    assert colors[0, 1, 0] > colors[0, 1, 2]  # red
    assert colors[0, 0, 0] < colors[0, 0, 2]  # blue
    assert colors[0, 1, :3].min() < 0.93  # one in a hundred can be seen
    assert (colors[:, 2] == 1).all()


def test_pictures_take_any_name() -> None:
    matrix = np.arange(64).reshape(8, 8)
    assert image_of(draw_confusion(matrix, HOSTILE, "$title$ 猫")).width > 300
    photo = Image.new("RGB", (50, 50), "gray")
    pairs = [*zip(HOSTILE[::2], HOSTILE[1::2], strict=True)]
    rows = [SampleRow(f"{a}/{b}.jpg", a, b, 0.5, 0.5, 0.7) for a, b in pairs]
    assert image_of(draw_top_losses([(photo, row) for row in rows])).width > 300
    assert image_of(draw_top_losses([(photo, rows[0])])).width > 100
    shown = [Shown(photo, a, 0.5, (b, a, None, "b")[at]) for at, (a, b) in enumerate(pairs)]
    assert image_of(draw_sheet(shown)).width > 300


def test_names_that_begin_alike_are_not_the_same(monkeypatch: pytest.MonkeyPatch) -> None:
    titles: list[str] = []
    monkeypatch.setattr(Axes, "set_title", lambda self, text, **options: titles.append(text))
    draw_sheet([Shown(Image.new("RGB", (9, 9)), "x" * 99 + "$", 0.5, "x" * 99)])
    assert titles == ["x" * 99 + "$ 0.50\n(is " + "x" * 99 + ")"]
