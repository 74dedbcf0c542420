import json
from dataclasses import asdict
from itertools import repeat
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from fastft.bench import worker as gauge
from fastft.bench.worker import main, measure_loader
from fastft.config.bench import Task
from pipelines.augment import USUAL
from pipelines.errors import DataError, UsageError
from pipelines.loaders.base import Loader

FIRST = {"import_s", "first_batch_s", "first_epoch_img_per_s"}
LATER = {"img_per_s", "cpu_s_per_image", "peak_rss_bytes"}


def task(data: Path, **other: object) -> Task:
    values: dict[str, object] = {
        "loader": "resident",
        "data": str(data / "train.beton"),
        "workers": 1,
        "view": "train",
        "size": 40,
        "batch_size": 8,
        "decode": "exact",
        "augment": USUAL,
        "seconds": 0.01,
        "arch": "resnet18",
        "amp": "auto",
        "device": "cpu",
        "seed": 0,
        "cold": False,
    }
    return Task(**{**values, **other})  # type: ignore[arg-type]


@pytest.fixture
def read(monkeypatch: pytest.MonkeyPatch) -> list[tuple[int, np.ndarray]]:
    """Epoch and samples of each iteration that ended or was left."""
    found: list[tuple[int, np.ndarray]] = []
    iterate = Loader.__iter__

    def spy(self: Loader) -> Any:
        order, epoch, done = self.plan.order, self.plan.epoch, 0
        try:
            for images, labels in iterate(self):
                done += len(labels)
                yield images, labels
        finally:
            found.append((epoch, order[:done]))

    monkeypatch.setattr(Loader, "__iter__", spy)
    return found


def test_the_first_epoch_and_whole_later_ones(
    data: Path, read: list[tuple[int, np.ndarray]], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(gauge, "FIRST_EPOCH", 1e9)
    found = measure_loader(task(data, seconds=0.05))
    assert found.keys() == FIRST | LATER
    assert all(value > 0 for name, value in found.items() if name != "cpu_s_per_image")
    epochs = [epoch for epoch, _ in read]
    assert epochs == list(range(len(epochs)))
    assert len(epochs) > 1
    assert all(len(samples) == 33 for _, samples in read)


def test_long_first_epochs_are_read_in_part(
    data: Path, read: list[tuple[int, np.ndarray]], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(gauge, "FIRST_EPOCH", -1.0)
    measure_loader(task(data))
    (_, first), *later = read
    assert len(first) == 8
    assert later
    assert all(np.array_equal(samples, first) for _, samples in later)


def test_cold_runs_read_one_epoch(data: Path, read: list[tuple[int, np.ndarray]]) -> None:
    assert measure_loader(task(data, cold=True, seconds=60)).keys() == FIRST
    assert [epoch for epoch, _ in read] == [0]


def test_planless_loaders_reread_what_was_seen() -> None:
    batches = repeat((torch.empty(0), torch.zeros(8)))
    assert gauge._read(batches, 16) == 16
    assert gauge._read([next(batches)] * 2, 33) == 16


@pytest.mark.parametrize("error", [UsageError, DataError])
def test_a_deliberate_error_comes_in_parts(
    error: type[Exception], tmp_path: Path, data: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(_: Task) -> None:
        raise error("--arch", "'x'", "a model", "take another")

    monkeypatch.setattr(gauge, "measure_loader", fail)
    main([as_argument(task(data)), str(tmp_path)])
    assert json.loads((tmp_path / "answer.json").read_text()) == {
        "failed": "--arch: 'x', expected a model; take another",
        "error": [error.__name__, "--arch", "'x'", "a model", "take another"],
    }


def test_any_other_error_is_its_first_line(
    tmp_path: Path, data: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(_: Task) -> None:
        raise RuntimeError("no\nyes")

    monkeypatch.setattr(gauge, "measure_loader", fail)
    main([as_argument(task(data)), str(tmp_path)])
    assert json.loads((tmp_path / "answer.json").read_text()) == {"failed": "RuntimeError: no"}


def test_no_loader_is_the_stages(
    tmp_path: Path, data: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("fastft.bench.stages.measure_stages", lambda task: [task.arch])
    main([as_argument(task(data, loader="")), str(tmp_path)])
    assert json.loads((tmp_path / "answer.json").read_text()) == {"stages": ["resnet18"]}


def as_argument(task: Task) -> str:
    return json.dumps(asdict(task))
