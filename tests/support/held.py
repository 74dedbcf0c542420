"""What a process and those that it has started hold of the machine, and whether that grows."""

from __future__ import annotations

import ctypes
import gc
import os
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, fields
from pathlib import Path
from statistics import median

import psutil

#: What has been let go of may take so long to be gone: threads and processes that end.
_ENDS_S = 10.0
_LOOK_S = 0.02
_SHM = Path("/dev/shm")
_TRIM = getattr(ctypes.CDLL(None), "malloc_trim", None)  # glibc's


@dataclass(frozen=True, slots=True)
class Held:
    """What is held at one moment, or may be more of it.

    Attributes:
        memory: KB of a process's own and of /dev/shm; not of files, whose pages others may have.
        files: descriptors.
        threads: of all kinds, compiled code's, too.
        processes: that live.
        shared: what lies in /dev/shm, by a name that is watched or mapped without one.
    """

    memory: int
    files: int
    threads: int
    processes: int
    shared: int


class Watch:
    """Looks at this process and at all that it has started, time and again."""

    def __init__(self, is_ours: Callable[[str], bool] = lambda name: False) -> None:
        """Begin.

        Args:
            is_ours: whether a name in /dev/shm, which is everybody's, tells of this work.
        """
        self._is_ours = is_ours
        self._usual: Held | None = None

    def look(self) -> Held:
        """What is held once that is gone which has been let go of.

        What is more than it was last time is looked at again until it has come down, or stays.
        """
        gc.collect()
        if _TRIM is not None:
            _TRIM(0)
        gives_up_s = time.monotonic() + _ENDS_S
        found = self._now()
        while (
            self._usual is not None
            and any(more > 0 for more in _counts_beyond(found, self._usual))
            and time.monotonic() < gives_up_s
        ):
            time.sleep(_LOOK_S)
            found = self._now()
        self._usual = found
        return found

    def _now(self) -> Held:
        own = psutil.Process()
        names = sum(self._is_ours(name) for name in os.listdir(_SHM))
        total = Held(0, 0, 0, 0, names)
        for process in (own, *own.children(recursive=True)):
            try:
                total = _sum(total, _held_by(Path(f"/proc/{process.pid}")))
            except (FileNotFoundError, ProcessLookupError):  # it has ended meanwhile
                continue
        return total


def _held_by(process: Path) -> Held:
    lines = (process / "status").read_text().splitlines()
    status = dict(line.split(":", 1) for line in lines)
    if "RssAnon" not in status:  # ended, and not waited for
        return Held(0, 0, 0, 1, 0)
    memory = sum(int(status[name].split()[0]) for name in ("RssAnon", "RssShmem"))
    maps = (process / "maps").read_text().splitlines()
    return Held(
        memory=memory,
        files=len(os.listdir(process / "fd")),
        threads=int(status["Threads"]),
        processes=1,
        shared=sum(f" {_SHM}/" in line for line in maps),
    )


def _sum(one: Held, other: Held) -> Held:
    names = [each.name for each in fields(Held)]
    return Held(*(getattr(one, name) + getattr(other, name) for name in names))


def _counts_beyond(found: Held, usual: Held) -> list[int]:
    names = [each.name for each in fields(Held) if each.name != "memory"]
    return [getattr(found, name) - getattr(usual, name) for name in names]


def growth(points: Sequence[Held], allowed: Held) -> dict[str, tuple[float, float]]:
    """What has grown from the first third of the points to the last, by more than is allowed.

    Medians are compared: what is held for a moment, however much, is not grown.

    Returns:
        By name, what it was then and what it is now.
    """
    third = len(points) // 3
    assert third > 1, f"{len(points)} points show nothing"
    grown = {}
    for name in (each.name for each in fields(Held)):
        before, after = (
            median(getattr(point, name) for point in part)
            for part in (points[:third], points[-third:])
        )
        if after - before > getattr(allowed, name):
            grown[name] = (before, after)
    return grown
