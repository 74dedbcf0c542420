"""Decodes samples into a store once, by whoever needs them first; idle threads run ahead.

Knows who decodes what; `store` knows how, `store_memory` where to, `keeping` whether at once.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from itertools import islice
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from pipelines.decoder import Known
from pipelines.formats.source import Source
from pipelines.resident.store import Layout, PixelWriter
from pipelines.resident.store_memory import StoreMemory

#: Samples that an idle thread decodes before it lets others go first: 3 ms of a core. One where
#: others are to be let go first at all costs.
_AHEAD_SAMPLES, _AHEAD_WHERE_IDLE = 4, 1


class Sink(Protocol):
    """A sink for decoded samples; safe to use from several threads."""

    def holds(self, sample: int) -> bool:
        """Whether a sample is there already, from another process or an earlier run."""
        ...

    def write(self, sample: int) -> None:
        """Decode a sample, unless another process has done it meanwhile.

        Raises:
            DataError: it is broken, or there is no room for it.
        """
        ...

    def complete(self) -> None:
        """Hear that all samples are there, once: nothing will be written any more."""
        ...

    @property
    def resampled(self) -> int:
        """The number of written samples whose chroma was averaged."""
        ...

    @property
    def known(self) -> Known:
        """Findings about the samples that were written."""
        ...


class HostSink:
    """Decodes to memory of the host."""

    def __init__(
        self, source: Source, layout: Layout, memory: StoreMemory, known: Known | None = None
    ) -> None:
        self._layout, self._memory = layout, memory
        self._writers = Writers(source, layout, known)

    @property
    def resampled(self) -> int:
        """See Sink."""
        return self._writers.resampled

    @property
    def known(self) -> Known:
        """See Sink."""
        return self._writers.known

    def holds(self, sample: int) -> bool:
        """See Sink."""
        return self._memory.holds(sample)

    def write(self, sample: int) -> None:
        """See Sink."""
        with self._memory.claim(sample):
            if self._memory.holds(sample):
                return
            self._memory.reserve(sample)
            place = self._layout.place(sample)
            self._writers.own().write(sample, self._memory.pixels[place])
            self._memory.commit(sample)

    def complete(self) -> None:
        """See Sink; batches are rendered from this memory, which therefore stays."""


class Writers:
    """A PixelWriter for each thread that asks.

    Attributes:
        known: what they have found out about samples.
    """

    def __init__(self, source: Source, layout: Layout, known: Known | None = None) -> None:
        self._source, self._layout, self.known = source, layout, known or Known(source)
        self._local = threading.local()
        self._all: list[PixelWriter] = []

    def own(self) -> PixelWriter:
        """The calling thread's."""
        try:
            writer: PixelWriter = self._local.writer
        except AttributeError:
            writer = self._local.writer = PixelWriter(self._source, self._layout, self.known)
            self._all.append(writer)
        return writer

    @property
    def resampled(self) -> int:
        """Samples whose chroma was averaged, by all of them."""
        return sum(writer.resampled for writer in self._all)


class Filler:
    """Fills a store, each sample once in this process; safe to use from several threads.

    Attributes:
        sink: where samples go.
        missing: how many have not come there yet.
    """

    def __init__(
        self,
        sink: Sink,
        samples: int,
        threads: ThreadPoolExecutor,
        workers: int,
        is_busy: Callable[[], bool] | None = None,
    ) -> None:
        """Begin with nothing.

        Args:
            sink: where samples go.
            samples: how many there are.
            threads: where to run ahead.
            workers: how many of them there are.
            is_busy: whether other work waits for these threads, where a sample can be had without
                the store the first time that it is asked for. None: it cannot.
        """
        self.sink, self._threads, self._workers = sink, threads, workers
        self._is_busy = is_busy
        self._asked = np.full(samples, is_busy is None)
        self._there, self.missing = np.zeros(samples, np.bool_), samples
        self._taken: set[int] = set()
        self._changed = threading.Condition()
        self._ahead: Iterator[int] = iter(())

    def ensure(self, samples: NDArray[np.int64]) -> None:
        """Return when all of these are there, having decoded what nobody else has.

        Raises:
            DataError: one is broken, or there is no room for it.
        """
        for sample in samples[~self._there[samples]].tolist():
            self._fill(sample)

    def are_due(self, samples: NDArray[np.int64]) -> NDArray[np.bool_]:
        """Whether each of these is to come from the store: not if it is new and asked for once."""
        due = self._asked[samples] | self._there[samples]
        self._asked[samples] = True
        return due

    def has(self, samples: NDArray[np.int64]) -> bool:
        """Whether all of these are there."""
        return bool(self._there[samples].all())

    def run_ahead(self, samples: NDArray[np.int64]) -> None:
        """Fill these in turn while threads have nothing better to do, until `pause`."""
        missing = samples[~self._there[samples]]
        with self._changed:
            self._ahead = ahead = self._in_turn(missing)
        if len(missing):
            for _ in range(self._workers):
                self._threads.submit(self._run, ahead)

    def pause(self) -> None:
        """Run ahead no more."""
        with self._changed:
            self._ahead = iter(())

    def _in_turn(self, samples: NDArray[np.int64]) -> Iterator[int]:
        """Those first that nobody has asked for: their turn is still to come."""
        if self._is_busy is not None:
            yield from (each for each in samples.tolist() if not self._asked[each])
        yield from samples.tolist()

    def _run(self, ahead: Iterator[int]) -> None:
        """Fill a few samples, then get in line again."""
        is_busy = self._is_busy is not None and self._is_busy()
        count = _AHEAD_SAMPLES if self._is_busy is None else _AHEAD_WHERE_IDLE
        with self._changed:
            if ahead is not self._ahead:
                return
            samples = [] if is_busy else list(islice(ahead, count))
        for sample in samples:
            # Whoever needs a broken sample meets its error himself.
            with suppress(Exception):
                self._fill(sample)
        if samples or is_busy:
            with suppress(RuntimeError):  # the threads are being ended
                self._threads.submit(self._run, ahead)

    def _fill(self, sample: int) -> None:
        with self._changed:
            while sample in self._taken:
                self._changed.wait()
            if self._there[sample]:
                return
            self._taken.add(sample)
        try:
            if not self.sink.holds(sample):
                self.sink.write(sample)
            self._there[sample] = True
        finally:
            with self._changed:
                self._taken.remove(sample)
                self._changed.notify_all()
                self.missing -= int(self._there[sample])
                is_last = not self.missing
        if is_last:
            self.sink.complete()
