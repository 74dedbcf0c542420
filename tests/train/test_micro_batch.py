from typing import Any

import pytest
import torch
from torch import nn

from fastft.model.loss import Loss
from fastft.train.micro_batch import find_micro_batch, halve_until_it_fits, rehearse
from pipelines.errors import UsageError

CPU = torch.device("cpu")


class Hungry(nn.Module):
    """Has room for so many images."""

    def __init__(self, room: int) -> None:
        super().__init__()
        self.room, self.seen = room, list[tuple[int, bool]]()
        self.body = nn.Sequential(
            nn.Conv2d(3, 4, 3),
            nn.BatchNorm2d(4),
            nn.Dropout(0.5),
            nn.AdaptiveAvgPool2d(1),
            nn.Flatten(),
            nn.Linear(4, 2),
        )

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        assert images.is_contiguous(memory_format=torch.channels_last)
        assert self.training
        has_gradients = self.body[0].weight.grad is not None
        self.seen.append((len(images), has_gradients))
        logits: torch.Tensor = self.body(images)
        if len(images) > self.room:
            raise torch.OutOfMemoryError("CUDA out of memory")
        return logits


def find(model: nn.Module, share: int, **options: Any) -> int | None:
    all_options: dict[str, Any] = {
        "size": 8,
        "classes": 2,
        "device": CPU,
        "amp_dtype": None,
        **options,
    }
    return halve_until_it_fits(
        share,
        lambda images, pieces: rehearse(model, Loss(), images=images, pieces=pieces, **all_options),
    )


@pytest.mark.parametrize(
    ("room", "share", "found", "tried"),
    [
        (16, 16, 16, [16]),
        (15, 16, 8, [16, 8]),
        (3, 17, 3, [17, 9, 5, 3]),
        (1, 4, 1, [4, 2, 1]),
        (0, 4, None, [4, 2, 1]),
        (0, 1, None, [1]),
    ],
)
def test_halves_are_tried(room: int, share: int, found: int | None, tried: list[int]) -> None:
    model = Hungry(room).eval()
    assert find(model, share) == found
    assert [images for images, has_gradients in model.seen if not has_gradients] == tried
    # What will be a piece has to fit beside the gradients of the piece before it.
    beside = [images for images, has_gradients in model.seen if has_gradients]
    assert beside == ([] if found in (None, share) else [found])


def test_other_errors_are_no_lack_of_room() -> None:
    with pytest.raises(RuntimeError, match="channels"):
        find(nn.Conv2d(4, 4, 3), 2)


@pytest.mark.parametrize("room", [2, 0])
def test_no_trace_is_left(room: int) -> None:
    model = Hungry(room)
    model.body[1].eval()
    model.body[0].requires_grad_(False)
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    torch.manual_seed(3)
    state = torch.get_rng_state()
    modes = [module.training for module in model.modules()]
    find(model, 4, amp_dtype=torch.bfloat16)
    assert len(model.seen) >= 3
    assert torch.get_rng_state().equal(state)
    assert all(tensor.equal(before[name]) for name, tensor in model.state_dict().items())
    assert all(parameter.grad is None for parameter in model.parameters())
    assert [module.training for module in model.modules()] == modes
    assert [p.requires_grad for p in model.body[0].parameters()] == [False, False]


def test_a_cpu_is_not_asked() -> None:
    model = Hungry(0)
    options: dict[str, Any] = {"share": 8, "size": 8, "classes": 2, "amp_dtype": None}
    assert find_micro_batch(model, Loss(), device=CPU, **options) == 0
    assert model.seen == []


@pytest.mark.parametrize(("room", "found"), [(8, 0), (7, 4), (1, 1), (0, None)])
def test_a_gpu_is_asked(room: int, found: int | None, monkeypatch: pytest.MonkeyPatch) -> None:
    """All but the GPU: what would run on it runs here."""

    def rehearse_here(*arguments: Any, device: torch.device, **options: Any) -> None:
        assert device.type == "cuda"
        rehearse(*arguments, device=CPU, **options)

    monkeypatch.setattr("fastft.train.micro_batch.rehearse", rehearse_here)
    monkeypatch.setattr("torch.cuda.mem_get_info", lambda _: (1_240_000_000, 80_000_000_000))
    options: dict[str, Any] = {"share": 8, "size": 8, "classes": 2, "amp_dtype": None}
    gpu = torch.device("cuda", 1)
    if found is not None:
        assert find_micro_batch(Hungry(room), Loss(), device=gpu, **options) == found
        return
    with pytest.raises(UsageError) as caught:
        find_micro_batch(Hungry(room), Loss(), device=gpu, **options)
    assert str(caught.value) == (
        "cuda:1 memory: 1.2 of 80.0 GB are free, expected room to train on one image of 8 px; "
        "lower --size or take a smaller --arch"
    )


@pytest.mark.gpu
def test_a_gpu_that_is_full() -> None:
    device = torch.device("cuda", 0)
    model = Hungry(1 << 30).to(device, memory_format=torch.channels_last)
    options: dict[str, Any] = {"size": 224, "classes": 2, "amp_dtype": None}
    state = torch.cuda.get_rng_state(device)
    assert find_micro_batch(model, Loss(), share=4, device=device, **options) == 0
    free, _ = torch.cuda.mem_get_info(device)
    # A share whose images alone take all of it.
    share = free // (3 * 224 * 224 * 4)
    found = find_micro_batch(model, Loss(), share=share, device=device, **options)
    assert 0 < found < share
    assert torch.cuda.get_rng_state(device).equal(state)
    assert torch.cuda.memory_allocated(device) < 1 << 24
