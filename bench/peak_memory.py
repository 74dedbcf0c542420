"""Run one loader for a few epochs; print the peak resident bytes of all its processes, and more.

What is printed beside: what the process had taken when all was imported, and the bytes of the
resident loader's store.

A program of its own, so that nothing else has grown the process before:
python peak_memory.py LOADER BETON BATCH WORKERS EPOCHS
"""

from __future__ import annotations

import importlib
import os
import sys
from itertools import islice
from pathlib import Path

from fastft.system.usage import peak_bytes_of, usage_of


def main(name: str, data: str, *numbers: str) -> None:
    batch_size, workers, epochs = map(int, numbers)
    if name == "stock ffcv":
        read_stock_ffcv(data, batch_size, workers, epochs)
    else:
        read_ours(name, data, batch_size, workers, epochs)


def read_ours(name: str, data: str, batch_size: int, workers: int, epochs: int) -> None:
    from pipelines.loaders import LOADERS, make_loader
    from pipelines.resident.store import StoreFormat, lay_out

    importlib.import_module(f"pipelines.loaders.{LOADERS[name][0]}")
    imported = peak_bytes_of(os.getpid())
    with make_loader(name, data, batch_size=batch_size, workers=workers) as loader:
        store = lay_out(loader.source, StoreFormat()).total if name == "resident" else 0
        for epoch in range(epochs):
            loader.set_epoch(epoch)
            for _ in loader:
                pass
        report(imported, store)


def read_stock_ffcv(data: str, batch_size: int, workers: int, epochs: int) -> None:
    from bench.stock_ffcv import LOADERS, stock_batches

    batches = stock_batches(Path(data), batch_size, workers, 224)
    next(batches)
    for _ in islice(batches, epochs * len(LOADERS[0]) - 1):
        pass
    report(0, 0)


def report(imported: int, store: int) -> None:
    used = usage_of()
    print(used.peak_bytes, imported, store, flush=True)
    if used.processes == 1:
        os._exit(0)  # past numba's finalizers, which trip over what stock FFCV did


if __name__ == "__main__":
    main(*sys.argv[1:])
