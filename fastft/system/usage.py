"""Memory and CPU of a process and all that it has started."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import psutil


@dataclass(frozen=True, slots=True)
class Usage:
    """The usage of a tree of processes so far.

    Attributes:
        cpu_s: seconds of all cores, of those that have ended and were waited for, too.
        peak_bytes: the sum of each living process's peak resident set; pages that several share
            count in each of them.
        processes: that are alive.
    """

    cpu_s: float
    peak_bytes: int
    processes: int


def usage_of(pid: int | None = None) -> Usage:
    """Look at a process and its descendants.

    Args:
        pid: of the process; None for this one.

    Raises:
        psutil.NoSuchProcess: it has ended.
    """
    root = psutil.Process(pid)
    cpu_s, peak_bytes, alive = 0.0, 0, 0
    for process in (root, *root.children(recursive=True)):
        try:
            times = process.cpu_times()
            peak = peak_bytes_of(process.pid)
        except (psutil.NoSuchProcess, FileNotFoundError, ProcessLookupError):
            if process is root:
                raise psutil.NoSuchProcess(root.pid) from None
            continue  # it has ended since; its parent's next figures hold what it used
        cpu_s += times.user + times.system + times.children_user + times.children_system
        peak_bytes += peak
        alive += 1
    return Usage(cpu_s, peak_bytes, alive)


def peak_bytes_of(pid: int) -> int:
    """A process's peak resident set; 0 of one that has ended and was not waited for."""
    for line in Path(f"/proc/{pid}/status").read_text().splitlines():
        if line.startswith("VmHWM:"):
            return int(line.split()[1]) << 10
    return 0
