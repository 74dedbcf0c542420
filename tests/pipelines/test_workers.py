import threading
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from pipelines.workers import cpu_count, in_order, make_threads


@pytest.mark.parametrize(
    ("text", "wanted"),
    [("max 100000\n", None), ("100000 100000\n", 1), ("5000 100000", 1), ("x", None)],
)
def test_a_containers_quota_counts(tmp_path: Path, text: str, wanted: int | None) -> None:
    unlimited = cpu_count(tmp_path / "none")
    assert unlimited >= 1
    (tmp_path / "cpu.max").write_text(text)
    assert cpu_count(tmp_path / "cpu.max") == (wanted or unlimited)


def test_results_come_in_order_however_long_they_take() -> None:
    gate = threading.Event()

    def first() -> int:
        gate.wait(10)
        return 0

    def last() -> int:
        gate.set()
        return 2

    with ThreadPoolExecutor(3) as executor:
        assert list(in_order(executor, iter([first, lambda: 1, last]), ahead=3)) == [0, 1, 2]


def test_no_more_than_ahead_wait() -> None:
    taken = []

    def tasks():  # type: ignore[no-untyped-def]
        for i in range(100):
            taken.append(i)
            yield lambda i=i: i

    with ThreadPoolExecutor(2) as executor:
        results = in_order(executor, tasks(), ahead=4)
        for i, result in enumerate(results):
            assert result == i
            assert len(taken) <= i + 6


def test_after_an_error_nothing_starts() -> None:
    started = []

    def task(i: int):  # type: ignore[no-untyped-def]
        def run() -> int:
            started.append(i)
            return 1 // (i - 3)

        return run

    with ThreadPoolExecutor(1) as executor:
        with pytest.raises(ZeroDivisionError):
            list(in_order(executor, map(task, range(1000)), ahead=8))
    assert len(started) < 20


def test_all_threads_of_a_pool_have_begun() -> None:
    with make_threads(5, "here") as threads:
        here = [each for each in threading.enumerate() if each.name.startswith("here")]
        assert len(here) == 5
        assert threads.submit(int, "3").result() == 3
    assert not any(each.is_alive() for each in here)


def test_a_pool_that_cannot_begin_leaves_no_thread(monkeypatch: pytest.MonkeyPatch) -> None:
    start, started = threading.Thread.start, []

    def fail(thread: threading.Thread) -> None:
        if len(started) == 2:
            raise RuntimeError("can't start new thread")
        started.append(thread)
        start(thread)

    monkeypatch.setattr(threading.Thread, "start", fail)
    with pytest.raises(RuntimeError, match="can't start"):
        make_threads(3)
    for thread in started:
        thread.join(60)
        assert not thread.is_alive()
