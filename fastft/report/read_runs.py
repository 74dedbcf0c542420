"""Results of trainings: single runs, and the runs of `compare` and `sweep`.

Reads their files into dataclasses; `training` shows them.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from fastft.report.read_json import Fields, parse_object, read_bytes
from fastft.runs.folder import CONFIG, METRICS, SUMMARY

#: Points of the line of losses by step: more than a chart has pixels show nothing.
_POINTS = 240


@dataclass(frozen=True, kw_only=True, slots=True)
class Epoch:
    """The numbers of one epoch; None stands for NaN."""

    epoch: int
    size: int
    train_loss: float | None
    train_accuracy: float | None
    eval_loss: float | None
    eval_accuracy: float | None
    img_per_s: float | None
    wait_s: float | None
    train_s: float | None
    eval_s: float | None

    @property
    def wait_share(self) -> float | None:
        """Share of the training steps' time spent waiting for input."""
        if self.wait_s is None or not self.train_s:
            return None
        return self.wait_s / self.train_s


@dataclass(frozen=True, slots=True)
class Run:
    """A run folder.

    Attributes:
        name: of the source.
        config, environment: by name.
        epochs: those that ended.
        losses: epochs done (with fractions) and the mean loss of the steps about it.
        steps: how many were taken.
        is_whole: whether it came to its end.
        seconds: it took then.
        verdict: on what binds, in lines.
        loader_img_per_s, model_img_per_s: what either could do alone, if it was tried.
    """

    name: str
    config: dict[str, str]
    environment: dict[str, str]
    epochs: tuple[Epoch, ...]
    losses: tuple[tuple[float, float], ...]
    steps: int
    is_whole: bool
    seconds: float | None
    verdict: tuple[str, ...]
    loader_img_per_s: float | None
    model_img_per_s: float | None

    @property
    def best(self) -> Epoch | None:
        """The epoch with the best accuracy, of equals the first."""
        known = [each for each in self.epochs if each.eval_accuracy is not None]
        return max(known, key=lambda each: each.eval_accuracy or 0.0, default=None)


@dataclass(frozen=True, slots=True)
class Variant:
    """Runs that differ in their seed alone; `low` and `high` are the 95% interval."""

    name: str
    lr: float | None
    accuracies: tuple[float, ...]
    mean: float | None
    low: float | None
    high: float | None


@dataclass(frozen=True, slots=True)
class Experiment:
    """What `compare` or `sweep` found.

    Attributes:
        name: of the source.
        environment: facts by name.
        variants: what was compared.
        gains: of a comparison: variant -> by how much fine-tuning is more accurate, with interval.
        best: of a sweep: start -> the best rate.
    """

    name: str
    environment: dict[str, str]
    variants: tuple[Variant, ...]
    gains: dict[str, tuple[float | None, float | None, float | None]]
    best: dict[str, float | None]


def read_run(folder: Path, name: str) -> Run:
    """A run folder, of a run that was left in its middle, too.

    Raises:
        DataError: a file cannot be read, or a field is missing or of another type.
    """
    config = parse_object(read_bytes(folder / CONFIG), str(folder / CONFIG))
    steps: list[tuple[int, float | None]] = []
    epochs: list[Epoch] = []
    for row in _read_rows(folder / METRICS):
        if row.text("kind") == "step":
            steps.append((row.count("epoch"), row.number("loss")))
        else:
            epochs.append(_read_epoch(row))
    summary, bottleneck = None, None
    if (folder / SUMMARY).exists():
        summary = parse_object(read_bytes(folder / SUMMARY), str(folder / SUMMARY))
        bottleneck = summary.child("bottleneck", optional=True)
    tried = bottleneck if bottleneck is not None and bottleneck.names else None
    return Run(
        name=name,
        config=config.child("config").plain(),
        environment=config.child("environment").plain(),
        epochs=tuple(epochs),
        losses=_thin(steps),
        steps=len(steps),
        is_whole=summary is not None,
        seconds=summary.number("seconds", least=0) if summary else None,
        verdict=tuple(tried.lines("verdict")) if tried else (),
        loader_img_per_s=tried.number("loader_img_per_s", least=0) if tried else None,
        model_img_per_s=tried.number("model_img_per_s", least=0) if tried else None,
    )


def read_experiment(found: Fields, name: str) -> Experiment:
    """A `compare.json` or `sweep.json`.

    Raises:
        DataError: a field is missing or of another type.
    """
    gains = found.child("gains", optional=True)
    best = found.child("best", optional=True)
    return Experiment(
        name=name,
        environment=found.child("environment").plain(),
        variants=tuple(_read_variant(row) for row in found.rows("variants")),
        gains={each: _read_interval(gains.child(each)) for each in sorted(gains.names)},
        best={each: best.number(each) for each in sorted(best.names)},
    )


def _read_rows(path: Path) -> Iterator[Fields]:
    lines = read_bytes(path).split(b"\n")
    if lines[-1]:
        lines.pop()  # a process that was killed leaves half a row
    for number, line in enumerate(lines, 1):
        if line.strip():
            yield parse_object(line, f"{path}:{number}")


def _read_epoch(row: Fields) -> Epoch:
    return Epoch(
        epoch=row.count("epoch"),
        size=row.count("size"),
        train_loss=row.number("train_loss"),
        train_accuracy=row.number("train_accuracy"),
        eval_loss=row.number("eval_loss"),
        eval_accuracy=row.number("eval_accuracy"),
        img_per_s=row.number("img_per_s", least=0),
        wait_s=row.number("wait_s", least=0),
        train_s=row.number("train_s", least=0),
        eval_s=row.number("eval_s", least=0),
    )


def _thin(steps: list[tuple[int, float | None]]) -> tuple[tuple[float, float], ...]:
    """Means over neighbouring steps, each at the end of them, in epochs."""
    if not steps:
        return ()
    first = steps[0][0]
    # The first epoch is whole, unless it is the only one.
    per_epoch = sum(epoch == first for epoch, _ in steps)
    width = -(-len(steps) // _POINTS)
    found = []
    for start in range(0, len(steps), width):
        part = [loss for _, loss in steps[start : start + width] if loss is not None]
        if part:
            end = min(start + width, len(steps))
            found.append((first + end / per_epoch, sum(part) / len(part)))
    return tuple(found)


def _read_variant(row: Fields) -> Variant:
    mean, low, high = _read_interval(row.child("accuracy"))
    accuracies = tuple(value for value in row.numbers("accuracies") if value is not None)
    return Variant(row.text("name"), row.number("lr"), accuracies, mean, low, high)


def _read_interval(found: Fields) -> tuple[float | None, float | None, float | None]:
    return found.number("mean"), found.number("low"), found.number("high")
