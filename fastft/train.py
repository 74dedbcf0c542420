"""Training: the loop, what it measures, what it leaves in the run folder."""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

import torch
from rich.console import Console

from fastft.bottleneck import Bottleneck, find_bottleneck
from fastft.checkpoint import Checkpoint, save_checkpoint
from fastft.environment import environment, pick_amp, pick_device
from fastft.evaluate import evaluate
from fastft.inputs import Inputs, check_store_file, open_inputs, open_sources, resolve_inputs
from fastft.loss import Loss, class_weights
from fastft.metrics import EpochMetrics, MetricsFile, Waits
from fastft.model import BuiltModel, build_model, freeze, set_training
from fastft.optim import HEAD_LR_FACTOR, WeightAverage, make_optimizer, peak_lr, set_learning_rate
from fastft.progress import epoch_progress
from fastft.run_folder import (
    BEST,
    CONFIG,
    LAST,
    METRICS,
    SUMMARY,
    check_folder,
    make_folder,
    plain,
    write_json,
)
from fastft.step import TrainStep
from fastft.step_log import StepLog
from fastft.train_config import TrainConfig
from pipelines.errors import DataError

#: Losses stay on the device and are read every so many steps: one synchronization then.
_READ_EVERY = 20


@dataclass(frozen=True, slots=True)
class TrainResult:
    """Where the run lies and how it ended.

    Attributes:
        out: the run folder.
        epochs: one row for each epoch that was trained.
        best_accuracy: of the evaluation split, 0 to 1.
        seconds: all of the run.
        bottleneck: where its time went, if that was asked for.
    """

    out: Path
    epochs: tuple[EpochMetrics, ...]
    best_accuracy: float
    seconds: float
    bottleneck: Bottleneck | None = None

    @property
    def last(self) -> EpochMetrics:
        """The last epoch's row."""
        return self.epochs[-1]


def train(config: TrainConfig, console: Console) -> TrainResult:
    """Run one fine-tuning to its end.

    Args:
        config: what to do.
        console: where progress and notes go.

    Raises:
        UsageError: settings that do not fit each other, the data or this machine.
        DataError: data or weights that cannot be read, or a loss that is no number.
    """
    started = time.perf_counter()
    pick_amp(config.amp, pick_device(config.device))  # what is not there is refused at once
    check_folder(config.out, config.overwrite)
    check_store_file(config)
    sources = open_sources(config)
    built = build(config, sources[0].classes)
    config = resolve_inputs(config, sources)
    with open_inputs(config, sources) as inputs:
        result = fit(config, inputs, built, console, find_limits=True)
    result = replace(result, seconds=time.perf_counter() - started)
    write_json(config.out / SUMMARY, _summary(result))
    return result


def build(config: TrainConfig, classes: Sequence[str]) -> BuiltModel:
    """The model that a config asks for; see `build_model`."""
    return build_model(
        classes, config.weights, seed=config.seed, arch=config.arch, size=config.size,
        reuse_head=config.reuse_head,
    )  # fmt: skip


def fit(
    config: TrainConfig,
    inputs: Inputs,
    built: BuiltModel,
    console: Console,
    *,
    find_limits: bool = False,
) -> TrainResult:
    """Train a model on inputs that are open already, and write its run folder.

    Args:
        config: filled in by `resolve_inputs`.
        inputs: opened for this config, or for one that differs in nothing they depend on.
        built: the model.
        console: where progress and notes go.
        find_limits: try what loader and model could do alone, in the end.

    Raises:
        As `train`.
    """
    config = resolve_rates(config)
    trainer = Trainer(config, inputs, built, console)
    with make_folder(config.out):
        _announce(console, config, inputs, built, trainer)
        result = trainer.run()
    if find_limits:
        found = find_bottleneck(
            result.epochs, inputs.train, trainer.step,
            loader_name="stock" if config.stock else config.loader,
        )  # fmt: skip
        result = replace(result, bottleneck=found)
    return result


def resolve_rates(config: TrainConfig) -> TrainConfig:
    """Fill in the learning rates."""
    lr, factor = config.lr, config.head_lr_factor
    if lr is None:
        lr = peak_lr(config.optimizer, pretrained=config.pretrained)
    if factor is None:
        factor = HEAD_LR_FACTOR if config.pretrained else 1.0
    return replace(config, lr=lr, head_lr_factor=factor)


class Trainer:
    """The state of one run: model, optimizer, files, position.

    Attributes:
        step: one training step.
        optimizer: of all parameters, the frozen ones included.
        loss: what is minimized.
        frozen: modules that stay in eval mode.
    """

    def __init__(
        self, config: TrainConfig, inputs: Inputs, built: BuiltModel, console: Console
    ) -> None:
        assert config.lr is not None
        assert config.head_lr_factor is not None
        self._config, self._inputs, self._built, self._console = config, inputs, built, console
        self._device = inputs.device
        self._model = built.model.to(self._device)
        self.frozen = freeze(built, config.freeze)
        self.optimizer = make_optimizer(
            built.model, built.head, optimizer=config.optimizer, lr=config.lr,
            head_lr_factor=config.head_lr_factor, momentum=config.momentum,
            weight_decay=config.weight_decay,
        )  # fmt: skip
        weights = class_weights(config.class_weight, inputs.classes, inputs.train.source.labels)
        self.loss = Loss(
            reduction=config.loss, label_smoothing=config.label_smoothing,
            class_weights=None if weights is None else torch.from_numpy(weights).to(self._device),
        )  # fmt: skip
        self._average = WeightAverage(built.model, config.ema) if config.ema else None
        self.step = TrainStep(
            self._model, self.optimizer, self.loss, device=self._device,
            amp_dtype=inputs.amp_dtype, average=self._average,
        )  # fmt: skip
        inputs.train.seed = config.seed
        self._per_epoch = len(inputs.train)

    def run(self) -> TrainResult:
        """Train all epochs; what has been reached is in the run folder after each."""
        config, out = self._config, self._config.out
        write_json(out / CONFIG, {"config": plain(config), "environment": environment()})
        board: Any = None
        if config.tensorboard:
            from fastft.board import add_row, make_board  # TensorBoard takes seconds

            board = make_board(out / "tensorboard")
        metrics = MetricsFile(out / METRICS, None if board is None else partial(add_row, board))
        rows: list[EpochMetrics] = []
        best = (-1.0, 0.0)
        last_good = ""
        try:
            for epoch in range(config.epochs):
                row = self._epoch(epoch, metrics)
                metrics.write(row)
                rows.append(row)
                checkpoint = self._checkpoint(epoch + 1, row.eval_accuracy)
                save_checkpoint(out / LAST, checkpoint)
                last_good = f"; {out / LAST} is that of epoch {epoch + 1}"
                # Of epochs with the same accuracy the one with the lower loss.
                if (row.eval_accuracy, -row.eval_loss) > best:
                    best, best_epoch = (row.eval_accuracy, -row.eval_loss), epoch
                    # To be used, not to be continued: half the bytes.
                    save_checkpoint(out / BEST, replace(checkpoint, optimizer={}, scaler={}))
                if config.patience and epoch - best_epoch >= config.patience:
                    self._console.print(
                        f"stopped: no better accuracy than epoch {best_epoch + 1}'s in "
                        f"{config.patience} epochs"
                    )
                    break
        except DataError as error:
            if not str(error.where).startswith("step "):
                raise
            raise DataError(
                error.where, error.found, error.expected, error.remedy + last_good
            ) from None
        finally:
            metrics.close()
            if board is not None:
                board.close()
            if (out / LAST).exists():  # an interrupted run keeps its picture too
                from fastft.show import draw_curves  # matplotlib takes 0.7 s

                draw_curves(out / METRICS, out / "curves.png")
        return TrainResult(out, tuple(rows), best[0], 0.0)

    def _epoch(self, epoch: int, metrics: MetricsFile) -> EpochMetrics:
        """Train one epoch, then evaluate."""
        config, loader = self._config, self._inputs.train
        if self.frozen and config.unfreeze_epoch and epoch == config.unfreeze_epoch:
            self._model.requires_grad_(True)
            self.frozen = ()
        size = config.epoch_size(epoch)
        loader.set_size(size)
        loader.set_epoch(epoch)
        set_training(self._model, self.frozen)
        first, steps = epoch * self._per_epoch, config.epochs * self._per_epoch
        log = StepLog(epoch, first, self._per_epoch, self._device, metrics, self.loss)
        waits = Waits()
        started = time.perf_counter()
        with epoch_progress(self._console, epoch, config.epochs, self._per_epoch) as advance:
            for index, (images, labels) in enumerate(waits.over(loader)):
                lr = set_learning_rate(
                    self.optimizer, config.schedule, first + index, steps, config.warm_up
                )
                loss, right = self.step(images, labels)
                now = time.perf_counter()
                log.add(loss, right, len(labels), lr, waits.last_s, now - started)
                started = now
                if (index + 1) % _READ_EVERY == 0:
                    log.read()
                advance(log.last_loss, log.img_per_s)
            log.read()
        # Steps are queued on a GPU; only now the last of them has ended.
        log.seconds += time.perf_counter() - started
        started = time.perf_counter()
        result = evaluate(
            self._model if self._average is None else self._average.model,
            self._inputs.evaluation, device=self._device, amp_dtype=self._inputs.amp_dtype,
        )  # fmt: skip
        row = log.epoch_metrics(result, size, time.perf_counter() - started)
        self._console.print(_epoch_line(row, config))
        if epoch == 0:
            evaluation = self._inputs.evaluation
            for name, each in (("training", loader), ("evaluation", evaluation)):
                for remark in each.remarks:
                    self._console.print(f"{name}: {remark}", markup=False)
        return row

    def _checkpoint(self, epoch: int, accuracy: float) -> Checkpoint:
        config = self._config
        return Checkpoint(
            model=self._model.state_dict(), arch=self._built.arch, classes=self._inputs.classes,
            size=config.size, view=config.eval_view, epoch=epoch, accuracy=accuracy,
            optimizer=self.optimizer.state_dict(), scaler=self.step.scaler.state_dict(),
            config=plain(config),
            ema=None if self._average is None else self._average.model.state_dict(),
        )  # fmt: skip


def _summary(result: TrainResult) -> dict[str, Any]:
    """How a run ended, as JSON values."""
    found = result.bottleneck
    return {
        "epochs": len(result.epochs),
        "best_accuracy": result.best_accuracy,
        "seconds": round(result.seconds, 3),
        "bottleneck": None if found is None else {**asdict(found), "verdict": str(found)},
    }


def _announce(
    console: Console, config: TrainConfig, inputs: Inputs, built: BuiltModel, trainer: Trainer
) -> None:
    """Say what is about to happen, and all that was not taken from the weights."""
    amp = str(inputs.amp_dtype).removeprefix("torch.") if inputs.amp_dtype else "float32"
    name = "torchvision (stock)" if config.stock else config.loader
    size = f"{config.start_size} to {config.size}" if config.start_size else f"{config.size}"
    lines = [
        f"{len(inputs.train.source):,} training and {len(inputs.evaluation.source):,} evaluation "
        f"images, {len(inputs.classes)} classes; {name} loader at {size} px, {inputs.device}, {amp}"
        f"; {built.arch}, batch {config.batch_size}, {config.epochs} epochs, {config.optimizer}, "
        f"lr {config.lr:g} (output layer x{config.head_lr_factor:g})"
    ]
    if built.left_out:
        lines.append(f"not taken from {config.weights}: {', '.join(built.left_out)}")
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
    for line in lines:
        console.print(line, markup=False)


def _epoch_line(row: EpochMetrics, config: TrainConfig) -> str:
    size = f"{row.size} px  " if config.start_size else ""
    return (
        f"epoch {row.epoch + 1}/{config.epochs}  {size}"
        f"train loss {row.train_loss:.3f} accuracy {row.train_accuracy:.3f}  "
        f"eval loss {row.eval_loss:.3f} accuracy {row.eval_accuracy:.3f}  "
        f"{row.img_per_s:.0f} img/s, {row.wait_s / row.train_s:.0%} waiting for input  "
        f"{row.train_s + row.eval_s:.1f} s"
    )
