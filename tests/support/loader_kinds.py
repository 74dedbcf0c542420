"""Loaders of every kind, and what is left of them when they have been closed."""

from __future__ import annotations

import gc
import os
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np
import psutil
import pytest

from pipelines.loaders import Loader, make_loader

#: kind -> loader, options
KINDS: dict[str, tuple[str, dict[str, Any]]] = {
    "torchvision": ("torchvision", {}),
    "ffcv": ("ffcv", {}),
    "dali": ("dali", {}),
    "resident": ("resident", {"epochs": 3}),
    "resident-again": ("resident", {}),
    "resident-cut": ("resident", {"epochs": 1}),
    "resident-yuv420": ("resident", {"store": "yuv420"}),
    "resident-file": ("resident", {"store_file": "pixels.store"}),
}
#: Those that read a class folder.
OF_FOLDERS = [kind for kind in KINDS if kind != "ffcv"]
LIBRARIES = {"dali": "nvidia.dali", "ffcv": "ffcv"}
#: Longer than anything takes: what waits so long has failed.
LONG_S = 60


def require_library(loader: str) -> None:
    """Skip where a loader's library is missing.

    It is not imported: FFCV's own import compiles for seconds what `ffcv_loader` keeps it from.
    """
    library = LIBRARIES.get(loader, "torch")
    if find_spec(library.split(".")[0]) is None:
        pytest.skip(f"{library} is not installed")


def make_kind(kind: str, data: Any, folder: Path, **options: Any) -> Loader:
    """A loader of one kind, of small batches.

    Args:
        kind: one of KINDS, or `stock`.
        data: a file, a folder or a source.
        folder: where a store's file goes.
        options: others than usual.
    """
    name, own = KINDS.get(kind, (kind, {}))
    require_library(name)
    if "store_file" in own:
        own = {"store_file": folder / own["store_file"]}
    usual = {"size": 32, "batch_size": 8, "workers": 2, "normalize": False, "view": "eval"}
    return make_loader(name, data, **{**usual, **own, **options})


def by_sample(loader: Loader) -> dict[int, np.ndarray]:
    """An epoch's pixels, each under its sample's number."""
    found = {}
    for (images, _), rows in zip(loader, loader.plan.batches(loader.batch_size), strict=True):
        for sample, image in zip(rows.samples.tolist(), images, strict=True):
            found[sample] = image.numpy().copy()
    return found


def alike(a: dict[int, np.ndarray], b: dict[int, np.ndarray]) -> bool:
    return a.keys() == b.keys() and all(np.array_equal(a[sample], b[sample]) for sample in a)


def what_is_there() -> dict[str, set[Any]]:
    """This process's threads and children, its descriptors, its names in /dev/shm."""
    me, processes = os.getpid(), psutil.Process().children(recursive=True)
    trackers = ("resource_tracker", "forkserver")
    mine = {str(me), *(str(process.pid) for process in processes)}
    return {
        "threads": {each for each in threading.enumerate() if each.is_alive()},
        "children": {
            each for each in processes if not any(word in _command(each) for word in trackers)
        },
        "files": {_target(each) for each in Path(f"/proc/{me}/fd").iterdir()} - {""},
        "shared": {
            name for name in os.listdir("/dev/shm") if mine & set(name.replace("-", "_").split("_"))
        },
    }


def _command(process: psutil.Process) -> str:
    try:
        return " ".join(process.cmdline())
    except psutil.Error:  # it has just ended
        return ""


def _target(link: Path) -> str:
    """The file that a descriptor leads to; pipes and the like have numbers of their own."""
    try:
        target = os.readlink(link)
    except OSError:
        return ""
    return target if target.startswith("/") and not target.startswith("/proc") else ""


@contextmanager
def nothing_left() -> Iterator[None]:
    """Checks that what a block has started has ended when it is left, or soon ends."""
    before = what_is_there()
    gc.freeze()  # what is there by now need not be gone through
    try:
        yield
        gc.collect()
    finally:
        gc.unfreeze()
    wait_until(lambda: not _more(before), lambda: f"left: {_more(before)}")


def _more(before: dict[str, set[Any]]) -> dict[str, set[Any]]:
    now = what_is_there()
    return {what: now[what] - before[what] for what in now if now[what] - before[what]}


def wait_until(holds: Callable[[], bool], otherwise: Callable[[], str]) -> None:
    """Wait for a condition."""
    give_up = time.monotonic() + LONG_S
    while not holds():
        assert time.monotonic() < give_up, otherwise()
        threading.Event().wait(0.01)
