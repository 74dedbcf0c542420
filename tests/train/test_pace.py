"""The host's lead over a GPU, with events that a test ends."""

from typing import Any

import pytest
import torch

from fastft.train import pace as pace_module
from fastft.train.pace import Mark, Pace

GPU = torch.device("cuda")


class Event:
    """An event that is done when it is waited for."""

    def __init__(self, number: int, waited: list[int]) -> None:
        self._number, self._waited = number, waited

    def synchronize(self) -> None:
        self._waited.append(self._number)

    def elapsed_time(self, later: "Event") -> float:
        return 1000.0 * (later._number - self._number)


@pytest.fixture
def waited(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """Numbers of the events that the host has waited for."""
    waited: list[int] = []
    count = iter(range(100))

    def record(device: torch.device, **options: bool) -> Any:
        assert device == GPU
        return Event(next(count), waited)

    monkeypatch.setattr(pace_module, "_record", record)
    return waited


def test_the_host_leads_by_few_steps(waited: list[int]) -> None:
    pace = Pace(GPU, ahead=3)
    for _ in range(3):
        pace.step()
    assert waited == []
    pace.step()
    pace.step()
    assert waited == [0, 1]  # never the newest, which would drain the GPU


def test_marks_are_seconds_of_the_gpu(waited: list[int]) -> None:
    first, second, third = Mark(GPU), Mark(GPU), Mark(GPU)
    assert third.seconds_since(first) == 2.0
    assert second.seconds_since(first) == 1.0
    assert waited == [2, 1]


def test_a_cpu_is_never_waited_for(waited: list[int]) -> None:
    cpu = torch.device("cpu")
    pace = Pace(cpu, ahead=1)
    for _ in range(5):
        pace.step()
    first = Mark(cpu)
    assert Mark(cpu).seconds_since(first) >= 0
    assert waited == []
