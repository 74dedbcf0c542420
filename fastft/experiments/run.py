"""Runs that differ in one thing, over several seeds, from inputs that are opened once.

Knows how such runs are made and what of them is compared; `compare` and `sweep` say
what differs, `plots` shows it.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import replace
from itertools import product

from rich.console import Console

from fastft.config.train import TrainConfig
from fastft.experiments.results import Run, Variant
from fastft.runs.folder import LAST
from fastft.system.progress import image_progress
from fastft.train.distributed import require_alone
from fastft.train.inputs import (
    Inputs,
    check_store_file,
    open_inputs,
    open_sources,
    resolve_inputs,
)
from fastft.train.run import build, fit, resolve_form, resolve_rates


def run_variants(
    configs: Mapping[str, TrainConfig], seeds: int, console: Console
) -> tuple[Variant, ...]:
    """Train every config with the same seeds, on each fold if they ask for folds.

    Args:
        configs: name -> config; they differ in nothing that loaders depend on. `out` is the folder
            below which each run gets its own, named by its seed and fold.
        seeds: runs of each on the same data, the first with the config's own seed.
        console: where a line per run goes.

    Raises:
        As `train.run.train`.
    """
    require_alone("runs that are compared")
    first = next(iter(configs.values()))
    check_store_file(first)
    folds: Sequence[int | None] = range(first.folds) if first.folds else (None,)
    data = {fold: open_sources(on_fold(first, fold)) for fold in folds}
    sources = data[folds[0]]
    # Wrong weights or heads are found before anything is trained.
    built = build(first, sources[0].classes)
    form = built.form.preprocessing
    first = resolve_form(first, built)
    filled = {}
    for name, each in configs.items():  # whose images are the first one's
        each = replace(each, size=first.size, eval_view=first.eval_view)
        if name != next(iter(configs)):
            build(each, sources[0].classes)
        filled[name] = resolve_rates(resolve_inputs(each, sources))
    found: dict[str, list[Run]] = {name: [] for name in filled}
    images = sum(len(train) for train, _ in data.values()) * first.epochs * seeds * len(filled)
    with _progress(console, images) as advance:
        for fold, sources in data.items():
            first = on_fold(next(iter(filled.values())), fold)
            epochs = first.epochs * seeds * len(filled)
            with open_inputs(first, sources, preprocessing=form, epochs=epochs) as inputs:
                # Seed by seed, so that whatever else the machine does meets all variants alike.
                for seed, (name, each) in product(
                    range(first.seed, first.seed + seeds), filled.items()
                ):
                    run = _run(name, replace(on_fold(each, fold), seed=seed), inputs, console)
                    found[name].append(run)
                    advance(len(inputs.train.source) * first.epochs)
    return tuple(
        Variant(
            name=name,
            lr=each.lr or 0.0,
            head_lr_factor=each.head_lr_factor or 0.0,
            runs=tuple(found[name]),
        )
        for name, each in filled.items()
    )


def on_fold(config: TrainConfig, fold: int | None) -> TrainConfig:
    """The config of one fold; None: there are none."""
    return config if fold is None else replace(config, fold=fold)


def _run(name: str, config: TrainConfig, inputs: Inputs, console: Console) -> Run:
    """Train once, into a folder of its own."""
    fold = config.fold if config.folds else None
    own = f"seed-{config.seed}" if fold is None else f"fold-{fold}-seed-{config.seed}"
    config = replace(config, out=config.out / own)
    built = build(config, inputs.classes)
    started = time.perf_counter()
    result = fit(config, inputs, built, Console(quiet=True))
    seconds = time.perf_counter() - started
    run = Run(seed=config.seed, fold=fold, epochs=result.epochs, seconds=seconds)
    (config.out / LAST).unlink()  # nobody continues it, and BEST is enough to use
    where = "" if fold is None else f"fold {fold}, "
    console.print(
        f"{name}, {where}seed {config.seed}: {run.epochs[-1].measures.score.name} "
        f"{run.accuracy:.3f} after {len(run.epochs)} epochs, {run.seconds:.1f} s; {config.out}",
        markup=False,
    )
    return run


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
