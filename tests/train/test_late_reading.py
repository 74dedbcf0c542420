"""Runs whose losses are read a block late, as on a GPU: the same run, to the bit."""

import json
import signal
from pathlib import Path
from typing import Any

import pytest
import torch
from rich.console import Console

from fastft.config.train import TrainConfig
from fastft.runs.checkpoint import load_checkpoint
from fastft.runs.metrics import read_metrics
from fastft.system.signals import Stopped, StopSignals
from fastft.train import step_log
from fastft.train.recorder import Recorder
from fastft.train.run import resume, train
from fastft.train.step import TrainStep
from pipelines.errors import DataError

QUIET = Console(quiet=True)
pytestmark = pytest.mark.usefixtures("shallow")


def config_of(data: Path, out: Path, **options: Any) -> TrainConfig:
    small: dict[str, Any] = {
        "weights": "none",
        "arch": "shufflenet_v2_x0_5",
        "size": 40,
        "epochs": 2,
        "batch_size": 4,
        "amp": "off",
        "loader": "resident",
        "checkpoint_every": "0",
    }
    return TrainConfig(data=data, out=out, **{**small, **options})


@pytest.fixture(scope="module")
def at_once(data: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run that reads each block at once: 9 steps an epoch."""
    out = tmp_path_factory.mktemp("at_once") / "run"
    train(config_of(data, out), QUIET)
    return out


@pytest.fixture
def late(monkeypatch: pytest.MonkeyPatch) -> None:
    """Blocks of two steps, each read when the next is queued."""
    monkeypatch.setattr(step_log, "reads_late", lambda device: True)
    monkeypatch.setattr(step_log, "MOST_STEPS", 2)
    monkeypatch.setattr(step_log, "_READ_S", 1e9)


def test_a_run_says_where_its_seconds_went(at_once: Path) -> None:
    summary = json.loads((at_once / "summary.json").read_text())
    costs = summary["costs_s"]
    wanted = {
        "data",
        "model",
        "first_batch",
        "first_epoch",
        "later_epochs",
        "evaluation",
        "checkpoints",
        "curves",
        "bottleneck",
        "other",
    }
    assert wanted <= set(costs)
    assert all(seconds >= 0 for seconds in costs.values())
    assert sum(costs.values()) == pytest.approx(summary["seconds"], abs=0.1)


def test_what_is_tried_in_the_end_is_training(
    data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Not the mode of the evaluation before it, which computes otherwise."""
    modes: list[bool] = []
    real = TrainStep.__call__

    def note(self: TrainStep, *batch: Any) -> Any:
        modes.append(self.model.training)
        return real(self, *batch)

    monkeypatch.setattr(TrainStep, "__call__", note)
    train(config_of(data, tmp_path / "run", epochs=1), QUIET)
    assert len(modes) > 9
    assert all(modes)


def rows(out: Path) -> tuple[list[tuple[int, float]], list[tuple[float, ...]]]:
    """Losses of steps and figures of epochs, without what depends on clocks."""
    steps, epochs = read_metrics(out / "metrics.jsonl")
    return (
        [(row.step, row.loss) for row in steps],
        [(row.train_loss, row.train_accuracy, row.eval_loss, row.eval_accuracy) for row in epochs],
    )


def weights_differ(one: Path, other: Path) -> list[str]:
    mine, theirs = (load_checkpoint(out / "last.safetensors").model for out in (one, other))
    return [name for name in mine if not torch.equal(mine[name], theirs[name])]


@pytest.mark.usefixtures("late")
def test_late_reading_changes_nothing(at_once: Path, data: Path, tmp_path: Path) -> None:
    train(config_of(data, tmp_path / "run"), QUIET)
    assert rows(tmp_path / "run") == rows(at_once)
    assert weights_differ(tmp_path / "run", at_once) == []


def break_loss(monkeypatch: pytest.MonkeyPatch, step: int) -> list[None]:
    """Make the loss of so many steps' last NaN; gives a list that grows with each step."""
    real, calls = TrainStep.__call__, list[None]()

    def breaks(self: TrainStep, *batch: Any) -> Any:
        calls.append(None)
        loss, right = real(self, *batch)
        return (loss * float("nan") if len(calls) == step else loss), right

    monkeypatch.setattr(TrainStep, "__call__", breaks)
    return calls


@pytest.mark.usefixtures("late")
def test_a_late_nan_keeps_the_last_good_checkpoint(
    data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    calls = break_loss(monkeypatch, 12)
    out = tmp_path / "run"
    with pytest.raises(
        DataError, match=r"step 11: loss nan, .*last\.safetensors is that of epoch 1$"
    ):
        train(config_of(data, out), QUIET)
    assert len(calls) > 12  # it was read late
    assert load_checkpoint(out / "last.safetensors").epoch == 1
    assert rows(out)[0][-1][0] == 10


@pytest.mark.usefixtures("late")
def test_a_nan_of_an_epochs_end_is_found(
    data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    break_loss(monkeypatch, 9)
    with pytest.raises(DataError, match="step 8: loss nan"):
        train(config_of(data, tmp_path / "run"), QUIET)
    assert not (tmp_path / "run").exists()


@pytest.mark.usefixtures("late")
@pytest.mark.parametrize("asked_after", [3, 9])
def test_a_stop_is_exact(
    asked_after: int, at_once: Path, data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Asked within an epoch, and in its last step."""
    out, stop = tmp_path / "run", StopSignals()
    real, calls = TrainStep.__call__, 0

    def asks(self: TrainStep, *batch: Any) -> Any:
        nonlocal calls
        calls += 1
        if calls == asked_after:
            stop.requested = signal.SIGTERM
        return real(self, *batch)

    with monkeypatch.context() as patch:
        patch.setattr(TrainStep, "__call__", asks)
        with pytest.raises(Stopped, match=r"stopped; .*is that of epoch 1 after"):
            train(config_of(data, out), QUIET, stop)
    assert read_metrics(out / "metrics.jsonl")[1] == []
    resume(out, {}, QUIET)
    assert rows(out) == rows(at_once)
    assert weights_differ(out, at_once) == []


@pytest.mark.usefixtures("late")
@pytest.mark.parametrize("every", ["3", "1s"])
def test_a_saved_state_has_all_its_steps(
    every: str, data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """By steps, at just those; by the clock, when all processes have heard that it is time."""
    saved: list[tuple[int, int]] = []
    real = Recorder.save

    def note(self: Recorder, make: Any, step: int, **options: Any) -> None:
        checkpoint = make()
        saved.append((step, checkpoint.progress["sums"]["steps"]))
        real(self, lambda: checkpoint, step, **options)

    monkeypatch.setattr(Recorder, "save", note)
    if every == "1s":
        monkeypatch.setattr(Recorder, "is_due", lambda self, step: step == 4)
    else:
        monkeypatch.setattr(Recorder, "is_due", lambda self, step: step % 3 == 0)
    train(config_of(data, tmp_path / "run", checkpoint_every=every, epochs=1), QUIET)
    within = [(3, 3), (6, 6)] if every == "3" else [(6, 6)]
    assert saved == [*within, (9, 0)]
