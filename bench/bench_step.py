"""One training step of ResNet-18, and how much of its speed is left when a loader feeds it.

The step as `fastft train` builds it (channels_last, autocast where the processor computes in
bfloat16) against the tutorial's plain one (contiguous float32), on the same weights, optimizer and
batch. Then training on each loader's batches against the same steps on a batch that is already
there: the share of the compute bound that is reached. On a CPU loader and model share the cores,
so what decoding costs is lost to the model, waited for or not.
"""

from __future__ import annotations

import copy
import statistics
import time
from collections.abc import Callable, Iterator
from contextlib import closing
from itertools import count, islice
from pathlib import Path

import pytest
import torch
from pytest_benchmark.fixture import BenchmarkFixture

from bench.conftest import CLASSES, Contender, Duel, Photos, Tables
from fastft.model.classifier import build_model
from fastft.model.loss import Loss
from fastft.model.optim import make_optimizer
from fastft.runs.metrics import Waits
from fastft.system.environment import pick_amp
from fastft.train.step import TrainStep
from pipelines.conversion.run import ConvertConfig, convert
from pipelines.errors import UsageError
from pipelines.loaders import LOADERS, Loader, make_loader

#: What a CPU does in two or three seconds.
BATCH, SIZE, STEPS = 16, 224, 8
#: Of a smoke run.
SMALL_BATCH, SMALL_SIZE, SMALL_STEPS = 2, 64, 3
#: Before the clock starts: more batches than a loader has prefetched (2 for each of 2 workers).
WARM_STEPS = 5
#: Pairs: a round takes seconds.
MOST_ROUNDS = 3
LR = 0.001
#: Losses of one step from the same weights, in bfloat16 and in float32: 8 bits of mantissa.
LOOSELY = 0.03

Batch = tuple[torch.Tensor, torch.Tensor]


@pytest.fixture(scope="module")
def rounds(rounds: int) -> int:
    return min(rounds, MOST_ROUNDS)


class Training:
    """A model, and a step that learns from a batch.

    Attributes:
        batch: one that is already there.
        steps: of a round.
        losses: of each step so far.
    """

    def __init__(self, small: bool, plain: bool = False) -> None:
        batch, self.size = (SMALL_BATCH, SMALL_SIZE) if small else (BATCH, SIZE)
        self.steps = SMALL_STEPS if small else STEPS
        random = torch.Generator().manual_seed(0)
        images = torch.randn(batch, 3, self.size, self.size, generator=random)
        labels = torch.randint(CLASSES, (batch,), generator=random)
        self.losses: list[torch.Tensor] = []
        self._step, layout = plain_step() if plain else our_step()
        self.batch: Batch = images.to(memory_format=layout), labels

    def learn(self, batch: Batch) -> int:
        """One step; returns its images."""
        self.losses.append(self._step(*batch))
        return len(batch[1])

    def run(self) -> int:
        """A round on the batch that is there; returns its images."""
        return sum(self.learn(self.batch) for _ in range(self.steps))


def our_step() -> tuple[Callable[..., torch.Tensor], torch.memory_format]:
    """As `train.loop` puts it together."""
    device = torch.device("cpu")
    built = build_model(CLASSES, "none", seed=0)
    optimizer = make_optimizer(
        built.model, built.head, lr=LR, head_lr_factor=1, momentum=0.9, weight_decay=0.001
    )
    step = TrainStep(
        built.model.train(), optimizer, Loss(), device=device, amp_dtype=pick_amp("auto", device)
    )
    return lambda images, labels: step(images, labels)[0], torch.channels_last


def plain_step() -> tuple[Callable[..., torch.Tensor], torch.memory_format]:
    """Source: torchvision's transfer learning tutorial, and "Dive into Deep Learning", 14.2."""
    model = copy.deepcopy(build_model(CLASSES, "none", seed=0).model).train()
    model = model.to(memory_format=torch.contiguous_format)
    criterion = torch.nn.CrossEntropyLoss()
    optimizer = torch.optim.SGD(model.parameters(), lr=LR, momentum=0.9, weight_decay=0.001)

    def step(images: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
        optimizer.zero_grad()
        loss = criterion(model(images), labels)
        loss.backward()
        optimizer.step()
        return loss.detach()

    return step, torch.contiguous_format


@pytest.mark.benchmark(group="training step, ResNet-18")
def test_step(rounds: int, duel: Duel, benchmark: BenchmarkFixture) -> None:
    ours, plain = Training(rounds == 1), Training(rounds == 1, plain=True)
    duel(Contender("fastft step", ours.run), Contender("plain float32 step", plain.run))
    benchmark.extra_info.update(batch=len(ours.batch[1]), size=ours.size)
    torch.testing.assert_close(
        ours.losses[0], plain.losses[0], rtol=LOOSELY, atol=LOOSELY, check_dtype=False
    )


class Fed:
    """Training on a loader's batches, epoch after epoch.

    Attributes:
        wait_shares: how much of each round's time was spent waiting for batches.
    """

    def __init__(self, training: Training, loader: Loader) -> None:
        self._training, self._waits = training, Waits()
        self.batches = self._waits.over(self._without_end(loader))
        self.wait_shares: list[float] = []
        # `resident` decodes in its first two epochs alone, which are no part of what is measured.
        for _ in islice(self.batches, 2 * len(loader)):
            pass

    def prepare(self) -> None:
        for batch in islice(self.batches, WARM_STEPS):
            self._training.learn(batch)

    def run(self) -> int:
        """A round; returns its images."""
        images, waited_s, started = 0, 0.0, time.perf_counter()
        for batch in islice(self.batches, self._training.steps):
            waited_s += self._waits.last_s
            images += self._training.learn(batch)
        self.wait_shares.append(waited_s / (time.perf_counter() - started))
        return images

    @staticmethod
    def _without_end(loader: Loader) -> Iterator[Batch]:
        for epoch in count():
            loader.set_epoch(epoch)
            yield from loader


@pytest.fixture(scope="module")
def data(photos: Photos, workspace: Path) -> Path:
    out = workspace / "step.beton"
    convert(ConvertConfig(src=photos.root, out=out, verify=False))
    return out


@pytest.mark.benchmark(group="training step when fed: share of the compute bound")
@pytest.mark.parametrize("name", [name for name in LOADERS if name != "stock"])
def test_fed(
    name: str,
    data: Path,
    cores: int,
    rounds: int,
    duel: Duel,
    benchmark: BenchmarkFixture,
    tables: Tables,
) -> None:
    training = Training(rounds == 1)
    try:
        loader = make_loader(
            name,
            data,
            batch_size=len(training.batch[1]),
            size=training.size,
            workers=cores,
            drop_last=True,
        )
    except UsageError as error:
        pytest.skip(str(error))
    with loader:
        fed = Fed(training, loader)
        with closing(fed.batches):
            duel(
                Contender(f"fed by fastft {name}", fed.run, fed.prepare),
                Contender("the step alone", training.run),
            )
    assert torch.isfinite(torch.stack(training.losses)).all()
    if benchmark.disabled:
        return
    info, wait_share = benchmark.extra_info, statistics.median(fed.wait_shares[1:])
    info.update(wait_share=round(wait_share, 4))
    head = ["", "share of the compute bound", "of pairs", "waiting for input"]
    table = tables.setdefault(f"training fed, batches of {len(training.batch[1])}", [head])
    low, high = info["ratio_range"]
    table.append([name, f"{info['ratio']:.0%}", f"{low:.0%} - {high:.0%}", f"{wait_share:.0%}"])
