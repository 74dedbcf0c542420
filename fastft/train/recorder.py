"""Writes the folder of a run as it goes, and tells trackers: rows, checkpoints, curves in the end.

Of several processes only the first has a folder; to the others a recorder is a place where nothing
happens.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from contextlib import ExitStack, suppress

from rich.console import Console

from fastft.config.checks import plain
from fastft.config.train import TrainConfig, read_interval
from fastft.runs.checkpoint import Checkpoint
from fastft.runs.checkpoint_writer import CheckpointSaver
from fastft.runs.folder import CONFIG, CURVES, LAST, METRICS, PREVIOUS, write_json
from fastft.runs.metrics import EpochMetrics, MetricsFile, StepMetrics
from fastft.runs.tracker import Ending, Status
from fastft.runs.trackers import open_trackers
from fastft.system.environment import environment
from fastft.system.signals import Stopped
from fastft.train.costs import Costs
from fastft.train.run_state import RunState
from pipelines.errors import FastftError


class Recorder:
    """Writes one run's folder; use as a context manager."""

    def __init__(
        self,
        config: TrainConfig,
        console: Console,
        *,
        is_main: bool,
        keep_bytes: int = 0,
        first_step: int = 0,
        costs: Costs | None = None,
        trusts_last: bool = False,
    ) -> None:
        """Open the files.

        Args:
            config: of the run: its folder, how often a checkpoint is made within an epoch, who
                tracks it.
            console: where trackers are named.
            is_main: whether this process has a folder at all.
            keep_bytes: how much of `metrics.jsonl` a run that is continued keeps.
            first_step: the step it begins with.
            costs: is told how long the curves take.
            trusts_last: whether LAST has been read, and is whole.

        Raises:
            DataError: `metrics.jsonl` is shorter than that, or a tracker cannot be opened.
            UsageError: a tracker's library is not installed.
        """
        self._out, self._is_main = config.out, is_main
        self._every_steps, self._every_s = read_interval(config.checkpoint_every)
        self._saved_step, self._saved_s = first_step, time.monotonic()
        self._summary: dict[str, float] = {}
        self._costs = costs or Costs()
        if not is_main:
            return
        settings = plain(config)
        write_json(self._out / CONFIG, {"config": settings, "environment": environment()})
        self._metrics = MetricsFile(self._out / METRICS, keep_bytes)
        try:
            self._trackers = open_trackers(
                config.trackers,
                self._out,
                {**settings, "out": str(self._out.resolve())},
                lambda line: console.print(line, markup=False),
                first_step=first_step,
                heard=self._metrics.dropped,
            )
        except BaseException:
            self._metrics.close()
            raise
        self._saver = CheckpointSaver(self._out, before=self._metrics.sync, trusts_last=trusts_last)

    @property
    def metrics_bytes(self) -> int:
        """The bytes that have been written to `metrics.jsonl`."""
        return self._metrics.size_bytes if self._is_main else 0

    def write(self, row: StepMetrics | EpochMetrics) -> None:
        """Append a row."""
        if self._is_main:
            self._metrics.write(row)
            if self._trackers is not None:
                self._trackers.add(row)

    def is_due(self, step: int) -> bool:
        """Whether a checkpoint within an epoch should be made after so many steps of the run.

        Never while the last one is still being written: training does not wait for a slow disk.
        """
        if not self._is_main or self._saver.busy:
            return False
        if self._every_steps:
            return step // self._every_steps > self._saved_step // self._every_steps
        return 0 < self._every_s <= time.monotonic() - self._saved_s

    def reads_at(self, step: int) -> bool:
        """Whether a checkpoint may be made after just so many steps, whoever makes it."""
        return self._every_steps > 0 and step % self._every_steps == 0

    def save(
        self, make: Callable[[], Checkpoint], step: int, *, best: bool = False, wait: bool = False
    ) -> None:
        """Write a checkpoint behind the training.

        Args:
            make: makes it.
            step: steps of the run behind it.
            best: whether it is the best so far.
            wait: whether to return only when it is on disk.

        Raises:
            DataError: this one, or the one before, cannot be written.
        """
        if not self._is_main:
            return
        self._saver.save(make(), best=best)
        if wait:
            self._saver.wait()
        self._saved_step, self._saved_s = step, time.monotonic()

    def finish(self, state: RunState) -> None:
        """Wait for the last checkpoint; the one before it is needed no more.

        Args:
            state: of the run at its end, of which trackers are told.

        Raises:
            DataError: it cannot be written.
        """
        if not self._is_main:
            return
        self._saver.wait()
        (self._out / PREVIOUS).unlink(missing_ok=True)
        best = state.rows[-1].measures.best_key
        self._summary = {"epochs": state.epoch, best: state.best[0], "seconds": state.seconds}

    def __enter__(self) -> Recorder:
        return self

    def __exit__(self, kind: type[BaseException] | None, *error: object) -> None:
        """Close the files, draw the curves and end trackers: of an interrupted run, too."""
        if not self._is_main:
            return
        with ExitStack() as stack:
            if self._trackers is not None:
                stack.callback(self._trackers.close, Ending(_status(kind), self._summary))
            stack.callback(self._draw)
            stack.callback(self._metrics.close)
            if kind is not None:  # what ended the run is what is told
                stack.enter_context(suppress(FastftError))
            self._saver.close()

    def _draw(self) -> None:
        if (self._out / LAST).exists():
            with self._costs.of("curves"):
                from fastft.runs.curves import draw_curves  # matplotlib takes 0.7 s

                draw_curves(self._out / METRICS, self._out / CURVES)


class KeptRows(Recorder):
    """A recorder that writes nothing and keeps what it is told: for runs that are compared.

    Attributes:
        epochs: those that ended.
    """

    def __init__(self, on_step: Callable[[], None]) -> None:
        """Begin without a row; `on_step` is called at each step's."""
        self._is_main, self._every_steps, self._every_s = False, 0, 0.0
        self._on_step, self._losses = on_step, list[float]()
        self.epochs: list[EpochMetrics] = []

    @property
    def losses(self) -> tuple[float, ...]:
        """The loss of each step."""
        return tuple(self._losses)

    def write(self, row: StepMetrics | EpochMetrics) -> None:
        """Keep a row."""
        if isinstance(row, EpochMetrics):
            self.epochs.append(row)
        else:
            self._losses.append(row.loss)
            self._on_step()


def _status(kind: type[BaseException] | None) -> Status:
    if kind is None:
        return "finished"
    return "stopped" if issubclass(kind, (Stopped, KeyboardInterrupt)) else "failed"
