"""Collects what an epoch's steps say; what lies on the device is read in blocks.

On a GPU a block is read when the next one is full: its numbers have long been copied then, and
the GPU goes on meanwhile with what is queued. On a CPU nothing is queued, and it is read at once.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any, ClassVar

import torch

from fastft.model.loss import Loss
from fastft.runs.checked import STRICT, Count
from fastft.runs.measures import MEASURES
from fastft.runs.metrics import EpochMetrics, StepMetrics
from fastft.train.distributed import World
from fastft.train.evaluate import Evaluation
from fastft.train.readings import Reading
from pipelines.errors import DataError

#: Most steps between two readings.
MOST_STEPS = 20
#: Reading costs an exchange with the other processes; so often it is no part of the time, and a
#: request to stop is heard soon enough.
_READ_S = 0.5

#: A step: images, learning rate, waited and all seconds.
_Row = tuple[int, float, float, float]


@dataclass(slots=True)
class Sums:
    """Sums over the first `steps` steps of an epoch, of all processes.

    Attributes:
        steps, samples, right: how many steps, images and right answers.
        loss: sum of the images' losses.
        wait_s, seconds: how long the loop stood still for batches, and all of it.
    """

    __pydantic_config__: ClassVar[Any] = STRICT
    steps: Count = 0
    samples: Count = 0
    right: Count = 0
    loss: float = 0.0
    wait_s: float = 0.0
    seconds: float = 0.0


def reads_late(device: torch.device) -> bool:
    """Whether a block of steps is read one block later: where the host runs ahead."""
    return device.type == "cuda"


@dataclass(slots=True)
class StepLog:
    """One epoch's steps.

    Attributes:
        epoch: its number.
        first: the number of its first step.
        loss: what gave the losses.
        world: whose losses are added up.
        write: where rows go.
        sums: of the steps that have been read.
        last_loss: the last one that was read, per image.
        every: steps between readings, agreed on by all processes.
    """

    epoch: int
    first: int
    loss: Loss
    world: World
    write: Callable[[StepMetrics | EpochMetrics], None]
    sums: Sums = field(default_factory=Sums)
    last_loss: float = float("nan")
    every: int = 1
    _rows: list[_Row] = field(default_factory=list)
    _coming: tuple[list[_Row], Reading] | None = None
    _block: torch.Tensor = field(init=False)
    _late: bool = field(init=False)

    def __post_init__(self) -> None:
        # Losses, then right answers: read at once. Doubles hold both exactly.
        self._block = torch.zeros(MOST_STEPS + 1, dtype=torch.float64, device=self.world.device)
        self._late = reads_late(self.world.device)

    @property
    def steps(self) -> int:
        """The number of steps of the epoch that were taken, read or not."""
        coming = 0 if self._coming is None else len(self._coming[0])
        return self.sums.steps + coming + len(self._rows)

    @property
    def img_per_s(self) -> float:
        """Sums over the steps that have been read."""
        return self.sums.samples / self.sums.seconds if self.sums.seconds else 0.0

    @property
    def is_due(self) -> bool:
        """Whether it is time to read."""
        return len(self._rows) >= self.every

    def add(
        self,
        loss: torch.Tensor,
        right: torch.Tensor,
        count: int,
        lr: float,
        wait_s: float,
        step_s: float,
    ) -> None:
        """Take in a step; nothing is read from the device.

        Args:
            loss, right: this process's parts of the loss and of the number of right answers.
            count: images of all processes.
            lr, wait_s, step_s: see `StepMetrics`.
        """
        self._block[len(self._rows)] = loss
        self._block[-1] += right
        self._rows.append((count, lr, wait_s, step_s))

    def read(self, flags: Sequence[float] = (), *, now: bool = False) -> list[list[float]]:
        """Take in the steps since the last call, or where blocks are read late, those before them.

        All processes call it after the same steps. Rows are written of what is taken in.

        Args:
            flags: what this process has to tell the others.
            now: take in all steps, which a GPU is waited for.

        Returns:
            The flags of all processes, by rank: those that were given beside the steps that were
            taken in. Empty if there were none.

        Raises:
            DataError: a loss is no finite number.
        """
        before, self._coming = self._coming, self._send(flags)
        told = [] if before is None else self._take_in(*before)
        return self.flush() if now or not self._late else told

    def flush(self) -> list[list[float]]:
        """Take in what `read` has put off; waits for a GPU, not for other processes.

        Returns:
            As `read`.

        Raises:
            DataError: a loss is no finite number.
        """
        coming, self._coming = self._coming, None
        return [] if coming is None else self._take_in(*coming)

    def _send(self, flags: Sequence[float]) -> tuple[list[_Row], Reading]:
        rows, self._rows = self._rows, []
        waits, seconds = [row[2] for row in rows], sum(row[3] for row in rows)
        mean_s = seconds / len(rows) if rows else _READ_S
        every = max(1, min(MOST_STEPS, int(_READ_S / max(mean_s, 1e-9))))
        block = torch.cat([self._block[: len(rows)], self._block[-1:]])
        self._block.zero_()
        return rows, Reading(self.world, block, [*waits, every, *flags])

    def _take_in(self, rows: list[_Row], reading: Reading) -> list[list[float]]:
        told, count = reading.rows(), len(rows)
        losses = [sum(each[at] for each in told) for at in range(count)]
        # All wait for the one that waits longest.
        longest = [max(each[count + 1 + at] for each in told) for at in range(count)]
        for loss, wait_s, (images, lr, _, step_s) in zip(losses, longest, rows, strict=True):
            self._take(loss, min(wait_s, step_s), images, lr, step_s)
        self.sums.right += int(sum(each[count] for each in told))
        self.every = int(told[0][2 * count + 1])
        return [each[2 * count + 2 :] for each in told]

    def _take(self, loss: float, wait_s: float, images: int, lr: float, step_s: float) -> None:
        sums, step = self.sums, self.first + self.sums.steps
        if not math.isfinite(loss):
            raise DataError(f"step {step}", f"loss {loss}", "a number", "lower --lr")
        self.last_loss = self.loss.per_image(loss, images)
        self.write(
            StepMetrics(
                epoch=self.epoch,
                step=step,
                loss=self.last_loss,
                lr=lr,
                wait_s=round(wait_s, 6),
                step_s=round(step_s, 6),
                img_per_s=round(images / step_s, 1),
            )
        )
        sums.steps += 1
        sums.samples += images
        sums.loss += self.last_loss * images
        sums.wait_s += wait_s
        sums.seconds += step_s

    def epoch_metrics(self, result: Evaluation, size: int, eval_s: float) -> EpochMetrics:
        """The epoch's row.

        Raises:
            DataError: the evaluation's loss is no finite number: the last step broke the weights.
        """
        sums = self.sums
        if not math.isfinite(result.loss):
            where = f"step {self.first + sums.steps - 1}"
            found = f"evaluation loss {result.loss} after it"
            raise DataError(where, found, "a number", "lower --lr")
        measures, train_loss = MEASURES[self.loss.task], sums.loss / sums.samples
        training = self.loss.training_score(train_loss, sums.right / sums.samples)
        evaluated = {measures.score.key: result.score, **result.others}
        return EpochMetrics(
            epoch=self.epoch,
            size=size,
            train_loss=train_loss,
            eval_loss=result.loss,
            **{f"train_{measures.training.key}": training},
            **{f"eval_{key}": value for key, value in evaluated.items()},
            img_per_s=round(sums.samples / sums.seconds, 1),
            wait_s=round(sums.wait_s, 4),
            train_s=round(sums.seconds, 4),
            eval_s=round(eval_s, 4),
        )
