"""A tracker that remembers what it is told, and does what it is made to."""

from collections.abc import Callable, Sequence

from fastft.runs.tracker import Ending, Row


class FakeTracker:
    def __init__(self, on_add: Callable[[], object] = lambda: None) -> None:
        self.key, self.place, self._on_add = "known", "nowhere", on_add
        self.told: list[Row] = []
        self.endings: list[Ending] = []

    def add(self, rows: Sequence[Row]) -> None:
        self._on_add()
        self.told += rows

    def close(self, ending: Ending) -> None:
        self.endings.append(ending)
