"""Each loader alone, at several batch sizes, and the libraries' own pipelines on the same GPU."""

from __future__ import annotations

import time
from collections.abc import Iterator
from dataclasses import replace
from itertools import islice
from pathlib import Path
from typing import Any

from bench.gpu.pixels import set_dali_options
from bench.gpu.task import Found, Task, answer, gpu_bytes, wait
from bench.peers import Batch, stock_dali, stock_torchvision
from fastft.bench.worker import measure_loader
from fastft.system.usage import usage_of

#: What `hw_decoder_load` is tried at: the share of images for the chip's own JPEG decoders.
HW_LOADS = (0.0, 0.65, 0.9)
#: The variant that tries them, and those that are not ours.
SWEEP, STOCK_DALI, STOCK_TORCHVISION = "dali hw_decoder_load", "stock DALI", "stock torchvision"
OURS = ("torchvision", "ffcv", "dali", "resident")
VARIANTS = (*OURS, SWEEP, STOCK_DALI, STOCK_TORCHVISION)
#: Batches before the clock starts.
_WARM = 4


def main(arguments: list[str]) -> None:
    """See `task.answer`."""
    answer(measure, arguments)


def measure(task: Task) -> Iterator[Found]:
    """Rows: images/s, cores and GPU memory of a variant, by batch size or by what is swept."""
    before, rows = gpu_bytes(), []
    for row in _rows(task, before):
        rows.append(row)
        yield {"rows": rows}


def _rows(task: Task, before: int) -> Iterator[dict[str, Any]]:
    if task.variant == SWEEP:
        return (_sweep(task, load, before) for load in HW_LOADS)
    of = _ours if task.variant in OURS else _stock
    return (of(task, batch_size, before) for batch_size in task.batches)


def _ours(task: Task, batch_size: int, before: int) -> dict[str, Any]:
    found = measure_loader(task.loader(task.variant, batch_size))
    cores = found["cpu_s_per_image"] * found["img_per_s"]
    return {"batch": batch_size, **found, "cores": cores, "gpu_bytes": gpu_bytes() - before}


def _sweep(task: Task, load: float, before: int) -> dict[str, Any]:
    if task.on_gpu:  # the CPU's decoder knows no such option
        set_dali_options(hw_decoder_load=load)
    row = _ours(replace(task, variant="dali"), task.batch, before)
    return {"hw_decoder_load": load, **row}


def _stock(task: Task, batch_size: int, before: int) -> dict[str, Any]:
    make = {STOCK_DALI: stock_dali, STOCK_TORCHVISION: _torchvision}[task.variant]
    batches = make(Path(task.photos) / "train", batch_size, task.workers, task.size, task.device)
    return {"batch": batch_size, **_read(batches, task), "gpu_bytes": gpu_bytes() - before}


def _read(batches: Iterator[Batch], task: Task) -> dict[str, Any]:
    """Read for a while; the first batches are not counted."""
    started = time.perf_counter()
    next(batches)
    wait(task.device)
    first_batch_s = time.perf_counter() - started
    for _ in islice(batches, _WARM):
        pass
    wait(task.device)
    used, done, started = usage_of().cpu_s, 0, time.perf_counter()
    for _, labels in batches:
        done += len(labels)
        if time.perf_counter() - started > task.seconds:
            break
    wait(task.device)
    elapsed = time.perf_counter() - started
    used = usage_of().cpu_s - used
    return {
        "img_per_s": done / elapsed,
        "first_batch_s": first_batch_s,
        "cores": used / elapsed,
        "cpu_s_per_image": used / done,
    }


def _torchvision(
    data: Path, batch_size: int, cores: int, size: int, device: str
) -> Iterator[Batch]:
    for images, labels in stock_torchvision(data, batch_size, cores, size):
        yield images.to(device, non_blocking=True), labels.to(device, non_blocking=True)
