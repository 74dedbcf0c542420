"""`fastft evaluate`: a run judged by labelled images, told as tables, JSON, CSV and pictures."""

from __future__ import annotations

import json
import re
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, astuple, dataclass, fields
from functools import partial
from itertools import chain
from pathlib import Path
from typing import Any, get_args

import numpy as np
import torch
from PIL import Image
from rich.console import Console

from fastft.config.checks import plain
from fastft.config.commands import EvaluateConfig
from fastft.config.division import make_division
from fastft.config.recipes import as_settings, read_plain
from fastft.config.train import Amp
from fastft.datasets.division import find_undivided, has_splits, take_side
from fastft.datasets.splits import evaluation_split, fastest_loader, usable_loaders
from fastft.evaluate.plots import SHOWN_PX, draw_confusion, draw_top_losses
from fastft.evaluate.predict import cut_image, open_run, write_bytes, write_csv, write_text
from fastft.evaluate.result import FORMAT, ClassRow, ConfusedRow, Evaluation, SampleRow
from fastft.evaluate.scores import Findings, Ints, judge
from fastft.evaluate.section import accuracy_line, enumerate_names, print_evaluation
from fastft.model.classifier import restore_model
from fastft.runs.checkpoint import Checkpoint
from fastft.runs.folder import CONFIG
from fastft.system.environment import environment, pick_amp, pick_device
from fastft.system.output_folder import output_folder
from fastft.system.progress import image_progress
from fastft.train.evaluate import Outputs, evaluate
from pipelines.errors import DataError, UsageError, one_line
from pipelines.formats.division import UNDIVIDED, Division
from pipelines.formats.layout import Preparation
from pipelines.formats.source import Source, open_source
from pipelines.loaders import SCALING, Loader, make_loader
from pipelines.plan import PLACES
from pipelines.workers import cpu_count

_TOLD = ("arch", "size", "view", "epoch", "accuracy")
_BATCH, _LABELS = 128, "take data that are labelled alike"
#: The first tells that a folder is ours, so it is written before the others.
FILES = ("evaluation.json", "predictions.csv", "confusion.png", "top_losses.png")


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


def run_evaluate(config: EvaluateConfig, console: Console) -> Findings:
    """Evaluate and report; writes four files into the output folder.

    Raises:
        UsageError: a folder that holds something else, a split that is not there, settings that do
            not fit this machine.
        DataError: a checkpoint or data that cannot be read or do not belong together, outputs that
            are not finite, or files that cannot be written.
    """
    started = time.perf_counter()
    out = find_out(config)
    checkpoint, path = open_run(config.run)
    classes = checkpoint.classes
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
        with _make_loader(setting, checkpoint, source) as loader:
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
                )
            order = loader.plan.order
        assert evaluation.outputs is not None
        findings = _judge(evaluation.outputs, source, order, path)
        rows = _sample_rows(findings, classes, [source.name(int(sample)) for sample in order])
        worst = findings.samples.worst(config.n)
        found = Evaluation(
            config=plain(config),
            checkpoint={"path": str(path), **{k: getattr(checkpoint, k) for k in _TOLD}},
            data=str(source.path),
            loader=setting.loader,
            batch_size=setting.batch_size,
            device=str(setting.device),
            dtype=setting.dtype,
            environment=environment(),
            seconds=time.perf_counter() - started,
            top_losses=tuple(rows[at] for at in worst),
            **_figures(findings, classes),
        )
        title = f"{one_line(source.path.name)}: {accuracy_line(found)}"
        confusion = draw_confusion(findings.matrix, classes, title)
        images = [_see(source, int(order[at]), checkpoint.view) for at in worst]
        top_losses = draw_top_losses(list(zip(images, (rows[at] for at in worst), strict=True)))
        write_text(out / FILES[0], [_to_json(asdict(found))])
        write_csv(out / FILES[1], chain([[f.name for f in fields(SampleRow)]], map(astuple, rows)))
        write_bytes(out / FILES[2], [confusion])
        write_bytes(out / FILES[3], [top_losses])
    console.print(
        f"{path} (epoch {checkpoint.epoch}) on {source.path}: {len(source):,} images, "
        f"{len(classes):,} classes; {setting.loader} loader at {checkpoint.size} px, "
        f"{setting.device}, {setting.dtype}",
        markup=False,
    )
    print_evaluation(found, console)
    console.print(", ".join(str(out / name) for name in FILES), markup=False)
    return findings


def _open_data(config: EvaluateConfig, checkpoint: Checkpoint, console: Console) -> Source:
    """The images to judge by: of data without splits, what is set apart.

    Raises:
        As `evaluation_split`, `open_labelled` and `divide_source`.
    """
    classes, division = checkpoint.classes, config.division
    if division is None:
        division = _read_division(config.run)
        if division and has_splits(config.data):
            division = UNDIVIDED
    if not division:
        path = evaluation_split(config.data, config.split, classes)
        return open_labelled(path, classes, checkpoint.prepared)
    path = find_undivided(config.data, division)
    source = take_side(open_labelled(path, classes, checkpoint.prepared), division, config.split)
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
    if out.is_dir() and any(out.iterdir()) and not _is_ours(out / FILES[0]):
        found = f"{out} holds other files"
        raise UsageError("--out", found, "a new folder or an earlier evaluation", "name another")
    return out


def open_labelled(path: Path, classes: tuple[str, ...], preparation: Preparation) -> Source:
    """Open data that have just these classes, and images of each.

    Args:
        path: a `.beton` or a class folder.
        classes: of the model.
        preparation: how to prepare the images of a folder.

    Raises:
        DataError: they have not, or cannot be read.
    """
    # Names first: the images of a large folder take a while to open.
    if path.is_dir():
        folders = (entry.name for entry in path.iterdir() if entry.is_dir())
        if names := tuple(sorted(name for name in folders if not name.startswith("."))):
            _require_classes(path, names, classes)
    # Classes are given to a folder alone, as it may hold one that is called like a split.
    how: dict[str, Any] = {"classes": classes, **asdict(preparation)} if path.is_dir() else {}
    source = open_source(path, **how)
    _require_classes(path, source.classes, classes)
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
    return isinstance(content, dict) and content.get("format") == FORMAT


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


def _make_loader(setting: _Setting, checkpoint: Checkpoint, source: Source) -> Loader:
    return make_loader(
        setting.loader,
        source,
        view=checkpoint.view,
        size=checkpoint.size,
        batch_size=setting.batch_size,
        device=setting.device,
        workers=setting.workers,
        decode=checkpoint.decode,
        # As in training: on a GPU the model's first layer would make this cast.
        dtype=setting.amp_dtype if setting.device.type == "cuda" else None,
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


def _judge(outputs: Outputs, source: Source, order: Ints, path: Path) -> Findings:
    """Judge the outputs, if they can be.

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
    return judge(outputs.logits, outputs.labels, outputs.plain)


def _sample_rows(
    findings: Findings, classes: tuple[str, ...], names: Sequence[str]
) -> list[SampleRow]:
    samples = findings.samples
    return [
        SampleRow(name, classes[truth], classes[predicted], *map(float, numbers))
        for name, truth, predicted, *numbers in zip(
            names,
            samples.labels,
            samples.predicted,
            samples.probability,
            samples.truth_probability,
            samples.losses,
            strict=True,
        )
    ]


def _figures(findings: Findings, classes: tuple[str, ...]) -> dict[str, Any]:
    """The figures as plain numbers, none rounded."""
    scores = findings.scores
    columns = (scores.precision, scores.recall, scores.f1, scores.support, scores.predicted)
    return {
        "samples": len(findings.samples),
        "right": findings.samples.right,
        "accuracy": findings.accuracy,
        "interval": findings.interval,
        "plain_accuracy": findings.plain_accuracy,
        "loss": findings.loss,
        "macro_f1": scores.macro_f1,
        "classes": tuple(
            ClassRow(name, *row)
            for name, *row in zip(classes, *(each.tolist() for each in columns), strict=True)
        ),
        "confused": tuple(
            ConfusedRow(classes[pair.truth], classes[pair.predicted], pair.count, pair.share)
            for pair in findings.pairs
        ),
        "confusion": tuple(map(tuple, findings.matrix.tolist())),
    }


def _see(source: Source, sample: int, view: str) -> Image.Image:
    """The part of a sample that the model sees, large enough to be looked at."""
    name = f"{source.path}: {source.name(sample)}"
    return Image.fromarray(cut_image(source.stored(sample), view, SHOWN_PX, name))


def _to_json(content: dict[str, Any]) -> str:
    text = json.dumps(content, indent=1, allow_nan=False) + "\n"
    # A row of the confusion matrix is a line. Line breaks are never part of a string in JSON.
    return re.sub(r"\[\n[\d\s,]+\]", lambda row: "".join(row[0].split()), text)
