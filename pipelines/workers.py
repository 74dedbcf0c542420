"""Threads: how many to start, and their results in order; processes: what signals they hear."""

from __future__ import annotations

import ctypes
import os
import signal
import threading
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Executor, Future, ThreadPoolExecutor, wait
from contextlib import contextmanager
from multiprocessing import parent_process, resource_tracker
from pathlib import Path
from typing import Any, TypeVar

from pipelines.memory import require_room

T = TypeVar("T")
#: A container's share of the processors, `quota period` in microseconds or `max`.
_CGROUP_CPU = Path("/sys/fs/cgroup/cpu.max")

#: What a terminal sends to all processes that were started from it: Ctrl-C; that it is closed.
OF_TERMINALS = (signal.SIGINT, signal.SIGHUP)
#: Of address space: a thread's stack, 8 MB as systems have it, and far more than its first objects.
_THREAD_BYTES = 32 << 20


@contextmanager
def not_interrupted() -> Iterator[None]:
    """Processes that are started in this block hear nothing of a terminal, from the start on.

    That is for the one to hear that started the others, which then ends them: while they are still
    importing, Ctrl-C would be a traceback from each.
    """
    # Which begins once, and lets the signal through when it has.
    resource_tracker.ensure_running()
    before = signal.pthread_sigmask(signal.SIG_BLOCK, OF_TERMINALS)
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


def require_thread_room(threads: int = 1) -> None:
    """Fail where threads about to be started would find no memory, before they are started.

    One that cannot even begin says so to nobody, and `Thread.start` waits for it for ever (CPython
    3.11). A thread that is given a task for the first time is started, too.

    Raises:
        MemoryError: there is less than their stacks and what else they take at first.
    """
    require_room(threads * _THREAD_BYTES, "a thread")


def make_threads(count: int | None = None, name: str = "") -> ThreadPoolExecutor:
    """A pool whose threads have all begun; one that begins later may find what others have left.

    Args:
        count: how many; None for what reads files while others decode, 4 more than CPUs.
        name: what their names begin with.

    Raises:
        MemoryError: there is no room for them.
    """
    count = count or min(32, cpu_count() + 4)
    require_thread_room(count)
    begun = threading.Event()
    threads = ThreadPoolExecutor(count, thread_name_prefix=name)
    try:
        for _ in range(count):  # a task for which no thread is idle starts one
            threads.submit(begun.wait)
    except BaseException:
        threads.shutdown(wait=False, cancel_futures=True)
        raise
    finally:
        begun.set()
    return threads


def wait_for(futures: Sequence[Future[None]], *, to_the_end: bool = False) -> None:
    """Wait until all are done; after the first error, what has not been started never is.

    Args:
        futures: in the order in which their errors count.
        to_the_end: whether what has been started is waited for even then, as it writes somewhere.
    """
    try:
        for future in futures:
            future.result()
    finally:
        for future in futures:
            future.cancel()
        if to_the_end:
            wait(futures)


def end_with(parent: int, number: int) -> None:
    """Have the system send this process a signal when its parent ends, however that does.

    Args:
        parent: its process, which may have ended already.
        number: the signal.

    Source: the manual of prctl(2), PR_SET_PDEATHSIG.
    """
    ctypes.CDLL(None).prctl(1, number)
    if os.getppid() != parent:
        os.kill(os.getpid(), number)


def end_with_parent() -> None:
    """Have a thread end this process, one of `multiprocessing`'s, when its parent has ended.

    For parents that start processes in threads, which `end_with` would take for them.

    Raises:
        MemoryError: there is no room for a thread.
    """
    require_thread_room()
    parent = parent_process()
    if parent is not None:
        threading.Thread(target=_end_behind, args=(parent,), daemon=True).start()


def _end_behind(parent: Any) -> None:
    # A pipe tells of it, that has ended before, too; forked brothers hold it open until they end.
    parent.join()
    os._exit(1)


def processes_here() -> int:
    """Processes of this training on this machine, as torchrun and `fastft train` tell each."""
    told = os.environ.get("LOCAL_WORLD_SIZE", "1")
    return max(1, int(told)) if told.isdecimal() else 1


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
