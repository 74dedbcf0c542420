"""The compute bound: ResNet-18 learning from one batch that is there already, in several ways."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from functools import partial
from typing import Any

import torch

from bench.gpu.clocks import Clocks
from bench.gpu.task import Found, Task, answer, gpu_bytes, per_second, wait
from fastft.loss import Loss
from fastft.model import build_model
from fastft.optim import make_optimizer
from fastft.step import TrainStep

#: At least as many as the photos have.
CLASSES = 10
#: Variant -> autocast's dtype, channels_last, how it is run.
WAYS: dict[str, tuple[torch.dtype | None, bool, str]] = {
    "bf16, channels_last, eager": (torch.bfloat16, True, "eager"),
    "bf16, channels_last, graph": (torch.bfloat16, True, "graph"),
    "bf16, eager": (torch.bfloat16, False, "eager"),
    "fp32, channels_last, eager": (None, True, "eager"),
    "fp32, eager": (None, False, "eager"),
    # Last, as compiling may take longer than there is time.
    "bf16, channels_last, compiled": (torch.bfloat16, True, "compiled"),
}
#: The ways that differ only in how the step is run, best known first.
OURS = "bf16, channels_last"
HOW = ("eager", "compiled", "graph")
#: Steps that are queued between two waits for the device.
_AT_ONCE = 32
#: Steps before a graph is captured, as PyTorch asks for.
_WARM = 3


def main(arguments: list[str]) -> None:
    """See `task.answer`."""
    answer(measure, arguments)


def measure(task: Task) -> Iterator[Found]:
    """Images/s of one way at each batch size that is learnt from, the usual one first."""
    dtype, channels_last, how = WAYS[task.variant]
    if not task.on_gpu:  # most processors only emulate bfloat16
        dtype = None
    rows: list[dict[str, Any]] = []
    for batch in sorted(task.trained, reverse=True):
        step = make_step(task, dtype, channels_last=channels_last)
        images, labels = make_batch(task, batch, dtype, channels_last=channels_last)
        if how == "compiled":  # for this size alone, as a run has one
            # A rehearsal only traces: compilers for a CPU are others.
            backend = "inductor" if task.on_gpu else "eager"
            compiled = torch.compile(step.model, dynamic=False, backend=backend)
            step.model = compiled  # type: ignore[assignment]
        work = partial(step, images, labels)
        if how == "graph" and task.on_gpu:
            work = capture(work)
        started = time.perf_counter()
        work()
        wait(task.device)
        first_s = time.perf_counter() - started
        with Clocks() as clocks:
            rate = batch * per_second(work, task, at_once=_AT_ONCE)
        rows.append(
            {"batch": batch, "img_per_s": rate, "first_step_s": first_s, "clocks": clocks.found}
        )
        yield {"rows": rows, "gpu_bytes": gpu_bytes()}


def make_step(task: Task, dtype: torch.dtype | None, *, channels_last: bool = True) -> TrainStep:
    """As `fastft train` puts it together."""
    built = build_model(CLASSES, "none", seed=0)
    layout = torch.channels_last if channels_last else torch.contiguous_format
    model = built.model.to(task.device).to(memory_format=layout).train()
    optimizer = make_optimizer(
        model, built.head, lr=1e-3, head_lr_factor=1, momentum=0.9,
        weight_decay=0.001,
    )  # fmt: skip
    return TrainStep(model, optimizer, Loss(), device=torch.device(task.device), amp_dtype=dtype)


def make_batch(
    task: Task, batch: int, dtype: torch.dtype | None, *, channels_last: bool = True
) -> tuple[torch.Tensor, torch.Tensor]:
    """Random images as a loader would give them."""
    images = torch.randn(batch, 3, task.size, task.size)
    images = images.to(task.device, dtype or torch.float32)
    layout = torch.channels_last if channels_last else torch.contiguous_format
    labels = torch.arange(batch, device=task.device) % CLASSES
    return images.contiguous(memory_format=layout), labels


def capture(work: Callable[[], object]) -> Callable[[], object]:
    """A whole step as one CUDA graph.

    Source: PyTorch's documentation, "CUDA semantics", whole-network capture.
    """
    side = torch.cuda.Stream()
    side.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(side):
        for _ in range(_WARM):
            work()
    torch.cuda.current_stream().wait_stream(side)
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        work()
    return graph.replay
