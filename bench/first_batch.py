"""Print when a loader gave its first batch: seconds since the process began, and since it was made.

A program of its own: python first_batch.py LOADER BETON BATCH WORKERS SIZE
"""

from __future__ import annotations

import importlib
import sys
import time
from pathlib import Path


def process_age_s() -> float:
    """Seconds since this process was started."""
    started = int(Path("/proc/self/stat").read_text().rpartition(")")[2].split()[19])
    return time.clock_gettime(time.CLOCK_BOOTTIME) - started / 100


def main(name: str, data: str, *numbers: str) -> None:
    batch_size, workers, size = map(int, numbers)
    if name == "stock ffcv":
        import ffcv  # noqa: F401 - all that is imported is outside of what is measured

        from bench.stock_ffcv import stock_batches

        made_s = time.perf_counter()
        next(stock_batches(Path(data), batch_size, workers, size))
    else:
        from pipelines.loaders import LOADERS, make_loader

        importlib.import_module(f"pipelines.loaders.{LOADERS[name][0]}")
        made_s = time.perf_counter()
        loader = make_loader(name, data, batch_size=batch_size, workers=workers, size=size)
        next(iter(loader))
    print(process_age_s(), time.perf_counter() - made_s, flush=True)
    import os

    os._exit(0)  # nothing more is asked of either


if __name__ == "__main__":
    main(*sys.argv[1:])
