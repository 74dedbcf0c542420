"""Where pixels go: the arithmetic, and that all ranks come to the same end."""

from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from stores import layout_of

from pipelines.errors import UsageError
from pipelines.formats.source import open_source
from pipelines.memory import FreeMemory
from pipelines.resident import placement
from pipelines.resident.placement import GpuRoom, Place, choose_place, gpu_room, require_room
from pipelines.resident.store import StoreFormat, lay_out

GPU = torch.device("cuda", 0)
LAYOUT = layout_of()
Choose = Callable[..., Place]


@pytest.fixture
def free(monkeypatch: pytest.MonkeyPatch) -> Callable[[int], None]:
    """Sets how many bytes of every GPU are free beside what training is left."""

    def set_free(for_pixels: int) -> None:
        room = GpuRoom(for_pixels + 1000, 1000)
        monkeypatch.setattr(placement, "gpu_room", lambda device, *, batch, size: room)

    return set_free


def choose(place: str = "auto", **options: object) -> Place:
    return choose_place(LAYOUT, place, GPU, batch=8, size=64, **options)  # type: ignore[arg-type]


def test_a_gpus_room_is_what_training_leaves(monkeypatch: pytest.MonkeyPatch) -> None:
    for name, value in (
        ("mem_get_info", (10 << 30, 80 << 30)),
        ("memory_reserved", 3 << 30),  # of which torch uses 1 GiB
        ("memory_allocated", 1 << 30),
    ):
        monkeypatch.setattr(torch.cuda, name, lambda device, value=value: value)
    room = gpu_room(GPU, batch=64, size=448)
    assert room.free == 12 << 30
    assert room.reserve == (2 << 30) + 4 * 64 * (32 << 20)
    assert room.for_pixels == (12 << 30) - (10 << 30)
    assert gpu_room(GPU, batch=128, size=448).for_pixels == 0


def test_pixels_fit_a_gpu_to_the_byte(free: Callable[[int], None]) -> None:
    free(LAYOUT.total)
    assert choose() == choose("gpu") == Place(on_gpu=True)
    assert choose("ram") == Place(on_gpu=False)
    free(LAYOUT.total - 1)
    assert choose() == Place(on_gpu=False, gpu_bytes=LAYOUT.total - 1)
    with pytest.raises(UsageError, match="take ram, or a smaller store"):
        choose("gpu")


def test_all_ranks_take_the_same_place(free: Callable[[int], None]) -> None:
    """Each asks for the least of what all have told."""
    rooms = [LAYOUT.total + 5, LAYOUT.total - 7, LAYOUT.total + 9]
    told: list[float] = []
    for room in rooms:
        free(room)
        choose(least=lambda spare: told.append(spare) or spare)
    assert told == [5, -7, 9]
    places = []
    for room in rooms:
        free(room)
        places.append(choose(least=lambda spare: min(told)))
    assert places == [Place(on_gpu=False, gpu_bytes=LAYOUT.total - 7)] * 3
    free(LAYOUT.total)
    assert choose(least=lambda spare: min(spare, 5)) == Place(on_gpu=True)


def test_single_ranks_ask_nobody(free: Callable[[int], None]) -> None:
    def fail(spare: float) -> float:
        raise AssertionError("asked")

    free(LAYOUT.total)
    assert choose("gpu", least=fail).on_gpu
    assert not choose("ram", least=fail).on_gpu
    cpu = torch.device("cpu")
    assert not choose_place(LAYOUT, "auto", cpu, batch=8, size=64, least=fail).on_gpu


def test_sets_for_all_gpus_together_are_refused(data: Path) -> None:
    source = open_source(data / "train.beton")
    layout = lay_out(source, StoreFormat())
    memory = FreeMemory(0, "of this machine")

    def refuse(gpu_bytes: int | None, gpus: int) -> str:
        with pytest.raises(UsageError) as caught:
            require_room(
                source,
                layout,
                layout.total,
                promised=0,
                batches=0,
                gpu_bytes=gpu_bytes,
                gpus=gpus,
                free=memory,
            )
        return str(caught.value)

    half = -(-layout.total // 2)
    assert refuse(half, 2).endswith(
        "that are free, or 0.00 GB of pixels on each GPU; 2 x 0.00 GB on all GPUs together would "
        "hold them, but each shows photos of the whole set: take --loader ffcv"
    )
    assert refuse(half - 1, 2).endswith("or 0.00 GB of pixels on each GPU; take --loader ffcv")
    assert refuse(half, 1).endswith("or 0.00 GB of pixels on the GPU; take --loader ffcv")
    assert refuse(None, 2).endswith("that are free; take --loader ffcv")
