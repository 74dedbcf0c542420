"""From process start to saved checkpoint: `fastft train` against the tutorial's own loop.

Both train a ResNet-18 from scratch on the same photos, in batches of 128, and evaluate after each
epoch. Conversion, which happens once, is told apart.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

from bench.gpu.task import Task, answer

TUTORIAL, WITH_WORKERS = "tutorial", "tutorial, workers and pinned memory"
OURS = ("resident", "resident, from photos", "dali")
VARIANTS = (*OURS, TUTORIAL, WITH_WORKERS)
#: The tutorial's.
_BATCH, _LR = 128, 5e-4
_LIMIT_S = 240


def main(arguments: list[str]) -> None:
    """See `task.answer`."""
    answer(measure, arguments)


def measure(task: Task) -> dict[str, Any]:
    """Run the variant once, in a process of its own; seconds in all, accuracy, time of epochs."""
    with tempfile.TemporaryDirectory() as folder:
        out = Path(folder) / "run"
        ours = task.variant in OURS
        command = _ours(task, out) if ours else _tutorial(task, out)
        python_path = os.pathsep.join(filter(None, (task.root, os.environ.get("PYTHONPATH", ""))))
        started = time.perf_counter()
        ended = subprocess.run(
            command, cwd=folder, env={**os.environ, "PYTHONPATH": python_path},
            capture_output=True, text=True, timeout=_LIMIT_S, check=False,
        )  # fmt: skip
        seconds = time.perf_counter() - started
        if ended.returncode:
            said = (ended.stderr or ended.stdout).strip().splitlines()
            return {"failed": f"status {ended.returncode}: {said[-1] if said else ''}"}
        saved = out / "last.pt" if ours else out
        told = _read_run(out) if ours else json.loads(ended.stdout.splitlines()[-1])
        return {"seconds": seconds, "checkpoint_bytes": saved.stat().st_size, **told}


def _ours(task: Task, out: Path) -> list[str]:
    loader, _, source = task.variant.partition(", ")
    return [
        sys.executable, "-m", "fastft", "train", "--loader", loader,
        "--data", task.photos if source else task.data, "--out", str(out), "--weights", "none",
        "--epochs", str(task.epochs), "--batch-size", str(min(_BATCH, task.batch)),
        "--size", str(task.size), "--device", task.device, "--workers", str(task.workers),
        "--lr", str(_LR),
    ]  # fmt: skip


def _tutorial(task: Task, out: Path) -> list[str]:
    workers = task.workers if task.variant == WITH_WORKERS else 0
    return [
        sys.executable, str(Path(__file__).with_name("tutorial.py")), task.photos, str(out),
        "--epochs", str(task.epochs), "--batch-size", str(min(_BATCH, task.batch)),
        "--size", str(task.size), "--device", task.device, "--workers", str(workers),
    ]  # fmt: skip


def _read_run(out: Path) -> dict[str, Any]:
    rows = [json.loads(line) for line in (out / "metrics.jsonl").read_text().splitlines()]
    epochs = [row for row in rows if row["kind"] == "epoch"]
    return {
        "epochs_s": [row["train_s"] + row["eval_s"] for row in epochs],
        "waited_s": sum(row["wait_s"] for row in epochs),
        "img_per_s": [row["img_per_s"] for row in epochs],
        "train_accuracy": epochs[-1]["train_accuracy"], "accuracy": epochs[-1]["eval_accuracy"],
    }  # fmt: skip
