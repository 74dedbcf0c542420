"""Losses that are read one block late, as on a GPU; here the device is the CPU."""

from typing import Any

import pytest
import torch

from fastft.model.loss import Loss
from fastft.runs.metrics import EpochMetrics, StepMetrics
from fastft.train import step_log
from fastft.train.distributed import ALONE
from fastft.train.readings import Reading
from fastft.train.step_log import StepLog
from pipelines.errors import DataError

#: Readings in order: begun or read, by number.
Events = list[tuple[str, int]]


@pytest.fixture
def events(monkeypatch: pytest.MonkeyPatch) -> Events:
    """Blocks are read late; all that happens to them."""
    events: Events = []

    class Recorded(Reading):
        def __init__(self, *given: Any) -> None:
            self.number = sum(kind == "begun" for kind, _ in events)
            events.append(("begun", self.number))
            super().__init__(*given)

        def rows(self) -> list[list[float]]:
            events.append(("read", self.number))
            return super().rows()

    monkeypatch.setattr(step_log, "reads_late", lambda device: True)
    monkeypatch.setattr(step_log, "Reading", Recorded)
    return events


def make_log(rows: list[StepMetrics | EpochMetrics]) -> StepLog:
    return StepLog(0, 10, Loss(), ALONE, rows.append)


def add(log: StepLog, loss: float, right: int = 1) -> None:
    log.add(torch.tensor(loss), torch.tensor(right), 4, 0.1, 0.25, 0.5)


def test_blocks_are_read_after_the_next(events: Events) -> None:
    rows: list[Any] = []
    log = make_log(rows)
    add(log, 3.0)
    add(log, 2.0)
    assert log.read([0.0]) == []
    add(log, 1.0)
    assert rows == []
    assert log.read([7.0]) == [[0.0]]  # the flags of the first
    assert [(row.step, row.loss) for row in rows] == [(10, 3.0), (11, 2.0)]
    assert events == [("begun", 0), ("begun", 1), ("read", 0)]
    assert log.flush() == [[7.0]]
    assert [(row.step, row.loss) for row in rows[2:]] == [(12, 1.0)]
    assert log.flush() == []


def test_steps_behind_are_counted_read_or_not(events: Events) -> None:
    log = make_log([])
    for taken in range(1, 5):
        add(log, 1.0)
        assert log.steps == taken
        log.read()
        assert (log.steps, log.sums.steps) == (taken, taken - 1)
    log.flush()
    assert (log.steps, log.sums.steps, log.sums.samples, log.sums.right) == (4, 4, 16, 4)
    assert events[-1] == ("read", 3)


def test_a_reading_now_takes_in_everything(events: Events) -> None:
    rows: list[Any] = []
    log = make_log(rows)
    add(log, 3.0)
    log.read([1.0])
    add(log, 2.0)
    assert log.read([2.0], now=True) == [[2.0]]
    assert [row.loss for row in rows] == [3.0, 2.0]
    assert events == [("begun", 0), ("begun", 1), ("read", 0), ("read", 1)]


def test_a_late_nan_loss_names_its_step(events: Events) -> None:
    log = make_log([])
    add(log, 3.0)
    add(log, float("nan"))
    log.read()
    add(log, 1.0)
    with pytest.raises(DataError, match="step 11: loss nan, expected a number"):
        log.read()
    assert events[-1] == ("read", 0)


def test_a_block_on_its_way_is_not_overwritten(events: Events) -> None:
    rows: list[Any] = []
    log = make_log(rows)
    for loss in (1.0, 2.0, 3.0):
        add(log, loss, right=2)
        log.read()
    log.flush()
    assert [row.loss for row in rows] == [1.0, 2.0, 3.0]
    assert log.sums.right == 6
    assert len(events) == 6


def test_a_cpu_reads_at_once() -> None:
    rows: list[Any] = []
    log = make_log(rows)
    add(log, 3.0)
    assert log.read([5.0]) == [[5.0]]
    assert [row.loss for row in rows] == [3.0]
