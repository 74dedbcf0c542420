"""Threads: how many to start, and their results in order."""

from __future__ import annotations

import os
from collections import deque
from collections.abc import Callable, Iterator
from concurrent.futures import Executor, Future
from pathlib import Path
from typing import TypeVar

T = TypeVar("T")
#: A container's share of the processors, `quota period` in microseconds or `max`.
_CGROUP_CPU = Path("/sys/fs/cgroup/cpu.max")


def cpu_count(cgroup: Path = _CGROUP_CPU) -> int:
    """CPUs this process may use: by affinity, and by its container's quota if that is less."""
    count = len(os.sched_getaffinity(0))
    try:
        quota, period = cgroup.read_text().split()
        return max(1, min(count, int(quota) // int(period)))
    except (OSError, ValueError):  # no cgroup v2, or no quota
        return count


def in_order(executor: Executor, tasks: Iterator[Callable[[], T]], ahead: int) -> Iterator[T]:
    """Run `tasks` on the executor, at most `ahead` at once, and yield their results in order.

    The first error of a task is raised here; what has not started then never does.
    """
    waiting: deque[Future[T]] = deque()
    try:
        for task in tasks:
            waiting.append(executor.submit(task))
            if len(waiting) > ahead:
                yield waiting.popleft().result()
        while waiting:
            yield waiting.popleft().result()
    finally:
        for future in waiting:
            future.cancel()
