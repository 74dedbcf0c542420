"""Prediction: image files in, what the model says of each out, preprocessed as in evaluation."""

from __future__ import annotations

import csv
import glob
import io
import json
import os
import sys
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import asdict
from functools import partial
from itertools import chain, dropwhile, islice
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image
from torch import nn

from fastft.config.commands import STDOUT, PredictConfig
from fastft.evaluate.predictions import Prediction, Teller, Told
from fastft.model.classifier import restore_model
from fastft.model.tasks import Goal, goal_of
from fastft.runs.checkpoint import Checkpoint, load_checkpoint
from fastft.runs.folder import find_best
from fastft.system.environment import pick_device
from fastft.train.evaluate import average, classify
from pipelines.atomic import AtomicFile
from pipelines.errors import DataError, UsageError
from pipelines.formats.encode import EncodePolicy, Encoder, read_stored
from pipelines.formats.encode import decode as decode_stored
from pipelines.formats.folder import IMAGE_SUFFIXES, folders_around, is_folder
from pipelines.formats.layout import MODE_RAW, Stored
from pipelines.plan import PLACES, Decode, make_plan
from pipelines.reference import cut, normalize
from pipelines.workers import in_order, make_threads


def predict(
    config: PredictConfig,
    *,
    on_progress: Callable[[int, int], None] | None = None,
    on_broken: Callable[[DataError], None] | None = None,
) -> list[Told]:
    """Predict what images show; draws the sheet and writes the CSV and the JSON if asked to.

    Args:
        config: what to do.
        on_progress: called with images done and in all, where they are more than a batch.
        on_broken: called with the error of each image that cannot be read, which is then left out.
            Without it, of a single image and if nothing is left, the first such error is raised.

    Raises:
        UsageError: an output that cannot be a file, no such device, or an option that says nothing
            of the run's task.
        DataError: the run or an image cannot be read, there are no images, an output cannot be
            written, or its outputs are not finite.
    """
    for option, out in config.outputs.items():
        if out.is_dir():
            raise UsageError(option, f"{out} is a folder", "a file to write", "name a file in it")
    device = pick_device(config.device)
    checkpoint, checkpoint_path = open_run(config.run)
    teller = Teller(checkpoint, checkpoint_path, config)
    goal = goal_of(checkpoint.outputs)
    model = restore_model(checkpoint, checkpoint_path).to(device)
    paths = list_images(config.images)
    broken: list[DataError] = []
    predictions: list[Told] = []
    for batch in _batches(paths, checkpoint, config):
        for crops in batch.values():
            if isinstance(crops, DataError):
                if on_broken is None or len(paths) == 1:
                    raise crops
                on_broken(crops)
                broken.append(crops)
        whole = {path: crops for path, crops in batch.items() if not isinstance(crops, DataError)}
        if whole:
            rows = _run(model, np.stack(list(whole.values()), 1), device, config, goal)
            for path, row in zip(whole, rows, strict=True):
                predictions.append(teller.tell(paths[path], row))
        if on_progress is not None and len(paths) > config.batch_size:
            on_progress(len(predictions) + len(broken), len(paths))
    if not predictions:
        raise broken[0]
    _write_outputs(config, predictions, checkpoint)
    return predictions


def open_run(run: Path) -> tuple[Checkpoint, Path]:
    """A run folder's best checkpoint, or a checkpoint file, with its path.

    Raises:
        DataError: there is no such thing, or it is no checkpoint of ours.
    """
    path = find_best(run)
    return load_checkpoint(path), path


def list_images(images: Sequence[Path]) -> list[Path]:
    """The image files that are meant, in order of their paths within each argument.

    Args:
        images: files, which are taken as they are; folders, of which all image files below are
            taken; or patterns such as `photos/**/*.jpg`. What exists is no pattern, whatever
            its name.

    Raises:
        DataError: a path does not exist, a pattern matches nothing, or a folder holds no images.
    """
    paths: list[Path] = []
    for path in images:
        if path.is_dir():
            found = _below(path)
        elif path.exists():
            found = [path]
        elif glob.has_magic(str(path)):
            matches = [Path(match) for match in _expand(str(path))]
            files = (match for match in matches if _is_image(match) and match.is_file())
            found = sorted({*files, *chain(*(_below(match) for match in matches))})
        else:
            expected = "an image or a folder of images"
            raise DataError(path, "no such file", expected, "check the path")
        if not found:
            what = "holds no images" if path.is_dir() else "matches no images"
            raise DataError(path, what, "image files", "name another folder or pattern")
        paths += found
    return paths


def cut_image(
    stored: Stored, view: str, size: int, name: str, decode: Decode = "exact"
) -> NDArray[np.uint8]:
    """uint8[S, S, 3]: an image as evaluation in `view` sees it.

    Raises:
        DataError: it does not decode.
    """
    crops: NDArray[np.uint8] = cut_crops(stored, view, size, name, decode)[0]
    return crops


def cut_crops(
    stored: Stored, view: str, size: int, name: str, decode: Decode = "exact", crops: int = 1
) -> NDArray[np.uint8]:
    """uint8[crops, S, S, 3]: the same, and crops at the corners; the image is decoded once.

    Raises:
        DataError: it does not decode.
    """
    sides: Any = (np.array([stored.width], np.int32), np.array([stored.height], np.int32))
    plans = (
        make_plan(*sides, view=view, size=size, decode=decode, place=place)
        for place in PLACES[:crops]
    )
    rows = [plan.rows(plan.order) for plan in plans]
    # As `reference.render` does; places differ in nothing but where they are cut.
    shrink = 1 if stored.mode == MODE_RAW else int(rows[0].shrinks[0])
    image = decode_stored(stored, name, shrink)
    return np.stack([np.asarray(cut(image, each, 0, shrink)) for each in rows])


def write_text(out: Path, parts: Iterable[str]) -> None:
    """Write a text file whole or not at all, or to standard output if it is called `-`.

    Raises:
        DataError: `out` cannot be written.
    """
    # A file name that is no UTF-8 arrives as surrogates, which no text file can hold.
    encoded = (part.encode("utf-8", "backslashreplace") for part in parts)
    if out == STDOUT:
        sys.stdout.writelines(part.decode() for part in encoded)
        return
    write_bytes(out, encoded)


def write_bytes(out: Path, parts: Iterable[bytes]) -> None:
    """Write a file whole or not at all.

    Raises:
        DataError: `out` cannot be written.
    """
    try:
        with AtomicFile(out) as target:
            with open(target.descriptor, "wb", closefd=False) as file:
                file.writelines(parts)
            target.publish()
    except OSError as error:
        reason = (error.strerror or "cannot be written").lower()
        raise DataError(out, reason, "a file to write") from error


def write_csv(out: Path, rows: Iterable[Sequence[object]]) -> None:
    """Write a CSV file as `write_text` does.

    Raises:
        DataError: `out` cannot be written.
    """
    write_text(out, csv_lines(rows))


def csv_lines(rows: Iterable[Sequence[object]]) -> Iterator[str]:
    """The lines of a CSV file."""
    return map(_csv_line, rows)


def _csv_line(row: Sequence[object]) -> str:
    content = io.StringIO()
    csv.writer(content).writerow(row)  # quotes what its own line end is of, and no other
    return content.getvalue().removesuffix("\r\n") + "\n"


def _expand(pattern: str) -> Iterator[str]:
    """Expands a pattern; `**` follows links, but enters each folder once.

    `glob` follows links that lead back as often as the system lets it: each of two in one folder
    forty times, which has no end.
    """
    parts = pattern.split(os.sep)
    if "**" not in parts:
        yield from glob.iglob(pattern)
        return
    at = parts.index("**")
    tops = glob.iglob(os.sep.join([*parts[:at], ""])) if at else [""]
    rest = os.sep.join(dropwhile("**".__eq__, parts[at + 1 :]))
    for top in tops:
        if not rest:
            yield top or os.curdir
            continue
        for folder, _ in _walk(Path(top)):
            yield from _expand(os.path.join(glob.escape(str(folder)), rest))


def _below(folder: Path) -> list[Path]:
    """All image files below a folder, none below a file; links are followed, each folder once."""
    if not folder.is_dir():
        return []
    files = (parent / name for parent, names in _walk(folder) for name in names)
    return sorted(path for path in files if _is_image(path))


def _walk(top: Path) -> Iterator[tuple[Path, list[str]]]:
    """A folder and those below it but hidden ones, each once, with the names of its files.

    Links to folders that it lies in lead back to it, and are not followed.
    """
    waiting, seen = [top], {*folders_around(top)}
    while waiting:
        folder = waiting.pop()
        try:
            state = os.stat(folder)
            if (state.st_dev, state.st_ino) in seen and folder is not top:
                continue
            seen.add((state.st_dev, state.st_ino))
            with os.scandir(folder) as entries:
                kinds = {entry.name: is_folder(entry) for entry in entries}
        except OSError as error:
            found = (error.strerror or "cannot be read").lower()
            raise DataError(folder, found, "a readable folder") from error
        yield folder, [name for name, is_dir in kinds.items() if not is_dir]
        inner = (name for name, is_dir in kinds.items() if is_dir and not name.startswith("."))
        waiting += (folder / name for name in sorted(inner, reverse=True))


def _is_image(path: Path) -> bool:
    return path.suffix.lower() in IMAGE_SUFFIXES and not path.name.startswith(".")


def _batches(
    paths: list[Path], checkpoint: Checkpoint, config: PredictConfig
) -> Iterator[dict[int, NDArray[np.uint8] | DataError]]:
    """Number in `paths` -> uint8[crops, S, S, 3], as evaluation cuts the image, or its error."""
    with make_threads() as executor:
        encoder = _make_encoder(checkpoint)
        tasks = (partial(_cut, checkpoint, encoder, path, config.crops) for path in paths)
        cuts = enumerate(in_order(executor, tasks, ahead=2 * config.batch_size))
        while batch := dict(islice(cuts, config.batch_size)):
            yield batch


def _make_encoder(checkpoint: Checkpoint) -> Encoder:
    """Prepares images as the model knows them."""
    return Encoder(EncodePolicy(verify=False, **asdict(checkpoint.prepared)))


def _cut(
    checkpoint: Checkpoint, encoder: Encoder, path: Path, crops: int
) -> NDArray[np.uint8] | DataError:
    """One image as evaluation cuts it; its error is a value, which ends no other's work."""
    try:
        stored = read_stored(str(path), encoder, 0)
        view, size = checkpoint.view, checkpoint.size
        return cut_crops(stored, view, size, str(path), checkpoint.decode, crops)
    except DataError as error:
        return error


@torch.inference_mode()
def _run(
    model: nn.Module,
    crops: NDArray[np.uint8],
    device: torch.device,
    config: PredictConfig,
    goal: Goal,
) -> NDArray[Any]:
    """Probabilities [B, C], or numbers [B, 1], of uint8[crops, B, S, S, 3]."""
    outputs = []
    for pixels in crops:
        images = torch.from_numpy(normalize(pixels)).permute(0, 3, 1, 2).to(device)
        logits, _ = classify(model, images, None, flip=config.flip, vflip=config.vflip, goal=goal)
        outputs.append(logits)
    return goal.read(average(outputs, goal))


def _write_outputs(config: PredictConfig, predictions: list[Told], checkpoint: Checkpoint) -> None:
    if config.csv is not None:
        write_csv(config.csv, chain([predictions[0].head], (each.row for each in predictions)))
    if config.json is not None:
        items = (json.dumps(each.plain) for each in predictions)
        write_text(config.json, chain(["[\n", next(items)], (f",\n{i}" for i in items), ["\n]\n"]))
    if config.sheet is not None:
        _draw_sheet(config.sheet, predictions, checkpoint)


def _draw_sheet(out: Path, predictions: list[Told], checkpoint: Checkpoint) -> None:
    from fastft.evaluate.plots import (  # matplotlib takes 0.7 s
        SHEET_IMAGES,
        SHOWN_PX,
        Shown,
        draw_sheet,
    )

    count = min(SHEET_IMAGES, len(predictions))
    shown, encoder = [], _make_encoder(checkpoint)
    for each in (predictions[at * len(predictions) // count] for at in range(count)):
        stored = read_stored(str(each.path), encoder, 0)
        pixels = cut_image(stored, checkpoint.view, SHOWN_PX, str(each.path))
        image = Image.fromarray(pixels)
        if isinstance(each, Prediction):
            shown.append(Shown(image, each.label, each.probability, each.truth))
        else:
            shown.append(Shown(image, each.caption, None, None))
    write_bytes(out, [draw_sheet(shown)])
