"""The host's lead over the device, and the device's time for what is queued.

On a GPU a step is queued in less time than it takes. Nobody waits for its end; but a host that ran
ahead without bounds would fill the GPU's memory with batches. On a CPU nothing runs ahead, and all
of this costs nothing.
"""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch

#: Steps that are queued at once. A step of a small network is queued in 5 to 10 ms, so the GPU has
#: work for at least as long while the host is held up. Reasoned, not measured.
AHEAD_STEPS = 4


class Pace:
    """Lets the host run ahead of the device by a few steps, never by more."""

    def __init__(self, device: torch.device, ahead: int = AHEAD_STEPS) -> None:
        """Begin with nothing queued.

        Args:
            device: where steps are computed.
            ahead: the most steps that are queued and not yet done, at least 1.
        """
        self._device, self._ahead = device, ahead
        self._ends: deque[Any] = deque()

    def step(self) -> None:
        """Note that a step has been queued; waits for the one that is too far behind it.

        The device has the steps since then to go on with: it never stands still for this.
        """
        if self._device.type != "cuda":
            return
        self._ends.append(_record(self._device, blocking=True))
        if len(self._ends) > self._ahead:
            self._ends.popleft().synchronize()  # host wait; `ahead` steps are still queued


class Mark:
    """A moment in the device's work: when all that was queued before it is done."""

    def __init__(self, device: torch.device) -> None:
        """Set it behind what is queued now; waits for nothing."""
        self._event = _record(device, enable_timing=True) if device.type == "cuda" else None
        self._now_s = time.perf_counter()

    def seconds_since(self, earlier: Mark) -> float:
        """Seconds between two marks of one device, once it has come to this one."""
        if self._event is None or earlier._event is None:
            return self._now_s - earlier._now_s
        self._event.synchronize()  # host wait: for what should be over
        return float(earlier._event.elapsed_time(self._event)) / 1000


@contextmanager
def tuned(device: torch.device, is_lasting: bool) -> Iterator[None]:
    """Let cuDNN try its kernels on each new shape and keep the fastest, where shapes last.

    It picks by the clock: two runs on a GPU may differ in their last digits.
    """
    before = torch.backends.cudnn.benchmark
    torch.backends.cudnn.benchmark = is_lasting if device.type == "cuda" else before
    try:
        yield
    finally:
        torch.backends.cudnn.benchmark = before


def _record(device: torch.device, **options: bool) -> Any:
    event = torch.cuda.Event(**options)  # type: ignore[no-untyped-call]
    event.record(torch.cuda.current_stream(device))
    return event
