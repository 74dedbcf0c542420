"""`fastft show`: which images are on a contact sheet, and the pixels of each of its cells.

A plain sheet has the stored images. An augmented one has what a model will see of a few of them:
each image with the boxes that the plan cuts from it, then the crops, as a loader makes them. How a
sheet looks is `contact_sheet`'s.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from itertools import chain, islice
from pathlib import Path
from textwrap import wrap

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from fastft.config.augment import describe
from fastft.config.commands import ShowConfig
from fastft.datasets.splits import asked_split, training_split
from pipelines.errors import UsageError
from pipelines.formats.encode import decode
from pipelines.formats.source import Source, open_source
from pipelines.loaders import Loader, make_loader
from pipelines.plan import SHUFFLED, Rows
from pipelines.workers import make_threads

#: Classes on a sheet unless some are asked for.
MOST_CLASSES = 8
#: Epochs side by side: as many as there are colours that are told apart at a glance.
EPOCHS = 6
#: Images per class of a plain sheet, those in a row, and the side that they are fitted into, px.
_PER_CLASS, _COLUMNS, _SIDE_PX = 8, 8, 150
#: Images of an augmented sheet, and pairs of image and crop in a row of evaluation's.
_AUGMENTED, _PAIRS = 4, 3
#: Crops up to this are shown at their own scale or an exact multiple; larger ones are shrunk.
_LARGEST_CROP_PX, _CROP_PX = 288, 224
#: A sheet of so many rows is 24,000 px high at most; matplotlib draws up to 65,535.
_MOST_ROWS = 64
#: Letters of a line below a crop of the usual size.
_LINE_LETTERS = 36
#: Samples that a loader is asked for at once.
_BATCH = 8
#: Names that an error lists.
_NAMED = 20

Pixels = NDArray[np.uint8]
Samples = NDArray[np.int64]


@dataclass(frozen=True, slots=True)
class Choice:
    """The images of one class that go on a sheet.

    Attributes:
        name: of the class.
        samples: int64[n], in sample order.
        total: how many the class has.
        which: `first`, `last`, or empty where they are all there are.
    """

    name: str
    samples: Samples
    total: int
    which: str


@dataclass(frozen=True, slots=True)
class Cell:
    """An image on a sheet.

    Attributes:
        pixels: uint8[H, W, 3], one for each of the picture.
        lines: what is written below it.
        boxes: float64[E, 4] top, left, height, width, px of `pixels`: what epoch after epoch cuts.
        epoch: the box whose crop it is, counted from 0, or None.
    """

    pixels: Pixels
    lines: tuple[str, ...]
    boxes: NDArray[np.float64] | None = None
    epoch: int | None = None


@dataclass(frozen=True, slots=True)
class Band:
    """The rows of one class, below its name."""

    name: str
    note: str
    rows: tuple[tuple[Cell, ...], ...]


@dataclass(frozen=True, slots=True)
class Sheet:
    """A contact sheet.

    Attributes:
        title, note: its heading.
        slots: widths of the columns, px, again and again from left to right.
        bands: a class each.
        left_out: how many classes are not on it, though none were asked for.
    """

    title: str
    note: str
    slots: tuple[int, ...]
    bands: tuple[Band, ...]
    left_out: int


def make_sheet(config: ShowConfig) -> Sheet:
    """Choose and make all that is on a sheet; nothing is written.

    Raises:
        UsageError: a split, class or loader that is not there, an `out` that cannot be one, or a
            sheet that would be too long.
        DataError: the data cannot be read, or an image is broken.
    """
    if config.out.is_dir():
        raise UsageError("--out", f"{config.out} is a folder", "a file to write", "name one in it")
    source = open_source(find_split(config.data, config.split))
    if config.out.exists() and config.out.samefile(source.path):
        raise UsageError("--out", f"{config.out} is the data", "another file")
    wanted = len(config.classes) or min(len(source.classes), MOST_CLASSES)
    usual = max(1, _AUGMENTED // wanted) if config.augmented else _PER_CLASS
    choices = choose(source, config.classes, usual if config.n is None else config.n)
    is_shuffled = config.view in SHUFFLED
    columns = (1 if is_shuffled else _PAIRS) if config.augmented else _COLUMNS
    count = sum(-(-len(choice.samples) // columns) for choice in choices)
    if count > _MOST_ROWS:
        raise UsageError(
            "--n",
            f"makes {count:,} rows of images",
            f"at most {_MOST_ROWS}",
            "take fewer images or --classes",
        )
    left_out = 0 if config.classes else len(source.classes) - len(choices)
    note = f"{_count(len(source), 'image')}, {_count_classes(source)}"
    if left_out:
        note += f", {left_out:,} of them not shown"
    samples = np.concatenate([choice.samples for choice in choices])
    if config.augmented:
        groups = _crops(source, samples, config)
        note += f"; {config.view} at {config.size} px by {config.loader}"
        note += f", seed {config.seed}" if is_shuffled else ""
        note += f"; {asked}" if (asked := describe(config.augment)) else ""
    else:
        groups = [[cell] for cell in _originals(source, samples, _SIDE_PX, _SIDE_PX)]
    slots = [max(cell.pixels.shape[1] for cell in column) for column in zip(*groups, strict=True)]
    bands, coming = [], iter(groups)
    for choice in choices:
        mine = list(islice(coming, len(choice.samples)))
        parts = (mine[at : at + columns] for at in range(0, len(mine), columns))
        rows = tuple(tuple(chain.from_iterable(part)) for part in parts)
        bands.append(Band(choice.name, _describe(choice), rows))
    return Sheet(str(source.path), note, tuple(slots), tuple(bands), left_out)


def find_split(data: Path, split: str | None) -> Path:
    """The split that was asked for, else the training split, else `data` itself.

    Raises:
        UsageError: there is no such split.
    """
    if split is None or not data.exists():
        return training_split(data)
    return asked_split(data, split)


def choose(source: Source, classes: Sequence[str], n: int) -> list[Choice]:
    """The first `n` images of each class or label, but of the last the last `n`.

    Of a number from the least to the most, evenly.

    Args:
        source: the samples.
        classes: names; none takes the first classes there are.
        n: how many; a class that has fewer gives what it has.

    Raises:
        UsageError: a class is not there, or none of them has an image.
    """
    if classes:
        for name in classes:
            if name not in source.classes:
                raise UsageError("--classes", repr(name), f"names out of {_list(source.classes)}")
        labels = [source.classes.index(name) for name in dict.fromkeys(classes)]
    else:
        labels = list(range(min(len(source.classes), MOST_CLASSES)))
    choices = []
    for label in labels:
        samples = _samples_of(source, label)
        is_last = len(labels) > 1 and label == labels[-1]
        which = "last" if is_last else "first"
        taken = samples[-n:] if is_last else samples[:n]
        if source.columns.task == "number" and len(samples) > n:
            which, taken = "", samples[np.linspace(0, len(samples) - 1, n).round().astype(np.int64)]
        if len(taken) == len(samples):
            which = ""
        choices.append(Choice(source.classes[label], taken, len(samples), which))
    if not any(choice.total for choice in choices):
        raise UsageError("--classes", f"no image of {_list([c.name for c in choices])}", "some")
    return choices


def _samples_of(source: Source, label: int) -> Samples:
    """The samples of a class, those that have a label, or all by their number."""
    columns = source.columns
    if columns.targets is None:
        return np.flatnonzero(source.labels == label)
    if columns.task == "labels":
        return np.flatnonzero(columns.targets[:, label])
    return np.argsort(columns.targets[:, 0], kind="stable")


def _count_classes(source: Source) -> str:
    """The number of classes or labels, or the number's name, in words."""
    task, names = source.columns.task, source.classes
    if task == "number":
        return f"the number {names[0]}"
    many = task == "labels"
    return _count(len(names), "label" if many else "class", "labels" if many else "classes")


def fit(image: Image.Image, width_px: int, height_px: int) -> Image.Image:
    """An image shrunk to fit, or enlarged by a whole factor, so that its pixels stay to be seen."""
    scale = min(width_px / image.width, height_px / image.height)
    if scale >= 1:
        size = image.width * int(scale), image.height * int(scale)
        return image.resize(size, Image.Resampling.NEAREST)
    size = max(1, round(image.width * scale)), max(1, round(image.height * scale))
    return image.resize(size, Image.Resampling.LANCZOS)


def render(loader: Loader, samples: Samples) -> tuple[Pixels, Rows]:
    """Renders these samples by a loader in its present epoch; gives their rows of the plan, too.

    Args:
        loader: of uint8 images.
        samples: int64[N].

    Returns:
        uint8[N, S, S, 3], and the samples' rows.
    """
    loader.select(samples)
    batches = [images.permute(0, 2, 3, 1).cpu().numpy() for images, _ in loader]
    return np.concatenate(batches), loader.plan.rows(samples)


def _crops(source: Source, samples: Samples, config: ShowConfig) -> list[list[Cell]]:
    """For each image the original with its boxes, then the crops."""
    is_shuffled = config.view in SHUFFLED
    epochs = range(config.epoch, config.epoch + (EPOCHS if is_shuffled else 1))
    side = config.size * (_CROP_PX // config.size or 1)
    if side > _LARGEST_CROP_PX:
        side = _CROP_PX
    crops: list[list[Cell]] = [[] for _ in samples]
    boxes = np.empty((len(samples), len(epochs), 4))
    # One worker: these are few images, and a process takes longer to start than it would save.
    with make_loader(
        config.loader,
        source,
        view=config.view,
        size=config.size,
        seed=config.seed,
        batch_size=min(_BATCH, len(source)),
        normalize=False,
        workers=1,
        augment=config.augment,
    ) as loader:
        for at, epoch in enumerate(epochs):
            loader.set_epoch(epoch)
            pixels, rows = render(loader, samples)
            boxes[:, at] = rows.boxes
            what = f"epoch {epoch}" if is_shuffled else config.view
            for row, (cells, image) in enumerate(zip(crops, pixels, strict=True)):
                shown = np.asarray(fit(Image.fromarray(image), side, side))
                cells.append(Cell(shown, (*_describe_row(rows, row, what),), epoch=at))
    originals = _originals(source, samples, side * 4 // 3, side)
    for sample, cell, own, cells in zip(samples, originals, boxes, crops, strict=True):
        height, width = cell.pixels.shape[:2]
        scale = np.array((height / source.heights[sample], width / source.widths[sample]))
        cells.insert(0, replace(cell, boxes=own * np.tile(scale, 2)))
    return crops


def _describe_row(rows: Rows, row: int, what: str) -> Iterator[str]:
    """The plan's row of a crop in words, line by line."""
    yield f"{what}, flipped" if rows.flips[row] else what
    yield f"from {_size(rows.boxes[row, 3], rows.boxes[row, 2])}"
    if rows.operations is not None:
        yield from wrap(", ".join(rows.operations.describe(row)), _LINE_LETTERS)


def _originals(source: Source, samples: Samples, width_px: int, height_px: int) -> list[Cell]:
    """Stored images, shrunk as soon as they are decoded."""

    def make(sample: int) -> Cell:
        image = decode(source.stored(sample), f"{source.path}: {source.name(sample)}")
        lines = [source.name(sample).rpartition("/")[2], _size(image.width, image.height)]
        columns = source.columns
        if columns.targets is not None and columns.task == "number":
            lines.append(f"{source.classes[0]} {columns.targets[sample, 0]:g}")
        return Cell(np.asarray(fit(image, width_px, height_px)), tuple(lines))

    with make_threads() as executor:
        return list(executor.map(make, samples.tolist()))


def _describe(choice: Choice) -> str:
    number = len(choice.samples)
    which = f", the {choice.which} {number if number > 1 else ''}".rstrip() if choice.which else ""
    return _count(choice.total, "image") + which


def _size(width: float, height: float) -> str:
    return f"{width:.0f} × {height:.0f}"  # noqa: RUF001 - it is the sign that is meant


def _count(number: int, one: str, many: str = "") -> str:
    return f"{number:,} {one if number == 1 else many or one + 's'}"


def _list(names: Sequence[str]) -> str:
    more = f" and {len(names) - _NAMED:,} more" if len(names) > _NAMED else ""
    return ", ".join(names[:_NAMED]) + more
