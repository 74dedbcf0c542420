"""Programs that leave a loader open in every way, each in a fork of a process that is ready for it.

    python tests/support/loader_exits.py DATA FOLDER KIND:WAY...

Nothing has been computed before the forks. Prints JSON: how each ended, what it said, what it left.
"""

from __future__ import annotations

import gc
import json
import os
import resource
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import psutil
import torch
from loader_kinds import KINDS, LONG_S, make_kind

from pipelines.loaders import LOADERS

#: What is raised in the loop of `raises`.
#: What `starve` leaves for an epoch, MB; the last is enough.
ROOMS_MB = (0, 4, 32, 1024)
FOUND: list[str] = []
OWN = "an error of the caller's own"


def leave(loader: Any) -> None:
    """The program ends in the middle of an epoch, by its last line."""
    next(iter(loader))


def hold(loader: Any) -> None:
    """The same, and somebody still holds iteration and batch."""
    batches = iter(loader)
    globals()["_held"] = batches, next(batches), loader


def raises(loader: Any) -> None:
    """An error of the caller's own."""
    for _ in loader:
        raise ValueError(OWN)


def exits(loader: Any) -> None:
    """The program is left from within the loop."""
    for _ in loader:
        sys.exit(5)


def drop(loader: Any) -> None:
    """The loader is dropped in the middle of an epoch: its threads and processes end by that."""
    next(iter(loader))


def starve(loader: Any) -> None:
    """Memory runs out in the middle of an epoch: of address space, which is what can be limited."""
    for room in ROOMS_MB:
        used = psutil.Process().memory_info().vms
        resource.setrlimit(resource.RLIMIT_AS, (used + (room << 20), resource.RLIM_INFINITY))
        try:
            found = f"{sum(len(labels) for _, labels in loader)} images"
        except Exception as error:
            found = f"{type(error).__name__}: {error}"
        finally:
            resource.setrlimit(resource.RLIMIT_AS, (resource.RLIM_INFINITY, resource.RLIM_INFINITY))
        FOUND.append(found)
    sys.stdout.write(json.dumps(FOUND))


WAYS: dict[str, tuple[Callable[[Any], None], int]] = {
    "leave": (leave, 0),
    "hold": (hold, 0),
    "raises": (raises, 1),
    "exits": (exits, 5),
    "drop": (drop, 0),
    "starve": (starve, 0),
}


def main() -> None:
    """Run all that was asked for, one after the other."""
    data, folder, *cases = sys.argv[1:]
    # So long torch waits, at the end, for a worker that is busy.
    torch.utils.data._utils.MP_STATUS_CHECK_INTERVAL = 0.2
    for module in {KINDS[case.split(":")[0]][0] for case in cases}:
        __import__(f"pipelines.loaders.{LOADERS[module][0]}")
    print(json.dumps({case: _run(case, Path(data), Path(folder)) for case in cases}))


def _run(case: str, data: Path, folder: Path) -> dict[str, Any]:
    kind, way = case.split(":")
    said = folder / "said"
    sys.stdout.flush()
    before = set(os.listdir("/dev/shm"))  # of another with that number, perhaps
    child = os.fork()
    if child == 0:
        os.setsid()
        file = os.open(said, os.O_CREAT | os.O_TRUNC | os.O_WRONLY)
        os.dup2(file, 1)
        if way != "starve":  # libraries complain, each in its own words
            os.dup2(file, 2)
        loader = make_kind(kind, data, folder)
        WAYS[way][0](loader)
        if way == "drop":
            del loader
            _wait_until_alone()
        sys.exit(0)
    status = _wait(child)
    (folder / "pixels.store").unlink(missing_ok=True)
    return {
        "status": status,
        "said": said.read_text(),
        "processes": _left(child),
        "shared": [name for name in {*os.listdir("/dev/shm")} - before if f"_{child}_" in name],
    }


def _wait_until_alone() -> None:
    give_up = time.monotonic() + LONG_S
    while threading.active_count() > 1 or psutil.Process().children():
        gc.collect()
        if time.monotonic() > give_up:
            sys.exit(f"left: {threading.enumerate()}, {psutil.Process().children()}")
        threading.Event().wait(0.1)


def _wait(child: int) -> int:
    """Its exit status; -9 if it did not end."""
    give_up = time.monotonic() + LONG_S
    while True:
        ended, status = os.waitpid(child, os.WNOHANG)
        if ended:
            return os.waitstatus_to_exitcode(status)
        if time.monotonic() > give_up:
            os.killpg(child, 9)
        threading.Event().wait(0.1)


def _left(session: int) -> list[str]:
    """Processes of a session, once they have had the time to end."""
    give_up = time.monotonic() + LONG_S
    while True:
        left = [process for process in psutil.process_iter() if _session(process.pid) == session]
        if not left:
            return []
        if time.monotonic() > give_up:
            os.killpg(session, 9)
            return [str(process) for process in left]
        threading.Event().wait(0.1)


def _session(process: int) -> int:
    try:
        return os.getsid(process)
    except ProcessLookupError:
        return -1


if __name__ == "__main__":
    main()
