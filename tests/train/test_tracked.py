"""Runs that are tracked: what a tracker hears of one that stops, goes on, ends or fails."""

import sys
from dataclasses import replace
from pathlib import Path

import pytest
from fake_tracker import FakeTracker
from stopped import QUIET, config_of, run_until

from fastft.runs.metrics import read_metrics
from fastft.train.run import resume, train
from pipelines.errors import DataError, UsageError

pytestmark = pytest.mark.usefixtures("shallow")
ARCH = "shufflenet_v2_x0_5"


@pytest.fixture
def tracker(monkeypatch: pytest.MonkeyPatch) -> FakeTracker:
    fake = FakeTracker()
    monkeypatch.setattr("fastft.runs.trackers._open", lambda *_: fake)
    return fake


def test_a_run_is_told_each_row_once(
    data: Path, tmp_path: Path, tracker: FakeTracker, monkeypatch: pytest.MonkeyPatch
) -> None:
    out = tmp_path / "run"
    config = config_of(data, out, arch=ARCH, track=("tensorboard",))
    run_until(config, 5, monkeypatch)
    result = resume(out, {}, QUIET)
    steps, epochs = read_metrics(out / "metrics.jsonl")
    assert [row for row in tracker.told if row in steps] == steps
    assert [row for row in tracker.told if row in epochs] == epochs
    assert len(tracker.told) == len(steps) + len(epochs)
    assert [ending.status for ending in tracker.endings] == ["stopped", "finished"]
    summary = tracker.endings[-1].summary
    assert (summary["epochs"], summary["best_accuracy"]) == (len(epochs), result.best_score)


def test_a_run_that_fails_says_so(data: Path, tmp_path: Path, tracker: FakeTracker) -> None:
    config = config_of(data, tmp_path / "run", arch=ARCH, tensorboard=True, lr=1e6, epochs=1)
    with pytest.raises(DataError, match="lower --lr"):
        train(config, QUIET)
    assert [ending.status for ending in tracker.endings] == ["failed"]


def test_a_missing_tracker_is_named_before_training(
    data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    config = config_of(data, tmp_path / "run", arch=ARCH, track=("mlflow",))
    monkeypatch.setitem(sys.modules, "mlflow", None)
    monkeypatch.setattr("fastft.train.run.open_sources", lambda *_: pytest.fail("read data"))
    with pytest.raises(UsageError, match=r'pip install "fastft\[mlflow\]"'):
        train(config, QUIET)
    assert not (tmp_path / "run").exists()


def test_a_short_form_is_the_same(tmp_path: Path, data: Path) -> None:
    config = config_of(data, tmp_path / "run", track=("wandb", "tensorboard", "wandb"))
    assert replace(config, tensorboard=True).trackers == ("tensorboard", "wandb")
    with pytest.raises(UsageError, match="--track: 'w&b', expected one of tensorboard, wandb, mlf"):
        replace(config, track=("w&b",))
