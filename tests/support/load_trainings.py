"""Trainings that end in every way, one after another in one process."""

from __future__ import annotations

import os
import signal
from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch
from effort import SOAK_H
from held import Watch
from load import Pace, Together, answering, plain, points_of
from mortal import rows_of
from rich.console import Console
from tiny import make_tiny

from fastft.config.train import TrainConfig
from fastft.runs import curves
from fastft.system.signals import Stopped, StopSignals
from fastft.train import bottleneck
from fastft.train import loop as trainer
from fastft.train.run import resume, train
from pipelines.errors import DataError

QUIET = Console(quiet=True)
#: Three steps an epoch; the smallest of torchvision's networks.
SETTINGS: dict[str, Any] = {
    "weights": "none",
    "arch": "shufflenet_v2_x0_5",
    "size": 33,
    "batch_size": 6,
    "epochs": 2,
    "amp": "off",
    "ema": 0.9,
    "workers": 1,
    "checkpoint_every": "2",
}


class Trainings:
    """Runs, each in a folder that is new or was there before."""

    def __init__(self, good: Path, bad: Path, folder: Path, loaders: list[str]) -> None:
        """Run nothing yet.

        Args:
            good, bad: folders of data; of the latter one photo is broken.
            folder: where runs go.
            loaders: that take turns.
        """
        self._good, self._bad, self._folder, self._loaders = good, bad, folder, loaders
        self._turn, self.epochs = 0, 0
        self._first: dict[tuple[str, int], Any] = {}

    def run(self) -> None:
        """One that ends as it is this one's turn to."""
        ends = (self._whole, self._interrupted, self._broken, self._impatient)
        loader = self._loaders[self._turn // len(ends) % len(self._loaders)]
        ends[self._turn % len(ends)](loader)
        self._turn += 1

    def _whole(self, loader: str) -> None:
        with StopSignals() as stop:
            result = train(self._config(loader), QUIET, stop)
        self._compare(loader, len(result.epochs))

    def _interrupted(self, loader: str) -> None:
        """By Ctrl-C and by SIGTERM in turn, in each of its steps in turn; then it goes on."""
        number = signal.SIGINT if self._turn % 8 < 4 else signal.SIGTERM
        at = 1 + self._turn // 4 % 4
        with StopSignals() as stop, signalled(number, at):
            with pytest.raises(Stopped) as stopped:
                train(self._config(loader), QUIET, stop)
            assert stopped.value.signal == number
        with StopSignals() as stop:
            result = resume(self._folder / "run", {}, QUIET, stop)
        self._compare(loader, len(result.epochs))

    def _broken(self, loader: str) -> None:
        with pytest.raises(DataError):
            train(self._config(loader, data=self._bad), QUIET)

    def _impatient(self, loader: str) -> None:
        """Nothing is learnt, so nothing gets better."""
        config = self._config(loader, lr=1e-12, patience=1, epochs=5)
        self.epochs += len(train(config, QUIET).epochs)

    def _config(self, loader: str, **options: Any) -> TrainConfig:
        usual = {**SETTINGS, "data": self._good, "out": self._folder / "run", "loader": loader}
        return TrainConfig(**{**usual, "overwrite": True, **options})

    def _compare(self, loader: str, epochs: int) -> None:
        """Whatever happened to it, a run ends as the first one did."""
        rows = rows_of(self._folder / "run")
        assert rows == self._first.setdefault((loader, epochs), rows)
        self.epochs += epochs


@contextmanager
def signalled(number: int, at: int) -> Iterator[None]:
    """Send this process a signal before a step of its training."""
    usual, count = trainer.set_learning_rate, 0

    def send(*arguments: Any) -> float:
        nonlocal count
        count += 1
        if count == at:
            os.kill(os.getpid(), number)
        return usual(*arguments)

    trainer.set_learning_rate = send
    try:
        yield
    finally:
        trainer.set_learning_rate = usual


def run_trainings(
    rank: int,
    good: Path,
    bad: Path,
    folder: Path,
    pace: Pace,
    loaders: list[str],
    together: Together,
) -> None:
    """Be a process that trains; see `load.run_loaders`."""
    with answering(folder / f"{rank}.json", together) as answer:
        torch.set_num_threads(1)
        make_tiny(pytest.MonkeyPatch())
        bottleneck._LEAST_S = bottleneck._MOST_S = 0.01
        if not SOAK_H:  # drawing takes longer than all else
            curves.draw_curves = lambda metrics, out: out.write_bytes(b"")  # type: ignore[assignment]
        work = Trainings(good, bad, folder, loaders)
        agree = partial(together.agree, rank)
        points = list(points_of(work.run, lambda: work.epochs, pace, agree, Watch().look))
        answer |= {"epochs": work.epochs, "points": plain({"trainings": points})}
