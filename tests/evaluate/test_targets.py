"""Models of several labels and of a number, judged and asked."""

import csv
import io
import json
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from rich.console import Console
from runs import batches_of, make_checkpoint
from targets import LABELS, NUMBER, make_targets, write_splits, write_targets

from fastft.cli.tables import print_predictions
from fastft.config.commands import EvaluateConfig, PredictConfig
from fastft.evaluate.label_report import LABEL_FILES, judge_labels
from fastft.evaluate.number_report import NUMBER_FILES
from fastft.evaluate.predict import Summary, predict
from fastft.evaluate.predictions import Told
from fastft.evaluate.run import run_evaluate
from fastft.model.classifier import restore_model
from fastft.model.label_scores import average_precisions
from fastft.report.sources import SECTIONS, read_sources
from fastft.runs.checkpoint import load_checkpoint, save_checkpoint
from pipelines.errors import FastftError
from pipelines.formats.columns import Task

QUIET = Console(quiet=True)
MEANINGS: dict[Task, dict[str, Any]] = {
    "labels": {"task": "labels", "score": 0.5, "thresholds": [0.25, 0.75]},
    "number": {"task": "number", "score": -0.5, "mean": 1100.0, "deviation": 60.0},
}


@pytest.fixture
def undrawn(monkeypatch: pytest.MonkeyPatch) -> None:
    """Reports leave empty pictures: drawing takes longer than all else."""
    for draw in ("label_report.draw_precisions", "number_report.draw_scatter"):
        monkeypatch.setattr(f"fastft.evaluate.{draw}", lambda *_: b"")
    for report in ("label_report", "number_report"):
        monkeypatch.setattr(f"fastft.evaluate.{report}.draw_worst", lambda *_: b"")


def summary_of(rows: Sequence[Told]) -> Summary:
    summary = Summary()
    for row in rows:
        summary.add(row)
    return summary


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    folder = tmp_path_factory.mktemp("data")
    return {task: write_splits(folder / task, task, 11, 9) for task in MEANINGS}


@pytest.fixture(scope="module")
def runs(data: dict[str, Path], tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """Models that have learnt nothing, and do not say the same of every photo."""
    folder = tmp_path_factory.mktemp("runs")
    for task, classes in (("labels", LABELS), ("number", NUMBER)):
        made = make_checkpoint(data[task], classes)
        (folder / task).mkdir()
        save_checkpoint(
            folder / task / "best.safetensors",
            replace(made, accuracy=0.0, meaning=MEANINGS[task]),
        )
    return {task: folder / task for task in MEANINGS}


def outputs_of(run: Path, data: Path) -> tuple[np.ndarray, np.ndarray]:
    """float64[N, C] outputs and labels of the evaluation split."""
    model = restore_model(load_checkpoint(run / "best.safetensors"), run)
    batches = batches_of(data)
    with torch.inference_mode():
        outputs = torch.cat([model(images) for images, _ in batches])
    return outputs.double().numpy(), torch.cat([labels for _, labels in batches]).double().numpy()


def judged(run: Path, data: Path, **options: Any) -> tuple[Any, dict[str, Any], list[list[str]]]:
    findings = run_evaluate(EvaluateConfig(run=run, data=data, **options), QUIET)
    out = run / "evaluation"
    rows = list(csv.reader((out / "predictions.csv").read_text().splitlines()))
    return findings, json.loads((out / "evaluation.json").read_text()), rows


@pytest.mark.usefixtures("undrawn")
@pytest.mark.parametrize(("asked", "thresholds"), [("", (0.5, 0.5)), ("best", (0.25, 0.75))])
def test_labels_are_judged_by_hand(
    asked: str, thresholds: tuple[float, float], runs: dict[str, Path], data: dict[str, Path]
) -> None:
    _, found, rows = judged(runs["labels"], data["labels"], threshold=asked)
    outputs, labels = outputs_of(runs["labels"], data["labels"])
    probabilities, has = 1 / (1 + np.exp(-outputs)), labels == 1
    told = probabilities >= thresholds
    precisions = average_precisions(outputs.astype(np.float32), has)
    assert found["mean_average_precision"] == pytest.approx(precisions.mean())
    assert found["exact"] == (told == has).all(1).sum()
    assert found["label_accuracy"] == pytest.approx((told == has).mean())
    right = (told & has).sum()
    assert found["micro_f1"] == pytest.approx(2 * right / (told.sum() + has.sum()))
    right_each = np.where(has, probabilities, 1 - probabilities)
    assert found["loss"] == pytest.approx(-np.log(right_each).mean(), rel=1e-4)
    for at, row in enumerate(found["labels"]):
        assert row["name"] == LABELS[at]
        assert row["average_precision"] == pytest.approx(precisions[at])
        assert (row["support"], row["predicted"]) == (has[:, at].sum(), told[:, at].sum())
        assert row["threshold"] == thresholds[at]
        assert row["best_f1"] >= row["f1"]
    assert found["checkpoint"]["score"] == 0.5
    assert rows[0] == ["name", "truth", "predicted", "missed", "added", "loss", *LABELS]
    for row, said, true, shares in zip(rows[1:], told, has, probabilities, strict=True):
        names = [";".join(np.array(LABELS)[each]) for each in (true, said, true & ~said)]
        assert row[1:4] == names
        assert [float(each) for each in row[6:]] == pytest.approx(shares, abs=1e-5)
    worst = [each["loss"] for each in found["top_losses"]]
    assert worst == sorted(worst, reverse=True)


@pytest.mark.usefixtures("undrawn")
def test_a_number_is_judged_by_hand(runs: dict[str, Path], data: dict[str, Path]) -> None:
    _, found, rows = judged(runs["number"], data["number"], flip=True, crops=5)
    outputs, truth = outputs_of(runs["number"], data["number"])
    predicted = np.array([float(row[2]) for row in rows[1:]])
    errors = predicted - truth.ravel()
    assert rows[0] == ["name", "truth", "predicted", "error"]
    assert found["mae"] == pytest.approx(np.abs(errors).mean())
    assert found["rmse"] == pytest.approx(np.sqrt(np.square(errors).mean()))
    assert found["bias"] == pytest.approx(errors.mean())
    assert found["r2"] == pytest.approx(1 - np.square(errors).mean() / truth.var())
    plain = outputs * 60 + 1100
    assert found["plain_r2"] == pytest.approx(
        1 - np.square(plain - truth).mean() / truth.var(), rel=1e-4
    )
    assert found["plain_r2"] != found["r2"]
    assert found["number"] == NUMBER[0]
    assert abs(found["top_losses"][0]["error"]) == np.abs(errors).max()


def test_a_new_report_replaces_another_tasks(
    runs: dict[str, Path], data: dict[str, Path], tmp_path: Path
) -> None:
    out = tmp_path / "out"
    for task, files in (("labels", LABEL_FILES), ("number", NUMBER_FILES)):
        run_evaluate(EvaluateConfig(run=runs[task], data=data[task], out=out, n=2), QUIET)
        assert sorted(each.name for each in out.iterdir()) == sorted(files)
        with Image.open(out / files[2]) as picture:
            assert picture.width > 300


@pytest.mark.usefixtures("undrawn")
def test_reports_have_a_section_on_a_page(runs: dict[str, Path], data: dict[str, Path]) -> None:
    for task, kind, key in (("labels", "labels", "mAP"), ("number", "number", "R2")):
        said = io.StringIO()
        console = Console(file=said, width=100)
        run_evaluate(EvaluateConfig(run=runs[task], data=data[task], n=2, flip=True), console)
        assert key in said.getvalue()
        assert "of the images alone" in said.getvalue()
        (source,) = read_sources([runs[task] / "evaluation" / "evaluation.json"])
        assert source.kind == kind
        section = SECTIONS[kind]([(source.name, *source.parts)])
        assert section is not None
        assert key in section.keys[0].what
        assert "each image and its mirror image" in section.lead[0]


def test_labels_that_no_sample_has_are_in_no_mean() -> None:
    outputs = np.array([[3, -1, 2], [-3, 1, -2]], np.float32)
    labels = np.array([[1, 0, 0], [0, 0, 1]], np.float32)
    found = judge_labels(outputs, labels, np.full(3, 0.5))
    assert found.score == pytest.approx((1 + 0.5) / 2)
    assert found.scores.macro_f1 == pytest.approx((1 + 0) / 2)
    assert found.exact == 0


@pytest.fixture
def photos(tmp_path: Path) -> Path:
    folder = tmp_path / "photos"
    folder.mkdir()
    for at, pixels in enumerate(make_targets("labels", 6)[1][:3]):
        Image.fromarray(pixels).save(folder / f"{at}.png")
    return folder


@pytest.mark.parametrize(("asked", "thresholds"), [("0.4", (0.4, 0.4)), ("best", (0.25, 0.75))])
def test_prediction_tells_labels_from_a_threshold_on(
    asked: str, thresholds: tuple[float, float], runs: dict[str, Path], photos: Path, tmp_path: Path
) -> None:
    kinds = ("csv", "json", "sheet") if asked == "best" else ("csv", "json")
    files = {name: tmp_path / f"out.{name}" for name in kinds}
    rows: list[Any] = predict(
        PredictConfig(run=runs["labels"], images=(photos,), threshold=asked, flip=True, **files)
    )
    assert any(row.labels for row in rows)
    for row in rows:
        told = tuple(np.array(LABELS)[row.probabilities >= thresholds].tolist())
        assert row.labels == told
    head, *lines = csv.reader(files["csv"].read_text().splitlines())
    assert head == ["path", "labels", *LABELS]
    assert [line[1] for line in lines] == [";".join(row.labels) for row in rows]
    assert [float(line[2]) for line in lines] == [float(row.probabilities[0]) for row in rows]
    content = json.loads(files["json"].read_text())
    assert [each["labels"] for each in content] == [list(row.labels) for row in rows]
    if "sheet" in files:
        with Image.open(files["sheet"]) as sheet:
            assert sheet.width > 300
    said = io.StringIO()
    print_predictions(summary_of(rows), Console(file=said, width=200))
    print_predictions(summary_of(rows[:1]), Console(file=said, width=200))
    assert "prob=" in said.getvalue()


def test_prediction_tells_a_number(runs: dict[str, Path], photos: Path, tmp_path: Path) -> None:
    rows: list[Any] = predict(
        PredictConfig(
            run=runs["number"], images=(photos,), csv=tmp_path / "a.csv", sheet=tmp_path / "a.png"
        )
    )
    (alone,) = predict(PredictConfig(run=runs["number"], images=(photos / "0.png",)))
    assert alone.plain["value"] == pytest.approx(rows[0].value, rel=1e-5)
    head, *lines = csv.reader((tmp_path / "a.csv").read_text().splitlines())
    assert head == ["path", NUMBER[0]]
    assert [float(line[1]) for line in lines] == [row.value for row in rows]
    assert len({row.value for row in rows}) > 1
    said = io.StringIO()
    print_predictions(summary_of([alone]), Console(file=said, width=200))
    assert said.getvalue() == f"{NUMBER[0]}: {alone.plain['value']:.6g}\n"


@pytest.mark.parametrize(
    ("task", "on", "options", "message"),
    [
        ("labels", "number", {}, "holds a number for each image, expected any number of labels"),
        ("number", "labels", {}, "holds any number of labels for each image, expected a number"),
        ("labels", "classes", {}, "holds one class for each image, expected any number of labels"),
        ("classes", "labels", {}, "holds any number of labels for each image, expected one class"),
        ("labels", "others", {}, "no class disc and the additional class dog"),
        ("labels", "none", {}, "no image has any label"),
        ("number", "number", {"threshold": "0.5"}, "--threshold: 0.5, and .* tells no labels"),
        ("labels", "labels", {"threshold": "1.5"}, "--threshold: '1.5'"),
        ("labels", "labels", {"threshold": "most"}, "--threshold: 'most'"),
        ("fresh", "labels", {"threshold": "best"}, "has been through no evaluation"),
    ],
)
def test_data_of_another_kind_are_refused(
    task: str,
    on: str,
    options: dict[str, Any],
    message: str,
    runs: dict[str, Path],
    data: dict[str, Path],
    tmp_path: Path,
) -> None:
    whole = load_checkpoint(runs["labels"] / "best.safetensors")
    files = {
        "classes": replace(whole, meaning=None),
        "fresh": replace(whole, meaning={**MEANINGS["labels"], "thresholds": []}),
    }
    run = runs.get(task, tmp_path / "odd.safetensors")
    if task in files:
        save_checkpoint(run, files[task])
    where = data[on] / "test.beton" if on in data else tmp_path / on
    if on == "classes":
        for name in LABELS:
            (where / name).mkdir(parents=True)
            Image.new("RGB", (40, 40)).save(where / name / "a.png")
    elif on == "others":
        write_targets(where, "labels", 8, classes=("dog", "square"))
    elif on == "none":
        write_targets(where, "labels", 8, targets=np.zeros((8, 2)))
    with pytest.raises(FastftError, match=message) as caught:
        run_evaluate(EvaluateConfig(run=run, data=where, out=tmp_path / "out", **options), QUIET)
    assert "\n" not in str(caught.value)
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    ("task", "options", "message"),
    [
        ("number", {"threshold": "best"}, "--threshold: best"),
        ("labels", {"top": 2}, "--top: 2, and .* tells no single class"),
        ("number", {"top": 3}, "--top: 3"),
    ],
)
def test_options_of_other_tasks_are_refused(
    task: str, options: dict[str, Any], message: str, runs: dict[str, Path], photos: Path
) -> None:
    with pytest.raises(FastftError, match=message):
        predict(PredictConfig(run=runs[task], images=(photos,), **options))
