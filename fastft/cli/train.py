"""The command line of `fastft train`."""

from __future__ import annotations

import os
import sys
from dataclasses import replace
from pathlib import Path
from typing import Annotated, Any

import typer

from fastft.cli.addresses import find_here
from fastft.cli.training_options import RUN, SPEED, as_config, as_given, takes_training_options
from fastft.system.progress import make_console
from fastft.system.signals import StopSignals
from fastft.train.launch import count_processes, end_with_launcher, launch
from pipelines.errors import UsageError


@takes_training_options
def train(
    *,
    out: Annotated[
        Path | None, typer.Option(help="The run folder to make.", show_default=False)
    ] = None,
    resume: Annotated[
        Path | None,
        typer.Option(
            help="Continue the run in this folder from its last checkpoint. "
            "Options that would make it another run are refused.",
            show_default=False,
            rich_help_panel=RUN,
        ),
    ] = None,
    auto_resume: Annotated[
        bool,
        typer.Option(
            "--auto-resume",
            help="Continue the run in --out if it has these options, else begin one: for jobs "
            "that a scheduler restarts.",
            rich_help_panel=RUN,
        ),
    ] = False,
    nproc: Annotated[
        str,
        typer.Option(
            help="Processes on this machine, which share each batch: a number, or gpu for one per "
            "GPU. Under torchrun leave it out.",
            rich_help_panel=SPEED,
        ),
    ] = "1",
    lr_find: Annotated[
        bool,
        typer.Option(
            "--lr-find",
            help="Do not train: try rising learning rates, suggest one, draw lr_find.png.",
        ),
    ] = False,
    training: dict[str, Any],
) -> None:
    """Fine-tune a classifier and write a run folder.

    The folder holds config.json, metrics.jsonl, last.safetensors, best.safetensors,
    curves.png and summary.json. It ends with where the time went, and whether another loader would
    be faster. Ctrl-C, SIGTERM and a closed terminal save the run; --resume continues it, to the
    same weights.

    Example: fastft train --data data --out run --epochs 5

    Example: fastft train --data data --out run --recipe d2l --freeze backbone

    Example: fastft train --data data --out run --augment trivial --erase 0.25 --mixup 0.2

    Example: fastft train --resume run

    Example: fastft train --data data --out run --nproc gpu

    Example: torchrun --nnodes 4 --nproc-per-node 8 -m fastft train --data data --out run
    """
    if (resume is None) == (out is None):
        found = "missing" if out is None else f"{out}, beside --resume {resume}"
        raise UsageError("--out", found, "a folder to make, or --resume RUN", "give one of them")
    if lr_find and (resume is not None or auto_resume or nproc != "1"):
        raise UsageError(
            "--lr-find",
            "given for several processes or a run to continue",
            "a process alone, and --out",
            "leave out the other option",
        )
    config = None if out is None else as_config(training, out)
    if config is not None and auto_resume and config.overwrite:
        raise UsageError("--auto-resume", "given with --overwrite", "one of them")
    if (processes := count_processes(nproc)) > 1:
        launch(processes, sys.argv[1:])
        return
    end_with_launcher()
    console = make_console()
    if config is not None:
        config = replace(config, data=find_here(config.data, config.out.parent))
    if lr_find:
        from fastft.experiments.lr_find import find_lr

        assert config is not None
        suggestion = find_lr(config, console)
        for line in (str(suggestion), f"{out}/lr_find.png"):
            console.print(line, markup=False)
        return
    from fastft.runs.folder import find_best
    from fastft.train.costs import Costs, describe, process_age_s
    from fastft.train.distributed import is_main, is_numbered
    from fastft.train.run import resume as run_resume
    from fastft.train.run import train as run_train

    costs = Costs()
    costs.add("imports", process_age_s())
    with StopSignals(is_one_of_many=is_numbered()) as stop:
        if config is not None:
            # A process that torchrun starts again goes on with what it had begun.
            again = os.environ.get("TORCHELASTIC_RESTART_COUNT", "0") != "0"
            result = run_train(config, console, stop, or_resume=auto_resume or again, costs=costs)
        else:
            assert resume is not None
            result = run_resume(resume, as_given(training), console, stop, costs=costs)
    if not is_main():
        return
    if result.bottleneck is not None:
        for line in str(result.bottleneck).splitlines():
            console.print(line, markup=False)
    if result.costs_s:
        console.print(describe(result.costs_s), markup=False)
    console.print(
        f"best {result.last.measures.score.name} {result.best_score:.3f} in "
        f"{result.seconds:.1f} s; "
        f"{find_best(result.out)}, {result.out}/curves.png",
        markup=False,
    )
