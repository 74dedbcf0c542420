"""The cost of augmentation to a loader on this GPU: images/s with it, and with nothing asked.

Whatever is asked has a loader of its own in one process, and they take turns: images/s are a share
of those with nothing asked in the same round. A round is some batches, in which the host waits for
the device nowhere; it does at both ends. After timing, pixels and labels are held against the
definition.
"""

from __future__ import annotations

import math
import time
from collections.abc import Iterator
from contextlib import ExitStack, closing
from functools import partial
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from bench.gpu.changing import ASKED as CHANGED
from bench.gpu.changing import CHECKED, compare
from bench.gpu.fed import Batches, without_end
from bench.gpu.task import Found, Task, answer, wait
from fastft.system.environment import pick_amp
from fastft.system.usage import usage_of
from pipelines.augment import USUAL, Augment
from pipelines.changing.mixing import mix_batch
from pipelines.loaders import make_loader
from pipelines.plan import Plan
from pipelines.preprocessing import STD

#: The loaders that are measured.
VARIANTS = ("resident", "dali")
NOTHING = "nothing asked"
ASKED = {
    NOTHING: USUAL,
    **CHANGED,
    "mixup": Augment(mixup=0.2),
    "cutmix": Augment(cutmix=1.0),
}
#: Batches before the clock starts, and the fewest of a round.
_WARM, _LEAST, _LEAST_REHEARSED = 4, 32, 2
#: Distance that mixed labels may be off.
_LABELS_OFF = 1e-6


def main(arguments: list[str]) -> None:
    """See `task.answer`."""
    answer(measure, arguments)


def measure(task: Task) -> Iterator[Found]:
    """All that is asked of one loader, in turn.

    Returns:
        `batch`, `steps` of a round; `contenders`: of each `rounds` of `img_per_s` and `cores`, and
        at the end, but of nothing asked, `check`, see `check`.
    """
    batch = task.batch
    contenders: dict[str, Any] = {name: {"rounds": []} for name in ASKED}
    found: dict[str, Any] = {"batch": batch, "contenders": contenders}
    with ExitStack() as opened:
        sources = {name: _open(task, augment, opened) for name, augment in ASKED.items()}
        least = _LEAST if task.on_gpu else _LEAST_REHEARSED
        rate = _take_turn(sources[NOTHING], least, task)["img_per_s"]
        found["steps"] = steps = max(least, math.ceil(task.seconds * rate / batch))
        for _ in range(task.rounds):
            for name, batches in sources.items():
                contenders[name]["rounds"].append(_take_turn(batches, steps, task))
                yield found
    for name, result in check(task):
        contenders[name]["check"] = result
        yield found


def _make(task: Task, augment: Augment, data: str, batch: int, **more: Any) -> Any:
    """A loader that says so if its pixels do not fit on the GPU: elsewhere they are slower."""
    if task.variant == "resident" and task.on_gpu:
        more["store_place"] = "gpu"
    return make_loader(
        task.variant,
        data,
        size=task.size,
        batch_size=batch,
        device=task.device,
        workers=task.workers,
        drop_last=True,
        augment=augment,
        **more,
    )


def _open(task: Task, augment: Augment, opened: ExitStack) -> Batches:
    """A loader's endless batches, past its first epoch, in which `resident` decodes."""
    dtype = pick_amp("auto", torch.device(task.device)) if task.on_gpu else None
    made = _make(task, augment, task.many_photos, task.batch, dtype=dtype)
    loader = opened.enter_context(made)
    batches = opened.enter_context(closing(without_end(loader)))
    for _ in islice(batches, len(loader) if task.variant == "resident" else _WARM):
        pass
    return batches


def _take_turn(batches: Batches, steps: int, task: Task) -> dict[str, float]:
    """Read some batches; what was prepared while others had their turn comes before."""
    for _ in islice(batches, _WARM if task.on_gpu else 1):
        pass
    wait(task.device)
    used_s, started = usage_of().cpu_s, time.perf_counter()
    for _ in islice(batches, steps):
        pass
    wait(task.device)
    seconds = time.perf_counter() - started
    used_s = usage_of().cpu_s - used_s
    return {"img_per_s": steps * task.batch / seconds, "cores": used_s / seconds}


def check(task: Task) -> Iterator[tuple[str, dict[str, Any]]]:
    """Hold a batch of each against what the definition makes of the loader's with nothing asked.

    Yields:
        What was asked; of pixels that are changed, see `changing.compare`; of mixes `mean` and
        `most`, levels, `labels`, what they are off at most, and `passed`: within a level.
    """
    first = partial(_first, task)
    pixels, _, _ = first(USUAL, normalize=False)
    images, labels, _ = first(USUAL, dtype=torch.float32)
    for name, augment in ASKED.items():
        if augment.changes_pixels:
            changed, _, plan = first(augment, normalize=False)
            operations = plan.operations(plan.order[: len(changed)])
            assert operations is not None
            yield name, compare(_by_line(pixels), _by_line(changed), operations)
        elif augment.mixes:
            mixed, answers, plan = first(augment, dtype=torch.float32)
            how = plan.mix(0)
            assert how is not None
            wanted, shares = mix_batch(
                images.clone(), labels, how, classes=answers.shape[1], wraps=True
            )
            apart = (mixed - wanted).abs() * 255 * torch.tensor(STD)[:, None, None]
            labels_off = float((answers - shares).abs().max())
            most = float(apart.max())
            yield (
                name,
                {
                    "mean": float(apart.mean()),
                    "most": most,
                    "labels": labels_off,
                    "passed": most <= 1 and labels_off <= _LABELS_OFF,
                },
            )


def _first(task: Task, augment: Augment, **how: Any) -> tuple[torch.Tensor, torch.Tensor, Plan]:
    """The first images, labels, and the plan of a loader, in host memory."""
    data = str(Path(task.data) / "train.beton")
    batch = CHECKED if task.on_gpu else min(task.trained)
    with _make(task, augment, data, batch, **how) as loader:
        images, labels = next(iter(loader))
        return images.clone().cpu(), labels.clone().cpu(), loader.plan


def _by_line(images: torch.Tensor) -> NDArray[np.uint8]:
    """uint8[B, S, S, 3] of [B, 3, S, S]."""
    return np.ascontiguousarray(images.permute(0, 2, 3, 1).numpy())
