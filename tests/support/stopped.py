"""Trainings that are told to stop at a step."""

import signal
from pathlib import Path
from typing import Any

import pytest
from rich.console import Console

from fastft.config.train import TrainConfig
from fastft.system.signals import Stopped, StopSignals
from fastft.train.run import train
from fastft.train.step import TrainStep

QUIET = Console(quiet=True)


def config_of(data: Path, out: Path, **options: Any) -> TrainConfig:
    usual = {
        "weights": "none",
        "size": 40,
        "batch_size": 10,
        "epochs": 2,
        "amp": "off",
        "workers": 1,
        "loader": "resident",
        "arch": "shufflenet_v2_x0_5",
        "checkpoint_every": "1",
    }
    return TrainConfig(data=data, out=out, **{**usual, **options})


def run_until(
    config: TrainConfig, step: int, monkeypatch: pytest.MonkeyPatch, *, or_resume: bool = False
) -> None:
    """Train, and be told to stop in a step of the run."""
    real = TrainStep.__call__
    stop = StopSignals()

    def told(self: TrainStep, *arguments: Any) -> Any:
        if arguments[3] == step:
            stop.requested = signal.SIGTERM
        return real(self, *arguments)

    with monkeypatch.context() as patch:
        patch.setattr(TrainStep, "__call__", told)
        with pytest.raises(Stopped) as ended:
            train(config, QUIET, stop, or_resume=or_resume)
    assert ended.value.exit_code == 143
