"""The lines that a training begins with: what is about to happen, and what nobody asked for."""

from __future__ import annotations

import torch
from rich.console import Console

from fastft.config.augment import describe
from fastft.config.train import TrainConfig
from fastft.datasets.imbalance import describe_imbalance
from fastft.datasets.large_photos import advise
from fastft.model import timm_models
from fastft.model.built import BuiltModel
from fastft.model.form import describe as describe_form
from fastft.train.inputs import Inputs
from fastft.train.loop import Trainer
from pipelines.preprocessing import IMAGENET


def announce(
    console: Console, config: TrainConfig, inputs: Inputs, built: BuiltModel, trainer: Trainer
) -> None:
    """Say what is about to happen, and all that was not taken from the weights."""
    amp = str(inputs.amp_dtype).removeprefix("torch.") if inputs.amp_dtype else "float32"
    name = "torchvision (stock)" if config.stock else config.loader
    size = f"{config.start_size} to {config.size}" if config.start_size else f"{config.size}"
    world, state = inputs.world, trainer.state
    idle = torch.cuda.device_count() - world.local_size if inputs.device.type == "cuda" else 0
    on = f"{inputs.device.type}" if world.size == 1 else f"{world.size} x {inputs.device.type}"
    lines = [
        f"{len(inputs.train.source):,} training and {len(inputs.evaluation.source):,} evaluation "
        f"images, {trainer.goal.measures.count(inputs.classes)}; {name} loader at {size} px, {on}, "
        f"{amp}; {built.arch}, batch {config.batch_size}, {config.epochs} epochs, "
        f"{config.optimizer}, lr {config.lr:g} (output layer x{config.head_lr_factor:g})"
    ]
    if config.division:
        own = (len(inputs.train.source), len(inputs.evaluation.source))
        lines.append(f"split by {config.division}: {own[1] / sum(own):.1%} are set apart")
    if asked := describe(config.augmentation):
        lines.append(f"augmentation: {asked}")
    form, is_timm = inputs.preprocessing, timm_models.is_timm(built.arch)
    if form != IMAGENET or is_timm:
        lines.append(f"images for {built.arch}: {describe_form(form, config.judged_view)}")
    lines += _describe_groups(config, trainer)
    lines += describe_imbalance(inputs.train, config.class_weight)
    if idle > 0:
        lines.append(f"{idle} more GPUs are here: --nproc gpu takes all of them")
    if state.epoch or state.consumed:
        lines.append(f"continues from the checkpoint {state}")
    if trainer.step.micro_batch:
        lines.append(f"each process takes {trainer.step.micro_batch} images at once")
    if built.left_out:
        lines.append(f"not taken from {config.weights}: {', '.join(built.left_out)}")
    if built.begun:
        lines.append(f"not in {config.weights}, and new: {', '.join(built.begun)}")
    for cls, row in built.reused.items():
        lines.append(f"{cls} begins as output row {row} of {config.weights}")
    if trainer.frozen:
        parameters = list(built.model.parameters())
        learning = sum(p.numel() for p in parameters if p.requires_grad)
        until = f" until epoch {config.unfreeze_epoch}" if config.unfreeze_epoch else ""
        lines.append(
            f"frozen{until}: {config.freeze}; {learning:,} of "
            f"{sum(p.numel() for p in parameters):,} weights learn"
        )
    lines.append(trainer.goal.remark(inputs.train.source))
    lines.append(advise(inputs.train.source, config.size))
    for line in filter(None, lines):
        console.print(line, markup=False)


def _describe_groups(config: TrainConfig, trainer: Trainer) -> list[str]:
    """What decays and what learns slower, where that is not all alike."""
    groups = trainer.optimizer.param_groups
    told = []
    if config.layer_decay != 1:
        rates = [group["peak_lr"] for group in groups]
        told.append(
            f"layer decay {config.layer_decay:g}: rates {min(rates):.3g} to {max(rates):.3g}"
        )
    spared = sum(len(group["params"]) for group in groups if not group["weight_decay"])
    if spared and config.weight_decay:
        told.append(f"no weight decay on {spared} biases, norms and the like")
    if config.clip_grad:
        told.append(f"gradients are clipped to a norm of {config.clip_grad:g}")
    return ["; ".join(told)] if told else []
