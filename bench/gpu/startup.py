"""The first seconds of `fastft train` on a new machine, where nothing has been compiled before.

A training of one epoch, each time with empty caches. `end_to_end` has the same with full ones.
"""

from __future__ import annotations

import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from bench.gpu.task import Found, Task, answer
from bench.gpu.trainings import ours, read_run, run

#: Where compiled code is kept: Triton's, numba's, torch.compile's, the driver's.
CACHES = ("TRITON_CACHE_DIR", "NUMBA_CACHE_DIR", "TORCHINDUCTOR_CACHE_DIR", "CUDA_CACHE_PATH")
VARIANTS = ("resident",)


def main(arguments: list[str]) -> None:
    """See `task.answer`."""
    answer(measure, arguments)


def measure(task: Task) -> Iterator[Found]:
    """Seconds of each of some starts, and what the runs tell of them; the variant is a loader."""
    runs: list[dict[str, Any]] = []
    for _ in range(task.times):
        with tempfile.TemporaryDirectory(prefix="fastft-start-") as folder:
            caches = {name: str(Path(folder) / name.lower()) for name in CACHES}
            out = Path(folder) / "run"
            command = ours(task, task.variant, task.data, out, epochs=1)
            seconds, _ = run(command, task, Path(folder), caches)
            runs.append({"seconds": seconds, **read_run(out)})
        yield {"epochs": 1, "runs": runs}
