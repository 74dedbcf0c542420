"""A profile of steady-state training steps fed by a loader, and what the host waits for."""

from __future__ import annotations

import json
import tempfile
import warnings
from collections.abc import Iterator
from contextlib import closing
from itertools import islice
from pathlib import Path
from typing import Any

import torch

from bench.gpu.fed import without_end
from bench.gpu.steps import make_step
from bench.gpu.task import Found, Task, answer, wait
from bench.gpu.timeline import summarize
from fastft.system.environment import pick_amp
from pipelines.loaders import make_loader

VARIANTS = ("resident", "dali")
#: Within one epoch of the many photos; and so many before.
STEPS, _WARM = 16, 6


def main(arguments: list[str]) -> None:
    """See `task.answer`."""
    answer(measure, arguments)


def measure(task: Task) -> Iterator[Found]:
    """Figures of the trace, and where torch itself saw the host wait for the GPU."""
    device = torch.device(task.device)
    dtype = pick_amp("auto", device)
    step = make_step(task, dtype)
    with (
        make_loader(
            task.variant,
            task.many_photos,
            size=task.size,
            batch_size=task.batch,
            device=device,
            dtype=dtype if task.on_gpu else None,
            workers=task.workers,
            drop_last=True,
        ) as loader,
        closing(without_end(loader)) as batches,
    ):
        for images, labels in islice(batches, len(loader) + _WARM):
            step(images, labels)
        wait(device)
        hidden = _hidden_waits(step, batches, task)
        activities = [torch.profiler.ProfilerActivity.CPU]
        if task.on_gpu:
            activities.append(torch.profiler.ProfilerActivity.CUDA)
        with torch.profiler.profile(activities=activities) as profiler:
            for images, labels in islice(batches, STEPS):
                step(images, labels)
            wait(device)
        with tempfile.TemporaryDirectory() as folder:
            path = Path(folder) / "trace.json"
            profiler.export_chrome_trace(str(path))
            events = json.loads(path.read_text())["traceEvents"]
    # The wait at the end is the profile's own.
    category = "kernel" if task.on_gpu else "cpu_op"
    yield {**summarize(events, STEPS, category), "torch_waits": hidden}


def _hidden_waits(step: Any, batches: Any, task: Task) -> list[str]:
    """Operations of torch's that make the host wait within some steps, by torch's own watch."""
    if not task.on_gpu:
        return []
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        torch.cuda.set_sync_debug_mode("warn")
        try:
            for images, labels in islice(batches, 4):
                step(images, labels)
        finally:
            torch.cuda.set_sync_debug_mode("default")
    said = (f"{Path(each.filename).name}:{each.lineno}: {each.message}" for each in caught)
    return sorted({line for line in said if "synchroniz" in line})
