"""Print when a contender gave its first batch, and perhaps what it gave from then on, as JSON.

`imported_s`: from the process's start until all that the contender needs is imported;
`first_batch_s`: from making it to its first batch; `process_s`: from the start to that batch. Where
SECONDS of reading are asked for, `img_per_s` of them and `peak_rss_bytes` of all its processes
stand beside. A contender that cannot run here says why by `missing`.

A program of its own: python first_batch.py CONTENDER DATA BATCH WORKERS SIZE [SECONDS SAMPLES]
CONTENDER is one of our loaders, such as `fastft ffcv`, or a pipeline of `peers` by its name in
`STOCK`.
"""

from __future__ import annotations

import importlib
import json
import os
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping
from itertools import islice
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[1]
#: The libraries' own: name -> the function of `peers`, and what it imports when it is called, which
#: is no part of what is measured.
STOCK = {
    "torchvision, Pillow": ("stock_torchvision", ("torchvision", "torch.utils.data")),
    "torchvision, tensors": (
        "stock_torchvision_tensors",
        ("torchvision.transforms.v2", "torchvision.io", "torch.utils.data"),
    ),
    "timm": ("stock_timm", ("timm.data",)),
    "SPDL": ("stock_spdl", ("torch", "spdl.io", "spdl.pipeline")),
    "DALI": ("stock_dali", ("nvidia.dali.plugin.pytorch",)),
    "FFCV": ("stock_ffcv", ("ffcv",)),
}
OURS = "fastft "
#: Who reads a `.beton`; the others, the class folder.
READ_BETON = ("FFCV", OURS)
#: Batches between the first one and the clock: more than anybody has prefetched.
WARM_BATCHES = 10
#: Nobody takes so long: ten times the slowest on 2 cores.
PATIENCE_S = 120.0


class Missing(Exception):
    """A contender cannot run here; says why."""


def measure(
    contender: str, data: Path, *numbers: float, environment: Mapping[str, str] | None = None
) -> dict[str, float]:
    """Run this program in a new process; returns what it printed.

    Args:
        contender: see above.
        data: what it reads.
        numbers: batch, workers, size, and perhaps seconds and samples.
        environment: variables beside those of this process.

    Raises:
        Missing: it cannot run here.
        RuntimeError: it failed.
    """
    try:
        ended = subprocess.run(
            [sys.executable, __file__, contender, str(data), *map(str, numbers)],
            cwd=ROOT,
            env={**os.environ, "PYTHONPATH": str(ROOT), **(environment or {})},
            capture_output=True,
            text=True,
            check=False,
            timeout=PATIENCE_S,
        )
    except subprocess.TimeoutExpired:
        raise RuntimeError(f"{contender}: nothing came for {PATIENCE_S:.0f} s") from None
    lines = ended.stdout.splitlines()
    if ended.returncode or not lines:
        last = (ended.stderr.strip().splitlines() or [f"status {ended.returncode}"])[-1]
        raise RuntimeError(f"{contender}: {last}")
    told: dict[str, Any] = json.loads(lines[-1])
    if "missing" in told:
        raise Missing(told["missing"])
    return told


def process_age_s() -> float:
    """Seconds since this process was started."""
    started = int(Path("/proc/self/stat").read_text().rpartition(")")[2].split()[19])
    return time.clock_gettime(time.CLOCK_BOOTTIME) - started / 100


def open_batches(contender: str, data: Path, batch: int, workers: int, size: int) -> Iterator[Any]:
    """A contender's batches without end; nothing is opened before the first is asked for."""
    if contender in STOCK:
        from bench import peers

        made: Iterator[Any] = getattr(peers, STOCK[contender][0])(data, batch, workers, size)
        return made
    from bench.ours import Ours

    return Ours(contender.removeprefix(OURS), data, batch, workers, size)


def load(contender: str) -> None:
    """Import what a contender needs."""
    if contender in STOCK:
        modules = STOCK[contender][1]
    else:
        from pipelines.loaders import LOADERS

        modules = (f"pipelines.loaders.{LOADERS[contender.removeprefix(OURS)][0]}",)
    for module in modules:
        importlib.import_module(module)


def first_batch(
    contender: str, data: Path, batch: int, workers: int, size: int, seconds: float, samples: int
) -> dict[str, Any]:
    """Do what the module says.

    Raises:
        CannotRun, UsageError, ImportError: not here.
    """
    load(contender)
    imported_s, made_s = process_age_s(), time.perf_counter()
    batches = open_batches(contender, data, batch, workers, size)
    images, labels = next(batches)
    told = {
        "imported_s": imported_s,
        "first_batch_s": time.perf_counter() - made_s,
        "process_s": process_age_s(),
    }
    assert images.shape == (len(labels), 3, size, size), images.shape
    assert str(images.dtype) == "torch.float32", images.dtype
    if seconds:
        told.update(read_on(contender, batches, batch, seconds, samples))
    close = getattr(batches, "close", None)
    if close is not None:
        close()  # or its worker processes would be there while the next contender starts
    return told


def read_on(
    contender: str, batches: Iterator[Any], batch: int, seconds: float, samples: int
) -> dict[str, float]:
    """Read for so long."""
    from fastft.system.usage import usage_of

    # `resident` decodes in its first two epochs alone: the later ones are what it is like.
    skipped = 2 * -(-samples // batch) if contender == "fastft resident" else WARM_BATCHES
    for _ in islice(batches, skipped):
        pass
    images, started, elapsed_s = 0, time.perf_counter(), 0.0
    while elapsed_s < seconds:
        images += len(next(batches)[1])
        elapsed_s = time.perf_counter() - started
    return {"img_per_s": images / elapsed_s, "peak_rss_bytes": usage_of().peak_bytes}


def main(contender: str, data: str, *numbers: str) -> None:
    from pipelines.errors import UsageError

    batch, workers, size = map(int, numbers[:3])
    seconds, samples = (float(numbers[3]), int(numbers[4])) if len(numbers) > 3 else (0.0, 0)
    told: dict[str, Any]
    try:
        told = first_batch(contender, Path(data), batch, workers, size, seconds, samples)
    except (UsageError, ImportError) as error:
        told = {"missing": " ".join(str(error).split())}
    except Exception as error:
        from bench.remote import CannotRun

        if not isinstance(error, CannotRun):
            raise
        told = {"missing": " ".join(str(error).split())}
    print(json.dumps(told), flush=True)
    os._exit(0)  # past numba's finalizers, which trip over what stock FFCV did


if __name__ == "__main__":
    main(*sys.argv[1:])
