"""The training run: data, model and optimizer made, the loop, the run folder.

A run folder holds `config.json`, `metrics.jsonl`, `last.pt`, `best.pt` and `curves.png`. All input
is opened before the folder is made; a run that fails before its first checkpoint removes it.
"""

from __future__ import annotations

import json
import shutil
import time
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import torch
from rich.console import Console
from torch import nn
from torch.nn import functional

from fastft.checkpoint import Checkpoint, save_checkpoint
from fastft.config import TrainConfig
from fastft.data import fastest_loader, find_splits, pick_batch_size
from fastft.environment import environment, pick_amp, pick_device
from fastft.evaluate import Evaluation, evaluate
from fastft.metrics import EpochMetrics, MetricsFile, StepMetrics, Waits
from fastft.model import ARCH, BuiltModel, build_model
from fastft.optim import make_optimizer, set_learning_rate
from fastft.progress import epoch_progress
from pipelines.errors import DataError, UsageError
from pipelines.loaders import Loader, make_loader
from pipelines.source import Source, open_source

_BATCH = 128
_LR_PRETRAINED, _LR_SCRATCH = 0.002, 0.01
_HEAD_LR_FACTOR = 10.0
#: Losses stay on the device and are read every so many steps: one synchronization then.
_READ_EVERY = 20


@dataclass(frozen=True, slots=True)
class TrainResult:
    """Where the run lies and how it ended."""

    out: Path
    epochs: int
    best_accuracy: float
    last: EpochMetrics
    seconds: float


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
    device = pick_device(config.device)
    amp_dtype = pick_amp(config.amp, device)
    _check_out(config)
    train_path, eval_path = find_splits(config.data)
    train_source = open_source(train_path)
    eval_source = open_source(eval_path, train_source.classes)
    built = build_model(len(train_source.classes), config.weights, seed=config.seed)
    config = _resolve(config, (train_source, eval_source), built, device)
    with ExitStack() as stack:
        loaders = [
            stack.enter_context(_make_loader(config, source, view, device, amp_dtype))
            for source, view in ((train_source, "train"), (eval_source, "eval"))
        ]
        stack.enter_context(_run_folder(config.out))
        trainer = _Trainer(config, console, loaders[0], loaders[1], built.model, device, amp_dtype)
        _announce(console, config, built, trainer)
        result = trainer.run()
    return replace(result, seconds=time.perf_counter() - started)


def _resolve(
    config: TrainConfig, sources: Sequence[Source], built: BuiltModel, device: torch.device
) -> TrainConfig:
    """Fill in what depends on the data, the weights and what is installed."""
    source = sources[0]
    loader = config.loader
    if loader == "auto":
        if config.store_options:
            loader = "resident"
        else:
            loader = "torchvision" if config.stock else fastest_loader(sources, device)
    batch_size = pick_batch_size(config.batch_size, _BATCH, source)
    lr, factor = config.lr, config.head_lr_factor
    if lr is None:
        lr = _LR_PRETRAINED if built.pretrained else _LR_SCRATCH
    if factor is None:
        factor = _HEAD_LR_FACTOR if built.pretrained else 1.0
    return replace(config, loader=loader, batch_size=batch_size, lr=lr, head_lr_factor=factor)


def _make_loader(
    config: TrainConfig,
    source: Source,
    view: str,
    device: torch.device,
    amp_dtype: torch.dtype | None,
) -> Loader:
    assert config.batch_size is not None
    # Evaluation is the same for all; only training differs between plan and stock.
    name = "stock" if config.stock and view == "train" else config.loader
    options = config.store_options
    if config.store_file is not None:  # one each for training and evaluation
        suffix = f".{view}{config.store_file.suffix}"
        options["store_file"] = config.store_file.with_suffix(suffix)
    return make_loader(
        name, source, view=view, size=config.size, batch_size=config.batch_size, seed=config.seed,
        # On a GPU the model's first layer would make this cast; half the bytes are written.
        device=device, dtype=amp_dtype if device.type == "cuda" else None, workers=config.workers,
        **options,
    )  # fmt: skip


class _Trainer:
    """The state of one run: model, optimizer, files, position."""

    def __init__(
        self,
        config: TrainConfig,
        console: Console,
        train_loader: Loader,
        eval_loader: Loader,
        model: nn.Module,
        device: torch.device,
        amp_dtype: torch.dtype | None,
    ) -> None:
        assert config.lr is not None
        assert config.head_lr_factor is not None
        self.config, self.console, self.device, self.amp_dtype = config, console, device, amp_dtype
        self.train_loader, self.eval_loader = train_loader, eval_loader
        self.model = model.to(device)
        self.optimizer = make_optimizer(
            model, lr=config.lr, head_lr_factor=config.head_lr_factor, momentum=config.momentum,
            weight_decay=config.weight_decay,
        )  # fmt: skip
        # Only float16 has too few exponent bits for small gradients.
        self.scaler = torch.amp.GradScaler(device.type, enabled=amp_dtype == torch.float16)
        self.steps = config.epochs * len(train_loader)

    def run(self) -> TrainResult:
        config, out = self.config, self.config.out
        _write_json(out / "config.json", {"config": _plain(config), "environment": environment()})
        metrics = MetricsFile(out / "metrics.jsonl")
        best = -1.0
        row: EpochMetrics | None = None
        try:
            for epoch in range(config.epochs):
                row = self._epoch(epoch, metrics)
                metrics.write(row)
                checkpoint = self._checkpoint(epoch + 1, row.eval_accuracy)
                save_checkpoint(out / "last.pt", checkpoint)
                if row.eval_accuracy > best:
                    best = row.eval_accuracy
                    save_checkpoint(out / "best.pt", checkpoint)
        finally:
            metrics.close()
            if (out / "last.pt").exists():  # an interrupted run keeps its picture too
                from fastft.show import draw_curves  # matplotlib takes 0.7 s

                draw_curves(out / "metrics.jsonl", out / "curves.png")
        assert row is not None
        return TrainResult(out, config.epochs, best, row, 0.0)

    def _epoch(self, epoch: int, metrics: MetricsFile) -> EpochMetrics:
        """Train one epoch, then evaluate."""
        self.train_loader.set_epoch(epoch)
        self.model.train()
        first = epoch * len(self.train_loader)
        log = _StepLog(epoch, first, len(self.train_loader), self.device, metrics)
        waits = Waits()
        started = step_started = time.perf_counter()
        with epoch_progress(
            self.console, epoch, self.config.epochs, len(self.train_loader)
        ) as advance:
            for index, (images, labels) in enumerate(waits.over(self.train_loader)):
                lr = set_learning_rate(
                    self.optimizer, self.config.schedule, first + index, self.steps
                )
                loss, right = self._step(images, labels)
                now = time.perf_counter()
                log.add(loss, right, len(labels), lr, waits.last_s, now - step_started)
                step_started = now
                if (index + 1) % _READ_EVERY == 0:
                    log.read()
                advance(log.last_loss, log.img_per_s)
            log.read()
        train_s = time.perf_counter() - started
        started = time.perf_counter()
        result = evaluate(
            self.model, self.eval_loader, device=self.device, amp_dtype=self.amp_dtype
        )
        row = log.epoch_metrics(result, train_s, time.perf_counter() - started)
        self.console.print(_epoch_line(row, self.config.epochs))
        if epoch == 0:
            for name, loader in (("training", self.train_loader), ("evaluation", self.eval_loader)):
                for remark in loader.remarks:
                    self.console.print(f"{name}: {remark}", markup=False)
        return row

    def _step(
        self, images: torch.Tensor, labels: torch.Tensor
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Forward, backward, update; returns loss and right answers without waiting for them."""
        with torch.autocast(
            self.device.type, dtype=self.amp_dtype, enabled=self.amp_dtype is not None
        ):
            logits = self.model(images)
            loss = functional.cross_entropy(logits, labels)
        self.scaler.scale(loss).backward()  # type: ignore[no-untyped-call]
        self.scaler.step(self.optimizer)
        self.scaler.update()
        self.optimizer.zero_grad(set_to_none=True)
        return loss.detach(), (logits.detach().argmax(1) == labels).sum()

    def _checkpoint(self, epoch: int, accuracy: float) -> Checkpoint:
        return Checkpoint(
            model=self.model.state_dict(), arch=ARCH, classes=self.train_loader.source.classes,
            size=self.config.size, view="eval", epoch=epoch, accuracy=accuracy,
            optimizer=self.optimizer.state_dict(), scaler=self.scaler.state_dict(),
            config=_plain(self.config),
        )  # fmt: skip


class _StepLog:
    """Collects an epoch's steps; what lies on the device is read in blocks."""

    def __init__(
        self, epoch: int, first: int, steps: int, device: torch.device, metrics: MetricsFile
    ) -> None:
        self._epoch, self._first, self._metrics = epoch, first, metrics
        self._losses = torch.zeros(steps, device=device)
        self._right = torch.zeros((), dtype=torch.int64, device=device)
        self._rows: list[tuple[int, float, float, float]] = []
        self._read = 0
        self._samples = 0
        self._loss_sum = 0.0
        self.wait_s = self.seconds = 0.0
        self.last_loss = float("nan")

    @property
    def img_per_s(self) -> float:
        return self._samples / self.seconds if self.seconds else 0.0

    def add(
        self,
        loss: torch.Tensor,
        right: torch.Tensor,
        count: int,
        lr: float,
        wait_s: float,
        step_s: float,
    ) -> None:
        self._losses[len(self._rows)] = loss
        self._right += right
        self._rows.append((count, lr, wait_s, step_s))
        self._samples += count
        self.wait_s += wait_s
        self.seconds += step_s

    def read(self) -> None:
        """Fetch the losses since the last call and write their rows.

        Raises:
            DataError: a loss is no finite number.
        """
        losses = self._losses[self._read : len(self._rows)].tolist()
        for loss in losses:
            count, lr, wait_s, step_s = self._rows[self._read]
            step = self._first + self._read
            if not abs(loss) < float("inf"):
                raise DataError(f"step {step}", f"loss {loss}", "a number", "lower --lr")
            self._metrics.write(
                StepMetrics(
                    epoch=self._epoch, step=step, loss=loss, lr=lr, wait_s=round(wait_s, 6),
                    step_s=round(step_s, 6), img_per_s=round(count / step_s, 1),
                )
            )  # fmt: skip
            self._loss_sum += loss * count
            self._read += 1
            self.last_loss = loss

    def epoch_metrics(self, result: Evaluation, train_s: float, eval_s: float) -> EpochMetrics:
        return EpochMetrics(
            epoch=self._epoch,
            train_loss=self._loss_sum / self._samples,
            train_accuracy=self._right.item() / self._samples,
            eval_loss=result.loss,
            eval_accuracy=result.accuracy,
            img_per_s=round(self._samples / train_s, 1),
            wait_s=round(self.wait_s, 4),
            train_s=round(train_s, 4),
            eval_s=round(eval_s, 4),
        )


def _check_out(config: TrainConfig) -> None:
    out, store_file = config.out, config.store_file
    if store_file is not None and store_file.is_dir():
        expected = f"a file to make, for instance {store_file / 'pixels.store'}"
        raise UsageError("--store-file", f"{store_file} is a folder", expected)
    if out.is_file():
        raise UsageError("--out", f"{out} is a file", "a folder to make", "name another")
    if out.is_dir() and any(out.iterdir()):
        if not (out / "config.json").exists():
            raise UsageError("--out", f"{out} holds other files", "a new folder", "name another")
        if not config.overwrite:
            raise UsageError(
                "--out", f"{out} holds a run", "a new folder", "name another or add --overwrite"
            )


@contextmanager
def _run_folder(out: Path) -> Iterator[None]:
    """Make the run folder anew; remove it again if the run ends without a checkpoint."""
    if out.is_dir():
        shutil.rmtree(out)
    try:
        out.mkdir(parents=True)
    except OSError as error:
        raise DataError(
            out, (error.strerror or "cannot be made").lower(), "a folder to make"
        ) from error
    try:
        yield
    finally:
        if not (out / "last.pt").exists():
            shutil.rmtree(out, ignore_errors=True)


def _plain(config: TrainConfig) -> dict[str, Any]:
    return {k: str(v) if isinstance(v, Path) else v for k, v in asdict(config).items()}


def _write_json(path: Path, content: dict[str, Any]) -> None:
    path.write_text(json.dumps(content, indent=1) + "\n", encoding="utf-8")


def _announce(console: Console, config: TrainConfig, built: BuiltModel, trainer: _Trainer) -> None:
    train_loader, eval_loader = trainer.train_loader, trainer.eval_loader
    classes = train_loader.source.classes
    amp = str(trainer.amp_dtype).removeprefix("torch.") if trainer.amp_dtype else "float32"
    name = "torchvision (stock)" if config.stock else config.loader
    console.print(
        f"{len(train_loader.source):,} training and {len(eval_loader.source):,} evaluation images, "
        f"{len(classes)} classes; {name} loader at {config.size} px, {trainer.device}, {amp}; "
        f"batch {config.batch_size}, {config.epochs} epochs, lr {config.lr:g} "
        f"(output layer x{config.head_lr_factor:g})"
    )
    if built.left_out:
        console.print(f"not taken from {config.weights}: {', '.join(built.left_out)}")


def _epoch_line(row: EpochMetrics, epochs: int) -> str:
    return (
        f"epoch {row.epoch + 1}/{epochs}  "
        f"train loss {row.train_loss:.3f} accuracy {row.train_accuracy:.3f}  "
        f"eval loss {row.eval_loss:.3f} accuracy {row.eval_accuracy:.3f}  "
        f"{row.img_per_s:.0f} img/s, {row.wait_s / row.train_s:.0%} waiting for input  "
        f"{row.train_s + row.eval_s:.1f} s"
    )
