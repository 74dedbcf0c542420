"""A training that is killed at random moments, as by `kill -9`, and continued each time.

    python tests/support/mortal.py DATA OUT --loader dali --kills 20

trains once without disturbance and once killed, and prints as JSON where it was killed and all that
differs in the end: nothing. DATA holds train.beton and test.beton. Each life is a forked process
whose own timer ends it; it is not told, and cleans nothing up.
"""

from __future__ import annotations

import argparse
import json
import os
import random
import signal
import sys
import time
import traceback
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from loaded_kernels import load_kernels
from rich.console import Console
from tiny import make_tiny

from fastft.config.train import TrainConfig

# All imports before the first fork, which then costs nothing; nothing here starts a thread.
from fastft.runs.checkpoint import load_checkpoint
from fastft.runs.folder import BEST, LAST, find_best
from fastft.runs.metrics import read_metrics
from fastft.train.run import train

#: Batch norm, dropout, and checkpoints of 20 MB, which take as long to write as a step.
SETTINGS: dict[str, Any] = {
    "weights": "none",
    "arch": "mobilenet_v3_small",
    "size": 40,
    "batch_size": 4,
    "epochs": 3,
    "amp": "off",
    "ema": 0.9,
    "workers": 1,
    "checkpoint_every": "2",
}
AUGMENTED: dict[str, Any] = {"augment": "trivial", "erase": 0.3, "mixup": 0.3, "cutmix": 1.0}
#: A training that takes so long hangs.
_MOST_S = 300


def live(task: Callable[[], object], lifetime_s: float) -> tuple[int, float]:
    """Run a task in a forked process that dies after so long; exit status, seconds."""
    started = time.perf_counter()
    child = os.fork()
    if child == 0:
        status = 1
        try:
            # The default action of this signal is the process's end, at once.
            signal.signal(signal.SIGALRM, signal.SIG_DFL)
            signal.setitimer(signal.ITIMER_REAL, lifetime_s)
            task()
            status = 0
        except BaseException:
            traceback.print_exc()
        finally:
            sys.stderr.flush()
            os._exit(status)
    _, status = os.waitpid(child, 0)
    return os.waitstatus_to_exitcode(status), time.perf_counter() - started


def rows_of(out: Path) -> list[tuple[Any, ...]]:
    """What a run's rows say, times apart."""
    steps, epochs = read_metrics(out / "metrics.jsonl")
    return [(row.epoch, row.step, row.loss, row.lr) for row in steps] + [
        (row.epoch, row.size, row.train_loss, row.train_accuracy, row.eval_loss, row.eval_accuracy)
        for row in epochs
    ]


def differences(straight: Path, killed: Path) -> list[str]:
    """What differs between two runs that should be the same."""
    import torch

    found = []

    def compare(where: str, mine: Any, theirs: Any) -> None:
        if isinstance(mine, torch.Tensor):
            if not torch.equal(mine, theirs):
                found.append(f"{where}: by up to {(mine - theirs).abs().max():g}")
        elif isinstance(mine, dict):
            if list(mine) != list(theirs):
                found.append(f"{where}: {set(mine) ^ set(theirs)}")
            for name in mine:
                compare(f"{where}.{name}", mine[name], theirs[name])
        elif isinstance(mine, list):
            if len(mine) != len(theirs):
                found.append(f"{where}: {len(mine)} and {len(theirs)}")
            for number, pair in enumerate(zip(mine, theirs, strict=False)):
                compare(f"{where}.{number}", *pair)
        elif mine != theirs:
            found.append(f"{where}: {mine} and {theirs}")

    for name in (LAST, BEST):
        first, second = (
            load_checkpoint(find_best(out) if name == BEST else out / name)
            for out in (straight, killed)
        )
        for part in ("model", "ema", "optimizer", "scaler", "epoch", "accuracy"):
            compare(f"{name}: {part}", getattr(first, part), getattr(second, part))
    if rows_of(straight) != rows_of(killed):
        found.append("metrics.jsonl")
    # Of a run by an earlier version the best checkpoint may have another suffix.
    names = [sorted(file.stem for file in out.iterdir()) for out in (straight, killed)]
    if names[0] != names[1]:
        found.append(f"files: {set(names[0]) ^ set(names[1])}")
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("data", type=Path)
    parser.add_argument("out", type=Path)
    parser.add_argument("--loader", default="resident")
    parser.add_argument("--kills", type=int, default=20)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--tiny", action="store_true", help="a network of three layers")
    parser.add_argument("--augmented", action="store_true", help="operations and mixes, too")
    given = parser.parse_args()
    draw = random.Random(given.seed)
    settings = {**SETTINGS, **(AUGMENTED if given.augmented else {})}
    if given.tiny:
        make_tiny(pytest.MonkeyPatch(), drop=0.2)
        settings["arch"] = "shufflenet_v2_x0_5"

    def config_of(name: str) -> TrainConfig:
        return TrainConfig(data=given.data, out=given.out / name, loader=given.loader, **settings)

    def run(name: str) -> Callable[[], object]:
        return lambda: train(config_of(name), Console(quiet=True), or_resume=True)

    if given.loader == "resident":
        load_kernels(config_of("none"))

    status, whole_s = live(run("straight"), _MOST_S)
    assert status == 0, f"the run without disturbance ended with {status}"
    deaths: list[dict[str, Any]] = []
    runs = 0
    while len(deaths) < given.kills:
        name = f"killed-{runs}"
        runs += 1
        while True:
            lifetime_s = draw.uniform(0, 0.6 * whole_s) if len(deaths) < given.kills else _MOST_S
            status, lived_s = live(run(name), lifetime_s)
            if status == 0:
                break
            assert status == -signal.SIGALRM, f"a life ended with {status}"
            out = given.out / name
            writing = [file.name for file in out.glob(".*.safetensors.*")] if out.is_dir() else []
            deaths.append({"run": name, "after_s": round(lived_s, 3), "writing": bool(writing)})
    # Behind the last fork: comparing starts threads, without which a fork would wait for them.
    differing = [
        f"killed-{number}: {each}"
        for number in range(runs)
        for each in differences(given.out / "straight", given.out / f"killed-{number}")
    ]
    print(
        json.dumps(
            {
                "loader": given.loader,
                "whole_s": round(whole_s, 2),
                "runs": runs,
                "kills": len(deaths),
                "kills_while_writing": sum(each["writing"] for each in deaths),
                "steps": len(read_metrics(given.out / "straight" / "metrics.jsonl")[0]),
                "differences": differing,
                "deaths": deaths,
            }
        )
    )


if __name__ == "__main__":
    main()
