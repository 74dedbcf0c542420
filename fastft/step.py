"""One training step: forward, loss, backward, update, and nothing around it."""

from __future__ import annotations

import torch
from torch import nn

from fastft.loss import Loss
from fastft.optim import WeightAverage


class TrainStep:
    """The computation of a step; calling it waits for nothing on the device.

    Attributes:
        scaler: of the loss, for float16 alone, which has too few exponent bits for small gradients.
    """

    def __init__(
        self,
        model: nn.Module,
        optimizer: torch.optim.Optimizer,
        loss: Loss,
        *,
        device: torch.device,
        amp_dtype: torch.dtype | None,
        average: WeightAverage | None = None,
    ) -> None:
        self._model, self._optimizer, self._loss = model, optimizer, loss
        self._device, self._amp_dtype, self._average = device, amp_dtype, average
        self.scaler = torch.amp.GradScaler(device.type, enabled=amp_dtype == torch.float16)

    def __call__(
        self, images: torch.Tensor, labels: torch.Tensor
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Learn from a batch.

        Args:
            images: [B, 3, S, S] on the device, channels_last, normalized.
            labels: int64[B] on the device.

        Returns:
            The loss that was minimized and the number of right answers, scalars on the device.
        """
        with torch.autocast(
            self._device.type, dtype=self._amp_dtype, enabled=self._amp_dtype is not None
        ):
            logits = self._model(images)
            loss = self._loss(logits, labels)
        self.scaler.scale(loss).backward()  # type: ignore[no-untyped-call]
        self.scaler.step(self._optimizer)
        self.scaler.update()
        self._optimizer.zero_grad(set_to_none=True)
        if self._average is not None:
            self._average.update(self._model)
        return loss.detach(), (logits.detach().argmax(1) == labels).sum()
