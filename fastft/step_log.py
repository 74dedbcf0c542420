"""Collects what an epoch's steps say; what lies on the device is read in blocks."""

from __future__ import annotations

import math

import torch

from fastft.evaluate import Evaluation
from fastft.loss import Loss
from fastft.metrics import EpochMetrics, MetricsFile, StepMetrics
from pipelines.errors import DataError


class StepLog:
    """One epoch's steps.

    Attributes:
        wait_s, seconds: how long the loop stood still for batches, and all of it.
        last_loss: the last one that was read, per image.
    """

    def __init__(
        self,
        epoch: int,
        first: int,
        steps: int,
        device: torch.device,
        metrics: MetricsFile,
        loss: Loss,
    ) -> None:
        """Begin.

        Args:
            epoch: its number.
            first: the number of its first step.
            steps: how many there will be at most.
            device: where losses come from.
            metrics: where rows go.
            loss: what gave the losses.
        """
        self._epoch, self._first, self._metrics, self._loss = epoch, first, metrics, loss
        self._losses = torch.zeros(steps, device=device)
        self._right = torch.zeros((), dtype=torch.int64, device=device)
        self._rows: list[tuple[int, float, float, float]] = []
        self._read = 0
        self._samples = 0
        self._loss_sum = 0.0
        self.wait_s = self.seconds = 0.0
        self.last_loss = float("nan")

    @property
    def img_per_s(self) -> float:
        """Of the steps so far."""
        return self._samples / self.seconds if self.seconds else 0.0

    def add(
        self,
        loss: torch.Tensor,
        right: torch.Tensor,
        count: int,
        lr: float,
        wait_s: float,
        step_s: float,
    ) -> None:
        """Take in a step of `count` images; nothing is read from the device."""
        self._losses[len(self._rows)] = loss
        self._right += right
        self._rows.append((count, lr, wait_s, step_s))
        self._samples += count
        self.wait_s += wait_s
        self.seconds += step_s

    def read(self) -> None:
        """Fetch the losses since the last call and write their rows: one synchronization.

        Raises:
            DataError: a loss is no finite number.
        """
        losses = self._losses[self._read : len(self._rows)].tolist()
        for loss in losses:
            count, lr, wait_s, step_s = self._rows[self._read]
            step = self._first + self._read
            if not math.isfinite(loss):
                raise DataError(f"step {step}", f"loss {loss}", "a number", "lower --lr")
            self.last_loss = self._loss.per_image(loss, count)
            self._metrics.write(
                StepMetrics(
                    epoch=self._epoch, step=step, loss=self.last_loss, lr=lr,
                    wait_s=round(wait_s, 6), step_s=round(step_s, 6),
                    img_per_s=round(count / step_s, 1),
                )
            )  # fmt: skip
            self._loss_sum += self.last_loss * count
            self._read += 1

    def epoch_metrics(self, result: Evaluation, size: int, eval_s: float) -> EpochMetrics:
        """The epoch's row.

        Raises:
            DataError: the evaluation's loss is no finite number: the last step broke the weights.
        """
        if not math.isfinite(result.loss):
            where = f"step {self._first + len(self._rows) - 1}"
            found = f"evaluation loss {result.loss} after it"
            raise DataError(where, found, "a number", "lower --lr")
        return EpochMetrics(
            epoch=self._epoch,
            size=size,
            train_loss=self._loss_sum / self._samples,
            train_accuracy=self._right.item() / self._samples,
            eval_loss=result.loss,
            eval_accuracy=result.accuracy,
            img_per_s=round(self._samples / self.seconds, 1),
            wait_s=round(self.wait_s, 4),
            train_s=round(self.seconds, 4),
            eval_s=round(eval_s, 4),
        )
