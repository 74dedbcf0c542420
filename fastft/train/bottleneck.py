"""The bottleneck of a run: what its loader and its model could do alone, and which of them binds.

Both are tried when the run is over, on its own loader, model and batch size: for as long as it
takes to tell, and at most a twentieth of what the run took.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

import torch

from fastft.runs.metrics import EpochMetrics
from fastft.train.distributed import ALONE, World
from pipelines.loaders import Loader
from pipelines.memory import free_memory
from pipelines.resident.store import StoreFormat, lay_out

#: Seconds for each trial: this share of the run's time, within these.
_SHARE, _LEAST_S, _MOST_S = 0.025, 0.25, 2.0
#: Input that costs less than this share of the time binds nothing.
_BOUND = 0.1


@dataclass(frozen=True, slots=True)
class Bottleneck:
    """Shares of the time of training steps.

    Attributes:
        img_per_s: what the run did.
        wait_share: share of its steps' time spent waiting for input.
        loader_img_per_s, model_img_per_s: what either could do alone.
        shares_cores: whether both work on the same CPUs.
        advice: what to try, if input binds; may be empty.
    """

    img_per_s: float
    wait_share: float
    loader_img_per_s: float
    model_img_per_s: float
    shares_cores: bool
    advice: str = ""

    @property
    def input_share(self) -> float:
        """Share of the time that input costs: waiting for it, or cores that the model then lacks.

        On the same CPUs an image takes both times one after the other; on a GPU, the longer one.
        """
        loader, model = self.loader_img_per_s, self.model_img_per_s
        cost = model / (loader + model) if self.shares_cores else 1 - loader / model
        return max(cost, self.wait_share, 0.0)

    @property
    def is_input_bound(self) -> bool:
        """Whether a faster loader would pay."""
        return self.input_share >= _BOUND

    def __str__(self) -> str:
        """Two lines: the figures, and the verdict."""
        figures = (
            f"{self.img_per_s:,.0f} images/s, {self.wait_share:.0%} of step time waiting for input"
        )
        alone = f"loader {self.loader_img_per_s:,.0f}, model {self.model_img_per_s:,.0f} images/s"
        if self.is_input_bound:
            advice = f"; {self.advice}" if self.advice else ""
            return f"{figures}\ninput-bound {self.input_share:.0%}: {alone}{advice}"
        return (
            f"{figures}\nmodel-bound: {alone}; a loader that costs nothing would save "
            f"{self.input_share:.0%} of the time"
        )


def find_bottleneck(
    epochs: Sequence[EpochMetrics],
    loader: Loader,
    step: Callable[[torch.Tensor, torch.Tensor], object],
    *,
    loader_name: str,
    world: World = ALONE,
) -> Bottleneck:
    """Try loader and model alone. The model learns from it: its weights must have been saved.

    Args:
        epochs: the run's; the first, which pays for starting up, counts only if it is the only one.
        loader: the training loader.
        step: one training step.
        loader_name: as `make_loader` knows it.
        world: the processes that train together; the first one's figures, times their number.
    """
    counted = list(epochs[1:] or epochs)
    train_s = sum(row.train_s for row in counted)
    images = sum(row.img_per_s * row.train_s for row in counted)
    budget_s = min(_MOST_S, max(_LEAST_S, _SHARE * sum(row.train_s for row in epochs)))
    loader.set_epoch(epochs[-1].epoch + 1)
    loader_rate, batch = _try_loader(loader, budget_s)
    return Bottleneck(
        img_per_s=images / train_s,
        wait_share=sum(row.wait_s for row in counted) / train_s,
        loader_img_per_s=loader_rate * world.size,
        model_img_per_s=_try_model(step, batch, budget_s, images / train_s, world) * world.size,
        shares_cores=loader.device.type == "cpu",
        advice=_advice(loader, loader_name),
    )


def _try_loader(loader: Loader, budget_s: float) -> tuple[float, tuple[torch.Tensor, torch.Tensor]]:
    """Images per second, the start of the epoch not counted, and a full batch."""
    batches: Iterator[tuple[torch.Tensor, torch.Tensor]] = iter(loader)
    started = time.perf_counter()
    first = next(batches)
    _wait_for(first[0].device)
    first_s = time.perf_counter() - started
    images, started = 0, time.perf_counter()
    for _, labels in batches:
        images += len(labels)
        if time.perf_counter() - started >= budget_s:
            break
    _wait_for(first[0].device)
    elapsed = time.perf_counter() - started
    # An epoch of a single batch says only how long that one takes.
    return (images / elapsed if images else len(first[1]) / first_s), first


def _try_model(
    step: Callable[[torch.Tensor, torch.Tensor], object],
    batch: tuple[torch.Tensor, torch.Tensor],
    budget_s: float,
    img_per_s: float,
    world: World,
) -> float:
    """Images per second of this process; as many steps as `budget_s` holds at the run's pace.

    The device is waited for before and after them, and between them not: so do steps follow each
    other in a run.
    """
    images, labels = batch
    step(images, labels)
    _wait_for(images.device)
    # A step is taken by all processes or by none: the first one's figures count.
    expected_s = max(1, len(labels)) * world.size / img_per_s
    steps = int(world.gather([max(1.0, budget_s // expected_s)])[0][0])
    started = time.perf_counter()
    for _ in range(steps):
        step(images, labels)
    _wait_for(images.device)
    return steps * len(labels) / (time.perf_counter() - started)


def _wait_for(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize(device)


def _advice(loader: Loader, name: str) -> str:
    source = loader.source
    if name != "resident":
        if lay_out(source, StoreFormat()).total < free_memory().bytes:
            return "try --loader resident"
        return "try --loader resident --store yuv420, or --store-side"
    if int(source.widths.min()) > 2 * loader.size and int(source.heights.min()) > 2 * loader.size:
        return f"try --store-side {int(loader.size * 256 / 224)}"
    return "it is the fastest loader here; take more --workers if there are CPUs"
