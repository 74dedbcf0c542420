"""Trainings of several labels and of a number: that they learn, resume, divide and refuse."""

import io
import json
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from processes import run_program
from rich.console import Console
from targets import LABELS, write_splits, write_targets

from fastft.config.commands import AccuracyConfig
from fastft.config.train import TrainConfig
from fastft.experiments.compare import compare
from fastft.model.classifier import restore_model
from fastft.model.label_scores import average_precisions, best_thresholds, sigmoid
from fastft.model.tasks import goal_of
from fastft.parity.models import run_accuracy
from fastft.runs.checkpoint import load_checkpoint, save_checkpoint
from fastft.runs.measures import MEASURES
from fastft.runs.metrics import EpochMetrics, read_metrics
from fastft.runs.result import read_run
from fastft.runs.section import runs_section
from fastft.system.signals import Stopped, StopSignals
from fastft.train.evaluate import evaluate
from fastft.train.run import resume, train
from fastft.train.run_state import identify
from fastft.train.step import TrainStep
from pipelines.errors import FastftError
from pipelines.formats.beton import read_index
from pipelines.formats.columns import Task
from pipelines.loaders import make_loader

QUIET = Console(quiet=True)
RANKS = Path(__file__).parents[1] / "support" / "ranks.py"
TASKS: tuple[Task, ...] = ("labels", "number")
SMALL: dict[str, Any] = {
    "weights": "none",
    "arch": "shufflenet_v2_x0_5",
    "size": 40,
    "epochs": 1,
    "batch_size": 8,
    "amp": "off",
    "loader": "resident",
    "optimizer": "adamw",
    "lr": 0.005,
}
pytestmark = pytest.mark.usefixtures("shallow")


def config(data: Path, out: Path, **options: Any) -> TrainConfig:
    return TrainConfig(data=data, out=out, **{**SMALL, **options})


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    folder = tmp_path_factory.mktemp("targets")
    return {task: write_splits(folder / task, task) for task in TASKS}


@pytest.fixture(scope="module")
def runs(
    data: dict[str, Path],
    tmp_path_factory: pytest.TempPathFactory,
    draw_curves: Callable[[Path, Path], None],
) -> dict[str, Path]:
    """A run of each task, with its curves."""
    folder = tmp_path_factory.mktemp("runs")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("fastft.runs.curves.draw_curves", draw_curves)
        for task in TASKS:
            train(config(data[task], folder / task, epochs=8, ema=0.5), QUIET)
    return {task: folder / task for task in TASKS}


@pytest.mark.parametrize(("task", "least"), [("labels", 0.9), ("number", 0.8)])
def test_a_model_learns_the_task(task: str, least: float, runs: dict[str, Path]) -> None:
    run = read_run(runs[task])
    assert run.best is not None
    assert run.best.score > least
    assert run.epochs[-1].training_score > 0.5
    summary = json.loads((runs[task] / "summary.json").read_text())
    assert summary[f"best_{ {'labels': 'map', 'number': 'r2'}[task] }"] == run.best.score


@pytest.mark.parametrize("task", TASKS)
def test_the_best_checkpoint_gives_its_score(
    task: str, runs: dict[str, Path], data: dict[str, Path]
) -> None:
    checkpoint = load_checkpoint(runs[task] / "best.safetensors")
    assert checkpoint.accuracy == 0
    meaning, goal = checkpoint.outputs, goal_of(checkpoint.outputs)
    with make_loader(
        "torchvision", data[task] / "test.beton", view="eval", size=40, batch_size=7, workers=1
    ) as loader:
        found = evaluate(
            restore_model(checkpoint, runs[task]),
            loader,
            device=torch.device("cpu"),
            amp_dtype=None,
            keep=True,
            goal=goal,
        )
    assert found.score == pytest.approx(checkpoint.score, abs=1e-5)
    assert found.outputs is not None
    outputs, labels = found.outputs.logits, found.outputs.labels
    row = read_run(runs[task]).epochs[checkpoint.epoch - 1]
    if task == "labels":
        has = labels > 0.5
        assert found.score == np.mean(average_precisions(outputs, has))
        assert meaning.thresholds == pytest.approx(best_thresholds(sigmoid(outputs), has), abs=1e-3)
        told = outputs > 0
        right = (told & has).sum()
        assert row.eval_f1 == pytest.approx(2 * right / (told.sum() + has.sum()))
        return
    numbers = outputs.astype(np.float64) * meaning.deviation + meaning.mean
    assert 1000 < meaning.mean < 1200
    assert row.eval_mae == pytest.approx(np.abs(numbers - labels).mean(), rel=1e-3)
    assert row.eval_rmse == pytest.approx(np.sqrt(np.square(numbers - labels).mean()), rel=1e-3)


def test_rows_have_measures_of_their_task_alone(runs: dict[str, Path]) -> None:
    for task, wanted in (
        ("labels", {"train_exact", "eval_map", "eval_f1"}),
        ("number", {"train_r2", "eval_r2", "eval_mae", "eval_rmse"}),
    ):
        lines = (runs[task] / "metrics.jsonl").read_text().splitlines()
        row = json.loads(lines[-1])
        own = {name for name in row if name.startswith(("train_", "eval_"))}
        assert own == wanted | {"train_loss", "eval_loss", "train_s", "eval_s"}
    with pytest.raises(ValueError, match="measures of a task"):
        EpochMetrics(
            epoch=0,
            size=40,
            train_loss=1.0,
            eval_loss=1.0,
            eval_map=0.5,
            img_per_s=1.0,
            wait_s=0.0,
            train_s=1.0,
            eval_s=1.0,
        )


def test_runs_of_different_tasks_share_a_page(runs: dict[str, Path]) -> None:
    read = [(task, read_run(runs[task])) for task in TASKS]
    both = runs_section(read)
    assert both is not None
    alone = runs_section(read[:1])
    assert alone is not None
    assert {key.what for key in alone.keys} >= {"best mAP"}


@pytest.mark.parametrize("task", TASKS)
def test_a_stopped_run_resumes_exactly(
    task: Task, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    options = {
        "epochs": 2,
        "ema": 0.9,
        "mixup": 0.3,
        "checkpoint_every": "1",
        "micro_batch": 3,
    }
    more: dict[str, Any] = {"label_smoothing": 0.1, "class_weight": "balanced"}
    options |= more if task == "labels" else {}
    few = write_splits(tmp_path / "data", task, 24, 8)
    train(config(few, tmp_path / "whole", **options), QUIET)
    real, stop, steps = TrainStep.__call__, StopSignals(), 0

    def call(self: TrainStep, *arguments: Any) -> Any:
        nonlocal steps
        steps += 1
        if steps == 5:  # of six, in the second epoch
            stop.requested = 15
        return real(self, *arguments)

    with monkeypatch.context() as patch:
        patch.setattr(TrainStep, "__call__", call)
        with pytest.raises(Stopped):
            train(config(few, tmp_path / "run", **options), QUIET, stop)
    resume(tmp_path / "run", {}, QUIET)
    whole, again = (
        load_checkpoint(tmp_path / out / "last.safetensors") for out in ("whole", "run")
    )
    for part in ("model", "ema", "optimizer"):
        for name, tensor in getattr(whole, part).items():
            assert torch.equal(tensor, getattr(again, part)[name]), name
    assert whole.meaning == again.meaning
    wanted, found = (read_metrics(tmp_path / out / "metrics.jsonl") for out in ("whole", "run"))
    assert [row.loss for row in wanted[0]] == [row.loss for row in found[0]]
    assert [row.score for row in wanted[1]] == [row.score for row in found[1]]


def test_two_processes_train_and_judge_as_one(tmp_path: Path) -> None:
    jobs = []
    for task in TASKS:
        few = write_splits(tmp_path / "data" / task, task, 27, 11)
        for world in (1, 2):
            settings = {
                **SMALL,
                "data": str(few),
                "out": str(tmp_path / f"{task}-{world}"),
                "batch_size": 10,
                "sync_bn": True,
                "workers": 1,
                "optimizer": "sgd",
                "lr": 0.001,
                "schedule": "constant",
                "checkpoint_every": "0",
            }
            jobs.append({"world": world, "double": True, "config": settings})
    file = tmp_path / "jobs.json"
    file.write_text(json.dumps(jobs))
    ended = run_program(RANKS, file, folder=tmp_path, within_s=300)
    assert ended.returncode == 0, ended.stderr
    assert [job["codes"] for job in json.loads(ended.stdout)] == [[0], [0, 0]] * 2, ended.stderr
    for task in TASKS:
        alone, shared = (
            read_metrics(tmp_path / f"{task}-{world}" / "metrics.jsonl") for world in (1, 2)
        )
        assert [row.loss for row in shared[0]] == pytest.approx(
            [row.loss for row in alone[0]], rel=1e-9
        )
        mine, theirs = (asdict(epochs[0]) for _, epochs in (shared, alone))
        measures = (*MEASURES[task].fields, "eval_loss")
        assert [mine[name] for name in measures] == pytest.approx(
            [theirs[name] for name in measures], rel=1e-4
        )


def test_a_head_learns_on_another_tasks_weights(
    data: dict[str, Path], runs: dict[str, Path], tmp_path: Path
) -> None:
    said = io.StringIO()
    result = train(
        config(
            data["labels"],
            tmp_path / "run",
            weights=str(runs["number"]),
            freeze="backbone",
            loader="torchvision",
            stock=True,
            workers=1,
            class_weight="square=2",
        ),
        Console(file=said, width=400),
    )
    assert 0 <= result.best_score <= 1
    assert "2 labels" in said.getvalue()
    assert "exact" in said.getvalue()
    assert "accuracy" not in said.getvalue()
    before = load_checkpoint(runs["number"] / "best.safetensors").model
    after = load_checkpoint(tmp_path / "run" / "best.safetensors").model
    assert torch.equal(before["conv.weight"], after["conv.weight"])
    assert after["fc.weight"].shape[0] == len(LABELS)


def test_variants_are_compared_by_the_score(
    data: dict[str, Path], runs: dict[str, Path], tmp_path: Path
) -> None:
    options = {**SMALL, "data": data["number"], "weights": str(runs["number"])}
    found = compare(options, QUIET, out=tmp_path / "compare", seeds=1)
    for each in found.variants:
        assert each.accuracy.mean == each.runs[0].epochs[-1].eval_r2
    content = json.loads((tmp_path / "compare" / "compare.json").read_text())
    assert "eval_accuracy" not in content["variants"][0]["runs"][0]["epochs"][0]


def test_a_damaged_meaning_is_refused(runs: dict[str, Path], tmp_path: Path) -> None:
    whole = load_checkpoint(runs["labels"] / "best.safetensors")
    fields = {name: getattr(whole, name) for name in whole.__slots__}
    for odd in ({"task": "number"}, {**(whole.meaning or {}), "thresholds": [2.0, 0.5]}):
        save_checkpoint(tmp_path / "odd.safetensors", type(whole)(**{**fields, "meaning": odd}))
        with pytest.raises(FastftError, match="a whole checkpoint"):
            load_checkpoint(tmp_path / "odd.safetensors")


def test_other_labels_make_another_run(tmp_path: Path) -> None:
    files = [
        write_targets(tmp_path / f"{at}.beton", "labels", 8, targets=targets)
        for at, targets in enumerate((np.ones((8, 2)), np.eye(8)[:, :2]))
    ]
    first, second = (identify(read_index(file)) for file in files)
    assert first["content"] == second["content"]
    assert first["labels"] != second["labels"]


@pytest.mark.parametrize(
    ("splits", "options", "message"),
    [
        (("labels", "number"), {}, "classes|holds a number for each image"),
        (("labels", "number as labels"), {}, "holds a number for each image, expected any number"),
        (("labels", "folder"), {}, "holds one class for each image, expected any number of labels"),
        (("number", "number"), {"label_smoothing": 0.1}, "--label-smoothing: 0.1"),
        (("number", "number"), {"class_weight": "balanced"}, "--class-weight: balanced"),
        (("labels", "labels"), {"class_weight": "cat=2"}, "'cat', which is no class"),
        (("labels", "no labels"), {}, "no image has any label"),
        (("one number", "number"), {}, "the number of every image is 7"),
    ],
)
def test_what_makes_no_sense_is_refused(
    splits: tuple[str, str],
    options: dict[str, Any],
    message: str,
    data: dict[str, Path],
    photos: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    folder = tmp_path / "data"
    folder.mkdir()
    made = {
        "number as labels": ("number", np.arange(8.0)[:, None].repeat(1, 1), ("disc",)),
        "no labels": ("labels", np.zeros((8, 2)), LABELS),
        "one number": ("number", np.full((8, 1), 7.0), ("darkness",)),
    }
    for name, kind in zip(("train", "test"), splits, strict=True):
        if kind == "folder":
            (folder / name).symlink_to(photos / "test")
        elif kind in made:
            task, targets, classes = made[kind]
            write_targets(
                folder / f"{name}.beton",
                task,
                8,
                targets=targets,
                classes=classes,  # type: ignore[arg-type]
            )
        else:
            (folder / f"{name}.beton").symlink_to(data[kind] / f"{name}.beton")
    if splits[1] == "number as labels":  # of the same names
        write_targets(
            folder / "train.beton", "labels", 8, targets=np.eye(8)[:, :1], classes=("disc",)
        )
    monkeypatch.setattr("fastft.train.run.build_model", no_model)
    with pytest.raises(FastftError, match=message) as caught:
        train(config(folder, tmp_path / "run", **options), QUIET)
    assert "\n" not in str(caught.value)
    assert not (tmp_path / "run").exists()


def no_model(classes: tuple[str, ...], weights: str, **options: Any) -> Any:
    """Stands for a model where what is wrong is refused before any is built."""
    raise AssertionError("a model was built")


def test_parity_of_accuracies_refuses_other_tasks(data: dict[str, Path]) -> None:
    with pytest.raises(FastftError, match="holds a number for each image, expected one class"):
        run_accuracy(AccuracyConfig(data=data["number"]), QUIET)
