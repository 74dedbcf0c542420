"""Trains the same model through every loader and compares: curves, accuracies, cross matrix.

Knows which runs are made and how; `equivalence` judges them, `model_plots` shows them. A run is
what `fastft train` does, by its own loop, without its files.
"""

from __future__ import annotations

import tempfile
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from rich.console import Console
from torch import nn

from fastft.config.augment import as_settings
from fastft.config.checks import plain
from fastft.config.commands import AccuracyConfig
from fastft.config.train import Amp, TrainConfig
from fastft.datasets.splits import find_splits, pick_batch_size, require_two_classes, usable_loaders
from fastft.model.tasks import require_same_task
from fastft.parity.equivalence import AccuracyResult, judge
from fastft.system.environment import environment, pick_amp, pick_device
from fastft.system.output_folder import output_folder
from fastft.system.progress import image_progress
from fastft.train.evaluate import evaluate
from fastft.train.inputs import Inputs, open_inputs, open_like, resolve_inputs
from fastft.train.loop import Trainer
from fastft.train.recorder import KeptRows
from fastft.train.run import build, resolve_rates
from pipelines.atomic import unguessable
from pipelines.errors import DataError, UsageError
from pipelines.formats.source import Source, open_source
from pipelines.loaders import LOADERS, SCALING, Loader, make_loader
from pipelines.plan import Decode

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
    require_same_task(train_source, "classes", "parity --accuracy compares them")
    require_two_classes(train_source)
    config = _resolve(config, train_source)
    with output_folder(config.out):
        with ExitStack() as stack:
            # What plain settings make repeatable on a GPU; float32 shall be float32 there.
            stack.enter_context(
                torch.backends.cudnn.flags(enabled=True, deterministic=True, allow_tf32=False)
            )
            runs = _Runs(config, (train_source, eval_source), device, console)
            evaluations = {
                name: stack.enter_context(runs.open(name))
                for name in _participants(config, (train_source, eval_source))
            }
            update = stack.enter_context(image_progress(console, "training"))
            runs.show_progress(len(evaluations), update)
            folder = stack.enter_context(tempfile.TemporaryDirectory(prefix=unguessable("fastft-")))
            start = runs.prepare_start(Path(folder))
            for name in evaluations:
                runs.compare(name, evaluations)
        result = _result(config, runs, start, time.perf_counter() - started)

        from fastft.parity.model_plots import save_accuracy  # matplotlib takes 0.7 s
        from fastft.parity.model_section import print_accuracy

        print_accuracy(result, console)
        if config.out is not None:
            save_accuracy(result, config.out)
    return result


class _Runs:
    """Makes the runs and keeps what they gave."""

    def __init__(
        self,
        config: AccuracyConfig,
        sources: tuple[Source, Source],
        device: torch.device,
        console: Console,
    ) -> None:
        self.config, self.sources, self.device, self.console = config, sources, device, console
        self.amp_dtype = pick_amp(config.amp, device)
        self.control_amp: Amp = "off" if self.amp_dtype else "bf16"
        self.control_dtype = pick_amp(self.control_amp, device)
        self.weights = config.weights
        self.losses: dict[str, tuple[Losses, ...]] = {}
        self.control_losses: tuple[Losses, ...] = ()
        self.accuracies: dict[str, dict[str, tuple[float, ...]]] = {}
        self._advance: Callable[[int], None] = lambda images: None

    @property
    def seeds(self) -> range:
        return range(self.config.seed, self.config.seed + self.config.seeds)

    def settings(self, name: str, **options: Any) -> TrainConfig:
        """The settings of `fastft train` with a loader."""
        config = self.config
        usual: dict[str, Any] = {
            "data": config.data,
            "out": config.out or Path("parity"),
            "weights": self.weights,
            "loader": REFERENCE if name == BASELINE else name,
            "stock": name == BASELINE,
            "size": config.size,
            "epochs": config.epochs,
            "batch_size": config.batch_size,
            "lr": config.lr,
            "amp": config.amp,
            "device": config.device,
            "seed": config.seed,
            "workers": config.workers,
            "decode": self.decode_of(name),
            **as_settings(config.augment),
        }
        filled = resolve_inputs(TrainConfig(**{**usual, **options}), self.sources)
        return resolve_rates(filled)

    def decode_of(self, name: str) -> Decode:
        """The way in which a loader decodes: the yardsticks always exactly."""
        return "exact" if name in (REFERENCE, BASELINE) else self.config.decode

    def open(self, name: str) -> Loader:
        """A loader of the evaluation split."""
        config = self.config
        assert config.batch_size is not None
        return make_loader(
            name,
            self.sources[1],
            view="eval",
            size=config.size,
            batch_size=config.batch_size,
            seed=config.seed,
            device=self.device,
            workers=config.workers,
            decode=self.decode_of(name),
            dtype=self.amp_dtype if self.device.type == "cuda" else None,
        )

    def show_progress(self, loaders: int, update: Callable[..., None]) -> None:
        """Count the images of all that is to come, and tell `update` of each batch."""
        config = self.config
        epoch = len(self.sources[0])
        total = epoch * config.epochs * (loaders * config.seeds + min(_CONTROLS, config.seeds))
        crossed = min(_CROSSED, config.seeds)
        total += len(self.sources[1]) * loaders * (loaders - 1) * crossed
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
        settings = self.settings(
            REFERENCE,
            weights="none",
            view=_WARM_VIEW,
            epochs=config.warm_epochs,
            batch_size=min(_WARM_BATCH, len(self.sources[0])),
            head_lr_factor=1.0,
            seed=(config.seed + 2**31) % 2**32,
            **_WARM,
        )
        with open_inputs(settings, self.sources, epochs=settings.epochs) as inputs:
            model, _ = self._run(settings, inputs, "the body that runs start from")
        path = folder / "warm.pt"
        torch.save(model.state_dict(), path)
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
        settings = self.settings(name)
        epochs = settings.epochs * len(self.seeds)
        with open_inputs(settings, self.sources, epochs=epochs) as inputs:
            for number, seed in enumerate(self.seeds):
                each = replace(settings, seed=seed)
                model, rows = self._run(each, inputs, f"{name}, seed {seed}")
                losses.append(rows.losses)
                accuracies[name].append(100 * rows.epochs[-1].score)
                for other in evaluations if number < _CROSSED else ():
                    if other != name:
                        accuracies[other].append(self._accuracy(model, evaluations[other]))
        self.losses[name] = tuple(losses)
        self.accuracies[name] = {other: tuple(values) for other, values in accuracies.items()}
        if name == REFERENCE:
            settings = self.settings(name, amp=self.control_amp)
            with open_inputs(settings, self.sources, epochs=epochs) as inputs:
                self.control_losses = tuple(
                    self._run(replace(settings, seed=seed), inputs, "the control")[1].losses
                    for seed in self.seeds[:_CONTROLS]
                )
        own = self.accuracies[name][name]
        self.console.print(
            f"{name}: {len(own)} runs, mean accuracy {sum(own) / len(own):.2f}, "
            f"{time.perf_counter() - started:.1f} s"
        )

    def _run(self, settings: TrainConfig, inputs: Inputs, what: str) -> tuple[nn.Module, KeptRows]:
        """One fine-tuning as `fastft train` does it, of which the rows are kept and no file.

        Raises:
            DataError: a loss is no finite number.
        """
        built = build(settings, inputs.classes)
        rows = KeptRows(lambda: self._advance(settings.batch_size or 0))
        trainer = Trainer(settings, inputs, built, Console(quiet=True))
        try:
            trainer.run(recorder=rows)
        except DataError as error:
            if str(error.where).startswith("step "):
                remedy = "lower --lr"
                where = f"{what}, {error.where}"
                raise DataError(where, error.found, error.expected, remedy) from None
            raise
        return built.model, rows

    def _accuracy(self, model: nn.Module, loader: Loader) -> float:
        """Accuracy on the evaluation split, in points."""
        result = evaluate(model, loader, device=self.device, amp_dtype=self.amp_dtype)
        self._advance(result.samples)
        return 100 * result.score


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
    if config.decode == "scaled" and not config.loaders:
        others = [name for name in others if name in SCALING]
    if config.decode == "scaled" and not others:
        expected = "--loaders ffcv, and .beton files"
        raise UsageError("--decode scaled", "no loader beside the yardsticks", expected)
    return (REFERENCE, *dict.fromkeys(others), BASELINE)


def _result(config: AccuracyConfig, runs: _Runs, start: str, seconds: float) -> AccuracyResult:
    findings = judge(
        runs.losses,
        runs.control_losses,
        runs.accuracies,
        reference=REFERENCE,
        baseline=BASELINE,
        margin=config.margin,
    )
    return AccuracyResult(
        passed=findings.passed,
        config=plain(config),
        environment=environment(),
        seconds=round(seconds, 1),
        reference=REFERENCE,
        baseline=BASELINE,
        loaders=tuple(runs.losses),
        left_out=tuple(name for name in LOADERS if name not in runs.losses),
        start=start,
        train_images=len(runs.sources[0]),
        eval_images=len(runs.sources[1]),
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
