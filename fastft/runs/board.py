"""Event files for TensorBoard, beside `metrics.jsonl`: the extra `fastft[tensorboard]`."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from fastft.runs.metrics import EpochMetrics, StepMetrics
from pipelines.errors import DataError, UsageError


class Board:
    """A `SummaryWriter` of rows; one that could not write says so as other files do.

    Its thread, which writes, would print a traceback of a full disk, and then the next row, which
    raises what ended it.
    """

    def __init__(self, out: Path, first_step: int = 0) -> None:
        """Open it; what it has of steps from `first_step` on counts no more.

        Raises:
            UsageError: TensorBoard is not installed.
            DataError: `out` cannot be written.
        """
        try:
            from torch.utils.tensorboard import SummaryWriter
        except ImportError as error:
            raise UsageError(
                "--tensorboard",
                f"TensorBoard cannot be imported ({error})",
                "it beside fastft",
                'pip install "fastft[tensorboard]"',
            ) from error
        self._out = out
        self._hook, threading.excepthook = threading.excepthook, self._hear
        try:
            with self._named():
                self._writer: Any = SummaryWriter(str(out), purge_step=first_step or None)
        except BaseException:
            threading.excepthook = self._hook
            raise

    def add(self, row: StepMetrics | EpochMetrics) -> None:
        """One row as scalars: a step's at its step, an epoch's at its number, from 1.

        Raises:
            DataError: it, or one before it, cannot be written.
        """
        with self._named():
            for name, value, at in _scalars(row):
                self._writer.add_scalar(name, value, at)

    def close(self) -> None:
        """Close it; what could not be written has been said by then, or matters no more."""
        with suppress(OSError):
            self._writer.close()
        threading.excepthook = self._hook

    def _hear(self, failed: Any) -> None:
        if not (failed.exc_type is not None and issubclass(failed.exc_type, OSError)):
            self._hook(failed)

    @contextmanager
    def _named(self) -> Iterator[None]:
        try:
            yield
        except OSError as error:
            found = f"cannot be written: {error.strerror or error}"
            raise DataError(self._out, found, "", "free some of the disk") from error


def _scalars(row: StepMetrics | EpochMetrics) -> Iterator[tuple[str, float, int]]:
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
