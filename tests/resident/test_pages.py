"""Pages of new memory: small or large, whichever cost less of late."""

import mmap
import re
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from pipelines.resident import pages
from pipelines.resident.pages import LARGE_PAGE, Pages

BEGIN = 7 * LARGE_PAGE + 5 * mmap.PAGESIZE
SAMPLE = LARGE_PAGE // 4
Costs = Callable[[float, float], None]


@pytest.fixture
def advised(monkeypatch: pytest.MonkeyPatch) -> dict[int, int]:
    """The advice of each large page, in place of the system."""
    given: dict[int, int] = {}

    def advise(begin: int, end: int, advice: int) -> bool:
        assert end > begin
        for page in range(begin // LARGE_PAGE, -(-end // LARGE_PAGE)):
            given[page] = advice
        return True

    monkeypatch.setattr(pages, "advise", advise)
    monkeypatch.setattr(pages, "are_large_by_default", lambda: False)
    return given


@pytest.fixture
def cost(advised: dict[int, int], monkeypatch: pytest.MonkeyPatch) -> Costs:
    """Sets what a byte's first touch costs, in small and in large pages."""
    costs, touched = [1.0, 1.0], set()

    def populate_s(begin: int, end: int) -> float:
        first, last = begin // LARGE_PAGE, -(-end // LARGE_PAGE)
        if advised.get(first) != pages._HUGEPAGE:
            return costs[0] * (end - begin)
        new = set(range(first, last)) - touched
        touched.update(new)
        return costs[1] * len(new) * LARGE_PAGE + 1e-9

    def put(small: float, large: float) -> None:
        costs[:] = small, large

    monkeypatch.setattr(pages, "populate_s", populate_s)
    return put


def fill(memory: Pages, first: int, last: int) -> None:
    """Touch samples, each a quarter of a large page, none of which lies in two."""
    for number in range(first, last):
        begin = 8 * LARGE_PAGE + number * SAMPLE
        memory.touch(begin, begin + SAMPLE)


def share_of_large(advised: dict[int, int], first: int, last: int) -> float:
    """The share of large pages among those of some samples."""
    numbers = range(8 + first // 4, 8 + last // 4)
    return sum(advised.get(page) == pages._HUGEPAGE for page in numbers) / len(numbers)


def test_the_cheaper_pages_are_taken(advised: dict[int, int], cost: Costs) -> None:
    """Most of them, as either kind is tried now and then."""
    memory = Pages(BEGIN, 1000 * LARGE_PAGE)
    cost(1.0, 3.0)
    fill(memory, 0, 1000)
    assert share_of_large(advised, 40, 1000) < 0.1
    assert memory.costs[0] == pytest.approx(1.0)
    assert memory.costs[1] == pytest.approx(3.0)
    cost(1.0, 0.3)  # a hypervisor has some to spare now
    fill(memory, 1000, 3000)
    assert share_of_large(advised, 1500, 3000) > 0.9
    cost(1.0, 5.0)
    fill(memory, 3000, 3900)
    assert share_of_large(advised, 3100, 3900) < 0.1


def test_a_sample_in_touched_pages_teaches_nothing(cost: Costs) -> None:
    memory = Pages(BEGIN, 100 * LARGE_PAGE)
    cost(1.0, 0.5)
    fill(memory, 0, 200)
    known = list(memory.costs)
    fill(memory, 4, 8)  # in a large page that has been touched
    assert memory.costs == known


def test_little_time_goes_into_trials(advised: dict[int, int], cost: Costs) -> None:
    """Photos are of 19 large pages each, a trial of those that cost 8 times as much of one."""
    memory = Pages(BEGIN, 2000 * LARGE_PAGE)
    cost(1.0, 8.0)
    for number in range(100):
        begin = (8 + 19 * number) * LARGE_PAGE
        memory.touch(begin, begin + 19 * LARGE_PAGE)
    tried = sum(advice == pages._HUGEPAGE for advice in advised.values())
    assert pages._BY_TURNS // 2 < tried < pages._BY_TURNS // 2 + 1900 / 8 / 16 * 1.1
    assert memory.costs == pytest.approx([1.0, 8.0])


def test_much_memory_is_of_few_parts(cost: Costs) -> None:
    cost(1.0, 0.5)
    memory = Pages(BEGIN, 1 << 40)
    assert len(memory._kinds) <= pages._MOST_PARTS
    memory.touch(BEGIN + (1 << 39), BEGIN + (1 << 39) + SAMPLE)
    memory.touch(BEGIN + (1 << 40) - SAMPLE, BEGIN + (1 << 40))
    assert sum(memory._kinds) > 0


def test_advice_stays_within_the_memory(monkeypatch: pytest.MonkeyPatch) -> None:
    bounds: list[tuple[int, int]] = []
    monkeypatch.setattr(pages, "advise", lambda begin, end, _: bounds.append((begin, end)))
    monkeypatch.setattr(pages, "are_large_by_default", lambda: True)
    monkeypatch.setattr(pages, "populate_s", lambda *_: 0.0)
    end = BEGIN + 3 * LARGE_PAGE + mmap.PAGESIZE
    memory = Pages(BEGIN, end - BEGIN)
    memory.touch(BEGIN, end)
    assert min(begin for begin, _ in bounds) == BEGIN
    assert max(last for _, last in bounds) == end
    assert memory.costs == [0.0, 0.0]


@pytest.mark.parametrize("by_default", [False, True])
def test_small_pages_are_asked_for_where_large_ones_are_usual(
    by_default: bool, advised: dict[int, int], cost: Costs, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(pages, "are_large_by_default", lambda: by_default)
    cost(1.0, 3.0)
    fill(Pages(BEGIN, 100 * LARGE_PAGE), 0, 4)
    assert advised == ({8: pages._NOHUGEPAGE} if by_default else {})


def test_real_memory_comes_in_either(monkeypatch: pytest.MonkeyPatch) -> None:
    if not pages._SETTING.exists():
        pytest.skip("no large pages here")
    mapped = mmap.mmap(-1, 40 * LARGE_PAGE, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)
    pixels = np.frombuffer(mapped, np.uint8)
    memory = Pages(pixels.ctypes.data, len(pixels))
    for begin in range(0, len(pixels), SAMPLE):
        memory.touch(pixels.ctypes.data + begin, pixels.ctypes.data + begin + SAMPLE)
    assert set(memory._kinds) == {pages._SMALL, pages._LARGE}
    assert not pixels.any()
    pixels[:] = 7
    large = memory._kinds.index(pages._LARGE)
    assert "hg" in flags_at(memory._begin + large * LARGE_PAGE)
    small = memory._kinds.index(pages._SMALL, 1)
    assert "hg" not in flags_at(memory._begin + small * LARGE_PAGE)


def flags_at(address: int) -> list[str]:
    """The system's flags of the mapping at an address."""
    is_it = False
    for line in Path("/proc/self/smaps").read_text().splitlines():
        if bounds := re.match(r"([0-9a-f]+)-([0-9a-f]+) ", line):
            first, last = (int(each, 16) for each in bounds.groups())
            is_it = first <= address < last
        elif is_it and line.startswith("VmFlags:"):
            return line.split()
    raise AssertionError("no such mapping")
