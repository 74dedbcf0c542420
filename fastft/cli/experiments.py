"""The command line of what trains many times: `compare` and `sweep`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer

from fastft.cli.addresses import find_here
from fastft.cli.training_options import takes_training_options
from fastft.config.checks import require
from fastft.system.progress import make_console
from pipelines.errors import UsageError

_SEEDS = 5


@takes_training_options
def compare(
    *,
    out: Annotated[Path, typer.Option(help="The folder to make.")],
    seeds: Annotated[
        int | None,
        typer.Option(
            help="Runs of each; the intervals come from them.",
            show_default=f"{_SEEDS}; with --folds 1 on each",
        ),
    ] = None,
    scratch_lr: Annotated[
        float | None,
        typer.Option(help="Learning rate from scratch.", show_default="the recipe's, or --lr"),
    ] = None,
    frozen_lr: Annotated[
        float | None,
        typer.Option(help="Learning rate on frozen features.", show_default="as fine-tuned"),
    ] = None,
    training: dict[str, Any],
) -> None:
    """Fine-tune, train from scratch, and train on frozen features: one table, one picture.

    All three see the same crops in the same order, seed by seed, for the same number of epochs. It
    says by how much fine-tuning is more accurate, with a 95% interval of the paired differences. To
    be fair, give each the rate that sweep finds best for it.

    With --folds each trains once for every fold, which is evaluated on: cross-validation. The
    intervals then are of the folds, which share training images and so are a little too narrow.

    Example: fastft compare --data data --weights source --out compared --epochs 5

    Example: fastft compare --data photos --folds 5 --weights source --out compared
    """
    if training.get("fold") is not None:
        raise UsageError("--fold", "given", "nothing: compare takes all folds in turn")
    if seeds is None:
        seeds = 1 if training.get("folds") else _SEEDS
    require("--seeds", seeds, 1, 1000)
    from fastft.experiments.compare import PICTURE
    from fastft.experiments.compare import compare as run
    from fastft.experiments.plots import print_comparison
    from fastft.experiments.results import FROZEN, SCRATCH

    recipe, file = training.pop("recipe", None), training.pop("config", None)
    console = make_console()
    rates = {name: lr for name, lr in {SCRATCH: scratch_lr, FROZEN: frozen_lr}.items() if lr}
    _fetch(training, out)
    found = run(training, console, out=out, seeds=seeds, rates=rates, recipe=recipe, file=file)
    print_comparison(found, console)
    console.print(f"{out / PICTURE}", markup=False)


@takes_training_options
def sweep(
    *,
    out: Annotated[Path, typer.Option(help="The folder to make.")],
    lr: Annotated[str, typer.Option(help="Learning rates of the body, such as 1e-4,1e-3,1e-2.")],
    seeds: Annotated[int, typer.Option(help="Runs of each.")] = 1,
    training: dict[str, Any],
) -> None:
    """Train with several learning rates, from weights and from scratch: a table and a picture.

    With --weights none, only from scratch.

    Example: fastft sweep --data data --weights source --lr 1e-4,1e-3,1e-2 --out swept
    """
    require("--seeds", seeds, 1, 1000)
    from fastft.experiments.plots import print_sweep
    from fastft.experiments.sweep import PICTURE
    from fastft.experiments.sweep import sweep as run

    recipe, file = training.pop("recipe", None), training.pop("config", None)
    console = make_console()
    _fetch(training, out)
    found = run(
        training, console, out=out, rates=_parse_rates(lr), seeds=seeds, recipe=recipe, file=file
    )
    print_sweep(found, console)
    console.print(f"{out / PICTURE}", markup=False)


def _fetch(training: dict[str, Any], out: Path) -> None:
    """Copy data on an address, if these are such."""
    if "data" in training:
        training["data"] = find_here(training["data"], out.parent)


def _parse_rates(text: str) -> list[float]:
    try:
        rates = [float(part) for part in text.split(",")]
    except ValueError:
        raise UsageError("--lr", repr(text), "rates such as 1e-4,1e-3,1e-2") from None
    for rate in rates:
        require("--lr", rate, 1e-12, 1e6)
    return rates
