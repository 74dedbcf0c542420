"""Work that leaks on purpose: what `test_load.py` says of the rest it must say of this."""

from __future__ import annotations

import mmap
import os
import subprocess
import tempfile
import threading
from pathlib import Path
from typing import Any

import held
from load import Pace, Together, Use, run_loaders

#: Epochs between two leaks of what is counted.
_EVERY = 50
#: What an epoch leaks of memory: as much as a batch.
_BYTES = 52_000

_kept: list[Any] = []


def run_leaking(
    rank: int, good: Path, folder: Path, pace: Pace, group: str, together: Together
) -> None:
    """Be a process that leaks memory in each epoch, and one of everything else every 50 epochs."""
    usual, never = Use.any, threading.Event()

    def leak(use: Use) -> None:
        usual(use)
        _kept.append(b"x" * _BYTES)
        if len(_kept) % _EVERY:
            return
        # Each ends with this process.
        _kept[-1] = (
            os.open(os.devnull, os.O_RDONLY),
            threading.Thread(target=never.wait, daemon=True),
            subprocess.Popen(["cat"], stdin=subprocess.PIPE),
        )
        _kept[-1][1].start()
        with tempfile.TemporaryFile(dir="/dev/shm") as file:
            file.truncate(mmap.PAGESIZE)
            _kept.append(mmap.mmap(file.fileno(), mmap.PAGESIZE))

    held._ENDS_S = 0  # what leaks is waited for in vain
    Use.any = leak  # type: ignore[method-assign]
    run_loaders(rank, "resident", good, folder, pace, group, together)
