"""Training through each loader: how much of the compute bound is left, and the waits for input."""

from __future__ import annotations

import time
from collections.abc import Generator
from contextlib import closing
from functools import partial
from itertools import count, islice
from typing import Any

import torch

from bench.gpu.loaders import OURS
from bench.gpu.pixels import set_dali_options
from bench.gpu.steps import make_batch, make_step
from bench.gpu.task import Task, answer, per_second, wait
from fastft.environment import pick_amp
from fastft.metrics import Waits
from pipelines.loaders import Loader, make_loader

#: A variant may ask for a setting of DALI's decoder: `dali hw 0.9`.
HW = " hw "
VARIANTS = OURS


def main(arguments: list[str]) -> None:
    """See `task.answer`."""
    answer(measure, arguments)


def measure(task: Task) -> dict[str, Any]:
    """The step alone, then fed by the variant's loader, then alone again.

    Returns:
        `img_per_s`, `bound_img_per_s` (the mean of both), `share`, `waited_s` and `seconds` of the
        fed steps, `first_batch_s`, `batch`.
    """
    name, _, load = task.variant.partition(HW)
    if load and task.on_gpu:
        set_dali_options(hw_decoder_load=float(load))
    dtype = pick_amp("auto", torch.device(task.device))
    given = dtype if task.on_gpu else None
    step = make_step(task, dtype)
    alone = partial(step, *make_batch(task, task.batch, given))
    bounds = [task.batch * per_second(alone, task, at_once=4)]
    made = time.perf_counter()
    with make_loader(
        name, task.many, size=task.size, batch_size=task.batch, device=task.device, dtype=given,
        workers=task.workers, drop_last=True,
    ) as loader:  # fmt: skip
        waits = Waits()
        with closing(waits.over(without_end(loader))) as batches:  # type: ignore[type-var]
            next(batches)
            wait(task.device)
            first_batch_s = time.perf_counter() - made
            # `resident` decodes in the first epoch, which is no part of what is measured.
            for batch in islice(batches, len(loader)):
                step(*batch)
            wait(task.device)
            steps, waited_s, started = 0, 0.0, time.perf_counter()
            for batch in batches:
                waited_s += waits.last_s
                step(*batch)
                steps += 1
                if time.perf_counter() - started > 2 * task.seconds:
                    break
            wait(task.device)
            seconds = time.perf_counter() - started
        bounds.append(task.batch * per_second(alone, task, at_once=4))
    rate, bound = steps * task.batch / seconds, sum(bounds) / len(bounds)
    return {
        "batch": task.batch, "img_per_s": rate, "bound_img_per_s": bound, "share": rate / bound,
        "waited_s": waited_s, "seconds": seconds, "steps": steps, "first_batch_s": first_batch_s,
    }  # fmt: skip


def without_end(loader: Loader) -> Generator[tuple[torch.Tensor, torch.Tensor], None, None]:
    """Epoch after epoch."""
    for epoch in count():
        loader.set_epoch(epoch)
        yield from loader
