"""Training steps of small networks, in one process or several, for tests."""

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import nn
from torch.nn.parallel import DistributedDataParallel
from torchvision.models.shufflenetv2 import ShuffleNetV2

from fastft.model.loss import Loss
from fastft.train.distributed import ALONE, World
from fastft.train.step import TrainStep
from fastft.train.step_graph import Captured

CPU = torch.device("cpu")
#: Images of each global batch: equal shares for 2 and 4 processes, unequal ones, empty ones.
COUNTS = (8, 7, 1, 5, 8)
WEIGHTS = torch.tensor([1.0, 0.5, 6.0])
LOSSES: dict[str, dict[str, Any]] = {
    "mean": {},
    "sum": {"reduction": "sum", "class_weights": WEIGHTS, "label_smoothing": 0.1},
    "weighed mean": {"class_weights": WEIGHTS, "label_smoothing": 0.1},
}

Batch = tuple[torch.Tensor, torch.Tensor]


class Recorder:
    """Stands in for a GPU: nothing runs when it is captured, all of it when it is replayed."""

    def __init__(self) -> None:
        self.captured = self.replayed = 0
        self.pools: list[Any] = []

    def __call__(
        self, work: Callable[[], tuple[torch.Tensor, torch.Tensor]], pool: Any
    ) -> Captured:
        self.captured += 1
        self.pools.append(pool)
        loss, right = torch.zeros(()), torch.zeros((), dtype=torch.int64)

        def replay() -> None:
            self.replayed += 1
            for own, found in zip((loss, right), work(), strict=True):
                own.copy_(found)

        return Captured(replay, loss, right, f"pool {self.captured}")


def make_small(*, batch_norm: bool = False) -> nn.Module:
    torch.manual_seed(1)
    return nn.Sequential(
        nn.Conv2d(3, 8, 3, stride=2),
        nn.BatchNorm2d(8) if batch_norm else nn.ReLU(),
        nn.Conv2d(8, 8, 3, bias=False),
        nn.AdaptiveAvgPool2d(1),
        nn.Flatten(),
        nn.Linear(8, 3),
    ).to(memory_format=torch.channels_last)


def make_deep() -> nn.Module:
    """A ShuffleNet of one unit where it has four or eight alike: 14 layers of batch norm."""
    torch.manual_seed(2)
    network = ShuffleNetV2([1, 1, 1], [24, 48, 96, 192, 1024], num_classes=3)
    return network.to(memory_format=torch.channels_last).train()


def make_batches(counts: tuple[int, ...] = COUNTS, size: int = 16) -> list[Batch]:
    generator = torch.Generator().manual_seed(3)
    return [
        (
            torch.randn(count, 3, size, size, generator=generator).to(
                memory_format=torch.channels_last
            ),
            torch.randint(3, (count,), generator=generator),
        )
        for count in counts
    ]


def share_of(batch: Batch, world: World) -> Batch:
    images, labels = (each.tensor_split(world.size)[world.rank] for each in batch)
    return images, labels


def make_step(model: nn.Module, world: World = ALONE, loss: str = "mean", **options: Any) -> Any:
    """A step of plain SGD with momentum; in several processes the model in DDP as it trains."""
    lr = 0.001 if loss == "sum" else 0.01
    optimizer = torch.optim.SGD(model.parameters(), lr=lr, momentum=0.9)
    if world.size > 1:
        model = DistributedDataParallel(
            model, broadcast_buffers=False, gradient_as_bucket_view=True
        )
    all_options = {"device": CPU, "amp_dtype": None, "world": world, **options}
    return TrainStep(model, optimizer, Loss(**LOSSES[loss]), **all_options)


def learn(model: nn.Module, step: TrainStep, batches: list[Batch], world: World) -> dict[str, Any]:
    """Take all steps; gives the state after each, and what the steps returned."""
    states, values = [], []
    for batch in batches:
        loss, right = step(*share_of(batch, world), len(batch[1]))
        values.append((loss.item(), right.item()))
        states.append({name: tensor.clone() for name, tensor in model.state_dict().items()})
    return {"states": states, "values": values}


def run_small(world: World, loss: str, micro_batch: int, **options: Any) -> dict[str, Any]:
    model = make_small()
    step = make_step(model, world, loss, micro_batch=micro_batch, **options)
    return learn(model, step, make_batches(), world)


def is_same(found: dict[str, torch.Tensor], wanted: dict[str, torch.Tensor], error: float) -> None:
    assert list(found) == list(wanted)
    for name, tensor in found.items():
        torch.testing.assert_close(tensor, wanted[name], rtol=error, atol=error, msg=name)


def compare(found: list[dict[str, Any]], wanted: dict[str, Any], error: float) -> None:
    """The processes' weights with one process's, after each step, and the sums of what they say."""
    for index, state in enumerate(wanted["states"]):
        is_same(found[0]["states"][index], state, error)
        for rank in found:
            for name, tensor in rank["states"][index].items():
                assert torch.equal(tensor, found[0]["states"][index][name])
        losses, rights = zip(*(rank["values"][index] for rank in found), strict=True)
        assert sum(losses) == pytest.approx(wanted["values"][index][0], rel=max(error, 1e-6))
        assert sum(rights) == wanted["values"][index][1]
