"""The compute bound: ResNet-18 learning from one batch that is there already, in several ways."""

from __future__ import annotations

import time
from collections.abc import Iterator
from functools import partial
from typing import Any

import torch

from bench.gpu.clocks import Clocks
from bench.gpu.task import Found, Task, answer, gpu_bytes, per_second, wait
from fastft.config.train import How
from fastft.model.classifier import build_model
from fastft.model.loss import Loss
from fastft.model.optim import make_optimizer
from fastft.train import step as step_module
from fastft.train.step import TrainStep

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
HOW: dict[str, How] = {"eager": "off", "compiled": "default", "graph": "graph"}
#: Steps that are queued between two waits for the device.
_AT_ONCE = 32
#: Steps until all is prepared: a graph is captured in the fourth.
_FIRST_STEPS = 4


def main(arguments: list[str]) -> None:
    """See `task.answer`."""
    answer(measure, arguments)


def measure(task: Task) -> Iterator[Found]:
    """Images/s of one way at each batch size that is learnt from, the usual one first."""
    dtype, channels_last, how = WAYS[task.variant]
    if not task.on_gpu:
        # Most processors only emulate bfloat16, and compilers for them are others: only trace.
        dtype, step_module.BACKEND = None, "eager"
    rows: list[dict[str, Any]] = []
    for batch in sorted(task.trained, reverse=True):
        step = make_step(task, dtype, channels_last=channels_last)
        images, labels = make_batch(task, batch, dtype, channels_last=channels_last)
        if not step.find_obstacle(HOW[how]):  # a rehearsal captures no graphs
            step.prepare(HOW[how], batch, task.size)
        work = partial(step, images, labels)
        started = time.perf_counter()
        for _ in range(_FIRST_STEPS):
            work()
        wait(task.device)
        first_s = time.perf_counter() - started
        with Clocks() as clocks:
            rate = batch * per_second(work, task, at_once=_AT_ONCE)
        rows.append(
            {"batch": batch, "img_per_s": rate, "first_steps_s": first_s, "clocks": clocks.found}
        )
        yield {"rows": rows, "gpu_bytes": gpu_bytes()}


def make_step(task: Task, dtype: torch.dtype | None, *, channels_last: bool = True) -> TrainStep:
    """As `fastft train` puts it together; cuDNN tries its kernels, too."""
    torch.backends.cudnn.benchmark = task.on_gpu
    built = build_model(CLASSES, "none", seed=0)
    layout = torch.channels_last if channels_last else torch.contiguous_format
    model = built.model.to(task.device).to(memory_format=layout).train()
    optimizer = make_optimizer(
        model,
        built.head,
        lr=1e-3,
        head_lr_factor=1,
        momentum=0.9,
        weight_decay=0.001,
    )
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
