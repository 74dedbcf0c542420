"""A caller's tensors, written in turn: when each may be written again."""

from types import SimpleNamespace
from typing import Any

import pytest
import torch

from pipelines.resident import in_turn
from pipelines.resident.in_turn import InTurn


class Stream:
    """Notes which of the caller's events it waits for."""

    device = torch.device("cuda")

    def __init__(self) -> None:
        self.waited: list[int] = []

    def wait_event(self, event: Any) -> None:
        self.waited.append(event.number)


@pytest.fixture
def recorded(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """Events of the caller's stream, by what he had queued when they were recorded."""
    queued: list[int] = []

    def make_event() -> Any:
        event = SimpleNamespace(number=-1)
        event.record = lambda stream: setattr(event, "number", len(queued))
        return event

    fake = SimpleNamespace(cuda=SimpleNamespace(Event=make_event, current_stream=lambda _: None))
    monkeypatch.setattr(in_turn, "torch", fake)
    return queued


def make_tensors(count: int = 2) -> list[torch.Tensor]:
    return [
        torch.empty(4, 3, 8, 8, dtype=torch.bfloat16).to(memory_format=torch.channels_last)
        for _ in range(count)
    ]


def test_a_tensor_waits_for_its_readers(recorded: list[int]) -> None:
    """The step on the batch before is still queued: rendering goes on beside it."""
    stream, tensors = Stream(), make_tensors()
    turns = InTurn(tensors, stream)
    for batch in range(5):
        taken = turns.take(4, 8, torch.bfloat16)
        assert taken is not None
        assert taken.data_ptr() == tensors[batch % 2].data_ptr()
        recorded.append(batch)  # the caller queues a step on it
    # Batch k is written when the steps on all batches up to k - 2 are done: those are k - 1 steps.
    assert stream.waited == [0, 0, 1, 2, 3]


def test_a_short_batch_passes_no_turn(recorded: list[int]) -> None:
    stream, tensors = Stream(), make_tensors()
    turns = InTurn(tensors, stream)
    counts = (4, 3, 4, 4)
    taken = []
    for batch, count in enumerate(counts):
        taken.append(turns.take(count, 8, torch.bfloat16))
        recorded.append(batch)
    places = [None if each is None else each.data_ptr() for each in taken]
    first, second = (each.data_ptr() for each in tensors)
    assert places == [first, None, second, first]
    assert stream.waited == [0, 1, 2]


@pytest.mark.parametrize(
    ("size", "dtype"), [(9, torch.bfloat16), (8, torch.float32), (8, torch.uint8)]
)
def test_other_batches_are_not_written(size: int, dtype: torch.dtype) -> None:
    assert InTurn(make_tensors(), None).take(4, size, dtype) is None


def test_another_layout_is_not_written() -> None:
    contiguous = [torch.empty(4, 3, 8, 8) for _ in range(2)]
    assert InTurn(contiguous, None).take(4, 8, torch.float32) is None
