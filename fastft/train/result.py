"""The end of a run, and what is said of an epoch."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

from rich.console import Console

from fastft.config.train import TrainConfig
from fastft.runs.metrics import EpochMetrics
from fastft.train.bottleneck import Bottleneck
from fastft.train.run_state import RunState
from pipelines.loaders import Loader


@dataclass(frozen=True, slots=True)
class TrainResult:
    """The folder of a run, and its end.

    Attributes:
        out: the run folder.
        epochs: one row for each epoch that was trained.
        best_score: of the evaluation split, see `runs.measures`.
        seconds: all of the run.
        bottleneck: where its time went, if that was asked for.
        costs_s: seconds by what they went for, see `costs`.
    """

    out: Path
    epochs: tuple[EpochMetrics, ...]
    best_score: float
    seconds: float
    bottleneck: Bottleneck | None = None
    costs_s: Mapping[str, float] = field(default_factory=dict)

    @property
    def last(self) -> EpochMetrics:
        """The last epoch's row."""
        return self.epochs[-1]


def tell_epoch(
    console: Console,
    config: TrainConfig,
    row: EpochMetrics,
    state: RunState,
    loaders: Mapping[str, Loader],
) -> None:
    """Print an epoch's figures, after the first one what the loaders remark, and an early stop.

    Args:
        console: where to.
        config: the run's settings.
        row: the epoch's figures.
        state: where the run stands after it.
        loaders: by what they are for.
    """
    size = f"{row.size} px  " if config.start_size else ""
    measures = row.measures
    evaluated = [(measures.score, row.score), *row.others]
    told = " ".join(f"{each.name} {each.write(value)}" for each, value in evaluated)
    console.print(
        f"epoch {row.epoch + 1}/{config.epochs}  {size}"
        f"train loss {row.train_loss:.3f} {measures.training.name} {row.training_score:.3f}  "
        f"eval loss {row.eval_loss:.3f} {told}  "
        f"{row.img_per_s:.0f} img/s, {row.wait_s / row.train_s:.0%} waiting for input  "
        f"{row.train_s + row.eval_s:.1f} s"
    )
    if len(state.rows) == 1:
        for name, loader in loaders.items():
            for remark in loader.remarks:
                console.print(f"{name}: {remark}", markup=False)
    if state.is_done and state.epoch < config.epochs:
        console.print(
            f"stopped: no better {measures.score.name} than epoch {state.best_epoch + 1}'s in "
            f"{config.patience} epochs"
        )
