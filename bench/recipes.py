"""Search for a recipe: sets of settings, each trained with the same seeds, held against the first.

    python -m bench.recipes DATA --weights RUN --seeds 5 --epochs 20 --size 64 --out found.json \
        --set 'plain={}' --set 'trivial={"augment": "trivial"}'

A set is JSON by field of `TrainConfig`. Accuracy is that behind the last epoch: no epoch is picked
by its score.
"""

from __future__ import annotations

import argparse
import json
import sys
import tempfile
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import numpy as np
from rich.console import Console

from fastft.config.recipes import as_settings, make_config
from fastft.experiments.results import mean_interval
from fastft.runs.folder import LAST
from fastft.system.environment import environment
from fastft.train.inputs import open_inputs, open_sources, resolve_inputs
from fastft.train.run import build, fit, resolve_rates


def search(sets: dict[str, dict[str, Any]], common: dict[str, Any], seeds: int) -> dict[str, Any]:
    """Accuracies of each set by seed, and its difference from the first one's.

    Args:
        sets: name -> settings, by field of TrainConfig.
        common: settings of all.
        seeds: runs of each, the first with the seed that is common to all.
    """
    accuracies: dict[str, list[float]] = {name: [] for name in sets}
    with tempfile.TemporaryDirectory() as folder:
        configs = {
            name: make_config({**common, **own, "out": Path(folder, name)})
            for name, own in sets.items()
        }
        sources = open_sources(next(iter(configs.values())))
        for seed in range(seeds):
            for name, config in configs.items():
                own = replace(config, seed=config.seed + seed)
                filled = resolve_rates(resolve_inputs(own, sources))
                filled = replace(filled, out=Path(folder, name, str(seed)))
                with open_inputs(filled, sources, epochs=filled.epochs) as inputs:
                    built = build(filled, inputs.classes)
                    result = fit(filled, inputs, built, Console(quiet=True))
                (filled.out / LAST).unlink()
                accuracies[name].append(result.epochs[-1].eval_accuracy)
                print(seed, name, f"{accuracies[name][-1]:.4f}", file=sys.stderr, flush=True)
    first = next(iter(accuracies.values()))
    apart = {
        name: mean_interval([one - other for one, other in zip(found, first, strict=True)])
        for name, found in accuracies.items()
    }
    return {
        "images": [len(source) for source in sources],
        "sets": {
            name: {
                "settings": sets[name],
                "accuracies": found,
                "mean": float(np.mean(found)),
                "difference": asdict(apart[name]),
            }
            for name, found in accuracies.items()
        },
    }


def main() -> None:
    """Search as the command line says; prints a table and writes JSON."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("data", type=Path)
    parser.add_argument("--weights", default="none")
    parser.add_argument("--set", action="append", required=True, metavar="NAME=JSON")
    parser.add_argument("--common", default="{}", metavar="JSON")
    parser.add_argument("--seeds", type=int, default=5)
    parser.add_argument("--epochs", type=int, default=20)
    parser.add_argument("--size", type=int, default=64)
    parser.add_argument("--out", type=Path, required=True)
    given = parser.parse_args()
    sets = {name: _read(text) for name, _, text in (each.partition("=") for each in given.set)}
    common = {
        "data": given.data,
        "weights": given.weights,
        "epochs": given.epochs,
        "size": given.size,
        "loader": "resident",
        "amp": "off",
        **_read(given.common),
    }
    found = search(sets, common, given.seeds)
    plain = {name: value for name, value in common.items() if name not in ("data", "weights")}
    kind = "none" if given.weights == "none" else "a model"
    head = {"environment": environment(), "common": {**plain, "weights": kind}}
    given.out.write_text(json.dumps({**head, **found}, indent=1) + "\n", encoding="utf-8")
    for name, row in found["sets"].items():
        apart = row["difference"]
        print(f"{name:24} {row['mean']:.4f}  {apart['mean']:+.4f} {apart['low']} {apart['high']}")


def _read(text: str) -> dict[str, Any]:
    return as_settings(json.loads(text), Path("a set"))


if __name__ == "__main__":
    main()
