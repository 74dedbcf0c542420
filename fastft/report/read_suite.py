"""Results of the benchmark suites, as pytest-benchmark wrote them.

Reads their JSON into dataclasses; `suites` shows them.
"""

from __future__ import annotations

import re
from dataclasses import dataclass

from fastft.report.read_json import Fields

#: The group that tells how cost grows with the number of samples.
_GROWTH = "growth"
#: The side of a contender that is not ours.
_STOCK = "stock"
_GOAL = re.compile(r"ratio (>=|<=) (\d+(?:\.\d+)?)")


@dataclass(frozen=True, kw_only=True, slots=True)
class Contender:
    """One way to do what its group's others do, too.

    Attributes:
        group: what is done.
        name: of the way.
        is_stock: whether it is another library's own.
        img_per_s, cpu_ms_per_image: its median.
        baseline, baseline_img_per_s, baseline_cpu_ms_per_image: what it was held against, if so.
        ratio, ratio_range: how many times as fast as that; of the single pairs.
        ratios: other contender -> median, lowest and highest ratio to it.
        goal: for the ratio, in words.
    """

    group: str
    name: str
    is_stock: bool
    img_per_s: float | None
    cpu_ms_per_image: float | None
    baseline: str
    baseline_img_per_s: float | None
    baseline_cpu_ms_per_image: float | None
    ratio: float | None
    ratio_range: tuple[float | None, ...]
    ratios: dict[str, tuple[float | None, ...]]
    goal: str

    @property
    def is_met(self) -> bool | None:
        """Whether the goal is, if it is one of the ratio."""
        found = _GOAL.fullmatch(self.goal)
        if found is None or self.ratio is None:
            return None
        goal = float(found[2])
        return self.ratio >= goal if found[1] == ">=" else self.ratio <= goal


@dataclass(frozen=True, kw_only=True, slots=True)
class Growth:
    """One contender on so many samples."""

    name: str
    is_stock: bool
    samples: int
    workers: int
    img_per_s: float | None
    peak_rss_bytes: float | None
    first_batch_s: float | None


@dataclass(frozen=True, slots=True)
class Measure:
    """A benchmark that tells something else than images per second.

    Attributes:
        group, name: what is measured.
        median_s: of its rounds.
        peak_bytes: of memory, if that is what it is about.
        figures: all that it tells, by name.
    """

    group: str
    name: str
    median_s: float | None
    peak_bytes: float | None
    figures: dict[str, str]


@dataclass(frozen=True, slots=True)
class Start:
    """How long a process takes to its first batch: after all imports, and as a whole."""

    name: str
    is_stock: bool
    first_batch_s: float | None
    process_s: float | None


@dataclass(frozen=True, kw_only=True, slots=True)
class Goal:
    """A ratio that was aimed at: what it is of, who the two sides were, and what came of it."""

    what: str
    ours: str
    theirs: str
    ratio: float | None
    low: float | None
    high: float | None
    goal: float | None

    @property
    def is_met(self) -> bool | None:
        """Whether the ratio is as large; None if that is not known."""
        if self.ratio is None or self.goal is None:
            return None
        return self.ratio >= self.goal


@dataclass(frozen=True, slots=True)
class Suite:
    """A JSON of the suites."""

    name: str
    environment: dict[str, str]
    photos: str
    contenders: tuple[Contender, ...]
    growth: tuple[Growth, ...]
    starts: tuple[Start, ...]
    measures: tuple[Measure, ...]
    goals: tuple[Goal, ...]


def read_suite(found: Fields, name: str) -> Suite:
    """A JSON of the suites, as pytest-benchmark and `bench/conftest.py` write it.

    Raises:
        DataError: a field is missing or of another type.
    """
    machine = found.child("machine_info")
    environment = machine.plain()
    renamed = {key.removeprefix("versions."): value for key, value in environment.items()}
    if "cores" in renamed:
        renamed["cpus"] = renamed.pop("cores")
    contenders, growth, starts, measures = [], [], list[Start](), []
    for row in found.rows("benchmarks"):
        extra = row.child("extra_info")
        if row.text("group", optional=True) == _GROWTH:
            growth.append(_read_growth(extra))
        elif "img_per_s" in extra.names:
            contenders.append(_read_contender(row, extra))
        elif begun := _read_starts(extra):
            starts += begun
        else:
            measures.append(_read_measure(row, extra))
    return Suite(
        name=name, environment=renamed, photos=_tell_photos(found), contenders=tuple(contenders),
        growth=tuple(growth), starts=tuple(starts), measures=tuple(measures),
        goals=tuple(_read_goal(row) for row in found.rows("verdicts", optional=True)),
    )  # fmt: skip


def _read_contender(row: Fields, extra: Fields) -> Contender:
    ratios = extra.child("ratio_to", optional=True)
    return Contender(
        group=_group(row),
        name=_contender(row, extra),
        is_stock=extra.text("side", optional=True) == _STOCK,
        img_per_s=extra.number("img_per_s", least=0),
        cpu_ms_per_image=extra.number("cpu_ms_per_image", least=0, optional=True),
        baseline=extra.text("baseline", optional=True),
        baseline_img_per_s=extra.number("baseline_img_per_s", least=0, optional=True),
        baseline_cpu_ms_per_image=extra.number("baseline_cpu_ms_per_image", least=0, optional=True),
        ratio=extra.number("ratio", least=0, optional=True),
        ratio_range=extra.numbers("ratio_range", optional=True),
        ratios={name: ratios.numbers(name) for name in sorted(ratios.names)},
        goal=extra.text("goal", optional=True),
    )


def _read_growth(extra: Fields) -> Growth:
    return Growth(
        name=extra.text("contender"),
        is_stock=extra.text("side", optional=True) == _STOCK,
        samples=extra.count("samples"),
        workers=extra.count("workers"),
        img_per_s=extra.number("img_per_s", least=0),
        peak_rss_bytes=extra.number("peak_rss_bytes", least=0),
        first_batch_s=extra.number("first_batch_s", least=0, optional=True),
    )


def _read_measure(row: Fields, extra: Fields) -> Measure:
    return Measure(
        group=_group(row),
        name=_contender(row, extra),
        median_s=row.child("stats", optional=True).number("median", least=0, optional=True),
        peak_bytes=extra.number("peak_bytes", least=0, optional=True),
        figures={key: value for key, value in extra.plain().items() if key != "contender"},
    )


def _read_starts(extra: Fields) -> list[Start]:
    """Of the suite as it is, and as it was when it told of one thing by contender."""
    whole = extra.child("process_to_first_batch_s", optional=True)
    made = extra.child("made_to_first_batch_s", optional=True)
    return [
        Start(
            row.text("contender"), row.text("side") == _STOCK,
            row.number("first_batch_s", least=0), row.number("process_s", least=0),
        )
        for row in extra.rows("contenders", optional=True)
    ] + [
        Start(
            name, name.startswith(_STOCK), made.number(name, least=0, optional=True),
            whole.number(name, least=0),
        )
        for name in sorted(whole.names)
    ]  # fmt: skip


def _read_goal(row: Fields) -> Goal:
    return Goal(
        what=row.text("what"),
        ours=row.text("ours"),
        theirs=row.text("theirs"),
        ratio=row.number("ratio", least=0),
        low=row.number("low", least=0),
        high=row.number("high", least=0),
        goal=row.number("goal", least=0),
    )


def _group(row: Fields) -> str:
    return row.text("group", optional=True) or "others"


def _contender(row: Fields, extra: Fields) -> str:
    """Its name, or else that of the test."""
    test = row.text("fullname").rpartition("::")[2]
    return extra.text("contender", optional=True) or test.removeprefix("test_").replace("_", " ")


def _tell_photos(found: Fields) -> str:
    photos = found.child("photos", optional=True)
    if not photos.names:
        return ""
    return (
        f"{photos.count('images'):,} {photos.text('photos')} photos, mean "
        f"{photos.count('mean_px'):,} px and {photos.count('mean_bytes'):,} bytes; "
        f"{photos.count('cores')} cores"
    )
