"""Measures each stage on the way from storage to weights alone: the ceilings.

Reading, decoding, the kernel, the copy to a GPU, the model's step, each without the others.
`ceilings` says what follows for loaders. A process of its own runs this: a process whose
threads have computed disturbs what is measured in it afterwards.
"""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass
from functools import partial
from itertools import cycle
from pathlib import Path
from threading import Lock
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from fastft.bench.result import Stage
from fastft.config.bench import Task
from fastft.config.checks import defaults
from fastft.config.train import TrainConfig
from fastft.model.classifier import build_model
from fastft.model.loss import Loss
from fastft.model.optim import make_optimizer
from fastft.system.environment import pick_amp
from fastft.system.page_cache import COLD, evict
from fastft.train.step import TrainStep
from pipelines.formats.beton import Index
from pipelines.formats.layout import MODE_RAW
from pipelines.formats.source import Source, open_source
from pipelines.loaders.stages import Copying, Decoding, Kernel, Work
from pipelines.plan import Plan, make_plan
from pipelines.resident.store import StoreFormat, lay_out
from pipelines.workers import cpu_count

#: Samples that a thread takes at a time: 6 ms of a core where they are decoded.
_AT_ONCE = 8
#: Of the time for a loader, what each stage gets, and all of them take.
_SHARE, STAGES_S = 0.25, 2.5
#: Pixels that are held for the kernel: more than caches hold, little for any machine.
_HELD_BYTES = 256 << 20


@dataclass(frozen=True, slots=True)
class Spots:
    """The places of samples in the file system.

    Attributes:
        files: the one that has them all, or of a class folder each sample's.
        offsets, sizes: int64[N], bytes.
    """

    files: tuple[Path, ...]
    offsets: NDArray[np.int64]
    sizes: NDArray[np.int64]

    def reader(self, samples: NDArray[np.int64]) -> Work:
        """A function for one thread that reads some of these samples into a reused buffer."""
        room = memoryview(bytearray(int(self.sizes[samples].max())))

        def read(part: slice) -> memoryview:
            wanted = room
            for sample in samples[part].tolist():
                file = self.files[sample if len(self.files) > 1 else 0]
                descriptor = os.open(file, os.O_RDONLY)
                try:
                    wanted = room[: self.sizes[sample]]
                    os.preadv(descriptor, [wanted], self.offsets[sample])
                finally:
                    os.close(descriptor)
            return wanted

        return read


def find_spots(source: Source) -> Spots:
    """The places of a source's samples.

    Raises:
        OSError: a file is gone.
    """
    if isinstance(source, Index):
        return Spots((source.path,), source.pointers, source.sizes)
    files = tuple(source.path / source.name(sample) for sample in range(len(source)))
    sizes = np.array([file.stat().st_size for file in files], np.int64)
    return Spots(files, np.zeros_like(sizes), sizes)


def measure_stages(task: Task) -> list[dict[str, Any]]:
    """Measure every stage, in the order of the way, as JSON values.

    Raises:
        DataError: the data cannot be read.
        UsageError: there is no such model.
    """
    device, budget_s = torch.device(task.device), _SHARE * task.seconds
    spots, plan, classes = _look(task)
    step = _make_step(task, classes, device)
    # Before anything maps the file, whose mapped pages could not be evicted.
    stages = _measure_reading(spots, plan, budget_s, cold=task.cold)
    source = open_source(Path(task.data))
    samples = _choose(source, plan)
    stages += _measure_decoding(source, samples, plan, budget_s)
    kernel = Kernel(source, samples, plan, normalize=device.type == "cpu")
    make_worker = partial(kernel.worker, _AT_ONCE)
    note = f"to {task.size} px, of decoded pixels"
    stages += _on_cores("kernel", "crop and resize", make_worker, len(samples), budget_s, note)
    stages.append(_measure_copy(task, device, budget_s))
    stages.append(_measure_model(step, task, classes, device, budget_s))
    return [asdict(stage) for stage in stages]


def throughput(
    make_worker: Callable[[], Work],
    samples: int,
    *,
    threads: int,
    budget_s: float,
    once: bool = False,
) -> float:
    """Samples per second of threads that take them in turn, round and round.

    Args:
        make_worker: called for each thread.
        samples: how many there are.
        threads: how many take part.
        budget_s: how long.
        once: take no sample twice, and none before the clock starts; else every worker is tried
            on a few.
    """
    workers = [make_worker() for _ in range(threads)]
    step = max(1, min(_AT_ONCE, samples // threads))
    parts = [slice(at, min(at + step, samples)) for at in range(0, samples, step)]
    if not once:
        for work in workers:
            work(parts[0])
    coming: Iterator[slice] = iter(parts) if once else cycle(parts)
    lock = Lock()

    def run(work: Work) -> int:
        done = 0
        while not done or time.perf_counter() < ends:
            with lock:
                part = next(coming, None)
            if part is None:
                break
            work(part)
            done += part.stop - part.start
        return done

    started = time.perf_counter()
    ends = started + budget_s
    with ThreadPoolExecutor(threads) as executor:
        done = sum(executor.map(run, workers))
    return done / (time.perf_counter() - started)


def _look(task: Task) -> tuple[Spots, Plan, int]:
    """The samples' places, an epoch's plan, the number of classes; nothing is mapped."""
    source = open_source(Path(task.data))
    plan = make_plan(
        source.widths,
        source.heights,
        view=task.view,
        size=task.size,
        seed=task.seed,
        epoch=0,
        decode=task.decode,
        augment=task.augment,
    )
    return find_spots(source), plan, len(source.classes)


def _choose(source: Source, plan: Plan) -> NDArray[np.int64]:
    """The first samples of the plan whose pixels may be held, at least one."""
    samples = np.asarray(plan.order[: 1 << 14])
    ends = np.cumsum(lay_out(source, StoreFormat()).sizes[samples])
    return samples[: max(1, int(np.searchsorted(ends, _HELD_BYTES)))]


def _measure_reading(spots: Spots, plan: Plan, budget_s: float, *, cold: bool) -> list[Stage]:
    """Read in the plan's order; first what is on the storage alone, if it can be had so."""
    threads = cpu_count()
    samples = np.asarray(plan.order[: 1 << 20])
    reader = partial(spots.reader, samples)
    mean_bytes = float(spots.sizes[samples].mean())

    def stage(name: str, label: str, rate: float) -> Stage:
        note = f"{rate * mean_bytes / 1e6:,.0f} MB/s, {threads} threads"
        return Stage(name, label, rate, note)

    label = "read from storage"
    left = evict(spots.files) if cold else 1.0
    if not cold:
        read_cold = Stage("read_cold", label, None, "not asked for")
    elif left > COLD:
        note = f"{left:.0%} of it cannot be got out of memory: tmpfs, in use, or another's file"
        read_cold = Stage("read_cold", label, None, note)
    else:
        rate = throughput(reader, len(samples), threads=threads, budget_s=budget_s, once=True)
        read_cold = stage("read_cold", label, rate)
    few = samples[: _warm(spots, samples, budget_s)]
    rate = throughput(partial(spots.reader, few), len(few), threads=threads, budget_s=budget_s / 2)
    return [read_cold, stage("read_warm", "read from memory", rate)]


def _warm(spots: Spots, samples: NDArray[np.int64], budget_s: float) -> int:
    """Read until the time is over; returns how many samples are in the page cache now."""
    read, ends = spots.reader(samples), time.perf_counter() + budget_s
    for done in range(len(samples)):
        read(slice(done, done + 1))
        if time.perf_counter() > ends:
            return done + 1
    return len(samples)


def _measure_decoding(
    source: Source, samples: NDArray[np.int64], plan: Plan, budget_s: float
) -> list[Stage]:
    raw = isinstance(source, Index) and bool((source.modes[samples] == MODE_RAW).all())
    if raw:
        note = "nothing to decode: pixels are stored"
        return [Stage(f"decode_{cores}", _label("decode", cores), None, note) for cores in _CORES]
    make_worker = Decoding(source, samples, plan).worker
    mean_px = (source.widths[samples].astype(float) * source.heights[samples]).mean()
    note = f"what crops show of {mean_px / 1e6:.2f} megapixels in the mean"
    return _on_cores("decode", "decode", make_worker, len(samples), budget_s, note)


#: As in the names of stages.
_CORES = ("one_core", "all_cores")


def _label(what: str, cores: str) -> str:
    return f"{what}, {cores.replace('_', ' ')}"


def _on_cores(
    name: str, what: str, make_worker: Callable[[], Work], samples: int, budget_s: float, note: str
) -> list[Stage]:
    """The same on one core and on all; on a machine with a single one that is one measurement."""
    counts = dict(zip(_CORES, (1, cpu_count()), strict=True))
    rates = {
        threads: throughput(make_worker, samples, threads=threads, budget_s=budget_s)
        for threads in sorted({*counts.values()})
    }
    return [
        Stage(f"{name}_{cores}", _label(what, cores), rates[threads], note)
        for cores, threads in counts.items()
    ]


def _measure_copy(task: Task, device: torch.device, budget_s: float) -> Stage:
    name, label = "copy_to_device", "copy to the GPU"
    if device.type != "cuda":
        return Stage(name, label, None, "no GPU: batches stay where they are")
    image_bytes = 3 * task.size**2
    copying = Copying(device, task.batch_size * image_bytes)
    rate = task.batch_size * _repeat(copying, budget_s, device)
    return Stage(name, label, rate, f"{rate * image_bytes / 1e6:,.0f} MB/s, pinned uint8")


def _make_step(task: Task, classes: int, device: torch.device) -> TrainStep:
    """The step of `fastft train`."""
    usual = defaults(TrainConfig)
    built = build_model(classes, "none", arch=task.arch, size=task.size)
    model = built.model.to(device).train()
    optimizer = make_optimizer(
        model,
        built.head,
        optimizer=usual.optimizer,
        lr=1e-3,
        head_lr_factor=1.0,
        momentum=usual.momentum,
        weight_decay=usual.weight_decay,
    )
    amp_dtype = pick_amp(task.amp, device)
    return TrainStep(model, optimizer, Loss(), device=device, amp_dtype=amp_dtype)


def _measure_model(
    step: TrainStep, task: Task, classes: int, device: torch.device, budget_s: float
) -> Stage:
    """Learn, from a batch that is there already, again and again."""
    amp_dtype = pick_amp(task.amp, device) or torch.float32
    what = f"{task.arch}, {str(amp_dtype).removeprefix('torch.')}"
    # As loaders give it: on a GPU in the dtype that the model computes in.
    dtype = amp_dtype if device.type == "cuda" else torch.float32
    name, label, count = "model_step", "model step", task.batch_size
    try:
        images = torch.randn(count, 3, task.size, task.size).to(device, dtype)
        images = images.contiguous(memory_format=torch.channels_last)
        labels = torch.arange(count, device=device) % classes
        rate = count * _repeat(partial(step, images, labels), 2 * budget_s, device)
    except torch.OutOfMemoryError:
        note = f"{what}: {count} images do not fit on the GPU; take a smaller --batch-size"
        return Stage(name, label, None, note)
    return Stage(name, label, rate, f"{what}, batches of {count}")


def _repeat(work: Callable[[], object], budget_s: float, device: torch.device) -> float:
    """Calls per second of something that has been called once."""
    work()
    _wait_for(device)
    done, started = 0, time.perf_counter()
    while not done or time.perf_counter() - started < budget_s:
        work()
        done += 1
        if device.type == "cpu" or done % 16 == 0:
            _wait_for(device)  # a queue without end would outlast the clock
    _wait_for(device)
    return done / (time.perf_counter() - started)


def _wait_for(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize(device)
