"""From process start to saved checkpoint: `fastft train` against the tutorial's own loop.

Both train a ResNet-18 from scratch on the same photos, in batches of 128, and evaluate after each
epoch. Conversion, which happens once, is told apart.
"""

from __future__ import annotations

import json
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from bench.gpu.task import Found, Task, answer
from bench.gpu.trainings import BATCH, ours, read_run, run

TUTORIAL, WITH_WORKERS = "tutorial", "tutorial, workers and pinned memory"
OURS, FROM_PHOTOS = ("resident", "dali"), "resident, from photos"
VARIANTS = (*OURS, FROM_PHOTOS, TUTORIAL, WITH_WORKERS)


def main(arguments: list[str]) -> None:
    """See `task.answer`."""
    answer(measure, arguments)


def measure(task: Task) -> Iterator[Found]:
    """Run the variant, each time in a process of its own; what each run told, and its seconds."""
    runs: list[dict[str, Any]] = []
    for _ in range(task.times):
        with tempfile.TemporaryDirectory(prefix="fastft-end-") as folder:
            out = Path(folder) / "run"
            if task.variant in (TUTORIAL, WITH_WORKERS):
                seconds, said = run(_tutorial(task, out), task, Path(folder))
                told = json.loads(said.splitlines()[-1])
                told["checkpoint_bytes"] = out.stat().st_size
            else:
                loader, _, source = task.variant.partition(", ")
                data = task.photos if source else task.data
                command = ours(task, loader, data, out, epochs=task.epochs)
                seconds, _ = run(command, task, Path(folder))
                told = read_run(out)
        runs.append({"seconds": seconds, **told})
        yield {"epochs": task.epochs, "runs": runs}


def _tutorial(task: Task, out: Path) -> list[str]:
    workers = task.workers if task.variant == WITH_WORKERS else 0
    return [
        sys.executable,
        str(Path(__file__).with_name("tutorial.py")),
        task.photos,
        str(out),
        "--epochs",
        str(task.epochs),
        "--batch-size",
        str(min(BATCH, task.batch)),
        "--size",
        str(task.size),
        "--device",
        task.device,
        "--workers",
        str(workers),
    ]
