"""Small data sets of several labels or a number for each photo, of which anybody can tell them."""

from __future__ import annotations

import zlib
from pathlib import Path

import numpy as np
from samples import raw

from pipelines.formats.beton_writer import BetonWriter
from pipelines.formats.columns import Columns, Task
from pipelines.formats.layout import About

#: A red square, a blue disc: a photo has either, both or none.
LABELS = ("disc", "square")
NUMBER = ("darkness",)
_SIDE = 40


def draw_shapes(rng: np.random.Generator, disc: bool, square: bool) -> np.ndarray:
    """uint8[40, 40, 3]: grey, with what is asked for in it, large enough for any crop."""
    pixels = np.full((_SIDE, _SIDE, 3), rng.integers(90, 160), np.int64)
    pixels += rng.integers(-12, 13, pixels.shape)
    y, x = np.mgrid[:_SIDE, :_SIDE]
    top, left = rng.integers(1, 5, 2)
    if square:
        pixels[top : top + 17, left : left + 36] = (210, 30, 30)
    if disc:
        pixels[(y - 29) ** 2 + (x - 20) ** 2 < rng.integers(90, 120)] = (30, 40, 210)
    return np.clip(pixels, 0, 255).astype(np.uint8)


def make_targets(task: Task, count: int, seed: int = 0) -> tuple[np.ndarray, list[np.ndarray]]:
    """float32[N, C] and the photos that show them."""
    rng = np.random.default_rng((seed, count))
    if task == "labels":
        targets = (rng.random((count, 2)) < (0.5, 0.4)).astype(np.float32)
        targets[:4] = [[0, 0], [0, 1], [1, 0], [1, 1]]
        return targets, [draw_shapes(rng, bool(a), bool(b)) for a, b in targets]
    numbers = rng.uniform(1000, 1200, (count, 1)).astype(np.float32)
    photos = []
    for (number,) in numbers:
        light = 240 - (number - 1000)
        pixels = light + rng.integers(-12, 13, (_SIDE, _SIDE, 3))
        photos.append(np.clip(pixels, 0, 255).astype(np.uint8))
    return numbers, photos


def write_targets(
    path: Path,
    task: Task,
    count: int = 24,
    *,
    seed: int = 0,
    targets: np.ndarray | None = None,
    classes: tuple[str, ...] | None = None,
) -> Path:
    """Write a `.beton`; `targets` replaces what the photos show."""
    path.parent.mkdir(parents=True, exist_ok=True)
    shown, photos = make_targets(task, count, seed)
    targets = shown if targets is None else np.asarray(targets, np.float32)
    columns = Columns(task=task, targets=targets)
    usual = LABELS if task == "labels" else NUMBER
    with BetonWriter(path, count) as writer:
        for sample, pixels in enumerate(photos):
            stored = raw(pixels)
            writer.append(stored, 0, f"photos/{sample:03}.png", zlib.crc32(stored.data))
        writer.finish(About(classes=classes or usual, columns=columns))
        writer.publish()
    return path


def write_splits(folder: Path, task: Task, train: int = 64, test: int = 24) -> Path:
    """A data folder of two splits."""
    write_targets(folder / "train.beton", task, train, seed=1)
    write_targets(folder / "test.beton", task, test, seed=2)
    return folder
