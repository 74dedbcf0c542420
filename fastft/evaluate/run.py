"""`fastft evaluate`: a run judged by labelled images, told as tables, JSON, CSV and pictures."""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from typing import Any, get_args

import numpy as np
import torch
from rich.console import Console

from fastft.config.checks import plain
from fastft.config.commands import EvaluateConfig
from fastft.config.division import make_division
from fastft.config.recipes import as_settings, read_plain
from fastft.config.train import Amp
from fastft.datasets.division import find_undivided, has_splits, take_side
from fastft.datasets.splits import evaluation_split, fastest_loader, usable_loaders
from fastft.evaluate.class_report import report_classes
from fastft.evaluate.evaluated import FINDINGS, Evaluated, Report
from fastft.evaluate.label_report import report_labels
from fastft.evaluate.label_result import LABEL_FORMAT
from fastft.evaluate.number_report import report_numbers
from fastft.evaluate.number_result import NUMBER_FORMAT
from fastft.evaluate.opening import open_run
from fastft.evaluate.outputs import write_bytes, write_text
from fastft.evaluate.predictions import find_thresholds
from fastft.evaluate.result import FORMAT
from fastft.evaluate.scores import Ints
from fastft.evaluate.section import enumerate_names
from fastft.model.classifier import restore_model
from fastft.model.tasks import goal_of, require_same_task, require_variety
from fastft.runs.checkpoint import Checkpoint
from fastft.runs.folder import CONFIG
from fastft.runs.measures import MEASURES
from fastft.system.environment import environment, pick_amp, pick_device
from fastft.system.output_folder import output_folder
from fastft.system.progress import image_progress
from fastft.train.evaluate import Outputs, evaluate
from pipelines.errors import DataError, UsageError
from pipelines.formats.columns import Task
from pipelines.formats.division import UNDIVIDED, Division
from pipelines.formats.layout import Preparation
from pipelines.formats.source import Source, open_source
from pipelines.loaders import SCALING, Loader, make_loader
from pipelines.plan import PLACES
from pipelines.workers import cpu_count

_TOLD = ("arch", "size", "view", "epoch")
#: The name of a checkpoint's score.
_SCORES: Mapping[Task, tuple[str, ...]] = {
    "classes": ("accuracy",),
    "labels": ("score",),
    "number": ("score",),
}
_BATCH, _LABELS = 128, "take data that are labelled alike"
REPORTS: Mapping[Task, Callable[[Evaluated], Report]] = {
    "classes": report_classes,
    "labels": report_labels,
    "number": report_numbers,
}
#: Pictures of one task's reports alone.
_PICTURES = {"confusion.png", "labels.png", "scatter.png"}


@dataclass(frozen=True, slots=True)
class _Setting:
    """Settings for reading the images and running the model."""

    loader: str
    batch_size: int
    workers: int
    device: torch.device
    amp_dtype: torch.dtype | None

    @property
    def dtype(self) -> str:
        return str(self.amp_dtype or torch.float32).removeprefix("torch.")


def run_evaluate(config: EvaluateConfig, console: Console) -> Any:
    """Evaluate and report; writes four files into the output folder.

    Returns:
        What the outputs say, `Findings` of the task.

    Raises:
        UsageError: a folder that holds something else, a split that is not there, settings that do
            not fit this machine.
        DataError: a checkpoint or data that cannot be read or do not belong together, outputs that
            are not finite, or files that cannot be written.
    """
    started = time.perf_counter()
    out = find_out(config)
    checkpoint, path = open_run(config.run)
    meaning = checkpoint.outputs
    find_thresholds(checkpoint, path, config.threshold)  # what is wrong with it is said at once
    source = _open_data(config, checkpoint, console)
    if source.preparation != checkpoint.prepared:
        console.print(
            f"{source.path} was converted with {source.preparation}, and the data that {path} "
            f"learned from with {checkpoint.prepared}: expect wrong predictions; convert it alike",
            markup=False,
        )
    setting = _settle(config, checkpoint, source)
    model = restore_model(checkpoint, path).to(setting.device)
    with output_folder(out):
        with _make_loader(setting, checkpoint, source, config.crops) as loader:
            with image_progress(console, "evaluating") as update:
                on_progress = partial(update, source.path.name)
                first, *others = _passes(loader, config.crops, on_progress)
                evaluation = evaluate(
                    model,
                    first,
                    device=setting.device,
                    amp_dtype=setting.amp_dtype,
                    flip=config.flip,
                    vflip=config.vflip,
                    crops=others,
                    keep=True,
                    goal=goal_of(meaning),
                )
            order = loader.plan.order
        assert evaluation.outputs is not None
        _require_finite(evaluation.outputs, source, order, path)
        told = {"path": str(path), **{name: getattr(checkpoint, name) for name in _TOLD}}
        told |= {name: getattr(checkpoint, name) for name in _SCORES[meaning.task]}
        how = {
            "config": plain(config),
            "checkpoint": told,
            "data": str(source.path),
            "loader": setting.loader,
            "batch_size": setting.batch_size,
            "device": str(setting.device),
            "dtype": setting.dtype,
            "environment": environment(),
        }
        report = REPORTS[meaning.task](
            Evaluated(config, checkpoint, path, source, order, evaluation.outputs, how, started)
        )
        _write(report, out)
    console.print(
        f"{path} (epoch {checkpoint.epoch}) on {source.path}: {len(source):,} images, "
        f"{MEASURES[meaning.task].count(checkpoint.classes)}; {setting.loader} loader at "
        f"{checkpoint.size} px, {setting.device}, {setting.dtype}",
        markup=False,
    )
    report.show(console)
    console.print(", ".join(str(out / name) for name in report.files), markup=False)
    return report.findings


def _write(report: Report, out: Path) -> None:
    """Write all files of a report, and remove those of an earlier one of another task."""
    for name, content in report.files.items():
        if isinstance(content, bytes):
            write_bytes(out / name, [content])
        else:
            write_text(out / name, content)
    for name in _PICTURES - report.files.keys():
        (out / name).unlink(missing_ok=True)


def _open_data(config: EvaluateConfig, checkpoint: Checkpoint, console: Console) -> Source:
    """The images to judge by: of data without splits, what is set apart.

    Raises:
        As `evaluation_split`, `open_labelled` and `divide_source`.
    """
    classes, division = checkpoint.classes, config.division
    if division is None:
        division = UNDIVIDED if has_splits(config.data) else _read_division(config.run)
    if not division:
        path = evaluation_split(config.data, config.split, classes)
        return open_labelled(path, classes, checkpoint.prepared, checkpoint.outputs.task)
    path = find_undivided(config.data, division)
    whole = open_labelled(path, classes, checkpoint.prepared, checkpoint.outputs.task)
    source = take_side(whole, division, config.split)
    side = "what is set apart" if config.split is None else f"the split {config.split}"
    console.print(f"{path} divided by {division}: {side}", markup=False)
    return source


def _read_division(run: Path) -> Division:
    """The division of a run's own data, as far as its folder is at hand."""
    path = run / CONFIG
    if not path.is_file():  # a checkpoint alone
        return UNDIVIDED
    return make_division(as_settings(read_plain(path), path))


def find_out(config: EvaluateConfig) -> Path:
    """The folder for findings, which is new, empty or an evaluation's.

    Raises:
        UsageError: it holds something else.
    """
    out = config.out or Path(config.run if config.run.is_dir() else ".", "evaluation")
    if out.is_dir() and any(out.iterdir()) and not _is_ours(out / FINDINGS):
        found = f"{out} holds other files"
        raise UsageError("--out", found, "a new folder or an earlier evaluation", "name another")
    return out


def open_labelled(
    path: Path, classes: tuple[str, ...], preparation: Preparation, task: Task = "classes"
) -> Source:
    """Open data that have just these classes, and images of each.

    Args:
        path: a `.beton` or a class folder.
        classes: of the model.
        preparation: how to prepare the images of a folder.
        task: of the model, and so of the data.

    Raises:
        DataError: they have not, or cannot be read.
    """
    if path.is_dir() and task != "classes":
        require_same_task(open_source(path), task, "the run learnt")
    # Names first: the images of a large folder take a while to open.
    if path.is_dir():
        folders = (entry.name for entry in path.iterdir() if entry.is_dir())
        if names := tuple(sorted(name for name in folders if not name.startswith("."))):
            _require_classes(path, names, classes)
    # Classes are given to a folder alone, as it may hold one that is called like a split.
    how: dict[str, Any] = {"classes": classes, **asdict(preparation)} if path.is_dir() else {}
    source = open_source(path, **how)
    require_same_task(source, task, "the run learnt")
    _require_classes(path, source.classes, classes)
    require_variety(source)
    if task != "classes":
        return source
    counts = np.bincount(source.labels, minlength=len(classes))
    if not counts.all():
        missing = [name for name, count in zip(classes, counts, strict=True) if not count]
        found = f"has no image of class {enumerate_names(missing)}"
        raise DataError(path, found, "images of every class", "add some")
    return source


def _is_ours(path: Path) -> bool:
    try:
        content = json.loads(path.read_bytes())
    except (OSError, ValueError, RecursionError):
        return False
    formats = (FORMAT, LABEL_FORMAT, NUMBER_FORMAT)
    return isinstance(content, dict) and content.get("format") in formats


def _require_classes(path: Path, found: tuple[str, ...], wanted: tuple[str, ...]) -> None:
    if found == wanted:
        return
    missing = [name for name in wanted if name not in set(found)]
    extra = [name for name in found if name not in set(wanted)]
    parts = [f"no class {enumerate_names(missing)}"] if missing else []
    parts += [f"the additional class {enumerate_names(extra)}"] if extra else []
    what = " and ".join(parts) or "the same classes in another order"
    raise DataError(path, f"has {what}", f"the {len(wanted)} classes of the run", _LABELS)


def _settle(config: EvaluateConfig, checkpoint: Checkpoint, source: Source) -> _Setting:
    """Settles on what was asked for, else on the run's own, else on what suits this machine."""
    trained, decode = checkpoint.config, checkpoint.decode

    def of_run(name: str, kind: type) -> Any:
        value = trained.get(name)
        return value if isinstance(value, kind) and not isinstance(value, bool) else None

    device = _pick_device(config.device, of_run("device", str))
    loader = config.loader or of_run("loader", str)
    if config.loader is None and loader not in usable_loaders([source]):
        loader = "auto"
    if config.loader is None and decode == "scaled" and loader not in SCALING:
        loader = "auto"  # of a run that kept shrunk pixels
    amp = config.amp or of_run("amp", str)
    batch_size = config.batch_size or of_run("batch_size", int) or _BATCH
    workers = config.workers
    if workers is None:  # the run's machine may have had more, and its file may say anything
        workers = max(0, min(of_run("workers", int) or 0, cpu_count()))
    batch_size = max(1, min(batch_size, len(source)))
    if loader in (None, "auto"):
        loader = fastest_loader(
            [source],
            device,
            batch=batch_size,
            size=checkpoint.size,
            is_read_once=config.crops == 1,
            decode=decode,
        )
    return _Setting(
        loader=loader,
        batch_size=batch_size,
        workers=workers,
        device=device,
        amp_dtype=pick_amp(amp if amp in get_args(Amp) else "auto", device),
    )


def _pick_device(asked: str | None, trained: str | None) -> torch.device:
    if asked is not None:
        return pick_device(asked)
    try:
        return pick_device(trained or "auto")
    except UsageError:  # the run was trained on another machine
        return pick_device("auto")


def _make_loader(setting: _Setting, checkpoint: Checkpoint, source: Source, passes: int) -> Loader:
    options: dict[str, Any] = {"epochs": passes} if setting.loader == "resident" else {}
    return make_loader(
        setting.loader,
        source,
        view=checkpoint.view,
        size=checkpoint.size,
        batch_size=setting.batch_size,
        device=setting.device,
        workers=setting.workers,
        decode=checkpoint.decode,
        preprocessing=checkpoint.preprocessed,
        # As in training: on a GPU the model's first layer would make this cast.
        dtype=setting.amp_dtype if setting.device.type == "cuda" else None,
        **options,
    )


def _passes(
    loader: Loader, crops: int, on_progress: Callable[[int, int], None]
) -> list[Iterator[tuple[torch.Tensor, torch.Tensor]]]:
    """Passes over all samples in the same order, one for each crop, the central one first.

    To be read one after another: the loader is told of a crop where its pass begins.
    """
    count = len(loader.source)

    def read(at: int) -> Iterator[tuple[torch.Tensor, torch.Tensor]]:
        loader.set_place(PLACES[at])
        done = at * count
        for images, labels in loader:
            yield images, labels
            done += len(labels)
            on_progress(done, crops * count)

    return [read(at) for at in range(crops)]


def _require_finite(outputs: Outputs, source: Source, order: Ints, path: Path) -> None:
    """Refuse outputs that cannot be judged.

    Raises:
        DataError: they are not finite.
    """
    bad = np.flatnonzero(~np.isfinite(outputs.logits).all(1))
    if len(bad):
        name = source.name(int(order[bad[0]]))
        found = (
            f"its outputs for {len(bad):,} of {len(order):,} images, first {name}, are not finite"
        )
        raise DataError(path, found, "", "take another checkpoint, or try --amp off")
