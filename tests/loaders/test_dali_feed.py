"""The thread that feeds DALI: in order, a few ahead, and nothing is lost where DALI fails."""

import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any, cast

import pytest

pytest.importorskip("nvidia.dali")
from pipelines.errors import DataError
from pipelines.loaders.dali_feed import Feed, FeedsAhead
from pipelines.plan import Rows

LONG_S = 60.0


@pytest.fixture
def thread() -> Iterator[ThreadPoolExecutor]:
    with ThreadPoolExecutor(1) as executor:
        yield executor


def numbers(count: int) -> Iterator[Rows]:
    """Such as rows, told apart."""
    return cast(Iterator[Rows], iter(range(count)))


def make(rows: Any) -> Feed:
    if rows == 3:
        raise DataError("sample 3", "is broken")
    return Feed(rows, (threading.current_thread().name,))


def test_feeds_come_in_order_from_the_thread(thread: ThreadPoolExecutor) -> None:
    feeds = list(FeedsAhead(thread, make, numbers(3)))
    assert [feed.rows for feed in feeds] == [0, 1, 2]
    assert all(feed.inputs[0].startswith("ThreadPoolExecutor") for feed in feeds)
    assert list(FeedsAhead(thread, make, numbers(0))) == []


def test_an_error_comes_when_its_feed_does(thread: ThreadPoolExecutor) -> None:
    ahead = FeedsAhead(thread, make, numbers(9))
    assert [next(ahead).rows for _ in range(3)] == [0, 1, 2]
    with pytest.raises(DataError, match="sample 3"):
        next(ahead)
    assert next(ahead).rows == 4


def test_two_are_made_ahead_and_given_back(thread: ThreadPoolExecutor) -> None:
    begun, go_on = threading.Semaphore(0), threading.Event()

    def make_slowly(rows: Any) -> Feed:
        begun.release()
        assert rows == 0 or go_on.wait(LONG_S)
        return Feed(rows, ())

    rows = numbers(9)
    ahead = FeedsAhead(thread, make_slowly, rows)
    assert next(ahead).rows == 0
    # The second is under way, the third waits for the thread, and nobody has asked for more.
    assert begun.acquire(timeout=LONG_S)
    assert begun.acquire(timeout=LONG_S)
    assert next(rows) == cast(Any, 3)
    threading.Timer(0, go_on.set).start()
    assert ahead.take_back() == [1, 2]
    assert list(ahead) == []
