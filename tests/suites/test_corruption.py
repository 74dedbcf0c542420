"""No loader's batch may change before a slow caller has read it; and the check notices one."""

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from rendered import make

from bench.gpu import corruption
from bench.gpu.corruption import CONTENDERS, Batch, Difference, find_corrupt, look, sum_up

CPU = torch.device("cpu")
BATCHES, BATCH, SIDE = 9, 4, 20


class Fake:
    """A loader of random batches, which gives them out in some way."""

    def __init__(self, give: Callable[[Iterator[Batch]], Iterator[Batch]]) -> None:
        self._give, self._epoch = give, 0

    def set_epoch(self, epoch: int) -> None:
        self._epoch = epoch

    def __iter__(self) -> Iterator[Batch]:
        return self._give(self._batches())

    def _batches(self) -> Iterator[Batch]:
        drawn = torch.Generator().manual_seed(self._epoch)
        for number in range(BATCHES):
            pixels = torch.randint(0, 256, (BATCH, SIDE, SIDE, 3), generator=drawn).byte()
            yield pixels.permute(0, 3, 1, 2), torch.arange(BATCH) + number


def corrupt(loader: Any, device: torch.device = CPU, *, exact: bool = True) -> list[str]:
    return find_corrupt(look(loader, device), exact=exact)


def find_corrupt_outputs(name: str, data: Path, device: str) -> list[str]:
    """Read each output of a contender slowly; gives those that were others when they were read."""
    found = []
    kind, options, _ = CONTENDERS[name]
    if device == "cpu":
        options = {key: value for key, value in options.items() if key != "store_place"}
    for output in corruption.outputs_of(kind, on_gpu=device != "cpu"):
        dtype = None if output == "uint8" else getattr(torch, output)
        with make(
            kind,
            data / "train.beton",
            device=device,
            dtype=dtype,
            normalize=dtype is not None,
            **options,
        ) as loader:
            passes = corruption.look_at(name, loader, dtype or torch.uint8)
            assert len(loader) * 8 > len(loader.source), "a last batch that is not full"
        wrong = find_corrupt(passes, exact=corruption.is_exact(kind, device))
        found += [f"{output}, {which}" for which in wrong]
    return found


@pytest.mark.parametrize(
    "name", [name for name in CONTENDERS if not any(s in name for s in corruption._OF_A_GPU)]
)
def test_batches_stay_for_a_late_caller(name: str, data: Path) -> None:
    assert find_corrupt_outputs(name, data, "cpu") == []


@pytest.mark.gpu
@pytest.mark.parametrize("name", CONTENDERS)
def test_batches_stay_for_a_slow_gpu(
    name: str, data: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    _, _, decoder = CONTENDERS[name]
    if decoder:
        pytest.importorskip("nvidia.dali", reason="nvidia.dali is not installed")
        from pipelines.loaders.dali_loader import DaliLoader

        options = {**DaliLoader.decode_options, **decoder}
        monkeypatch.setattr(DaliLoader, "decode_options", options)
    assert find_corrupt_outputs(name, data, "cuda") == []


def test_honest_batches_are_not_called_corrupt() -> None:
    assert corrupt(Fake(lambda batches: batches)) == []


def one_buffer(batches: Iterator[Batch]) -> Iterator[Batch]:
    buffer = torch.empty(BATCH, SIDE, SIDE, 3, dtype=torch.uint8).permute(0, 3, 1, 2)
    for images, labels in batches:
        yield buffer.copy_(images), labels


def three_buffers(batches: Iterator[Batch]) -> Iterator[Batch]:
    ring = [torch.empty(BATCH, SIDE, SIDE, 3, dtype=torch.uint8) for _ in range(3)]
    for number, (images, labels) in enumerate(batches):
        yield ring[number % 3].permute(0, 3, 1, 2).copy_(images), labels


def one_buffer_of_labels(batches: Iterator[Batch]) -> Iterator[Batch]:
    buffer = torch.empty(BATCH, dtype=torch.int64)
    for images, labels in batches:
        yield images, buffer.copy_(labels)


def one_line_late(batches: Iterator[Batch]) -> Iterator[Batch]:
    last: torch.Tensor | None = None
    for images, labels in batches:
        if last is not None:
            last[0, :, 0] = images[0, :, 0]
        yield images, labels
        last = images


@pytest.mark.parametrize("give", [one_buffer, three_buffers, one_buffer_of_labels, one_line_late])
def test_reused_memory_is_noticed(give: Any) -> None:
    found = corrupt(Fake(give))
    assert len(found) == 3
    assert all("held" in which for which in found)


@pytest.mark.parametrize("give", [one_buffer, three_buffers, one_buffer_of_labels, one_line_late])
def test_reused_memory_is_noticed_beside_rounding(give: Any) -> None:
    assert len(corrupt(Fake(give), exact=False)) == 3


def test_a_missing_batch_is_noticed() -> None:
    lengths = iter((BATCHES, BATCHES - 1, BATCHES, BATCHES, BATCHES))

    def give(batches: Iterator[Batch]) -> Iterator[Batch]:
        yield from (batch for batch, _ in zip(batches, range(next(lengths)), strict=False))

    found = look(Fake(give), CPU)
    wrong = {which: each.images for which, each in found.items() if each.images}
    assert wrong == {"epoch 0, reading 2, held": BATCHES * BATCH}


@pytest.mark.parametrize(
    ("seen", "of_exact", "of_rounding"),
    [
        (Difference(0, 0, 0.0), False, False),
        (Difference(3, 0, 0.4), True, False),
        (Difference(1, 0, 3.0), True, True),
        (Difference(1, 0, float("nan")), True, True),
        (Difference(0, 1, 0.0), True, True),
    ],
)
def test_only_decoders_may_round(seen: Difference, of_exact: bool, of_rounding: bool) -> None:
    assert bool(find_corrupt({"a": seen}, exact=True)) == of_exact
    assert bool(find_corrupt({"a": seen}, exact=False)) == of_rounding


@pytest.mark.parametrize("dtype", [torch.uint8, torch.float32, torch.bfloat16, torch.float16])
def test_a_checksum_knows_places_and_bits(dtype: torch.dtype) -> None:
    drawn = torch.Generator().manual_seed(0)
    images = torch.randint(0, 256, (2, SIDE, SIDE, 3), generator=drawn).to(dtype)
    images = images.permute(0, 3, 1, 2)
    labels = torch.zeros(2, dtype=torch.int64)
    sums = sum_up(images, labels).images
    moved, changed = images.clone(), images.clone()
    moved[0] = moved[0].roll(1, dims=1)
    changed[1, 2, 7, 11] += 1
    assert (sum_up(moved, labels).images == sums).tolist() == [False, True]
    assert (sum_up(changed, labels).images == sums).tolist() == [True, False]


class OnGpu(Fake):
    """Batches that a stream of their own makes on the GPU, handed over in some way."""

    def __init__(self, *, records: bool, waits: bool, late: bool) -> None:
        super().__init__(self._give_out)
        self._records, self._waits, self._late = records, waits, late
        self._stream = torch.cuda.Stream()

    def _give_out(self, batches: Iterator[Batch]) -> Iterator[Batch]:
        caller = torch.cuda.current_stream()
        for images, labels in batches:
            # A copy from memory that is not pinned would wait for the caller's stream.
            pinned = images.permute(0, 2, 3, 1).contiguous().pin_memory()
            given = labels.pin_memory().to("cuda", non_blocking=True)
            with torch.cuda.stream(self._stream):
                on_gpu = torch.zeros_like(pinned, device="cuda")
                if self._late:
                    corruption.delay(on_gpu.device)
                on_gpu.copy_(pinned, non_blocking=True)
            if self._waits:
                caller.wait_stream(self._stream)
            if self._records:
                on_gpu.record_stream(caller)
            yield on_gpu.permute(0, 3, 1, 2), given
            del on_gpu


@pytest.mark.gpu
def test_memory_handed_over_well_passes() -> None:
    device = torch.device("cuda")
    assert corrupt(OnGpu(records=True, waits=True, late=False), device) == []
    assert corrupt(OnGpu(records=True, waits=True, late=True), device) == []


@pytest.mark.gpu
def test_memory_freed_before_it_is_read_is_noticed() -> None:
    found = corrupt(OnGpu(records=False, waits=True, late=False), torch.device("cuda"))
    assert any("slow" in which for which in found)


@pytest.mark.gpu
def test_memory_read_before_it_is_written_is_noticed() -> None:
    found = corrupt(OnGpu(records=True, waits=False, late=True), torch.device("cuda"))
    assert any("at once" in which for which in found)
