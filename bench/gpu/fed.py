"""Share of the compute bound that training through each loader reaches; waits for input.

The bound is a step on a batch that is there already. It and every loader take turns in one process,
so that the card's clock and heat are the same for all: a loader's share is its rate by the bound's
of the same round. A round is some steps, in which the host waits for the device nowhere; it does at
both ends. What a loader has prepared while others had their turn is taken before the clock starts.
"""

from __future__ import annotations

import math
import tempfile
import time
from collections.abc import Callable, Generator, Iterator, Sequence
from contextlib import ExitStack, closing
from itertools import count, islice, repeat
from pathlib import Path
from typing import Any

import torch
from rich.console import Console

from bench.gpu.clocks import Clocks
from bench.gpu.pixels import set_dali_options
from bench.gpu.steps import make_batch, make_step
from bench.gpu.task import Found, Task, answer, per_second, wait
from fastft.config.train import TrainConfig
from fastft.runs.metrics import Waits
from fastft.system.environment import pick_amp
from fastft.train.run import train
from pipelines.atomic import unguessable
from pipelines.errors import FastftError
from pipelines.loaders import Loader, make_loader

#: Variant -> which of the sizes that are learnt from.
SIZES: dict[str, Callable[[Sequence[int]], int]] = {"large batch": max, "small batch": min}
VARIANTS = tuple(SIZES)
BOUND = "bound"
#: A loader may be asked for with a setting of DALI's decoder: `dali hw 0.9`.
HW = " hw "
LOADERS = ("resident", "dali", "ffcv")
#: The loader of the whole training, and its epochs, of which the first is not counted.
TRAINER, _EPOCHS = "resident", 3
#: Steps before the clock starts, and the fewest of a round.
_WARM, _LEAST, _LEAST_REHEARSED = 4, 32, 3

Batches = Iterator[tuple[torch.Tensor, torch.Tensor]]


def main(arguments: list[str]) -> None:
    """See `task.answer`."""
    answer(measure, arguments)


def measure(task: Task) -> Iterator[Found]:
    """All contenders in turn at the batch size that the variant names, then a whole training.

    Returns:
        `batch`, `steps` of a round; `contenders`: of each, by round, `img_per_s`, `waited_s` and
        `seconds`; of loaders `first_batch_s`; `trainer`: see `train_through`; `clocks`.
    """
    batch = SIZES[task.variant](task.trained)
    dtype = pick_amp("auto", torch.device(task.device))
    given = dtype if task.on_gpu else None
    step = make_step(task, dtype)
    ready = make_batch(task, batch, given)
    rate = per_second(lambda: step(*ready), task, at_once=_LEAST)
    steps = max(_LEAST if task.on_gpu else _LEAST_REHEARSED, math.ceil(task.seconds * rate))
    contenders: dict[str, Any] = {BOUND: {"rounds": []}}
    found: dict[str, Any] = {"batch": batch, "steps": steps, "contenders": contenders}
    with ExitStack() as opened, Clocks() as clocks:
        sources: dict[str, Batches] = {BOUND: repeat(ready)}
        for name in LOADERS:
            contenders[name] = {"rounds": []}
            try:
                sources[name], first_s = _open(name, task, batch, given, step, opened)
                contenders[name]["first_batch_s"] = first_s
            except FastftError as error:  # a library that is not here
                contenders[name]["missing"] = str(error)
        for _ in range(task.rounds):
            for name, batches in sources.items():
                contenders[name]["rounds"].append(_take_turn(step, batches, steps, task, batch))
                yield {**found, "clocks": clocks.found}
        found["clocks"] = clocks.found
    found["trainer"] = train_through(TRAINER, task, batch)
    yield found


def _open(
    name: str,
    task: Task,
    batch: int,
    dtype: torch.dtype | None,
    step: Callable[..., object],
    opened: ExitStack,
) -> tuple[Batches, float]:
    """A loader's endless batches, past its first epoch, in which `resident` decodes."""
    kind, _, load = name.partition(HW)
    if load and task.on_gpu:
        set_dali_options(hw_decoder_load=float(load))
    started = time.perf_counter()
    loader = opened.enter_context(
        make_loader(
            kind,
            task.many_photos,
            size=task.size,
            batch_size=batch,
            device=task.device,
            dtype=dtype,
            workers=task.workers,
            drop_last=True,
        )
    )
    batches = opened.enter_context(closing(without_end(loader)))
    step(*next(batches))
    wait(task.device)
    first_s = time.perf_counter() - started
    rest = len(loader) if kind == "resident" else _WARM
    for _ in islice(batches, rest):
        pass
    return batches, first_s


def _take_turn(
    step: Callable[..., object], batches: Batches, steps: int, task: Task, batch: int
) -> dict[str, float]:
    """Some steps without a wait for the device."""
    for images, labels in islice(batches, _WARM if task.on_gpu else 1):
        step(images, labels)
    wait(task.device)
    waits, waited_s, started = Waits(), 0.0, time.perf_counter()
    for images, labels in waits.over(islice(batches, steps)):
        waited_s += waits.last_s
        step(images, labels)
    wait(task.device)
    seconds = time.perf_counter() - started
    return {"img_per_s": steps * batch / seconds, "waited_s": waited_s, "seconds": seconds}


def train_through(name: str, task: Task, batch: int) -> dict[str, Any]:
    """A whole `fastft train` here, as its loop, evaluation and checkpoints are part of it.

    Returns:
        `loader`, and of each epoch after the first `img_per_s` and `waited_s`; `settings` that a
        step's speed depends on.
    """
    with tempfile.TemporaryDirectory(prefix=unguessable("fastft-")) as folder:
        config = TrainConfig(
            data=Path(task.many),
            out=Path(folder) / "run",
            weights="none",
            loader=name,
            epochs=_EPOCHS,
            batch_size=batch,
            size=task.size,
            device=task.device,
            workers=task.workers,
        )
        rows = train(config, Console(quiet=True)).epochs[1:]
    return {
        "loader": name,
        "img_per_s": [row.img_per_s for row in rows],
        "waited_s": [row.wait_s for row in rows],
        "train_s": [row.train_s for row in rows],
        "settings": {"amp": config.amp, "compile": getattr(config, "compile", None)},
    }


def without_end(loader: Loader) -> Generator[tuple[torch.Tensor, torch.Tensor], None, None]:
    """Epoch after epoch."""
    for epoch in count():
        loader.set_epoch(epoch)
        yield from loader
