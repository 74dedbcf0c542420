"""Executes a plan's operations on a GPU, for a whole batch at once."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from pipelines.kernels import changing
from pipelines.operations import Operations


class GpuChanger:
    """The memory that the batches of one stream are changed in, one after another."""

    def __init__(self, device: torch.device) -> None:
        """For batches on `device`: a GPU, or the CPU where Triton interprets its kernels."""
        self._device = device
        self._scratch: changing.Scratch | None = None

    def over(self, operations: Iterable[Operations | None], size: int) -> Iterator[GpuChange]:
        """The operations of batches, one after another, each as a GPU takes them.

        Args:
            operations: of each batch.
            size: side of its images, px.
        """
        for each in operations:
            assert each is not None
            yield self.of(each, size)

    def of(self, operations: Operations, size: int) -> GpuChange:
        """A batch's operations as a GPU takes them.

        Raises:
            ValueError: operations that no plan draws.
        """
        operations.check(len(operations.codes), size)
        arrays = (
            operations.codes,
            operations.values,
            operations.boxes,
            operations.matrices(size).astype(np.float32),
        )
        return GpuChange(self, arrays, changing.find_steps(operations.codes))

    def scratch(self, batch: int, size: int) -> changing.Scratch:
        """Memory for a batch of images of S px; the last batch's, if that is enough."""
        if self._scratch is None or not changing.fits(self._scratch, batch, size):
            self._scratch = changing.make_scratch(batch, size, self._device)
        return self._scratch


@dataclass(frozen=True, slots=True)
class GpuChange:
    """One batch's operations; see `transfer.Change`.

    Attributes:
        changer: whose memory they take.
        arrays: what they need on the GPU, in host memory.
        steps: the passes over the pixels.
    """

    changer: GpuChanger
    arrays: Sequence[NDArray[Any]]
    steps: changing.Steps

    def run(self, pixels: torch.Tensor, arrays: Sequence[torch.Tensor]) -> torch.Tensor:
        """Change uint8[B, S, S, 3], on the current stream; they are overwritten.

        Returns:
            The same, or memory that the next batch overwrites.
        """
        codes, values, boxes, matrices = arrays
        scratch = self.changer.scratch(len(pixels), pixels.shape[1])
        return changing.change(pixels, codes, values, boxes, matrices, self.steps, scratch)
