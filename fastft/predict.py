"""Prediction: image files in, class and probability out, preprocessed as in evaluation."""

from __future__ import annotations

import csv
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image

from fastft.checkpoint import Checkpoint, load_checkpoint
from fastft.config import PredictConfig
from fastft.environment import pick_device
from fastft.model import restore_model
from pipelines.encode import EncodePolicy, Encoder, read_stored
from pipelines.errors import DataError
from pipelines.folder import IMAGE_SUFFIXES
from pipelines.plan import make_plan
from pipelines.reference import normalize, render
from pipelines.workers import in_order


@dataclass(frozen=True, slots=True)
class Prediction:
    """One image's class: `truth` is its folder's name, if that is one of the classes."""

    path: Path
    label: str
    probability: float
    truth: str | None


def predict(config: PredictConfig) -> list[Prediction]:
    """Classify images; draws the sheet and writes the CSV if asked to.

    Raises:
        DataError: the run or an image cannot be read, or there are no images.
    """
    device = pick_device(config.device)
    checkpoint_path = config.run / "best.pt" if config.run.is_dir() else config.run
    checkpoint = load_checkpoint(checkpoint_path)
    model = restore_model(checkpoint, checkpoint_path).to(device)
    paths = list_images(config.images)
    predictions: list[Prediction] = []
    for batch in _batches(paths, checkpoint, config.batch_size):
        images = torch.from_numpy(normalize(batch)).permute(0, 3, 1, 2).to(device)
        with torch.inference_mode():
            probabilities = model(images).softmax(1).cpu()
        for row in probabilities:
            path = paths[len(predictions)]
            truth = path.absolute().parent.name
            predictions.append(
                Prediction(
                    path, checkpoint.classes[int(row.argmax())], float(row.max()),
                    truth if truth in checkpoint.classes else None,
                )
            )  # fmt: skip
    if config.csv is not None:
        _write_csv(config.csv, predictions)
    if config.sheet is not None:
        _draw_sheet(config.sheet, predictions, checkpoint)
    return predictions


def list_images(images: tuple[Path, ...]) -> list[Path]:
    """Files as given; folders opened, all image files below them in order of their paths.

    Raises:
        DataError: a path does not exist, or a folder holds no images.
    """
    paths: list[Path] = []
    for path in images:
        if path.is_dir():
            below = sorted(
                p for p in path.rglob("*")
                if p.suffix.lower() in IMAGE_SUFFIXES and not p.name.startswith(".")
            )  # fmt: skip
            if not below:
                raise DataError(path, "holds no images", "image files", "name another folder")
            paths += below
        elif path.exists():
            paths.append(path)
        else:
            raise DataError(
                path, "no such file", "an image or a folder of images", "check the path"
            )
    return paths


def _batches(
    paths: list[Path], checkpoint: Checkpoint, batch_size: int
) -> Iterator[NDArray[np.uint8]]:
    """uint8[B, S, S, 3]: the images as evaluation cuts them, decoded in threads."""
    with ThreadPoolExecutor() as executor:
        tasks = (_Cut(path, checkpoint) for path in paths)
        batch: list[NDArray[np.uint8]] = []
        for pixels in in_order(executor, tasks, ahead=2 * batch_size):
            batch.append(pixels)
            if len(batch) == batch_size:
                yield np.stack(batch)
                batch = []
        if batch:
            yield np.stack(batch)


class _Cut:
    """Reads one image and cuts it by the checkpoint's view."""

    _encoder = Encoder(EncodePolicy(verify=False))

    def __init__(self, path: Path, checkpoint: Checkpoint) -> None:
        self._path, self._checkpoint = path, checkpoint

    def __call__(self) -> NDArray[np.uint8]:
        stored = read_stored(str(self._path), self._encoder, 0)
        sides: Any = (np.array([stored.width], np.int32), np.array([stored.height], np.int32))
        plan = make_plan(*sides, view=self._checkpoint.view, size=self._checkpoint.size)
        rows = plan.rows(plan.order)
        return render(stored, rows.boxes[0], False, plan, str(self._path))


def _write_csv(out: Path, predictions: list[Prediction]) -> None:
    try:
        with open(out, "w", encoding="utf-8", errors="backslashreplace", newline="") as file:
            writer = csv.writer(file)
            writer.writerow(["path", "label", "probability"])
            writer.writerows([p.path, p.label, f"{p.probability:.6f}"] for p in predictions)
    except OSError as error:
        raise DataError(
            out, (error.strerror or "cannot be written").lower(), "a file to write"
        ) from error


def _draw_sheet(out: Path, predictions: list[Prediction], checkpoint: Checkpoint) -> None:
    from fastft.show import SHEET_IMAGES, Shown, draw_predictions  # matplotlib takes 0.7 s

    count = min(SHEET_IMAGES, len(predictions))
    chosen = [predictions[i * len(predictions) // count] for i in range(count)]
    # Drawn larger than the model sees them, for the reader's eyes.
    large = replace(checkpoint, size=224)
    shown = [
        Shown(Image.fromarray(_Cut(p.path, large)()), p.label, p.probability, p.truth)
        for p in chosen
    ]
    draw_predictions(shown, out)
