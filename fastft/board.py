"""Event files for TensorBoard, beside `metrics.jsonl`: the extra `fastft[tensorboard]`."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from fastft.metrics import EpochMetrics, StepMetrics
from pipelines.errors import UsageError


def make_board(out: Path, first_step: int = 0) -> Any:
    """A `SummaryWriter` into `out`, in which rows of steps from `first_step` on count no more.

    Raises:
        UsageError: TensorBoard is not installed.
    """
    try:
        from torch.utils.tensorboard import SummaryWriter
    except ImportError as error:
        raise UsageError(
            "--tensorboard", f"TensorBoard cannot be imported ({error})", "it beside fastft",
            'pip install "fastft[tensorboard]"',
        ) from error  # fmt: skip
    return SummaryWriter(str(out), purge_step=first_step or None)


def add_row(board: Any, row: StepMetrics | EpochMetrics) -> None:
    """One row of metrics as scalars: a step's at its step, an epoch's at its number, from 1."""
    if isinstance(row, StepMetrics):
        board.add_scalar("step/loss", row.loss, row.step)
        board.add_scalar("step/lr", row.lr, row.step)
        board.add_scalar("step/img_per_s", row.img_per_s, row.step)
        return
    at = row.epoch + 1
    for name in ("loss", "accuracy"):
        board.add_scalar(f"{name}/train", getattr(row, f"train_{name}"), at)
        board.add_scalar(f"{name}/eval", getattr(row, f"eval_{name}"), at)
    board.add_scalar("epoch/img_per_s", row.img_per_s, at)
    board.add_scalar("epoch/wait_share", row.wait_s / row.train_s, at)
