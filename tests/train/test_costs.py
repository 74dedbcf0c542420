import time

import pytest

from fastft.train import costs as costs_module
from fastft.train.costs import NAMES, OTHER, Costs, describe, process_age_s


class Clock:
    """A clock that a test sets."""

    def __init__(self) -> None:
        self.now_s = 100.0

    def perf_counter(self) -> float:
        return self.now_s


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    clock = Clock()
    monkeypatch.setattr(costs_module, "time", clock)
    return clock


def test_each_second_belongs_to_one_name(clock: Clock) -> None:
    costs = Costs()
    clock.now_s += 1  # nobody's
    with costs.of("data"):
        clock.now_s += 2
        with costs.of("model"):
            clock.now_s += 4
        clock.now_s += 8
    with costs.of("model"):
        clock.now_s += 16
    assert costs.as_dict() == {"data": 10, "model": 20, OTHER: 1}


def test_moved_costs_leave_the_outer_block(clock: Clock) -> None:
    costs = Costs()
    with costs.of("first_epoch"):
        clock.now_s += 3
        costs.move("first_batch", 3)
        clock.now_s += 5
    assert costs.as_dict() == {"first_batch": 3, "first_epoch": 5, OTHER: 0}


def test_time_before_the_run_is_not_other(clock: Clock) -> None:
    costs = Costs()
    costs.add("imports", 50)
    clock.now_s += 2
    assert costs.as_dict() == {"imports": 50, OTHER: 2}


def test_a_block_that_raises_is_counted(clock: Clock) -> None:
    def fail() -> None:
        clock.now_s += 7
        raise ValueError

    costs = Costs()
    with pytest.raises(ValueError), costs.of("evaluation"):  # noqa: PT011  # our own
        fail()
    assert costs.as_dict() == {"evaluation": 7, OTHER: 0}


def test_people_are_told_what_is_large() -> None:
    told = describe({"imports": 3.0, "first_epoch": 6.0, "curves": 0.2, "other": 0.8})
    assert told == "time: first epoch 6.0 s, imports 3.0 s, other 0.8 s; all 10.0 s"
    assert describe({}) == ""


def test_names_are_told_in_their_order(clock: Clock) -> None:
    costs = Costs()
    for name in reversed(NAMES):
        costs.add(name, 1)
    assert tuple(costs.as_dict()) == (*NAMES, OTHER)


def test_a_process_knows_its_age() -> None:
    first = process_age_s()
    # A process cannot be older than its machine, nor grow younger.
    assert 0 < first <= process_age_s() <= time.clock_gettime(time.CLOCK_BOOTTIME)
