"""Who decodes what, and when: with a sink that counts, and with the real one."""

import sys
import threading
from collections import Counter
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from pipelines.errors import DataError
from pipelines.resident import filler as filling
from pipelines.resident.filler import Filler

SAMPLES = 40
#: Longer than anything takes: what waits so long has failed.
LONG_S = 10


class CountingSink:
    """Remembers what was written, in order; `on_write` is called before a sample is."""

    def __init__(self) -> None:
        self.written: list[int] = []
        self.asked: Counter[int] = Counter()
        self.held: set[int] = set()
        self.broken: set[int] = set()
        self.on_write: Callable[[int], object] = lambda sample: None
        self.resampled = self.completed = 0
        self._lock = threading.Lock()

    def holds(self, sample: int) -> bool:
        return sample in self.held

    def write(self, sample: int) -> None:
        with self._lock:
            self.asked[sample] += 1
        self.on_write(sample)
        if sample in self.broken:
            raise DataError(f"{sample}.jpg", "broken")
        self.written.append(sample)

    def complete(self) -> None:
        self.completed += 1


class Pool(ThreadPoolExecutor):
    """Remembers what was submitted."""

    def __init__(self, threads: int) -> None:
        super().__init__(threads)
        self.futures: list[Future[Any]] = []

    def submit(self, *arguments: Any, **options: Any) -> Future[Any]:
        future = super().submit(*arguments, **options)
        self.futures.append(future)
        return future

    def settle(self) -> None:
        """Wait until nothing is left to do, whatever tasks submit others."""
        for future in self.futures:  # grows meanwhile
            future.result(LONG_S)


class Gate:
    """Holds whoever writes one sample until it is opened."""

    def __init__(self, sink: CountingSink, sample: int) -> None:
        self._sample = sample
        self._reached, self._open = threading.Event(), threading.Event()
        sink.on_write = self._pass

    def _pass(self, sample: int) -> None:
        if sample == self._sample:
            self._reached.set()
            assert self._open.wait(LONG_S)

    def wait_until_reached(self) -> None:
        assert self._reached.wait(LONG_S)

    def open(self) -> None:
        self._open.set()


class WatchedCondition(threading.Condition):
    """Tells when somebody waits."""

    def __init__(self) -> None:
        super().__init__()
        self.waits = threading.Semaphore(0)

    def wait(self, timeout: float | None = None) -> bool:
        self.waits.release()
        assert super().wait(LONG_S)
        return True


def some(*samples: int) -> np.ndarray:
    return np.array(samples, np.int64)


EVERY = np.arange(SAMPLES)


@pytest.fixture
def sink() -> CountingSink:
    return CountingSink()


@pytest.fixture
def pool() -> Iterator[Pool]:
    """One thread, so that there is an order."""
    with Pool(1) as pool:
        yield pool


@pytest.fixture
def crowd() -> Iterator[Pool]:
    """Eight threads, which change places as often as they can."""
    before = sys.getswitchinterval()
    sys.setswitchinterval(1e-6)
    with Pool(8) as pool:
        yield pool
    sys.setswitchinterval(before)


# What is asked for.


def test_requests_are_written_once_in_order(sink: CountingSink, pool: Pool) -> None:
    filler = Filler(sink, SAMPLES, pool, 1)
    assert not filler.has(some(3))
    filler.ensure(some(3, 1, 3))
    assert sink.written == [3, 1]
    assert filler.has(some(1, 3))
    assert not filler.has(some(1, 2, 3))
    filler.ensure(some(1, 2, 3))
    assert sink.written == [3, 1, 2]
    assert filler.has(some())
    filler.ensure(some())
    assert pool.futures == []


def test_each_sample_is_written_once_however_many_ask(sink: CountingSink, crowd: Pool) -> None:
    filler, start = Filler(sink, SAMPLES, crowd, 8), threading.Barrier(8)

    def ask() -> bool:
        start.wait(LONG_S)
        filler.ensure(EVERY)
        return set(sink.written) == set(range(SAMPLES))

    futures = [crowd.submit(ask) for _ in range(8)]
    assert all(future.result(LONG_S) for future in futures)
    assert sorted(sink.written) == list(range(SAMPLES))


def test_what_is_there_already_is_not_written(sink: CountingSink, pool: Pool) -> None:
    sink.held = {1, 3}
    filler = Filler(sink, SAMPLES, pool, 1)
    assert not filler.has(some(1))  # nobody has looked
    filler.ensure(some(0, 1, 2, 3))
    assert (sink.written, sink.completed) == ([0, 2], 0)
    assert filler.has(some(0, 1, 2, 3))


def watched(sink: CountingSink, pool: Pool, patch: pytest.MonkeyPatch) -> tuple[Filler, Any]:
    """A filler that tells when a thread waits for another."""
    condition = WatchedCondition()
    threads = SimpleNamespace(Condition=lambda: condition)
    patch.setattr(filling, "threading", threads)
    filler = Filler(sink, SAMPLES, pool, 1)
    patch.undo()
    return filler, condition.waits


def test_requests_wait_for_another_threads_decoding(
    sink: CountingSink, monkeypatch: pytest.MonkeyPatch
) -> None:
    gate = Gate(sink, 5)
    with Pool(3) as pool:
        filler, waits = watched(sink, pool, monkeypatch)
        first = pool.submit(filler.ensure, some(5))
        gate.wait_until_reached()
        filler.ensure(some(7))  # other samples go on
        others = [pool.submit(filler.ensure, some(4 + 2 * at, 5)) for at in range(2)]
        for _ in others:
            assert waits.acquire(timeout=LONG_S)
        assert not any(future.done() for future in (first, *others))
        assert not filler.has(some(5))
        assert sorted(sink.written) == [4, 6, 7]
        gate.open()
        for future in (first, *others):
            future.result(LONG_S)
    assert sorted(sink.written) == [4, 5, 6, 7]
    assert sink.asked[5] == 1


def test_errors_reach_each_request_alone(sink: CountingSink, pool: Pool) -> None:
    sink.broken = {2}
    filler = Filler(sink, SAMPLES, pool, 1)
    for _ in range(2):
        with pytest.raises(DataError, match=r"^2\.jpg: broken"):
            filler.ensure(some(1, 2, 3))
    assert sink.written == [1]
    filler.ensure(some(0, 1, 3))
    assert sink.written == [1, 0, 3]
    assert not filler.has(some(2))
    sink.broken = set()
    filler.ensure(some(2))
    assert filler.has(some(2))
    assert sink.asked[2] == 3


def test_an_error_reaches_those_who_waited_too(
    sink: CountingSink, monkeypatch: pytest.MonkeyPatch
) -> None:
    gate, sink.broken = Gate(sink, 5), {5}
    with Pool(3) as pool:
        filler, waits = watched(sink, pool, monkeypatch)
        futures = [pool.submit(filler.ensure, some(5)) for _ in range(3)]
        gate.wait_until_reached()
        for _ in range(2):
            assert waits.acquire(timeout=LONG_S)
        gate.open()
        errors = [future.exception(LONG_S) for future in futures]
    assert [str(error) for error in errors] == ["5.jpg: broken"] * 3
    assert not filler.has(some(5))


# What is filled ahead.


def test_idle_threads_fill_in_order(sink: CountingSink, pool: Pool) -> None:
    order = np.random.default_rng(0).permutation(SAMPLES)
    filler = Filler(sink, SAMPLES, pool, 1)
    filler.ensure(order[[3, 8]])
    sink.written.clear()
    filler.run_ahead(order)
    pool.settle()
    assert sink.written == np.delete(order, [3, 8]).tolist()
    assert filler.has(EVERY)


def test_several_idle_threads_fill_each_sample_once(sink: CountingSink, crowd: Pool) -> None:
    filler = Filler(sink, SAMPLES, crowd, 8)
    filler.run_ahead(EVERY)
    filler.ensure(EVERY[::-1])
    crowd.settle()
    assert sorted(sink.written) == list(range(SAMPLES))
    assert sink.completed == 1


def test_all_the_threads_run_ahead(sink: CountingSink) -> None:
    meeting = threading.Barrier(3)
    sink.on_write = lambda sample: sample % 4 or sample > 8 or meeting.wait(LONG_S)
    with Pool(3) as pool:
        Filler(sink, SAMPLES, pool, 3).run_ahead(EVERY)
        pool.settle()
    assert not meeting.broken
    assert len(sink.written) == SAMPLES


def test_nothing_is_started_where_nothing_is_missing(sink: CountingSink, pool: Pool) -> None:
    filler = Filler(sink, SAMPLES, pool, 1)
    filler.ensure(EVERY)
    filler.run_ahead(EVERY)
    filler.run_ahead(some())
    assert pool.futures == []


def test_running_ahead_lets_others_go_first(sink: CountingSink, pool: Pool) -> None:
    gate, filler = Gate(sink, 0), Filler(sink, SAMPLES, pool, 1)
    filler.run_ahead(EVERY)
    gate.wait_until_reached()
    other = pool.submit(lambda: list(sink.written))
    gate.open()
    assert other.result(LONG_S) == list(range(filling._AHEAD_SAMPLES))
    pool.settle()
    assert len(sink.written) == SAMPLES


def test_running_ahead_passes_over_what_is_broken(sink: CountingSink, pool: Pool) -> None:
    sink.broken = {0, 6, 7}
    filler = Filler(sink, SAMPLES, pool, 1)
    filler.run_ahead(EVERY)
    pool.settle()
    assert sink.written == sorted(set(range(SAMPLES)) - sink.broken)
    with pytest.raises(DataError, match=r"^6\.jpg"):
        filler.ensure(some(5, 6))


def test_a_pause_finishes_current_work(sink: CountingSink, pool: Pool) -> None:
    gate, filler = Gate(sink, 0), Filler(sink, SAMPLES, pool, 1)
    filler.run_ahead(EVERY)
    gate.wait_until_reached()
    filler.pause()
    gate.open()
    pool.settle()
    assert sink.written == list(range(filling._AHEAD_SAMPLES))
    filler.ensure(some(9))
    filler.run_ahead(EVERY)
    pool.settle()
    assert sorted(sink.written) == list(range(SAMPLES))


def test_a_later_run_replaces_an_earlier(sink: CountingSink, pool: Pool) -> None:
    gate, filler = Gate(sink, 0), Filler(sink, SAMPLES, pool, 1)
    filler.run_ahead(np.arange(20))
    gate.wait_until_reached()
    filler.run_ahead(np.arange(30, 36))
    gate.open()
    pool.settle()
    assert sink.written == [*range(filling._AHEAD_SAMPLES), *range(30, 36)]


def test_it_ends_with_the_threads(sink: CountingSink, pool: Pool) -> None:
    gate, filler = Gate(sink, 0), Filler(sink, SAMPLES, pool, 1)
    filler.run_ahead(EVERY)
    gate.wait_until_reached()
    pool.shutdown(wait=False, cancel_futures=True)
    gate.open()
    pool.shutdown()
    assert sink.written == list(range(filling._AHEAD_SAMPLES))
    assert [future.exception(LONG_S) for future in pool.futures] == [None]


# Samples that can be had without the store.


def test_samples_are_due_when_they_are_asked_for_again(sink: CountingSink, pool: Pool) -> None:
    filler = Filler(sink, SAMPLES, pool, 1, lambda: True)
    filler.ensure(some(4))
    assert filler.are_due(some(3, 4, 5)).tolist() == [False, True, False]
    assert filler.are_due(some(6, 5, 3)).tolist() == [False, True, True]
    assert sink.written == [4]
    assert Filler(sink, SAMPLES, pool, 1).are_due(some(1, 2)).all()


def test_threads_run_ahead_where_nothing_else_waits(sink: CountingSink, pool: Pool) -> None:
    """A busy filler gets in line again, and begins when it no longer is."""
    looks: list[int] = []

    def is_busy() -> bool:
        looks.append(len(sink.written))
        return len(looks) <= 3

    filler = Filler(sink, SAMPLES, pool, 1, is_busy)
    filler.run_ahead(EVERY)
    pool.settle()
    assert looks[:5] == [0, 0, 0, 0, 1]
    assert sink.written == EVERY.tolist()


def test_running_ahead_begins_with_what_is_still_to_come(sink: CountingSink, pool: Pool) -> None:
    filler = Filler(sink, SAMPLES, pool, 1, lambda: False)
    filler.are_due(np.arange(10))
    filler.run_ahead(EVERY)
    pool.settle()
    assert sink.written == [*range(10, SAMPLES), *range(10)]


def test_a_pause_ends_busy_running_ahead(sink: CountingSink, pool: Pool) -> None:
    filler = Filler(sink, SAMPLES, pool, 1, lambda: True)
    filler.run_ahead(EVERY)
    filler.pause()
    pool.settle()
    assert sink.written == []
