"""Whole trainings as a user starts them, timed from outside and itemized by what they leave.

`fastft train` writes what its parts cost to `summary.json`, as `costs_s`; whatever names it has are
taken. What it does not tell is missing here, too.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from bench.gpu.task import Task

#: The tutorial's.
BATCH, LR = 128, 5e-4


def ours(task: Task, loader: str, data: str, out: Path, *, epochs: int) -> list[str]:
    """The command line of a training from scratch."""
    return [
        sys.executable,
        "-m",
        "fastft",
        "train",
        "--loader",
        loader,
        "--data",
        data,
        "--out",
        str(out),
        "--weights",
        "none",
        "--epochs",
        str(epochs),
        "--batch-size",
        str(min(BATCH, task.batch)),
        "--size",
        str(task.size),
        "--device",
        task.device,
        "--workers",
        str(task.workers),
        "--lr",
        str(LR),
    ]


def run(
    command: Sequence[str], task: Task, folder: Path, environment: Mapping[str, str] | None = None
) -> tuple[float, str]:
    """Run a training to its end; gives its seconds, from its process's start on, and its output.

    Raises:
        RuntimeError: it failed, with its last line.
    """
    python_path = os.pathsep.join(filter(None, (task.root, os.environ.get("PYTHONPATH", ""))))
    started = time.perf_counter()
    ended = subprocess.run(
        command,
        cwd=folder,
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        check=False,
        env={**os.environ, "PYTHONPATH": python_path, **(environment or {})},
    )
    seconds = time.perf_counter() - started
    if ended.returncode:
        said = (ended.stderr or ended.stdout).strip().splitlines()
        raise RuntimeError(f"status {ended.returncode}: {said[-1] if said else 'no message'}")
    return seconds, ended.stdout


def read_run(out: Path) -> dict[str, Any]:
    """Reads where a run's time went from its folder.

    Returns:
        `costs_s` by name, empty if it tells none; `run_s`: the run's own count of its seconds, from
        behind its imports on; of each epoch `train_s`, `eval_s`, `img_per_s`; `waited_s`,
        `accuracy`, `checkpoint_bytes`.
    """
    lines = (out / "metrics.jsonl").read_text().splitlines()
    epochs = [row for row in map(json.loads, lines) if row["kind"] == "epoch"]
    summary = json.loads((out / "summary.json").read_text())
    return {
        "costs_s": dict(summary.get("costs_s") or {}),
        "run_s": summary["seconds"],
        "train_s": [row["train_s"] for row in epochs],
        "eval_s": [row["eval_s"] for row in epochs],
        "img_per_s": [row["img_per_s"] for row in epochs],
        "waited_s": sum(row["wait_s"] for row in epochs),
        "accuracy": epochs[-1]["eval_accuracy"],
        "checkpoint_bytes": (out / "last.safetensors").stat().st_size,
    }
