"""A tracker of experiments beside the folder of a run: what it is told, by whatever library."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Literal, Protocol

from fastft.runs.metrics import EpochMetrics, StepMetrics

Row = StepMetrics | EpochMetrics
Status = Literal["finished", "stopped", "failed"]


@dataclass(frozen=True, slots=True)
class Ending:
    """The end of a run, as trackers are told of it.

    Attributes:
        status: `stopped` by a signal, `failed` by an error.
        summary: values of the whole run; empty unless it has finished.
    """

    status: Status
    summary: Mapping[str, float]


class Tracker(Protocol):
    """One tracker of one run; its methods may raise whatever its library raises.

    Attributes:
        key: what a later process continues the tracked run by; '' if it needs none.
        place: where people find the run.
    """

    key: str
    place: str

    def add(self, rows: Sequence[Row]) -> None:
        """Tell it of rows, in their order."""

    def close(self, ending: Ending) -> None:
        """Say how the run ended; leaves no thread and no process."""


def scalars(row: Row) -> Iterator[tuple[str, float, int]]:
    """A row as names, values and where they lie: a step's number, or an epoch's, from 1."""
    if isinstance(row, StepMetrics):
        yield "step/loss", row.loss, row.step
        yield "step/lr", row.lr, row.step
        yield "step/img_per_s", row.img_per_s, row.step
        return
    at = row.epoch + 1
    measures = row.measures
    yield "loss/train", row.train_loss, at
    yield "loss/eval", row.eval_loss, at
    yield f"{measures.training.key}/train", row.training_score, at
    yield f"{measures.score.key}/eval", row.score, at
    for measure, value in row.others:
        yield f"{measure.key}/eval", value, at
    yield "epoch/img_per_s", row.img_per_s, at
    yield "epoch/wait_share", row.wait_s / row.train_s, at
