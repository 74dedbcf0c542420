"""Ending a command when it is asked to: by a keyboard, a scheduler, a terminal that is closed.

Those are SIGINT, SIGTERM and SIGHUP, which also comes where a connection is lost. While steps of a
training run, a signal is only noted: it saves where it stands and leaves. In any other work it
raises, so that what is half done is cleared away; before and behind that the process just ends. A
signal that is ignored, as a shell's background job ignores Ctrl-C and what `nohup` starts ignores
SIGHUP, stays so.
"""

from __future__ import annotations

import os
import signal
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from types import FrameType
from typing import Any

_SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
#: A second signal within this time is the same one: a terminal and a launcher both passed it on.
_SAME_S = 1.0
#: How long compiled code may keep a process among others from hearing a signal. Longer than any
#: step that saves; shorter than the 30 s after which torchrun and SLURM kill.
_STUCK_S = 10.0


class Stopped(BaseException):
    """The training, or whatever runs, was asked to end, and has.

    Like KeyboardInterrupt it is no Exception: a library that takes any of those for its own must
    not swallow it.

    Attributes:
        signal: which signal it was.
    """

    def __init__(self, signal_: int, said: str | None = None) -> None:
        # Whoever sends SIGTERM knows that he did.
        super().__init__(said if said is not None else "interrupted" * (signal_ == signal.SIGINT))
        self.signal = signal_

    @property
    def exit_code(self) -> int:
        """The status that shells give a process that a signal ended: 130, 143 or 129."""
        return 128 + self.signal


def find_stopped(error: BaseException) -> Stopped | None:
    """The `Stopped` that an error was made of; None if it was made of something else.

    Python before 3.12 makes a RuntimeError of one that comes while a class is made, as in an
    import; and so may any library.
    """
    seen: set[int] = set()
    each: BaseException | None = error
    while each is not None and id(each) not in seen:  # an error may be its own cause
        if isinstance(each, Stopped):
            return each
        seen.add(id(each))
        each = each.__cause__
    return None


def heeded() -> list[signal.Signals]:
    """The signals that ask this process to end: all but those that it was started to ignore."""
    return [each for each in _SIGNALS if signal.getsignal(each) not in (signal.SIG_IGN, None)]


class StopSignals:
    """Hears signals as long as its `with` block lasts; without one, nothing.

    Attributes:
        requested: the signal that asked the training to end, or 0.
    """

    def __init__(self, *, is_one_of_many: bool = False) -> None:
        """Prepare.

        Args:
            is_one_of_many: whether this process waits for others in compiled code, where it hears
                nothing; if one of them is gone it would wait in vain, and is ended.
        """
        self.requested = 0
        self._is_one_of_many = is_one_of_many
        self._deferred = False
        self._heard_s = 0.0
        self._before: dict[int, Any] = {}
        self._woken: tuple[int, int] | None = None

    @contextmanager
    def deferred(self) -> Iterator[None]:
        """Only note signals in this block, whose code looks at `requested`."""
        self._deferred = True
        try:
            yield
        finally:
            self._deferred = False

    def __enter__(self) -> StopSignals:
        if threading.current_thread() is threading.main_thread():  # no other may set handlers
            self._before = {each: signal.signal(each, self._hear) for each in heeded()}
            if self._is_one_of_many:
                self._watch()
        return self

    def __exit__(self, *error: object) -> None:
        if self._woken is not None:
            signal.set_wakeup_fd(-1)
            os.close(self._woken[1])  # ends the thread that reads the other end
            self._woken = None
        for each, handler in self._before.items():
            signal.signal(each, handler)
        self._before = {}

    def _hear(self, number: int, frame: FrameType | None) -> None:
        now = time.monotonic()
        again = self.requested and now - self._heard_s > _SAME_S
        if self.requested and not again:
            return
        self.requested, self._heard_s = number, now
        if again or not self._deferred:
            raise Stopped(number)

    def _watch(self) -> None:
        """End the process if a signal comes and Python code does not for long."""
        self._woken = reader, writer = os.pipe()
        os.set_blocking(writer, False)
        signal.set_wakeup_fd(writer, warn_on_full_buffer=False)

        def watch() -> None:
            while number := os.read(reader, 1):
                if number[0] not in _SIGNALS:
                    continue
                # The main thread runs its handler as soon as it comes out of compiled code.
                ends_s = time.monotonic() + _STUCK_S
                while not self.requested and time.monotonic() < ends_s:
                    time.sleep(0.1)
                if not self.requested:
                    os._exit(128 + number[0])
            os.close(reader)

        threading.Thread(target=watch, name="signals", daemon=True).start()


class Interruptions:
    """Hears signals for a whole process, from before its imports to its very end.

    Attributes:
        heard: the signal that came first, or 0.
    """

    def __init__(self) -> None:
        self.heard = 0
        self._raises = False
        self._heard_s = 0.0
        self._before: dict[int, Any] = {}

    def begin(self) -> None:
        """Hear signals.

        Until `raised` they end the process at once: there is nothing to be cleared away, and many a
        library makes something else of an exception that is raised while it is imported.
        """
        if threading.current_thread() is not threading.main_thread():
            return
        self._before = {each: signal.signal(each, self._hear) for each in heeded()}
        self._hook, sys.unraisablehook = sys.unraisablehook, self._swallowed

    def end(self) -> None:
        """Hear no more, for processes that go on."""
        for each, handler in self._before.items():
            signal.signal(each, handler)
        if self._before:
            sys.unraisablehook = self._hook
        self._before = {}

    @contextmanager
    def raised(self) -> Iterator[None]:
        """Let signals raise KeyboardInterrupt or Stopped in this block."""
        try:
            self._raises = True
            yield
        finally:
            self._raises = False

    def _hear(self, number: int, frame: FrameType | None) -> None:
        if not self._raises:
            if number == signal.SIGINT:
                _tell("fastft: interrupted\n")
            os._exit(128 + number)
        now = time.monotonic()
        if self.heard and now - self._heard_s <= _SAME_S:
            return
        self.heard, self._heard_s = number, now
        raise KeyboardInterrupt if number == signal.SIGINT else Stopped(number)

    def _swallowed(self, what: Any) -> None:
        """Send a signal once more whose exception was dropped: in a destructor, in a callback."""
        if isinstance(what.exc_value, KeyboardInterrupt):
            number: int = signal.SIGINT
        elif isinstance(what.exc_value, Stopped):
            number = what.exc_value.signal
        else:
            self._hook(what)
            return
        again = threading.Timer(_SAME_S + 0.1, self._send_again, (number,))
        again.daemon = True
        again.start()

    def _send_again(self, number: int) -> None:
        # A command that has come to its end by then, for this or another reason, ends as it would:
        # the interpreter hears signals no more when it takes itself apart, and would die of one.
        if self._raises:
            os.kill(os.getpid(), number)


def _tell(text: str) -> None:
    """Say it past all buffers, if anybody listens."""
    with suppress(OSError):
        os.write(2, text.encode())
