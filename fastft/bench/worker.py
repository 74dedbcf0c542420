"""One measurement of `fastft bench` in a process of its own: one loader, or the stages.

Nothing heavy is imported before the clock runs that measures its import.
"""

from __future__ import annotations

import importlib
import json
import sys
import time
from collections.abc import Iterable
from pathlib import Path
from typing import TYPE_CHECKING, Any

from fastft.config.augment import read_augment
from fastft.config.bench import Task
from fastft.system.isolated import ANSWER
from fastft.system.usage import usage_of
from pipelines.errors import FastftError

if TYPE_CHECKING:
    import torch

    from pipelines.loaders import Loader

#: A first epoch that goes on for so many times `seconds` is left, and later ones read the same
#: images: more would tell nothing new.
FIRST_EPOCH = 2.0


def main(arguments: list[str]) -> None:
    """Measure what the first argument asks for; the answer goes to the folder that is the second.

    An answer without figures has the key `failed`, a line that says why; `error` holds the parts of
    a deliberate error, so that it can be raised again.
    """
    text, folder = arguments
    given = json.loads(text)
    task = Task(**{**given, "augment": read_augment(given["augment"])})
    try:
        if task.loader:
            answer = measure_loader(task)
        else:
            from fastft.bench.stages import measure_stages

            answer = {"stages": measure_stages(task)}
    except FastftError as error:
        parts = (error.where, error.found, error.expected, error.remedy)
        answer = {"failed": str(error), "error": [type(error).__name__, *parts]}
    except Exception as error:  # whatever a library raises is what was to be found
        answer = {"failed": f"{type(error).__name__}: {(str(error).splitlines() or [''])[0]}"}
    (Path(folder) / ANSWER).write_text(json.dumps(answer))
    sys.stdout.flush()


def measure_loader(task: Task) -> dict[str, Any]:
    """Read a loader's first epoch, then, unless that is all, later ones.

    Returns:
        `first_epoch_img_per_s`, from making the loader on, `first_batch_s`, `import_s`; unless the
        task is cold also `img_per_s` and `cpu_s_per_image` of later epochs, `peak_rss_bytes` of all
        processes, and `held_bytes` of pixels, which only the resident loader has.

    Raises:
        UsageError: a library that is missing, or pixels that fit into no memory.
        DataError: data that cannot be read.
    """
    started = time.perf_counter()
    from pipelines.loaders import LOADERS, make_loader

    importlib.import_module(f"pipelines.loaders.{LOADERS[task.loader][0]}")
    dtype = _dtype(task)
    options: dict[str, Any] = {}
    if task.loader == "resident":
        from pipelines.resident.keeping import MANY

        options["epochs"] = MANY  # as in a training, whose later epochs are measured
    made = time.perf_counter()
    with make_loader(
        task.loader,
        task.data,
        view=task.view,
        size=task.size,
        batch_size=task.batch_size,
        seed=task.seed,
        device=task.device,
        dtype=dtype,
        workers=task.workers,
        decode=task.decode,
        augment=task.augment,
        **options,
    ) as loader:
        images, first_batch_s = 0, 0.0
        for _, labels in loader:
            images += len(labels)
            if not first_batch_s:
                _wait_for(loader.device)
                first_batch_s = time.perf_counter() - made
            if time.perf_counter() - made - first_batch_s > FIRST_EPOCH * task.seconds:
                break
        _wait_for(loader.device)
        found = {
            "import_s": made - started,
            "first_batch_s": first_batch_s,
            "first_epoch_img_per_s": images / (time.perf_counter() - made),
        }
        return found if task.cold else {**found, **_measure_later(loader, images, task.seconds)}


def _measure_later(loader: Loader, images: int, seconds: float) -> dict[str, Any]:
    """Whole epochs, or as much of each as of the first, until the time is over."""
    seen = loader.plan.order[:images]
    used, epoch, done = usage_of().cpu_s, 0, 0
    started = time.perf_counter()
    while time.perf_counter() - started < seconds:
        epoch += 1
        loader.set_epoch(epoch)
        if images < len(loader.source):
            loader.select(seen)
        done += _read(loader, images)
    _wait_for(loader.device)
    elapsed, usage = time.perf_counter() - started, usage_of()
    return {
        "img_per_s": done / elapsed,
        "cpu_s_per_image": (usage.cpu_s - used) / done,
        "peak_rss_bytes": usage.peak_bytes,
    }


def _read(batches: Iterable[tuple[torch.Tensor, torch.Tensor]], images: int) -> int:
    """Read at least so many images, or all there are; returns how many it were."""
    done = 0
    for _, labels in batches:
        done += len(labels)
        if done >= images:  # of a loader that follows no plan there are always more
            break
    return done


def _dtype(task: Task) -> torch.dtype | None:
    """The options that `fastft train` gives its loader."""
    import torch

    from fastft.system.environment import pick_amp

    device = torch.device(task.device)
    return pick_amp(task.amp, device) if device.type == "cuda" else None


def _wait_for(device: torch.device) -> None:
    if device.type == "cuda":
        import torch

        torch.cuda.synchronize(device)
