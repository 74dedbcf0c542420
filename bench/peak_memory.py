"""Run one loader for a few epochs and print the peak resident bytes of all its processes.

A program of its own, so that nothing else has grown the process before:
python peak_memory.py LOADER BETON BATCH WORKERS
"""

from __future__ import annotations

import multiprocessing
import os
import sys
from pathlib import Path

from pipelines.loaders import make_loader

#: A sample goes to any worker process: in five epochs to both of two, 15 times out of 16.
EPOCHS = 5


def peak_bytes(pid: int) -> int:
    """Peak resident set; pages shared with other processes count in each."""
    for line in Path(f"/proc/{pid}/status").read_text().splitlines():
        if line.startswith("VmHWM:"):
            return int(line.split()[1]) << 10
    raise RuntimeError(f"process {pid} reports no VmHWM")


def main(name: str, data: str, batch_size: str, workers: str) -> None:
    with make_loader(name, data, batch_size=int(batch_size), workers=int(workers)) as loader:
        for epoch in range(EPOCHS):
            loader.set_epoch(epoch)
            for _ in loader:
                pass
        pids = [os.getpid(), *(process.pid or 0 for process in multiprocessing.active_children())]
        print(sum(map(peak_bytes, pids)))


if __name__ == "__main__":
    main(*sys.argv[1:])
