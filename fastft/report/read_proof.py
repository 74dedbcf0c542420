"""Results of `parity` and `evaluate`: distances of pixels, equivalence of models, mistakes.

Reads their JSON into dataclasses; `proof` shows them.
"""

from __future__ import annotations

import base64
import struct
from dataclasses import dataclass
from pathlib import Path

from fastft.report.read_json import Fields, read_bytes
from pipelines.errors import DataError, FormatError

EVALUATION, _EVALUATION_VERSION = "fastft-evaluation", 1
#: A picture beside a JSON is taken into the page up to this size.
_MOST_PICTURE_BYTES = 4 * 2**20
_PNG = b"\x89PNG\r\n\x1a\n"
_MOST_SIDE_PX = 20_000


@dataclass(frozen=True, slots=True)
class Png:
    """A picture as a data: URI, and its size in px."""

    uri: str
    width: int
    height: int


@dataclass(frozen=True, slots=True)
class PixelRow:
    """A loader's distance from the reference, in levels of 255."""

    loader: str
    stage: str
    view: str
    mean: float | None
    rare: float | None
    most: float | None
    psnr_db: float | None
    exact: float | None


@dataclass(frozen=True, slots=True)
class PixelVerdict:
    """Whether a loader keeps what it states; `stated` is empty where it states nothing."""

    loader: str
    stated: tuple[float | None, ...]
    passed: bool
    in_order: bool
    cause: str


@dataclass(frozen=True, slots=True)
class StockPixels:
    """A library's own evaluation pipeline against the reference."""

    name: str
    mean: float | None
    most: float | None


@dataclass(frozen=True, slots=True)
class Pixels:
    """A `pixels.json`, and the picture beside it."""

    name: str
    environment: dict[str, str]
    images: int
    rows: tuple[PixelRow, ...]
    verdicts: tuple[PixelVerdict, ...]
    stock: tuple[StockPixels, ...]
    picture: Png | None


@dataclass(frozen=True, slots=True)
class Difference:
    """Accuracies of two loaders: the mean of paired differences, its interval, and what it shows.

    Attributes:
        what: which two.
        n: pairs.
        mean, low, high: points.
        p: of the two one-sided tests.
        verdict: `equivalent`, `different` or `not shown`.
    """

    what: str
    n: int
    mean: float | None
    low: float | None
    high: float | None
    p: float | None
    verdict: str


@dataclass(frozen=True, slots=True)
class CurveRow:
    """How far a loader's loss curves lie from the reference's; `ratio` is in the control's."""

    loader: str
    first: float | None
    rms: float | None
    ratio: float | None
    within: bool


@dataclass(frozen=True, slots=True)
class Accuracy:
    """An `accuracy.json`."""

    name: str
    environment: dict[str, str]
    passed: bool
    reference: str
    baseline: str
    margin: float | None
    told: str
    differences: tuple[Difference, ...]
    curves: tuple[CurveRow, ...]


@dataclass(frozen=True, slots=True)
class ClassRow:
    """One class of an evaluation."""

    name: str
    precision: float | None
    recall: float | None
    f1: float | None
    support: int


@dataclass(frozen=True, slots=True)
class Evaluation:
    """An `evaluation.json`, and the picture of the worst mistakes beside it."""

    name: str
    environment: dict[str, str]
    samples: int
    right: int
    accuracy: float | None
    interval: tuple[float | None, ...]
    loss: float | None
    macro_f1: float | None
    classes: tuple[ClassRow, ...]
    confused: tuple[tuple[str, str, int, float | None], ...]
    confusion: tuple[tuple[int, ...], ...]
    picture: Png | None


def read_pixels(found: Fields, name: str, path: Path) -> Pixels:
    """A `pixels.json`.

    Raises:
        DataError: a field is missing or of another type.
    """
    return Pixels(
        name=name,
        environment=found.child("environment").plain(),
        images=found.count("images"),
        rows=tuple(_read_pixel_row(row) for row in found.rows("rows")),
        verdicts=tuple(
            PixelVerdict(
                row.text("loader"), row.numbers("stated", optional=True), row.flag("passed"),
                row.flag("in_order"), row.text("cause"),
            )
            for row in found.rows("verdicts")
        ),
        stock=tuple(
            StockPixels(row.text("name"), *_mean_and_most(row.child("evaluation")))
            for row in found.rows("stock", optional=True)
        ),
        picture=read_png(path.with_name("pixels.png")),
    )  # fmt: skip


def read_accuracy(found: Fields, name: str) -> Accuracy:
    """An `accuracy.json`.

    Raises:
        DataError: a field is missing or of another type.
    """
    findings, config = found.child("findings"), found.child("config")
    reference, baseline = found.text("reference"), found.text("baseline")
    parts = (
        ("against_baseline", f"{{}} vs {baseline}"),
        ("against_reference", f"{{}} vs {reference}"),
        ("evaluation", "evaluated by {}"),
    )
    differences = []
    for part, what in parts:
        compared = findings.child(part)
        for loader in sorted(compared.names):
            differences.append(_read_difference(compared.child(loader), what, loader))
    curves = findings.child("curves")
    return Accuracy(
        name=name,
        environment=found.child("environment").plain(),
        passed=found.flag("passed"),
        reference=reference,
        baseline=baseline,
        margin=config.number("margin", least=0),
        told=(
            f"{config.count('seeds')} runs of each loader, {found.count('steps'):,} steps of "
            f"{config.count('batch_size'):,} images in {found.text('dtype')}, from "
            f"{found.text('start')}; {found.count('train_images'):,} training and "
            f"{found.count('eval_images'):,} evaluation images."
        ),
        differences=tuple(differences),
        curves=tuple(_read_curve(curves.child(each), each) for each in sorted(curves.names)),
    )


def read_evaluation(found: Fields, name: str, path: Path) -> Evaluation:
    """An `evaluation.json`.

    Raises:
        FormatError: of another version.
        DataError: a field is missing or of another type.
    """
    if (version := found.count("version")) != _EVALUATION_VERSION:
        remedy = "run fastft evaluate again"
        raise FormatError(found.where, f"version {version}", str(_EVALUATION_VERSION), remedy)
    classes = tuple(_read_class(row) for row in found.rows("classes"))
    return Evaluation(
        name=name,
        environment=found.child("environment").plain(),
        samples=found.count("samples"),
        right=found.count("right"),
        accuracy=found.number("accuracy"),
        interval=found.numbers("interval"),
        loss=found.number("loss"),
        macro_f1=found.number("macro_f1"),
        classes=classes,
        confused=tuple(
            (row.text("truth"), row.text("predicted"), row.count("count"), row.number("share"))
            for row in found.rows("confused")
        ),
        confusion=_read_matrix(found, len(classes)),
        picture=read_png(path.with_name("top_losses.png")),
    )


def read_png(path: Path) -> Png | None:
    """A picture for the page; None where there is none, or none that the page would take.

    The picture adds to the figures and is not needed.
    """
    try:
        content = read_bytes(path, _MOST_PICTURE_BYTES)
    except DataError:
        return None
    if not content.startswith(_PNG) or len(content) < 24 or content[12:16] != b"IHDR":
        return None
    width, height = struct.unpack(">II", content[16:24])
    if not (0 < width <= _MOST_SIDE_PX and 0 < height <= _MOST_SIDE_PX):
        return None
    return Png(f"data:image/png;base64,{base64.b64encode(content).decode()}", width, height)


def _read_pixel_row(row: Fields) -> PixelRow:
    distance = row.child("distance")
    return PixelRow(
        row.text("loader"), row.text("stage"), row.text("view"), distance.number("mean", least=0),
        distance.number("most_but_0_1_percent", least=0), distance.number("most", least=0),
        distance.number("psnr_db"), distance.number("exact", least=0),
    )  # fmt: skip


def _mean_and_most(distance: Fields) -> tuple[float | None, float | None]:
    return distance.number("mean", least=0), distance.number("most", least=0)


def _read_difference(found: Fields, what: str, loader: str) -> Difference:
    return Difference(
        what.replace("{}", loader), found.count("n"), found.number("mean"), found.number("low"),
        found.number("high"), found.number("p"), found.text("verdict"),
    )  # fmt: skip


def _read_curve(found: Fields, loader: str) -> CurveRow:
    return CurveRow(
        loader, found.number("first"), found.number("rms"), found.number("ratio"),
        found.flag("within"),
    )  # fmt: skip


def _read_class(row: Fields) -> ClassRow:
    return ClassRow(
        row.text("name"), row.number("precision"), row.number("recall"), row.number("f1"),
        row.count("support"),
    )  # fmt: skip


def _read_matrix(found: Fields, classes: int) -> tuple[tuple[int, ...], ...]:
    rows = found.counts("confusion")
    if len(rows) != classes or any(len(row) != classes for row in rows):
        where = f"{found.where}: confusion"
        raise DataError(where, "another number of rows or columns", f"{classes} of either")
    return rows
