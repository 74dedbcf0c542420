"""A whole training step as a CUDA graph: one launch instead of some hundred kernels'.

A graph repeats the same kernels on the same memory. So it has inputs of its own, two of each, that
a loader may render into in turn while the other is learnt from, and scalars on the device for the
learning rates. All else of a step is the same whether it is launched kernel by kernel or at once,
and so are its numbers.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch

from fastft.model.optim import rates_on_device

#: Images and labels of a batch -> its loss and its right answers.
Compute = Callable[[torch.Tensor, torch.Tensor], tuple[torch.Tensor, torch.Tensor]]
#: A loader renders into one while the other is learnt from.
_INPUTS = 2


@dataclass(frozen=True, slots=True)
class Captured:
    """A captured step.

    Attributes:
        replay: queues it.
        loss, right: scalars on the device that each replay writes anew.
        pool: the memory that it works in, which another one may share.
    """

    replay: Callable[[], None]
    loss: torch.Tensor
    right: torch.Tensor
    pool: Any


#: Captures what a function queues; None as a pool takes memory of its own.
Capture = Callable[[Callable[[], tuple[torch.Tensor, torch.Tensor]], Any], Captured]


class StepGraph:
    """Steps on batches of one shape.

    Attributes:
        inputs: tensors like the images, to render batches into in turn. What lies in one of them is
            learnt from as it is; any other batch is copied first.
    """

    def __init__(
        self,
        compute: Compute,
        optimizer: torch.optim.Optimizer,
        images: torch.Tensor,
        labels: torch.Tensor,
        capture: Capture | None = None,
    ) -> None:
        """Capture the step; nothing is learnt by it.

        Args:
            compute: one whole step, ending without gradients; it has been run on such batches a few
                times, so that all that a first step makes is there.
            optimizer: whose rates change from step to step.
            images, labels: a batch of the shape.
            capture: how to; None: as CUDA does.

        Raises:
            RuntimeError: it does what cannot be captured.
        """
        capture = capture or capture_on_gpu
        self._optimizer = optimizer
        self.inputs = [torch.empty_like(images) for _ in range(_INPUTS)]
        self._labels = [torch.empty_like(labels) for _ in range(_INPUTS)]
        self._next = 0
        self._steps: list[Captured] = []
        with rates_on_device(optimizer) as self._rates:
            for own, answers in zip(self.inputs, self._labels, strict=True):
                # One after the other is replayed, so they may work in the same memory.
                pool = self._steps[0].pool if self._steps else None
                self._steps.append(capture(partial(compute, own, answers), pool))

    def fits(self, images: torch.Tensor) -> bool:
        """Whether a batch has the shape that was captured, in the same layout."""
        own = self.inputs[0]
        return (
            images.shape == own.shape
            and images.dtype == own.dtype
            and images.stride() == own.stride()
        )

    def __call__(
        self, images: torch.Tensor, labels: torch.Tensor
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Queue a step.

        Args:
            images: a batch that `fits`, perhaps one of `inputs`.
            labels: int64[b], or float32[b, C] shares, as they were captured.

        Returns:
            The loss and the number of right answers, which the next but one step overwrites.
        """
        places = [own.data_ptr() for own in self.inputs]
        if images.data_ptr() in places:
            slot = places.index(images.data_ptr())
        else:
            slot, self._next = self._next, (self._next + 1) % _INPUTS
            self.inputs[slot].copy_(images)
        self._labels[slot].copy_(labels)
        for rate, group in zip(self._rates, self._optimizer.param_groups, strict=True):
            rate.fill_(group["lr"])
        step = self._steps[slot]
        step.replay()
        return step.loss, step.right


def capture_on_gpu(work: Callable[[], tuple[torch.Tensor, torch.Tensor]], pool: Any) -> Captured:
    """Capture what `work` queues on the current GPU, without running it.

    Threads that decode go on meanwhile and may use the GPU: only this thread's mistakes count
    (`thread_local`).

    Raises:
        RuntimeError: it waits for the GPU, or does something else that cannot be captured.
    """
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph, pool=pool, capture_error_mode="thread_local"):
        loss, right = work()
    return Captured(graph.replay, loss, right, graph.pool())
