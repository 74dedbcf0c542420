"""Runs that differ in one thing, over several seeds, from inputs that are opened once.

Knows how such runs are made and what of them is compared; `compare` and `sweep` say
what differs, `plots` shows it.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import replace

from rich.console import Console

from fastft.config.train import TrainConfig
from fastft.experiments.results import Run, Variant
from fastft.runs.folder import LAST
from fastft.system.progress import image_progress
from fastft.train.distributed import require_alone
from fastft.train.inputs import check_store_file, open_inputs, open_sources, resolve_inputs
from fastft.train.run import build, fit, resolve_rates


def run_variants(
    configs: Mapping[str, TrainConfig], seeds: int, console: Console
) -> tuple[Variant, ...]:
    """Train every config with the same seeds.

    Args:
        configs: name -> config; they differ in nothing that loaders depend on. `out` is the folder
            below which each run gets its own, named by its seed.
        seeds: runs of each, the first with the config's own seed.
        console: where a line per run goes.

    Raises:
        As `train.run.train`.
    """
    require_alone("runs that are compared")
    first = next(iter(configs.values()))
    check_store_file(first)
    sources = open_sources(first)
    filled = {name: resolve_rates(resolve_inputs(each, sources)) for name, each in configs.items()}
    first = next(iter(filled.values()))
    found: dict[str, list[Run]] = {name: [] for name in filled}
    # Wrong weights or heads are found before anything is trained.
    for each in filled.values():
        build(each, sources[0].classes)
    images = len(sources[0]) * first.epochs * seeds * len(filled)
    with open_inputs(first, sources) as inputs, _progress(console, images) as advance:
        # Seed by seed, so that whatever else the machine does meets all variants alike.
        for seed in range(first.seed, first.seed + seeds):
            for name, each in filled.items():
                config = replace(each, seed=seed, out=each.out / f"seed-{seed}")
                built = build(config, inputs.classes)
                started = time.perf_counter()
                result = fit(config, inputs, built, Console(quiet=True))
                run = Run(seed=seed, epochs=result.epochs, seconds=time.perf_counter() - started)
                found[name].append(run)
                (config.out / LAST).unlink()  # nobody continues it, and BEST is enough to use
                advance(len(inputs.train.source) * config.epochs)
                console.print(
                    f"{name}, seed {seed}: accuracy {run.accuracy:.3f} after {len(run.epochs)} "
                    f"epochs, {run.seconds:.1f} s; {config.out}",
                    markup=False,
                )
    return tuple(
        Variant(
            name=name,
            lr=each.lr or 0.0,
            head_lr_factor=each.head_lr_factor or 0.0,
            runs=tuple(found[name]),
        )
        for name, each in filled.items()
    )


@contextmanager
def _progress(console: Console, images: int) -> Iterator[Callable[[int], None]]:
    done = 0
    with image_progress(console, "training") as update:
        update("all runs", 0, images)

        def advance(count: int) -> None:
            nonlocal done
            done += count
            update("all runs", done, images)

        yield advance
