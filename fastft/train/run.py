"""A training from its beginning or from where it was left: inputs, model, loop, run folder."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from contextlib import AbstractContextManager, ExitStack, nullcontext
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import torch
from rich.console import Console

from fastft.config.recipes import read_plain
from fastft.config.train import TrainConfig
from fastft.datasets.splits import describe_folders_beside
from fastft.model.built import BuiltModel
from fastft.model.classifier import build_model, check_size
from fastft.model.form import Form
from fastft.model.freezing import set_training
from fastft.model.optim import HEAD_LR_FACTOR, peak_lr
from fastft.runs.folder import (
    CONFIG,
    CURVES,
    LAST,
    METRICS,
    PREVIOUS,
    SUMMARY,
    check_folder,
    make_folder,
    remove_old,
    write_json,
)
from fastft.runs.trackers import require_trackers
from fastft.system.environment import pick_amp, pick_device
from fastft.system.signals import StopSignals
from fastft.train.announcement import announce
from fastft.train.bottleneck import find_bottleneck
from fastft.train.costs import Costs
from fastft.train.distributed import World, join_world
from fastft.train.inputs import Inputs, check_store_file, open_inputs, open_sources, resolve_inputs
from fastft.train.loop import Trainer
from fastft.train.result import TrainResult
from fastft.train.resume import Continued, holds_run, note_changes, read_run
from fastft.train.run_state import identify, require_same_data
from pipelines.errors import DataError, one_line
from pipelines.formats.source import Source

#: The splits, as a run's state names them.
_SPLITS = ("train", "eval")


def train(
    config: TrainConfig,
    console: Console,
    stop: StopSignals | None = None,
    *,
    or_resume: bool = False,
    costs: Costs | None = None,
) -> TrainResult:
    """Run one fine-tuning to its end, together with the other processes if there are any.

    Args:
        config: what to do.
        console: where progress and notes go; the first process's alone.
        stop: who says that it is time to end; None: nobody.
        or_resume: if the run folder holds a run of these very settings, continue it.
        costs: what has been spent before; see `costs`.

    Raises:
        UsageError: settings that do not fit each other, the data or this machine.
        DataError: data or weights that cannot be read, a loss of NaN, or another
            process that is gone.
        Stopped: it was asked to end, and has saved where it stands.
    """
    started, costs = time.perf_counter(), costs or Costs()
    with ExitStack() as stack:
        with costs.of("device"):
            pick_amp(config.amp, pick_device(config.device))  # what is not there is refused at once
            world = stack.enter_context(join_world(config.device, stop))
            _begin_on(world.device)
        console = console if world.is_main else Console(quiet=True)
        goes_on = or_resume and world.is_main and holds_run(config.out)
        if world.gather([goes_on])[0][0]:
            given = {name: getattr(config, name) for name in TrainConfig.__slots__}
            run = read_run(config.out, given, world, console)
        else:
            if world.is_main:
                check_folder(config.out, config.overwrite)
            run = Continued(config, None, None)
        return _run(run, world, console, stop, started, costs)


def resume(
    out: Path,
    given: Mapping[str, Any],
    console: Console,
    stop: StopSignals | None = None,
    *,
    costs: Costs | None = None,
) -> TrainResult:
    """Go on with a run where its last checkpoint was written; exactly, on the same hardware.

    Args:
        out: its folder.
        given: settings that were asked for, by field of `TrainConfig`; those that would make it
            another run are refused.
        console, stop, costs: as in `train`.

    Raises:
        As `train`, and
        UsageError: other settings or data than it was begun with.
        DataError: no run is there, or none of its checkpoints can be read.
    """
    started, costs = time.perf_counter(), costs or Costs()
    device = str(given.get("device") or _begun_on(out))
    with ExitStack() as stack:
        with costs.of("device"):
            world = stack.enter_context(join_world(device, stop))
            _begin_on(world.device)
        console = console if world.is_main else Console(quiet=True)
        run = read_run(out, given, world, console)
        return _run(run, world, console, stop, started, costs)


def _begin_on(device: torch.device) -> None:
    """Make a GPU's context, so that its seconds are not taken for those of what comes first."""
    if device.type == "cuda":
        torch.zeros(1, device=device)
        torch.cuda.synchronize(device)


def _run(
    run: Continued,
    world: World,
    console: Console,
    stop: StopSignals | None,
    started: float,
    costs: Costs,
) -> TrainResult:
    config, state = run.config, run.state
    if state is not None and state.is_done:
        result = TrainResult(config.out, tuple(state.rows), state.best[0], state.seconds)
        if world.is_main:
            _complete(result)
        console.print(f"{config.out} is complete: {len(state.rows)} epochs", markup=False)
        return result
    if run.checkpoint is None and world.is_main:
        require_trackers(config.trackers)
    with ExitStack() as stack:
        with costs.of("data"):
            check_store_file(config)
            sources = open_sources(config)
            beside = describe_folders_beside(config.data)
            _require_agreement(config, sources, run, world)
        with costs.of("model"):
            built = _build_or_rebuild(config, sources[0].classes, run)
            config = resolve_form(config, built)
        with costs.of("data"):
            config = resolve_inputs(config, sources, world)
            form = built.form.preprocessing
            left = config.epochs - (0 if state is None else len(state.rows))
            inputs = stack.enter_context(open_inputs(config, sources, world, form, left))
        result = fit(
            config,
            inputs,
            built,
            console,
            find_limits=True,
            stop=stop,
            run=replace(run, config=config),
            costs=costs,
        )
    if beside:
        console.print(beside, markup=False)
    if len(sources[0].classes) == 1 and sources[0].columns.task == "classes":
        lone = one_line(sources[0].classes[0])
        remedy = "put the images of each class into a folder of its own"
        console.print(f"only one class, {lone}: nothing to tell apart; {remedy}", markup=False)
    before_s = 0.0 if state is None else state.seconds
    seconds = before_s + time.perf_counter() - started
    result = replace(result, seconds=seconds, costs_s=costs.as_dict())
    if world.is_main:
        write_json(config.out / SUMMARY, _summary(result))
    return result


def _build_or_rebuild(config: TrainConfig, classes: Sequence[str], run: Continued) -> BuiltModel:
    """The model that a config asks for, or one like a checkpoint's, to take its weights."""
    if run.checkpoint is None:
        return build(config, classes)
    saved = run.checkpoint
    form = Form(size=saved.size, view=saved.view, preprocessing=saved.preprocessed)
    built = build_model(
        classes,
        "none",
        seed=config.seed,
        arch=saved.arch,
        size=config.size or saved.size,
        drop_path=config.drop_path,
        filter=form.preprocessing.filter,
        crop_share=form.preprocessing.crop_share,
    )
    return replace(built, form=form)


def _begun_on(out: Path) -> str:
    """The device that a run was begun with, where its folder is at hand."""
    try:
        return str(read_plain(out / CONFIG).get("device", "auto"))
    except DataError:
        return "auto"


def _require_agreement(
    config: TrainConfig, sources: Sequence[Source], run: Continued, world: World
) -> None:
    """Refuse data that are not those of the run, or not those of the other processes."""
    found = {name: identify(source) for name, source in zip(_SPLITS, sources, strict=True)}
    if run.state is not None:
        for source, name in zip(sources, _SPLITS, strict=True):
            begun = dict(run.state.data.get(name) or {})
            require_same_data(source.path, found[name], begun, f"the run {config.out}")
    keys = [int(found[name]["content"][:12], 16) for name in _SPLITS]
    keys += [int(found[name]["labels"][:12], 16) for name in _SPLITS]
    for rank, others in enumerate(world.gather(keys)):
        if others != keys:
            raise DataError(
                config.data,
                f"is not the same in processes {world.rank + 1} and {rank + 1}",
                "the same files on all machines",
                "copy them anew",
            )


def build(config: TrainConfig, classes: Sequence[str]) -> BuiltModel:
    """The model that a config asks for; see `build_model`."""
    built = build_model(
        classes,
        config.weights,
        seed=config.seed,
        arch=config.arch,
        size=config.size,
        reuse_head=config.reuse_head,
        drop_path=config.drop_path,
        filter=config.filter,
        crop_share=config.crop_share,
    )
    if config.start_size:
        check_size(built.model, built.arch, config.start_size, "--start-size")
    return built


def fit(
    config: TrainConfig,
    inputs: Inputs,
    built: BuiltModel,
    console: Console,
    *,
    find_limits: bool = False,
    stop: StopSignals | None = None,
    run: Continued | None = None,
    costs: Costs | None = None,
) -> TrainResult:
    """Train a model on inputs that are open already, and write its run folder.

    Args:
        config: filled in by `resolve_inputs`.
        inputs: opened for this config, or for one that differs in nothing they depend on.
        built: the model.
        console: where progress and notes go.
        find_limits: try what loader and model could do alone, in the end.
        stop: who says that it is time to end; None: nobody.
        run: what to go on from; None: the beginning.
        costs: is told where the seconds go.

    Raises:
        As `train`.
    """
    config, costs = resolve_rates(config), costs or Costs()
    with costs.of("model"):
        trainer = Trainer(config, inputs, built, console, stop, costs)
    folder: AbstractContextManager[None] = nullcontext()
    if run is not None and run.checkpoint and run.state and run.path:
        note_changes(run.state.how, trainer.state.how, console)
        trainer.restore(run.checkpoint, run.state, run.path)
    elif inputs.world.is_main:
        folder = make_folder(config.out)
    with folder:
        announce(console, config, inputs, built, trainer)
        result = trainer.run(trusts_last=run is not None and run.path == config.out / LAST)
    if find_limits:
        with costs.of("bottleneck"):
            set_training(built.model, trainer.frozen)  # after an evaluation
            found = find_bottleneck(
                result.epochs,
                inputs.train,
                lambda images, labels: trainer.step(images, labels, config.batch_size),
                loader_name="stock" if config.stock else config.loader,
                world=inputs.world,
            )
        result = replace(result, bottleneck=found)
    return result


def resolve_form(config: TrainConfig, built: BuiltModel) -> TrainConfig:
    """Fill in the images' size and how evaluation cuts them, where they are left to the model.

    Raises:
        UsageError: images that are to grow to less than they begin with.
    """
    view = built.form.view if config.eval_view == "auto" else config.eval_view
    return replace(config, size=config.size or built.form.size, eval_view=view)


def resolve_rates(config: TrainConfig) -> TrainConfig:
    """Fill in the learning rates."""
    lr, factor = config.lr, config.head_lr_factor
    if lr is None:
        lr = peak_lr(config.optimizer, pretrained=config.pretrained)
    if factor is None:
        factor = HEAD_LR_FACTOR if config.pretrained else 1.0
    return replace(config, lr=lr, head_lr_factor=factor)


def _complete(result: TrainResult) -> None:
    """Leave what a run leaves that was not killed between its last checkpoint and its end."""
    out = result.out
    (out / PREVIOUS).unlink(missing_ok=True)
    remove_old(out)
    if not (out / CURVES).exists():
        from fastft.runs.curves import draw_curves  # matplotlib takes 0.7 s

        draw_curves(out / METRICS, out / CURVES)
    if not (out / SUMMARY).exists():
        write_json(out / SUMMARY, _summary(result))


def _summary(result: TrainResult) -> dict[str, Any]:
    """The end of a run, as JSON values."""
    found = result.bottleneck
    return {
        "epochs": len(result.epochs),
        result.last.measures.best_key: result.best_score,
        "seconds": round(result.seconds, 3),
        "costs_s": dict(result.costs_s),
        "bottleneck": None if found is None else {**asdict(found), "verdict": str(found)},
    }
