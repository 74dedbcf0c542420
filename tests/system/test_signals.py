"""Signals whose exception a library drops: sent once more, but to no command that has ended."""

import os
import signal
import sys
import threading
from collections.abc import Callable, Iterator
from types import SimpleNamespace
from typing import Any

import pytest

from fastft.system.signals import Interruptions, Stopped


@pytest.fixture
def interruptions(monkeypatch: pytest.MonkeyPatch) -> Iterator[Interruptions]:
    """Heard here; timers wait in `TIMERS` until they are called."""
    TIMERS.clear()

    def make_timer(_: float, act: Callable[..., None], arguments: tuple[Any, ...]) -> Any:
        TIMERS.append(lambda: act(*arguments))
        return SimpleNamespace(start=lambda: None)

    monkeypatch.setattr(threading, "Timer", make_timer)
    heard = Interruptions()
    heard.begin()
    yield heard
    heard.end()


TIMERS: list[Callable[[], None]] = []


class Drops:
    """Whose destructor a signal's exception comes in, where Python drops it."""

    def __del__(self) -> None:
        os.kill(os.getpid(), signal.SIGTERM)


def test_a_dropped_signal_comes_again(interruptions: Interruptions) -> None:
    with interruptions.raised():
        drops = Drops()
        del drops
        assert interruptions.heard == signal.SIGTERM
        (timer,) = TIMERS
        interruptions._heard_s = 0.0  # long ago, as when the timer has run down
        with pytest.raises(Stopped):
            timer()


def test_dropped_signals_spare_ended_commands(interruptions: Interruptions) -> None:
    """As one that ends by the error of a process that heard the same signal."""
    with interruptions.raised():
        drops = Drops()
        del drops
    (timer,) = TIMERS
    sent: list[int] = []
    signal.signal(signal.SIGTERM, lambda number, _: sent.append(number))
    timer()
    assert sent == []


def test_other_dropped_errors_are_told_as_ever(
    interruptions: Interruptions, monkeypatch: pytest.MonkeyPatch
) -> None:
    told: list[Any] = []
    monkeypatch.setattr(interruptions, "_hook", told.append)
    sys.unraisablehook(SimpleNamespace(exc_value=ValueError("other")))  # type: ignore[arg-type]
    assert (len(told), TIMERS) == (1, [])
