"""`fastft bench`: stages and loaders measured, one process for each; what it says and writes.

Nothing is measured here, so that nothing that one of them leaves behind slows down another:
`worker` is what the processes run, `ceilings` says what follows from their figures.
"""

from __future__ import annotations

import json
import time
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

from rich.console import Console

from fastft.bench.ceilings import Rates, find_ceiling, recommend, training_rate
from fastft.bench.plots import bench_panels
from fastft.bench.result import Bench, Data, Measured, Skipped, Stage
from fastft.bench.stages import STAGES_S, find_spots
from fastft.bench.worker import FIRST_EPOCH
from fastft.config.bench import CONTENDERS, BenchConfig, Task
from fastft.config.checks import plain
from fastft.datasets.large_photos import advise
from fastft.datasets.splits import training_split
from fastft.results.numbers import count
from fastft.results.plots import save_panels
from fastft.system.environment import environment, pick_device
from fastft.system.isolated import run_child
from fastft.system.output_folder import output_folder
from fastft.system.page_cache import COLD, evict
from fastft.system.signals import StopSignals
from pipelines.atomic import write_whole
from pipelines.errors import DataError, FormatError, UsageError
from pipelines.formats.source import open_source
from pipelines.resident.store import StoreFormat, lay_out
from pipelines.workers import cpu_count

TABLE, PICTURE = "bench.json", "bench.png"
#: A process that takes so many times longer than it was to measure, and this beside it, hangs.
_LIMIT_S, _LIMIT = 120.0, 20.0
#: Seconds until a process has imported what it needs and made a loader: 5 on 2 cores.
_START_S = 6.0
_ERRORS = {each.__name__: each for each in (DataError, FormatError, UsageError)}


def run_bench(config: BenchConfig, console: Console) -> Bench:
    """Measure stages and loaders, and write TABLE and PICTURE to `config.out`.

    Raises:
        UsageError: settings that this machine cannot serve.
        DataError: data that cannot be read, no loader that reads them, or an output that cannot be
            written.
        Stopped: a signal came; nothing was written.
    """
    started = time.perf_counter()
    workers = sorted({each or cpu_count() for each in config.workers})
    device = str(pick_device(config.device))
    config = replace(config, workers=tuple(workers), device=device)
    data = read_data(config.data, config.size)
    if data.advice:
        console.print(data.advice, markup=False)
    with output_folder(config.out), StopSignals():
        stages = _measure_stages(config, data)
        loaders, skipped = _measure_loaders(config, data, stages, console)
        if not loaders:
            reason = skipped[0].reason
            raise DataError(config.data, f"no loader could be measured ({reason})")
        rates = {stage.name: stage.img_per_s for stage in stages}
        found = Bench(
            config=plain(config),
            environment=environment(),
            data=data.facts,
            stages=stages,
            loaders=loaders,
            skipped=skipped,
            seconds=time.perf_counter() - started,
            recommendation=recommend(
                loaders, data.facts.images, rates["model_step"], shares_cores=device == "cpu"
            ),
        )
        heading, panels = bench_panels(found)
        save_panels(panels, config.out / PICTURE, heading)
        write_whole(config.out / TABLE, json.dumps(found.as_json(), indent=1) + "\n")
    return found


@dataclass(frozen=True, slots=True)
class Photos:
    """The photos that all measurements read.

    Attributes:
        split: the `.beton` or class folder.
        files: all of its files.
        pixel_bytes: what `resident` keeps of an image.
        facts: what the result says of them.
        advice: what smaller ones would save; may be empty.
    """

    split: Path
    files: tuple[Path, ...]
    pixel_bytes: int
    facts: Data
    advice: str


def read_data(path: Path, size: int) -> Photos:
    """Look at the data; nothing of them stays mapped, which would keep them in memory.

    Args:
        path: the data.
        size: side of the images that training sees, px.

    Raises:
        DataError: they cannot be read.
    """
    split = training_split(path).absolute()
    source = open_source(split)
    spots = find_spots(source)
    areas = source.widths.astype(float) * source.heights
    return Photos(
        split=split,
        files=spots.files,
        pixel_bytes=lay_out(source, StoreFormat()).total // len(source),
        facts=Data(
            path=str(path),
            images=len(source),
            classes=len(source.classes),
            mean_px=round(areas.mean()),
            mean_bytes=round(spots.sizes.mean()),
            stored_bytes=int(spots.sizes.sum()),
        ),
        advice=advise(source, size),
    )


def _task(config: BenchConfig, data: Photos, loader: str, workers: int, *, cold: bool) -> Task:
    return Task(
        loader=loader,
        data=str(data.split),
        workers=workers,
        view=config.view,
        size=config.size,
        batch_size=min(config.batch_size, data.facts.images),
        decode="exact" if loader == "stock" else config.decode,
        augment=config.augment,
        seconds=config.seconds,
        arch=config.arch,
        amp=config.amp,
        device=config.device,
        seed=config.seed,
        cold=cold,
    )


def _run(task: Task) -> dict[str, Any]:
    limit_s = _LIMIT_S + _LIMIT * task.seconds
    return run_child("fastft.bench.worker", [json.dumps(asdict(task))], limit_s)


def _measure_stages(config: BenchConfig, data: Photos) -> tuple[Stage, ...]:
    """Measures the stages on all cores, whatever loaders are asked for.

    Raises:
        DataError, UsageError: as the process raised it, or it had no answer.
    """
    expected_s = _START_S + STAGES_S * config.seconds
    with Console(stderr=True).status(f"each stage alone, about {expected_s:.0f} s"):
        answer = _run(_task(config, data, "", cpu_count(), cold=config.cold))
    if "error" in answer:
        kind, *parts = answer["error"]
        raise _ERRORS[kind](*parts)
    if "failed" in answer:
        remedy = "take a smaller --batch-size if memory ran out"
        raise DataError(config.data, f"measuring the stages {answer['failed']}", "", remedy)
    return tuple(Stage(**each) for each in answer["stages"])


def _measure_loaders(
    config: BenchConfig, data: Photos, stages: tuple[Stage, ...], console: Console
) -> tuple[tuple[Measured, ...], tuple[Skipped, ...]]:
    """A row for each loader and number of workers, and why others are missing."""
    rates = {stage.name: stage.img_per_s for stage in stages}
    names = tuple(dict.fromkeys(config.loaders or CONTENDERS))
    rows: list[Measured] = []
    skipped: list[Skipped] = []
    each_s = _expect_s(config, data, rates)
    console.print(f"{count(len(names), 'loader')}: about {len(names) * each_s:.0f} s")
    with Console(stderr=True).status("") as status:
        for at, name in enumerate(names):
            left = f"about {(len(names) - at) * each_s:.0f} s left"
            for workers in config.workers:
                status.update(f"{name}, workers {workers}; {left}")
                answer = _run(_task(config, data, name, workers, cold=False))
                if "failed" in answer:
                    where = f"workers {workers}: " if len(config.workers) > 1 else ""
                    skipped.append(Skipped(name, where + answer["failed"]))
                    break  # more of them would fail alike, or need more yet
                cold = None
                if rates["read_cold"] is not None and workers == max(config.workers):
                    status.update(f"{name}, workers {workers}, from storage; {left}")
                    cold = _measure_cold(config, data, name, workers)
                rows.append(_row(config, data, rates, name, workers, cold, answer))
    return tuple(rows), tuple(skipped)


def _measure_cold(config: BenchConfig, data: Photos, name: str, workers: int) -> float | None:
    """Images/s of a first epoch of what is not in memory; None if that cannot be had."""
    if evict(data.files) > COLD:
        return None
    answer = _run(_task(config, data, name, workers, cold=True))
    return answer.get("first_epoch_img_per_s")


def _row(
    config: BenchConfig,
    data: Photos,
    rates: Rates,
    name: str,
    workers: int,
    cold: float | None,
    answer: dict[str, Any],
) -> Measured:
    on_gpu, rate = config.device != "cpu", answer["img_per_s"]
    ceiling = find_ceiling(name, workers, rates, cores=cpu_count(), on_gpu=on_gpu)
    return Measured(
        loader=name,
        workers=workers,
        cold_img_per_s=cold,
        train_img_per_s=training_rate(rate, rates["model_step"], shares_cores=not on_gpu),
        bytes_per_image=data.pixel_bytes if name == "resident" else data.facts.mean_bytes,
        binds=ceiling.binds,
        ceiling_img_per_s=ceiling.img_per_s,
        share_of_ceiling=ceiling.img_per_s and rate / ceiling.img_per_s,
        **answer,
    )


def _expect_s(config: BenchConfig, data: Photos, rates: Rates) -> float:
    """The seconds that a loader will take, were it as fast as decoding is."""
    decoding = rates["decode_all_cores"]
    first_s = min(data.facts.images / decoding if decoding else 0.0, FIRST_EPOCH * config.seconds)
    cold_s = 0.0 if rates["read_cold"] is None else _START_S + first_s
    return len(config.workers) * (_START_S + first_s + config.seconds) + cold_s
