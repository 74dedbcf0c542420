"""Measurements of a run: one JSON line per step and per epoch, appended as it goes."""

from __future__ import annotations

import json
import os
import re
import time
from collections.abc import Iterable, Iterator
from contextlib import suppress
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, ClassVar, TypeVar

from fastft.results.read import check_line, read_bytes
from fastft.runs.checked import STRICT, Count
from fastft.runs.measures import MEASURES, Measure, Measures
from pipelines.errors import DataError, FormatError

T = TypeVar("T")
#: Beginnings of rows, as `MetricsFile` writes them.
_STEP, _EPOCH = b'{"kind": "step"', b'{"kind": "epoch"'
_KINDS = (_STEP, _EPOCH)
#: The beginnings of a step's row and an epoch's, with their numbers.
_NUMBERS = (
    re.compile(re.escape(_STEP) + rb', "epoch": \d{1,15}, "step": (\d{1,15}),'),
    re.compile(re.escape(_EPOCH) + rb', "epoch": (\d{1,15}),'),
)
_REMEDY = "free some of the disk, then continue with fastft train --resume"


@dataclass(frozen=True, kw_only=True, slots=True)
class StepMetrics:
    """One step. `wait_s`: how long the loop stood still for its batch; `step_s`: all of it."""

    __pydantic_config__: ClassVar[Any] = STRICT
    epoch: Count
    step: Count
    loss: float
    lr: float
    wait_s: float
    step_s: float
    img_per_s: float


@dataclass(frozen=True, kw_only=True, slots=True)
class EpochMetrics:
    """One epoch: training on images of `size` px, then evaluation of the whole other split.

    Of the measures those of one task are there, see `measures`; a row on disk has no others.
    """

    __pydantic_config__: ClassVar[Any] = STRICT
    epoch: Count
    size: Count
    train_loss: float
    train_accuracy: float | None = None
    train_exact: float | None = None
    train_r2: float | None = None
    eval_loss: float
    eval_accuracy: float | None = None
    eval_map: float | None = None
    eval_f1: float | None = None
    eval_r2: float | None = None
    eval_mae: float | None = None
    eval_rmse: float | None = None
    img_per_s: float
    wait_s: float
    train_s: float
    eval_s: float

    def __post_init__(self) -> None:
        """Check what the types do not say.

        Raises:
            ValueError: it has all measures of no task.
        """
        if self._find_measures() is None:
            raise ValueError("the measures of a task, such as train_accuracy and eval_accuracy")

    @property
    def measures(self) -> Measures:
        """Its measures, by what they are called."""
        found = self._find_measures()
        assert found is not None, "checked in the beginning"
        return found

    @property
    def score(self) -> float:
        """The score of the evaluation split, by which the best epoch is chosen."""
        return float(getattr(self, f"eval_{self.measures.score.key}"))

    @property
    def training_score(self) -> float:
        """The score of the training steps."""
        return float(getattr(self, f"train_{self.measures.training.key}"))

    @property
    def others(self) -> list[tuple[Measure, float]]:
        """Further measures of the evaluation split."""
        others = self.measures.others
        return [(each, float(getattr(self, f"eval_{each.key}"))) for each in others]

    def pack(self) -> dict[str, Any]:
        """The row as JSON values, without the measures that it does not have."""
        return {name: value for name, value in asdict(self).items() if value is not None}

    def _find_measures(self) -> Measures | None:
        for each in MEASURES.values():
            if all(getattr(self, name) is not None for name in each.fields):
                return each
        return None


class MetricsFile:
    """Appends rows to `metrics.jsonl`; each row is on disk's way when `write` returns.

    Attributes:
        dropped: the last step and the last epoch among the rows that were dropped in the beginning;
            -1 where there was none.
    """

    def __init__(self, path: Path, keep_bytes: int = 0) -> None:
        """Open it, and drop what lies behind its first bytes.

        Args:
            path: the file.
            keep_bytes: how much of it stays: `size_bytes` of a run that is continued.

        Raises:
            DataError: it is shorter than that.
        """
        self._path = path
        self._file = open(path, "a", encoding="utf-8")
        if self.size_bytes < keep_bytes:
            found = f"{self.size_bytes:,} bytes"
            self._file.close()
            raise DataError(
                path,
                found,
                f"the first {keep_bytes:,}, which the checkpoint was written after",
                "put it back as it was",
            )
        self.dropped = _find_last(path, keep_bytes)
        self._file.truncate(keep_bytes)

    @property
    def size_bytes(self) -> int:
        """The bytes that have been written."""
        return os.fstat(self._file.fileno()).st_size

    def sync(self) -> None:
        """Force to disk what has been written; other threads may write on."""
        os.fsync(self._file.fileno())

    def write(self, row: StepMetrics | EpochMetrics) -> None:
        """Append one row, its kind first.

        Raises:
            DataError: it cannot be written.
        """
        kind = "step" if isinstance(row, StepMetrics) else "epoch"
        try:
            values = row.pack() if isinstance(row, EpochMetrics) else asdict(row)
            self._file.write(json.dumps({"kind": kind, **values}) + "\n")
            self._file.flush()
        except OSError as error:
            found = f"cannot be written: {error.strerror or error}"
            raise DataError(self._path, found, "", _REMEDY) from error

    def close(self) -> None:
        """Close the file; what could not be written before is not missed anew."""
        with suppress(OSError):
            self._file.close()


def read_metrics(path: Path) -> tuple[list[StepMetrics], list[EpochMetrics]]:
    """The rows of a `metrics.jsonl`; half a row that a killed process left is passed over.

    Raises:
        DataError: there is no such file, or a row lacks a field or has one of another type.
    """
    steps: list[StepMetrics] = []
    epochs: list[EpochMetrics] = []
    *lines, half = read_bytes(path).split(b"\n")
    for number, line in enumerate((*lines, half), 1):
        where = f"{path}:{number}"
        if number > len(lines) and any(kind.startswith(half[: len(kind)]) for kind in _KINDS):
            break
        if line.startswith(_STEP):
            steps.append(check_line(StepMetrics, line, where))
        elif line.startswith(_EPOCH):
            epochs.append(check_line(EpochMetrics, line, where))
        else:
            raise FormatError(where, "not a row of metrics", "one of fastft train", "")
    return steps, epochs


def _find_last(path: Path, first_bytes: int) -> tuple[int, int]:
    """The last step and the last epoch behind a file's first bytes; -1 where there is none."""
    last = [-1, -1]
    with open(path, "rb") as file:
        file.seek(first_bytes)
        for line in iter(lambda: file.readline(1 << 12), b""):
            for kind, pattern in enumerate(_NUMBERS):
                if found := pattern.match(line):
                    last[kind] = int(found[1])
    return last[0], last[1]


class Waits:
    """Iterates over batches and times how long each took to come."""

    def __init__(self) -> None:
        self.last_s = 0.0

    def over(self, batches: Iterable[T]) -> Iterator[T]:
        """`batches`, with the wait for each in `last_s` by the time it is yielded."""
        iterator = iter(batches)
        while True:
            started = time.perf_counter()
            try:
                batch = next(iterator)
            except StopIteration:
                return
            self.last_s = time.perf_counter() - started
            yield batch
