"""Worker processes of a DataLoader: their beginning, how batches and errors come back, their end.

Knows torch's DataLoader and what goes wrong with it; a loader knows what its workers do.
"""

from __future__ import annotations

import atexit
import gc
import os
import resource
import signal
import tempfile
import threading
import weakref
from collections.abc import Iterator
from multiprocessing import process, util
from pathlib import Path
from typing import Any

import torch
from torch.utils.data import DataLoader
from torch.utils.data._utils import signal_handling
from torch.utils.data._utils import worker as torch_worker

from pipelines.errors import DataError, FastftError, is_no_files, no_files
from pipelines.forks import (
    disown,
    ensure_servers,
    explain_start,
    hold_while_forking,
    in_every_fork,
    keep_for_good,
    start_method,
)
from pipelines.formats.source import Source
from pipelines.images.pillow import admit_large_images
from pipelines.workers import OF_TERMINALS, require_thread_room

#: What a worker process has left when it is told to end: more than a step takes.
_LEFT_S = 10
_SHM = Path("/dev/shm")
#: What a worker process takes of this process's open files: measured, pipes and a semaphore; and
#: what passes a batch on, in either.
_FILES_PER_WORKER, _FILES_BESIDE = 6, 12
#: What a socket's path may have, less the names within the folder for temporary files.
_MOST_SOCKET_BYTES = 107 - len("/pymp-12345678/listener-12345678")
#: What reading from a worker raises that has ended.
_ENDED = (ConnectionError, FileNotFoundError)
#: What nobody hears while workers are started: what ends them, and that one of them has ended, of
#: which torch's handler would raise an error.
_HELD = (*OF_TERMINALS, signal.SIGTERM, signal.SIGCHLD)
#: Whoever starts workers. A process that another thread forks meanwhile would inherit the pipe that
#: tells of a worker's end, and that end would be noticed 5 s late.
_starting = threading.RLock()
hold_while_forking(_starting)


def share(batch: torch.Tensor) -> torch.Tensor:
    """Move a worker's batch to where the process that asked for it can read it.

    Left to DataLoader, that happens in a thread of the worker which says what went wrong to nobody
    who could tell the caller: he would wait for the batch for ever.

    Raises:
        DataError: there is no room.
    """
    _require_thread_room()
    try:
        return batch.share_memory_()  # type: ignore[no-untyped-call, no-any-return]
    except RuntimeError as error:
        _remove_shared(os.getpid())
        if is_no_files(error):
            raise no_files("loader processes") from error
        found = f"no room for a batch of {batch.nbytes / 1e6:.1f} MB ({error})"
        remedy = "give the container more (--shm-size), or take fewer --workers or a smaller batch"
        raise DataError(_SHM, found, "", remedy) from error


def _remove_shared(process: int) -> None:
    """Remove the names that torch made for a process which came to no more than that.

    It takes each away again as soon as there is memory behind it.
    """
    for path in _SHM.glob(f"torch_{process}_*"):
        path.unlink(missing_ok=True)


def out_of_memory(source: Source) -> DataError:
    """The message of a worker that has no more memory."""
    found, remedy = "memory ran out in a loader process", "take fewer --workers or a smaller batch"
    return DataError(source.path, found, "", remedy)


def _require_thread_room() -> None:
    """End a worker whose first batch, or error, could never leave: a thread is to write it."""
    try:
        require_thread_room()
    except MemoryError:
        os._exit(1)


class _Watchdog(torch_worker.ManagerWatchdog):
    """Tells a worker whether its parent lives, also of one that ended before it was first asked.

    torch's takes for the parent whoever is that by then, and would wait for init to end, or for a
    fork server.
    """

    def __init__(self) -> None:
        super().__init__()
        self._parent = process.parent_process()
        self._is_child = self._parent is None or self._parent.pid == os.getppid()

    def is_alive(self) -> bool:
        if self._is_child or self._parent is None:
            return super().is_alive()
        # A pipe tells of the end of a parent that did not start this process itself.
        return self._parent.is_alive()


def live_for_parent(worker: int) -> None:
    """Let a worker process live on when all of a group are told to end, and never without a parent.

    So a terminal does, and a scheduler. Who reads the batches may need another one to end in order;
    and if he does not end the workers then, the time that SIGTERM leaves them runs out.
    """
    _require_thread_room()
    admit_large_images()
    torch_worker.ManagerWatchdog = _Watchdog  # type: ignore[misc]  # of this process alone
    for each in OF_TERMINALS:
        signal.signal(each, signal.SIG_IGN)
    signal.signal(signal.SIGTERM, lambda *_: signal.alarm(_LEFT_S))
    signal.pthread_sigmask(signal.SIG_UNBLOCK, _HELD)


def iterate(loader: DataLoader[Any]) -> Iterator[Any]:
    """An iterator over `loader`, whose worker processes are started here the first time.

    A fork inherits every object of this process. Were the child to collect one that owns threads,
    such as a DALI pipeline that waits in a reference cycle, it would wait for threads that it does
    not have. Frozen objects are never collected, and their pages stay shared. It inherits handlers
    of signals, too, and must hear none before it has its own: see `live_for_parent`.
    """
    with _starting:
        return _iterate(loader)


def _iterate(loader: DataLoader[Any]) -> Iterator[Any]:
    _shorten_sockets()
    if not all(worker.is_alive() for worker in _workers(loader)):
        end_workers(loader)  # the error about it reached somebody else
    ensure_servers()
    _end_all_workers_first()
    if not _workers(loader):
        _require_file_room(loader.num_workers)
    _running.add(loader)
    gc.freeze()
    before = signal.pthread_sigmask(signal.SIG_BLOCK, _HELD)
    try:
        require_thread_room(max(1, loader.num_workers))  # each has one here that hands it its tasks
        started = iter(loader)
        _raise_nothing_suddenly(started)
        return started
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)
        gc.unfreeze()


def _require_file_room(workers: int) -> None:
    """Fail before worker processes are started that could not send their batches.

    torch stops in the midst of making them, and whether a batch can be sent a thread of the worker
    finds out, whose error nobody hears of.

    Raises:
        DataError: this process may open too few files, beside those it has open.
    """
    most = resource.getrlimit(resource.RLIMIT_NOFILE)[0]
    needed = _FILES_PER_WORKER * workers + _FILES_BESIDE
    if most != resource.RLIM_INFINITY and len(os.listdir("/proc/self/fd")) + needed > most:
        raise no_files("loader processes")


def _shorten_sockets() -> None:
    """Let workers' sockets lie where the paths of sockets may.

    Batches come through sockets below the folder for temporary files. Where its path is too long
    for one, a worker's thread has an error that nobody hears of, and the caller waits for ever.
    """
    made: dict[str, Any] = process.current_process()._config  # type: ignore[attr-defined]
    if len(os.fsencode(made.get("tempdir") or tempfile.gettempdir())) <= _MOST_SOCKET_BYTES:
        return
    before, tempfile.tempdir, made["tempdir"] = tempfile.tempdir, "/tmp", None
    try:
        util.get_temp_dir()  # which makes one, keeps it in mind, and removes it in the end
    finally:
        tempfile.tempdir = before


def _raise_nothing_suddenly(started: Any) -> None:
    """Keep torch from raising an error wherever the death of a worker finds this process.

    That may be in the middle of saving a checkpoint. Where the signal of a child's end is not about
    these workers, torch notices within 5 s, where a batch is waited for.
    """
    if started._worker_pids_set:
        signal_handling._remove_worker_pids(id(started))  # type: ignore[attr-defined]
        started._worker_pids_set = False


#: Whose workers may be running.
_running: weakref.WeakSet[DataLoader[Any]] = weakref.WeakSet()


def _end_all_workers_first() -> None:
    """Have the end of this process begin with its workers.

    `multiprocessing` would send SIGTERM, which workers outlive, and wait for them. And DALI, which
    may be loaded only now, collects garbage: an iterator among that tells its workers nothing.
    """
    atexit.unregister(_end_all_workers)
    atexit.register(_end_all_workers)
    if process.parent_process() is not None and not _running:
        # One of `multiprocessing`'s own ends without what `atexit` knows of. Its queues, which tell
        # the workers, end with a priority of 10.
        util.Finalize(None, _end_all_workers, exitpriority=100)


def _end_all_workers() -> None:
    """End what a program has left open."""
    for loader in list(_running):
        end_workers(loader)


@in_every_fork
def _leave_workers() -> None:
    """Have nothing here end the parent's workers, which get their next tasks from it alone."""
    for loader in list(_running):
        iterator = getattr(loader, "_iterator", None)
        if iterator is not None:
            keep_for_good(iterator)
            iterator._shutdown = True
            disown(iterator._workers)
            loader._iterator = None
    _running.clear()


def end_workers(loader: DataLoader[Any]) -> None:
    """End a DataLoader's persistent workers now.

    Left to the garbage collector, its iterator may be inherited by the next loader's forked workers
    and complain there of children that are not theirs.
    """
    workers = _workers(loader)
    if not workers:
        return
    try:
        loader._iterator._shutdown_workers()  # type: ignore[union-attr]
        for worker in workers:
            if worker.exitcode:  # it may have been killed in the middle of anything
                _remove_shared(worker.pid)
    finally:
        loader._iterator = None  # the next epoch, if there is one, starts others


def _workers(loader: DataLoader[Any]) -> list[Any]:
    """A DataLoader's processes, as far as they have been started."""
    return getattr(getattr(loader, "_iterator", None), "_workers", [])


def raise_errors(
    source: Source, batches: DataLoader[Any]
) -> Iterator[tuple[torch.Tensor, torch.Tensor]]:
    """Pass batches on; raise what a worker sent instead of one."""
    begins = not _workers(batches)
    try:
        for batch in iterate(batches):
            begins = False
            if isinstance(batch, FastftError):
                raise batch
            pixels, labels = batch
            yield pixels, torch.from_numpy(labels)
    except (RuntimeError, OSError, EOFError) as error:
        if is_no_files(error):
            raise no_files("loader processes") from error
        if isinstance(error, OSError) and not isinstance(error, _ENDED):
            raise
        # A worker that was killed: torch's own message, or the end of the pipe that it wrote to.
        # What it raised itself comes as "Caught ... in DataLoader worker process".
        text = str(error)
        if isinstance(error, RuntimeError) and (
            "DataLoader worker" not in text or text.startswith("Caught ")
        ):
            raise
        codes = [worker.exitcode for worker in _workers(batches) if worker.exitcode]
        how = f"by {signal.Signals(-codes[0]).name}" if codes and codes[0] < 0 else ""
        end_workers(batches)
        if begins and start_method() != "fork" and all(code > 0 for code in codes):
            raise explain_start(source.path, codes) from error
        found = f"a loader process ended: {how or error or type(error).__name__}"
        remedy = "if memory ran out, take fewer --workers"
        raise DataError(source.path, found, "", remedy) from error
