"""A training's start, item by item, with a clock that runs from this process's first line."""

from __future__ import annotations

import time

STARTED = time.perf_counter()

import json  # noqa: E402 - the clock runs
import sys  # noqa: E402
from importlib import import_module  # noqa: E402
from pathlib import Path  # noqa: E402
from typing import Any  # noqa: E402


def main(arguments: list[str]) -> None:
    """Go through a start; the items' seconds go to the folder that is the second argument."""
    text, folder = arguments
    values = json.loads(text)
    items: dict[str, float] = {}
    last = STARTED

    def done(name: str) -> None:
        nonlocal last
        now = time.perf_counter()
        items[name], last = now - last, now

    import torch

    done("import torch")
    from bench.gpu.steps import make_step
    from bench.gpu.task import Task, wait
    from fastft.environment import pick_amp
    from pipelines.loaders import LOADERS, make_loader

    done("import fastft, torchvision")
    task = Task(**{**values, "batches": tuple(values["batches"])})
    import_module(f"pipelines.loaders.{LOADERS[task.variant][0]}")
    done("import the loader's library")
    device = torch.device(task.device)
    torch.zeros(1, device=device)
    wait(device)
    done("CUDA context")
    dtype = pick_amp("auto", device)
    step = make_step(task, dtype)
    wait(device)
    done("model")
    with make_loader(
        task.variant, Path(task.data) / "train.beton", size=task.size, batch_size=task.batch,
        device=device, dtype=dtype if task.on_gpu else None, workers=task.workers,
    ) as loader:  # fmt: skip
        done("loader")
        batches = iter(loader)
        images, labels = next(batches)
        wait(device)
        done("first batch (pipeline, kernels compiled)")
        step(images, labels)
        wait(device)
        done("first step (cuDNN, cuBLAS)")
        images, labels = next(batches)
        step(images, labels)
        wait(device)
        done("second step")
    found: dict[str, Any] = {"items": items, "seconds": sum(items.values())}
    (Path(folder) / "answer.json").write_text(json.dumps(found))
    sys.stdout.flush()
