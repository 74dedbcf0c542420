"""Loaders in other processes: inherited by a fork, or pickled."""

from __future__ import annotations

import atexit
import weakref
from contextlib import suppress
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from pipelines.errors import UsageError
from pipelines.forks import here, in_every_fork
from pipelines.formats.source import Source
from pipelines.loaders.completion import make_normalizer

#: All loaders that somebody has.
_living: weakref.WeakSet[Any] = weakref.WeakSet()


def keep_track(loader: Any) -> None:
    """Have a loader leave behind what is the parent's, in every process that is forked."""
    _living.add(loader)


@atexit.register
def _end_iterations() -> None:
    """End what is under way while there are modules still.

    Iterators that a program's main module holds outlive them where somebody keeps that module, as
    dill does, which torch imports if it is there.
    """
    for loader in list(_living):
        with suppress(ValueError):  # of a thread that is in the midst of it
            loader._end_iteration()


@in_every_fork
def _leave_all_behind() -> None:
    for loader in list(_living):
        loader._leave_behind()


def receive(
    kind: type[Any],
    source: Source,
    arguments: dict[str, Any],
    state: tuple[int, str, NDArray[np.int64] | None, int, bool],
) -> Any:
    """A loader as another process had it, which has nothing of this process yet."""
    loader = kind(source, begins=False, **arguments)
    epoch, loader._cut_at, selected, start, closed = state
    loader.set_epoch(epoch)
    if selected is not None:
        loader.select(selected)
    loader._start = loader._consumed = start
    loader._closed = closed
    return loader


def begin_anew(loader: Any) -> None:
    """Let a loader that was inherited, or is new in this process, begin here.

    Raises:
        UsageError: it was inherited, and its GPU is the parent's.
    """
    if loader._home is not None:
        _refuse_parents_gpu(loader._title, loader.device)
        # As in a DataLoader's workers: the threads of the parent's OpenMP are not here, and torch
        # would wait for them for ever.
        torch.set_num_threads(1)
    loader._running = None
    form = loader.preprocessing
    loader._normalizer = make_normalizer(loader.size, loader.device, loader._given, form)
    loader._begin()
    loader._home = here()


def _refuse_parents_gpu(loader: str, device: torch.device) -> None:
    """Refuse to begin anew in a fork of a process that uses the loader's GPU.

    Raises:
        UsageError: the loader has one.
    """
    if device.type == "cuda":
        found = "gives batches on a GPU, in a process that was forked from one that uses it"
        remedy = "pass multiprocessing_context='spawn', or iterate it where it was made"
        raise UsageError(loader, found, "a process that was spawned", remedy)
