"""`--lr-find`: which learning rates a model can take, found by trying rising ones.

Source: Smith, "Cyclical Learning Rates for Training Neural Networks", WACV 2017, section 3.3.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from contextlib import ExitStack
from dataclasses import asdict, replace

import numpy as np
import torch
from rich.console import Console

from fastft.config.checks import plain
from fastft.config.train import TrainConfig
from fastft.experiments.results import AWAY, LrFinding, suggest
from fastft.model.freezing import set_training
from fastft.runs.folder import LR_FIND, write_json
from fastft.system.environment import environment
from fastft.system.progress import image_progress
from fastft.train.distributed import require_alone
from fastft.train.inputs import check_store_file, open_inputs, open_sources, resolve_inputs
from fastft.train.loop import Trainer
from fastft.train.run import build, resolve_form, resolve_rates
from pipelines.errors import DataError, UsageError
from pipelines.loaders import Loader

#: Rates that are tried, and between which bounds: SGD takes higher ones than AdamW.
_STEPS = 100
_BOUNDS = {"sgd": (1e-6, 10.0), "adamw": (1e-7, 1.0)}


def find_lr(config: TrainConfig, console: Console) -> LrFinding:
    """Try rising rates on the training set; writes lr_find.png and lr_find.json to `config.out`.

    Raises:
        As `train.run.train`.
    """
    require_alone("--lr-find")
    check_store_file(config)
    if config.out.exists() and not config.out.is_dir():
        raise UsageError("--out", f"{config.out} is a file", "a folder", "name another")
    sources = open_sources(config)
    low, high = _BOUNDS[config.optimizer]
    built = build(config, sources[0].classes)
    config = resolve_form(replace(config, lr=low), built)
    config = resolve_rates(resolve_inputs(config, sources))
    lrs = np.geomspace(low, high, _STEPS)
    losses: list[float] = []
    assert config.batch_size is not None
    batches = math.ceil(len(sources[0]) / config.batch_size)
    with ExitStack() as stack:
        inputs = stack.enter_context(
            open_inputs(
                config,
                sources,
                preprocessing=built.form.preprocessing,
                epochs=math.ceil(_STEPS / batches),
            )
        )
        update = stack.enter_context(image_progress(console, "trying rates"))
        trainer = Trainer(config, inputs, built, console)
        set_training(built.model, trainer.frozen)
        for lr, (images, labels) in zip(lrs, _endless(inputs.train), strict=False):
            for group in trainer.optimizer.param_groups:
                group["lr"] = lr * group["peak_lr"] / low
            loss, _ = trainer.step(images, labels)
            # Read at once: the search ends with the first loss that runs away.
            losses.append(trainer.loss.per_image(loss.item(), len(labels)))
            update("of the model", len(losses), _STEPS)
            if not math.isfinite(losses[-1]) or losses[-1] > AWAY * min(losses):
                break
    found = suggest(lrs[: len(losses)], np.array(losses), str(config.out))
    try:
        config.out.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        reason = (error.strerror or "cannot be made").lower()
        raise DataError(config.out, reason, "a folder to make") from error
    write_json(
        config.out / f"{LR_FIND}json",
        {"config": plain(config), "environment": environment(), **asdict(found)},
    )
    from fastft.experiments.plots import lr_find_panel  # matplotlib takes 0.7 s
    from fastft.results.plots import save_panels

    save_panels([lr_find_panel(found)], config.out / f"{LR_FIND}png")
    return found


def _endless(loader: Loader) -> Iterator[tuple[torch.Tensor, torch.Tensor]]:
    """Batches of one epoch after the other."""
    epoch = 0
    while True:
        loader.set_epoch(epoch)
        yield from loader
        epoch += 1
