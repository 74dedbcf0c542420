"""Trains the same model through every loader and compares: curves, accuracies, cross matrix.

Knows which runs are made and how; `equivalence` judges them, `model_plots` shows them. A run is
what `fastft train` does, without its files: the same model, optimizer, schedule and defaults.
"""

from __future__ import annotations

import math
import tempfile
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import torch
from rich.console import Console
from torch import nn

from fastft.config.checks import defaults
from fastft.config.commands import AccuracyConfig
from fastft.config.train import TrainConfig
from fastft.datasets.splits import find_splits, pick_batch_size, require_two_classes, usable_loaders
from fastft.model.classifier import BuiltModel, build_model
from fastft.model.loss import Loss
from fastft.model.optim import HEAD_LR_FACTOR, make_optimizer, peak_lr, set_learning_rate
from fastft.parity.equivalence import AccuracyResult, judge
from fastft.system.environment import environment, pick_amp, pick_device
from fastft.system.output_folder import output_folder
from fastft.system.progress import image_progress
from fastft.train.evaluate import evaluate
from fastft.train.inputs import open_like
from fastft.train.step import TrainStep
from pipelines.atomic import unguessable
from pipelines.errors import DataError, UsageError
from pipelines.formats.source import Source, open_source
from pipelines.loaders import LOADERS, Loader, make_loader

REFERENCE, BASELINE = "torchvision", "stock"

_BATCH = 64
#: The body that runs start from. MXNet's mild crops, small batches and AdamW: on the synthetic
#: photos 0.99 after ten epochs with either of two seeds, where SGD comes to 0.98 or 0.955 at 0.02,
#: and at 0.05 to 0.95 or to 0.6.
_WARM_VIEW, _WARM_BATCH = "recordio", 32
_WARM: dict[str, Any] = {"optimizer": "adamw", "lr": 2e-3, "weight_decay": 0.05}
#: Seeds that are run in the control's precision too: float32 takes 1.5 times as long as bfloat16.
_CONTROLS = 2
#: Seeds whose models are evaluated with every loader; the others' with their own, which is what
#: the test of equivalence needs many of.
_CROSSED = 4

Losses = tuple[float, ...]


def run_accuracy(config: AccuracyConfig, console: Console) -> AccuracyResult:
    """Make all runs, compare them, print the findings and write them to `config.out`.

    Raises:
        UsageError: settings that do not fit each other, the data or this machine.
        DataError: data or weights that cannot be read, or a loss of NaN.
    """
    started = time.perf_counter()
    device = pick_device(config.device)
    train_path, eval_path = find_splits(config.data)
    train_source = open_source(train_path)
    eval_source = open_like(train_source, eval_path)
    require_two_classes(train_source)
    config = _resolve(config, train_source)
    with output_folder(config.out):
        with ExitStack() as stack:
            # What plain settings make repeatable on a GPU; float32 shall be float32 there.
            stack.enter_context(
                torch.backends.cudnn.flags(enabled=True, deterministic=True, allow_tf32=False)
            )
            runs = _Runs(config, train_source, eval_source, device, console)
            evaluations = {
                name: stack.enter_context(runs.open(name, "eval", runs.amp_dtype))
                for name in _participants(config, (train_source, eval_source))
            }
            update = stack.enter_context(image_progress(console, "training"))
            runs.show_progress(evaluations, update)
            folder = stack.enter_context(tempfile.TemporaryDirectory(prefix=unguessable("fastft-")))
            start = runs.prepare_start(Path(folder))
            for name in evaluations:
                runs.compare(name, evaluations)
        result = _result(config, runs, start, time.perf_counter() - started)

        from fastft.parity.model_plots import (  # matplotlib takes 0.7 s
            print_accuracy,
            save_accuracy,
        )

        print_accuracy(result, console)
        if config.out is not None:
            save_accuracy(result, config.out)
    return result


class _Runs:
    """Makes the runs and keeps what they gave."""

    def __init__(
        self,
        config: AccuracyConfig,
        train_source: Source,
        eval_source: Source,
        device: torch.device,
        console: Console,
    ) -> None:
        self.config, self.console, self.device = config, console, device
        self.train_source, self.eval_source = train_source, eval_source
        self.amp_dtype = pick_amp(config.amp, device)
        self.control_dtype = None if self.amp_dtype else torch.bfloat16
        self.weights = config.weights
        self.losses: dict[str, tuple[Losses, ...]] = {}
        self.control_losses: tuple[Losses, ...] = ()
        self.accuracies: dict[str, dict[str, tuple[float, ...]]] = {}
        self._advance: Callable[[int], None] = lambda images: None

    @property
    def seeds(self) -> range:
        return range(self.config.seed, self.config.seed + self.config.seeds)

    def open(
        self, name: str, view: str, dtype: torch.dtype | None, *, batch_size: int | None = None
    ) -> Loader:
        config, batch_size = self.config, batch_size or self.config.batch_size
        assert batch_size is not None
        return make_loader(
            name, self.eval_source if view == "eval" else self.train_source, view=view,
            size=config.size, batch_size=batch_size, seed=config.seed, device=self.device,
            dtype=dtype if self.device.type == "cuda" else None, workers=config.workers,
        )  # fmt: skip

    def show_progress(self, evaluations: Mapping[str, Loader], update: Callable[..., None]) -> None:
        """Count the images of all that is to come, and tell `update` of each batch."""
        config, loaders = self.config, len(evaluations)
        epoch = len(self.train_source)
        total = epoch * config.epochs * (loaders * config.seeds + min(_CONTROLS, config.seeds))
        crossed = min(_CROSSED, config.seeds)
        evaluated = loaders**2 * crossed + loaders * (config.seeds - crossed)
        total += len(self.eval_source) * evaluated
        total += epoch * config.warm_epochs if config.weights == "warm" else 0
        done = 0

        def advance(images: int) -> None:
            nonlocal done
            done += images
            update("and evaluating", done, total)

        self._advance = advance

    def prepare_start(self, folder: Path) -> str:
        """Have weights that all runs start from; says where they come from.

        The body's plan has a seed that no run has.
        """
        config = self.config
        if config.weights != "warm":
            named = {"imagenet": "torchvision's ImageNet weights", "none": "random weights"}
            return named.get(config.weights, config.weights)
        batch = min(_WARM_BATCH, len(self.train_source))
        with self.open(REFERENCE, _WARM_VIEW, self.amp_dtype, batch_size=batch) as loader:
            seed = (config.seed + 2**31) % 2**32
            built = build_model(len(self.train_source.classes), "none", seed=seed, size=config.size)
            optimizer = self._optimizer(built, head_lr_factor=1.0, **_WARM)
            self._fit(
                built, optimizer, loader, config.warm_epochs, self.amp_dtype, seed,
                "the body that runs start from",
            )  # fmt: skip
        path = folder / "warm.pt"
        torch.save(built.model.state_dict(), path)
        self.weights = str(path)
        return (
            f"a body trained here first, once: {config.warm_epochs} epochs from random weights on "
            f"the same training images, through the {REFERENCE} loader"
        )

    def compare(self, name: str, evaluations: Mapping[str, Loader]) -> None:
        """Train with `name` once per seed, and evaluate."""
        started = time.perf_counter()
        losses: list[Losses] = []
        accuracies: dict[str, list[float]] = {each: [] for each in evaluations}
        with self.open(name, "train", self.amp_dtype) as loader:
            for number, seed in enumerate(self.seeds):
                model, curve = self._run(name, loader, seed, self.amp_dtype)
                losses.append(curve)
                for each in evaluations if number < _CROSSED else (name,):
                    accuracies[each].append(self._accuracy(model, evaluations[each]))
        self.losses[name] = tuple(losses)
        self.accuracies[name] = {each: tuple(values) for each, values in accuracies.items()}
        if name == REFERENCE:
            with self.open(name, "train", self.control_dtype) as loader:
                self.control_losses = tuple(
                    self._run("the control", loader, seed, self.control_dtype)[1]
                    for seed in self.seeds[:_CONTROLS]
                )
        own = self.accuracies[name][name]
        self.console.print(
            f"{name}: {len(own)} runs, mean accuracy {sum(own) / len(own):.2f}, "
            f"{time.perf_counter() - started:.1f} s"
        )

    def _run(
        self, name: str, loader: Loader, seed: int, amp_dtype: torch.dtype | None
    ) -> tuple[nn.Module, Losses]:
        """One fine-tuning, as `fastft train` would do it with this seed."""
        config = self.config
        built = build_model(
            len(self.train_source.classes), self.weights, seed=seed, size=config.size
        )
        lr = config.lr or peak_lr("sgd", pretrained=built.pretrained)
        factor = HEAD_LR_FACTOR if built.pretrained else 1.0
        optimizer = self._optimizer(built, lr=lr, head_lr_factor=factor)
        curve = self._fit(
            built, optimizer, loader, config.epochs, amp_dtype, seed, f"{name}, seed {seed}"
        )
        return built.model, curve

    def _optimizer(self, built: BuiltModel, **options: Any) -> torch.optim.Optimizer:
        """What `fastft train` takes, but for `options`."""
        usual = defaults(TrainConfig)
        decays = {"momentum": usual.momentum, "weight_decay": usual.weight_decay}
        return make_optimizer(built.model.to(self.device), built.head, **{**decays, **options})

    def _fit(
        self,
        built: BuiltModel,
        optimizer: torch.optim.Optimizer,
        loader: Loader,
        epochs: int,
        amp_dtype: torch.dtype | None,
        seed: int,
        what: str,
    ) -> Losses:
        """Train the model; returns the loss of each step.

        Raises:
            DataError: a loss is no finite number.
        """
        usual = defaults(TrainConfig)
        step = TrainStep(
            built.model.train(), optimizer, Loss(), device=self.device, amp_dtype=amp_dtype
        )
        loader.seed = seed  # the next plan is of this seed; one loader serves all runs
        steps, done = epochs * len(loader), 0
        losses = torch.zeros(steps, device=self.device)  # read once, at the end
        for epoch in range(epochs):
            loader.set_epoch(epoch)
            for images, labels in loader:
                set_learning_rate(optimizer, usual.schedule, done, steps)
                losses[done], _ = step(images, labels)
                done += 1
                self._advance(len(labels))
        curve = tuple(losses.tolist())
        for index, value in enumerate(curve):
            if not math.isfinite(value):
                where = f"{what}, step {index}"
                raise DataError(where, f"loss {value}", "a number", "lower --lr")
        return curve

    def _accuracy(self, model: nn.Module, loader: Loader) -> float:
        """Of the evaluation split, in points."""
        result = evaluate(model, loader, device=self.device, amp_dtype=self.amp_dtype)
        self._advance(result.samples)
        return 100 * result.accuracy


def _resolve(config: AccuracyConfig, source: Source) -> AccuracyConfig:
    names = [name for name in LOADERS if name != BASELINE]
    for name in config.loaders:
        if name not in LOADERS:
            raise UsageError("--loaders", repr(name), f"one of {', '.join(names)}")
    return replace(config, batch_size=pick_batch_size(config.batch_size, _BATCH, source))


def _participants(config: AccuracyConfig, sources: Sequence[Source]) -> tuple[str, ...]:
    """The reference first, the baseline last; a loader that was asked for by name has to work."""
    names = config.loaders or usable_loaders(sources)
    others = [name for name in names if name not in (REFERENCE, BASELINE)]
    return (REFERENCE, *dict.fromkeys(others), BASELINE)


def _result(config: AccuracyConfig, runs: _Runs, start: str, seconds: float) -> AccuracyResult:
    findings = judge(
        runs.losses, runs.control_losses, runs.accuracies, reference=REFERENCE, baseline=BASELINE,
        margin=config.margin,
    )  # fmt: skip
    return AccuracyResult(
        passed=findings.passed,
        config={k: str(v) if isinstance(v, Path) else v for k, v in asdict(config).items()},
        environment=environment(),
        seconds=round(seconds, 1),
        reference=REFERENCE,
        baseline=BASELINE,
        loaders=tuple(runs.losses),
        left_out=tuple(name for name in LOADERS if name not in runs.losses),
        start=start,
        train_images=len(runs.train_source),
        eval_images=len(runs.eval_source),
        steps=len(runs.control_losses[0]),
        dtype=_dtype_name(runs.amp_dtype),
        control_dtype=_dtype_name(runs.control_dtype),
        findings=findings,
        losses=runs.losses,
        control_losses=runs.control_losses,
        accuracies=runs.accuracies,
    )


def _dtype_name(dtype: torch.dtype | None) -> str:
    return str(dtype or torch.float32).removeprefix("torch.")
