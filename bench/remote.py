"""A loader in a process of its own, read by number of batches.

So no contender disturbs another: importing FFCV sets torch's and numba's threads, DALI's threads
and DataLoader's forks do not go together, and each one's CPU time and memory can be told. Nothing
but counts crosses between the processes.
"""

from __future__ import annotations

import multiprocessing
import os
import signal
import time
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import suppress
from dataclasses import dataclass
from itertools import islice
from multiprocessing.connection import Connection
from typing import Any

import psutil

from fastft.system.usage import Usage, usage_of

#: An answer that takes longer than this will not come: four times what 14 contenders took to open
#: side by side, on 2 cores that others kept busy, too.
PATIENCE_S = 600.0
#: A process that is asked to end is given so long.
_FAREWELL_S = 5.0
#: How often a process that owes an answer is looked at for being alive.
_LOOK_S = 0.5


class RemoteError(Exception):
    """A contender failed: one line that names it."""


class CannotRun(Exception):
    """A library is not here, or lacks what it needs: one line that says what, and what helps."""


class MissingError(RemoteError, CannotRun):
    """A contender that cannot run here, which is no failure."""


@dataclass(frozen=True, slots=True)
class Look:
    """The content of some batches.

    Attributes:
        labels: how many of each.
        brightness: mean of all normalized pixels.
    """

    labels: Counter[int]
    brightness: float


class Remote:
    """Batches without end in another process, which starts now and gets its first batch ready.

    Attributes:
        name: in errors.
        batches: how many were read so far, with the one that it gets ready.
    """

    def __init__(self, name: str, make: Callable[[], Iterator[Any]]) -> None:
        """Start; does not wait.

        Args:
            name: of the contender.
            make: opens its batches `(images, labels)`; picklable, called in the other process.
        """
        self.name, self.batches = name, 1
        context = multiprocessing.get_context("spawn")
        self._pipe, child = context.Pipe()
        # No daemon: those may start no worker processes.
        self._process = context.Process(target=_serve, args=(child, make), name=name)
        self._process.start()
        child.close()
        self._pipe.send(("read", 1))
        self._is_ready = False

    @property
    def pid(self) -> int:
        assert self._process.pid is not None
        return self._process.pid

    def ready(self) -> None:
        """Wait until the first batch was read.

        Raises:
            MissingError: it cannot run here.
            RemoteError: it failed.
        """
        if not self._is_ready:
            self._answer()
            self._is_ready = True

    def read(self, batches: int) -> int:
        """Read batches; returns their images.

        Raises:
            RemoteError: it failed, as everything below may.
        """
        self.batches += batches
        images: int = self._ask("read", batches)
        return images

    def look(self, batches: int) -> Look:
        """Read batches and look at them."""
        self.batches += batches
        seen: Look = self._ask("look", batches)
        return seen

    def restart(self) -> None:
        """Close what was opened and make it anew; nothing is read, or opened, before `read`."""
        self.batches = 0
        self._ask("restart")

    def call(self, method: str) -> Any:
        """The result of a method of the batches' own."""
        return self._ask("call", method)

    def usage(self) -> Usage:
        """The usage of it and its processes so far."""
        try:
            return usage_of(self.pid)
        except psutil.NoSuchProcess:
            raise self._ended() from None

    def settle(self) -> None:
        """Wait until it prefetches no more: it would take the next one's cores."""
        for _ in range(50):
            before_s = self.usage().cpu_s
            time.sleep(0.1)
            if self.usage().cpu_s - before_s < 0.02:
                return

    def close(self) -> None:
        """End the process and those that it started; safe to call twice."""
        family = self._family()
        try:
            with suppress(OSError):
                self._pipe.send(None)
            self._wait()
        finally:
            _kill(family)  # who is left of it
            self._process.join()
            self._pipe.close()

    def __enter__(self) -> Remote:
        return self

    def __exit__(self, *error: object) -> None:
        self.close()

    def _ask(self, *question: Any) -> Any:
        self.ready()
        try:
            self._pipe.send(question)
        except OSError:
            raise self._ended() from None
        return self._answer()

    def _answer(self) -> Any:
        # The pipe alone does not tell: a worker process that was forked holds its other end, too.
        until_s = time.monotonic() + PATIENCE_S
        while not self._pipe.poll(_LOOK_S):
            if not self._process.is_alive() and not self._pipe.poll(0):
                raise self._ended()
            if time.monotonic() > until_s:
                _kill(self._family())
                raise RemoteError(f"{self.name}: nothing came for {PATIENCE_S:.0f} s")
        try:
            error, answer = self._pipe.recv()
        except (EOFError, OSError):
            raise self._ended() from None
        if error is not None:
            raise error(f"{self.name}: {answer}")
        return answer

    def _wait(self) -> None:
        """Give it time to end; `join` would also wait for those that it forked."""
        until_s = time.monotonic() + _FAREWELL_S
        while self._process.is_alive() and time.monotonic() < until_s:
            time.sleep(0.01)

    def _family(self) -> list[psutil.Process]:
        """The process and its descendants, as far as they are alive."""
        if not self._process.is_alive():
            return []  # its number may be another one's by now
        root = psutil.Process(self.pid)
        return [*root.children(recursive=True), root]

    def _ended(self) -> RemoteError:
        self._wait()
        return RemoteError(f"{self.name}: its process ended with status {self._process.exitcode}")


def _kill(processes: list[psutil.Process]) -> None:
    for process in processes:
        with suppress(psutil.NoSuchProcess):
            process.kill()


def _serve(pipe: Connection, make: Callable[[], Iterator[Any]]) -> None:
    """Answer until there is nobody to ask: the other process's body."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # who started this process ends it
    # Worker processes start as they do in any program, not as this one was started.
    multiprocessing.set_start_method(None, force=True)
    try:
        reading = _Reading(make)
        while (asked := pipe.recv()) is not None:
            method, *arguments = asked
            pipe.send((None, getattr(reading, method)(*arguments)))
        reading.close()
    except EOFError:
        pass  # who started this process is gone
    except Exception as error:  # raised again where the answer is awaited
        missing = isinstance(error, CannotRun)
        line = " ".join(str(error).split())
        text = line if missing else f"{type(error).__name__}: {line}"
        with suppress(OSError):
            pipe.send((MissingError if missing else RemoteError, text))
    os._exit(0)  # past numba's finalizers, which trip over what stock FFCV did


class _Reading:
    """A request to a remote process."""

    def __init__(self, make: Callable[[], Iterator[Any]]) -> None:
        self._make = make
        self._batches = make()

    def read(self, batches: int) -> int:
        return sum(len(labels) for _, labels in islice(self._batches, batches))

    def look(self, batches: int) -> Look:
        labels: Counter[int] = Counter()
        total = 0.0
        for images, targets in islice(self._batches, batches):
            side = images.shape[-1]
            assert images.shape == (len(targets), 3, side, side), images.shape
            assert str(images.dtype) == "torch.float32", images.dtype
            assert str(targets.dtype) == "torch.int64", targets.dtype
            labels.update(targets.tolist())
            total += float(images.mean()) * len(targets)
        return Look(labels, total / max(1, labels.total()))

    def restart(self) -> None:
        self.close()
        self._batches = self._make()

    def call(self, method: str) -> Any:
        return getattr(self._batches, method)()

    def close(self) -> None:
        close = getattr(self._batches, "close", None)
        if close is not None:
            close()
