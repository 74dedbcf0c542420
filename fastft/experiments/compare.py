"""The tutorial's question: does fine-tuning beat training from scratch, and frozen features?"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from rich.console import Console

from fastft.config.checks import plain
from fastft.config.recipes import make_config
from fastft.experiments.results import FINE_TUNED, FROZEN, SCRATCH, Comparison, as_json, difference
from fastft.experiments.run import run_variants
from fastft.model.weights import find_arch
from fastft.runs.folder import MANY_BEGUN, MANY_KEEP, check_folder, make_folder, write_json
from fastft.system.environment import environment
from pipelines.errors import UsageError

#: What each variant asks for beside the options. From scratch an output layer has no source either.
_CHANGES: dict[str, dict[str, Any]] = {
    FINE_TUNED: {},
    SCRATCH: {"weights": "none", "reuse_head": ()},
    FROZEN: {"freeze": "backbone"},
}
FINDINGS = "compare.json"
PICTURE = "compare.png"


def compare(
    options: Mapping[str, Any],
    console: Console,
    *,
    out: Path,
    seeds: int,
    rates: Mapping[str, float] | None = None,
    recipe: str | None = None,
    file: Path | None = None,
) -> Comparison:
    """Train the three variants with the same seeds, and write findings and a picture to `out`.

    Args:
        options, recipe, file: of the fine-tuned runs, as `make_config` takes them; from scratch the
            recipe's own settings for that hold.
        console: where progress goes.
        out: the folder to make.
        seeds: runs of each variant.
        rates: learning rates of variants that have one of their own, by name.

    Raises:
        UsageError: options that the comparison itself sets, or that do not fit.
        DataError: data or weights that cannot be read, or a loss of NaN.
    """
    for name in ("freeze", "unfreeze_epoch"):
        if options.get(name):
            raise UsageError(f"--{name.replace('_', '-')}", "given", "nothing: compare sets it")
    base = make_config({**options, "out": out}, recipe=recipe, file=file)
    if not base.pretrained:
        raise UsageError("--weights", "none", "weights to fine-tune", "pass --weights RUN")
    arch = find_arch(base.arch, base.weights)  # which from scratch nothing else would tell
    own = {name: {"lr": lr} for name, lr in (rates or {}).items()}
    configs = {
        name: make_config(
            {**options, "arch": arch, **changes, **own.get(name, {}), "out": out / name},
            recipe=recipe,
            file=file,
        )
        for name, changes in _CHANGES.items()
    }
    config = configs[FINE_TUNED]
    check_folder(out, bool(options.get("overwrite")), MANY_BEGUN)
    with make_folder(out, MANY_KEEP):
        variants = run_variants(configs, seeds, console)
        by_name = {each.name: each for each in variants}
        gains = {name: difference(by_name[FINE_TUNED], by_name[name]) for name in (SCRATCH, FROZEN)}
        found = Comparison(plain(config), environment(), variants, gains)
        from fastft.experiments.plots import comparison_panels  # matplotlib takes 0.7 s
        from fastft.results.plots import save_panels

        heading, panels = comparison_panels(found)
        save_panels(panels, out / PICTURE, heading)
        write_json(out / FINDINGS, as_json(found))
    return found
