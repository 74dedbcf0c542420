"""Seconds of a run by what they were spent on, from the start of its process to its end."""

from __future__ import annotations

import os
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

#: All that a run may pay for, in the order in which it first does. `imports` lie before the run;
#: `device` is the GPU's context; `rehearsal` finds how many images fit; `first_batch` is the wait
#: for it; `first_epoch` and `later_epochs` are training without evaluation.
NAMES = (
    "imports",
    "device",
    "data",
    "model",
    "rehearsal",
    "compile",
    "first_batch",
    "first_epoch",
    "later_epochs",
    "evaluation",
    "checkpoints",
    "curves",
    "bottleneck",
)
OTHER = "other"


class Costs:
    """Seconds by name; each second belongs to one name alone.

    What is inside another is taken out of it. Times are the host's: on a GPU work is paid for where
    somebody waits for it.
    """

    def __init__(self) -> None:
        self._seconds: dict[str, float] = {}
        self._open: list[str] = []
        self._began_s = self._since_s = time.perf_counter()

    @contextmanager
    def of(self, name: str) -> Iterator[None]:
        """Let the time until the block's end count as `name`'s, one of NAMES."""
        assert name in NAMES, name
        self._turn()
        self._open.append(name)
        try:
            yield
        finally:
            self._turn()
            self._open.pop()

    def add(self, name: str, seconds: float) -> None:
        """Count what was spent before."""
        assert name in NAMES, name
        self._seconds[name] = self._seconds.get(name, 0.0) + seconds

    def move(self, name: str, seconds: float) -> None:
        """Count seconds that have just passed as `name`'s, not as those of the block around."""
        self.add(name, seconds)
        if self._open:
            self.add(self._open[-1], -seconds)

    def as_dict(self) -> dict[str, float]:
        """Seconds by name, in the order of NAMES, then `other`: what no name was given to."""
        self._turn()
        known = {name: max(0.0, self._seconds[name]) for name in NAMES if name in self._seconds}
        own = sum(seconds for name, seconds in known.items() if name != "imports")
        other = max(0.0, time.perf_counter() - self._began_s - own)
        return {name: round(seconds, 3) for name, seconds in {**known, OTHER: other}.items()}

    def _turn(self) -> None:
        """Give the time since the last turn to what is open."""
        now = time.perf_counter()
        if self._open:
            self.add(self._open[-1], now - self._since_s)
        self._since_s = now


def describe(costs: Mapping[str, float]) -> str:
    """One line for people: what took at least a twentieth of it, the largest first."""
    total = sum(costs.values())
    large = sorted(costs.items(), key=lambda item: -item[1])
    told = [
        f"{name.replace('_', ' ')} {seconds:.1f} s"
        for name, seconds in large
        if seconds >= total / 20
    ]
    return f"time: {', '.join(told)}; all {total:.1f} s" if told else ""


def process_age_s() -> float:
    """Seconds since this process was started; 0 where the system does not tell.

    Source: proc(5), /proc/pid/stat, field 22; the command's name, field 2, may hold blanks.
    """
    try:
        fields = Path("/proc/self/stat").read_text().rpartition(")")[2].split()
        ticks = int(fields[19])
    except (OSError, IndexError, ValueError):
        return 0.0
    began_s = ticks / os.sysconf("SC_CLK_TCK")
    return max(0.0, time.clock_gettime(time.CLOCK_BOOTTIME) - began_s)
