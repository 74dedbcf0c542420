"""An exercise: how accuracy changes with the learning rate, with weights and without."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from rich.console import Console

from fastft.config.checks import plain
from fastft.config.recipes import make_config
from fastft.experiments.results import FINE_TUNED, SCRATCH, Sweep, as_json
from fastft.experiments.run import run_variants
from fastft.model.weights import find_arch
from fastft.runs.folder import MANY_BEGUN, MANY_KEEP, check_folder, make_folder, write_json
from fastft.system.environment import environment
from pipelines.errors import UsageError

FINDINGS = "sweep.json"
PICTURE = "sweep.png"


def sweep(
    options: Mapping[str, Any],
    console: Console,
    *,
    out: Path,
    rates: Sequence[float],
    seeds: int,
    recipe: str | None = None,
    file: Path | None = None,
) -> Sweep:
    """Train with each rate, from weights and from scratch, and write findings and a picture.

    Args:
        options, recipe, file: of all runs, as `make_config` takes them.
        console: where progress goes.
        out: the folder to make.
        rates: the learning rates of the body; the output layer's factor is the recipe's.
        seeds: runs of each.

    Raises:
        As `compare.compare`.
    """
    if len(set(rates)) < 2:
        raise UsageError("--lr", ",".join(map(str, rates)), "two rates or more, such as 1e-4,1e-3")
    starts: dict[str, dict[str, Any]] = {FINE_TUNED: {}, SCRATCH: {"weights": "none"}}
    base = make_config({**options, "out": out}, recipe=recipe, file=file)
    if not base.pretrained:
        del starts[FINE_TUNED]
    else:
        starts[SCRATCH]["reuse_head"] = ()
        starts[SCRATCH]["freeze"] = ""
        starts[SCRATCH]["unfreeze_epoch"] = 0
    arch = find_arch(base.arch, base.weights)  # which from scratch nothing else would tell
    configs = {
        f"{start}, lr {rate:g}": make_config(
            {**options, "arch": arch, **changes, "lr": rate, "out": out / f"{start}-lr{rate:g}"},
            recipe=recipe,
            file=file,
        )
        for start, changes in starts.items()
        for rate in sorted(set(rates))
    }
    check_folder(out, bool(options.get("overwrite")), MANY_BEGUN)
    with make_folder(out, MANY_KEEP):
        variants = run_variants(configs, seeds, console)
        found = Sweep(plain(next(iter(configs.values()))), environment(), variants, {})
        for start in starts:
            found.best[start] = found.best_variant(start).lr
        from fastft.experiments.plots import sweep_panel  # matplotlib takes 0.7 s
        from fastft.results.plots import save_panels

        save_panels([sweep_panel(found)], out / PICTURE)
        write_json(out / FINDINGS, as_json(found))
    return found
