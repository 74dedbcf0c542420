"""The command line of `fastft bench`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer

from fastft.cli.addresses import find_here
from fastft.cli.augment_options import takes_augment_options
from fastft.config.bench import CONTENDERS, BenchConfig
from fastft.config.checks import defaults
from fastft.system.progress import make_console
from pipelines.augment import Augment
from pipelines.errors import UsageError

_BENCH = defaults(BenchConfig)


@takes_augment_options
def bench(
    *,
    data: Annotated[
        Path,
        typer.Argument(help="A .beton, a class folder, or a folder with splits: its train."),
    ],
    out: Annotated[Path, typer.Option(help="The folder for JSON and picture.")] = _BENCH.out,
    loaders: Annotated[
        str, typer.Option(help=f"Such as ffcv,resident; by default {', '.join(CONTENDERS)}.")
    ] = "",
    workers: Annotated[
        str, typer.Option(help="Decoding threads or processes; 1,2,4 tries each; 0 is every CPU.")
    ] = "0",
    size: Annotated[int, typer.Option(help="Side of the images, px.")] = _BENCH.size,
    batch_size: Annotated[int, typer.Option(help="Images per batch.")] = _BENCH.batch_size,
    view: Annotated[str, typer.Option(help="train, recordio, eval or eval-square.")] = _BENCH.view,
    decode: Annotated[
        str,
        typer.Option(help="exact, or scaled: see fastft train. Loaders that cannot are left out."),
    ] = _BENCH.decode,
    seconds: Annotated[
        float, typer.Option(help="For each loader, once its first epoch is over.")
    ] = _BENCH.seconds,
    cold: Annotated[
        bool,
        typer.Option("--cold/--no-cold", help="Read from storage, too, not only from memory."),
    ] = _BENCH.cold,
    arch: Annotated[str, typer.Option(help="A torchvision classifier, to compare with.")] = (
        _BENCH.arch
    ),
    amp: Annotated[str, typer.Option(help="auto, bf16, fp16 or off.")] = _BENCH.amp,
    device: Annotated[str, typer.Option(help="auto, cpu, cuda or cuda:N.")] = _BENCH.device,
    asked: Augment,
) -> None:
    """Find out where the time goes, here and with your photos, and which loader to train with.

    First it measures every stage alone: reading from storage and from memory, decoding and the
    kernel that crops and resizes on one core and on all, the copy to a GPU, the model's step.
    These are the ceilings. Then every loader reads the data in a process of its own: its first
    epoch, later ones, and with --cold a first epoch whose photos are not in memory. 'stock' is
    torchvision's own DataLoader. The table says which stage binds each loader and how much of
    that bound it reaches.

    It ends with the loader to train with, and why. Where the model is the bottleneck, a faster
    loader gains nothing: then it names the simplest. OUT/bench.json holds the figures,
    OUT/bench.png shows them; fastft report makes a page of both.

    A loader that is not installed, crashes or has no room for its pixels is a line at the end.

    Example: fastft bench data

    Example: fastft bench photos/train --loaders torchvision,resident --workers 1,2,4 --seconds 2
    """
    options: dict[str, Any] = {
        "data": find_here(data, out.parent),
        "out": out,
        "loaders": tuple(filter(None, loaders.split(","))),
        "workers": _read_counts(workers),
        "size": size,
        "batch_size": batch_size,
        "decode": decode,
        "augment": asked,
        "view": view,
        "seconds": seconds,
        "cold": cold,
        "arch": arch,
        "amp": amp,
        "device": device,
    }
    config = BenchConfig(**options)
    from fastft.bench.plots import print_bench
    from fastft.bench.run import PICTURE, TABLE, run_bench

    console = make_console()
    print_bench(run_bench(config, console), console)
    console.print(f"{out / TABLE}, {out / PICTURE}", markup=False)


def _read_counts(text: str) -> tuple[int, ...]:
    """Numbers of workers.

    Raises:
        UsageError: a part is not a number.
    """
    parts = text.split(",")
    if not all(part.strip().isdecimal() for part in parts):
        raise UsageError("--workers", repr(text), "a number, or several such as 1,2,4")
    return tuple(map(int, parts))
