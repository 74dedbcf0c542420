"""Results of the benchmark suites of `bench/`, as pytest-benchmark wrote them: checked and drawn.

The rows of their table are in `suite_rows`, for README and the page of `fastft report` alike.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

from typing_extensions import NotRequired, TypedDict

from fastft.bench.suite_rows import Row, find_rows
from fastft.results.charts import Bar, Line, bar_panel, line_panel, span_panel, tone
from fastft.results.numbers import (
    UNKNOWN,
    Number,
    count,
    write_bytes,
    write_rate,
    write_ratio,
    write_seconds,
    write_tick,
)
from fastft.results.plots import BLUE, RED, Panel
from fastft.results.read import check
from fastft.results.tables import (
    Block,
    Cell,
    Column,
    Exhibit,
    Key,
    Notes,
    Section,
    make_table,
    of_source,
)
from pipelines.errors import FormatError

#: Headings of the loaders' bars, by the kind of data that a contender reads.
READS = {"jpeg": "decodes JPEGs", "pixels": "reads decoded pixels"}
#: Groups whose figures are a row of the table or a chart; others are listed by their time.
_SHOWN = (
    "convert",
    "merge",
    "decode",
    "loaders",
    "kernel",
    "training step",
    "start-up",
    "plan",
    "memory",
    "growth",
)


class Contender(TypedDict, total=False):
    """One way of starting up."""

    contender: str
    side: str
    first_batch_s: float
    process_s: float


class Info(TypedDict, total=False):
    """A benchmark's figures; which of them it has depends on its group."""

    contender: str
    command: str
    side: str
    reads: str
    seconds: float
    images: int
    img_per_s: float
    cpu_ms_per_image: float
    baseline: str
    baseline_img_per_s: float
    ratio: float
    ratio_range: list[float]
    ratio_to: dict[str, list[float]]
    memory_allows_img_per_s: float
    share_of_memory_roofline: float
    batch: int
    size: int
    contenders: list[Contender]
    peak_bytes: float
    peak_bytes_with_large: float
    ratio_to_stock_ffcv: float
    work_bytes: dict[str, float]
    samples: int
    workers: int
    peak_rss_bytes: float
    first_batch_s: float


class Benchmark(TypedDict):
    """One benchmark: its group, its test and its figures."""

    group: str | None
    fullname: str
    stats: NotRequired[Mapping[str, Any]]
    extra_info: Info


class Goal(TypedDict):
    """A ratio that was aimed at, who its two sides were, and what came of it."""

    what: str
    ours: str
    theirs: str
    ratio: float
    low: float
    high: float
    goal: float


class Suite(TypedDict):
    """A JSON of the suites."""

    machine_info: dict[str, Any]
    benchmarks: list[Benchmark]
    photos: NotRequired[dict[str, Any]]
    datetime: NotRequired[str]
    verdicts: NotRequired[list[Goal]]


def read_suite(found: Mapping[str, Any], where: str) -> tuple[Suite, list[Row]]:
    """A run of the suites, and the rows of its table.

    Raises:
        DataError: a field is missing or of another type.
    """
    suite = check(Suite, found, where)
    try:
        return suite, list(find_rows(suite["benchmarks"], suite.get("verdicts", [])))
    except (KeyError, TypeError, ValueError, IndexError) as error:
        raise FormatError(
            where, f"a benchmark lacks {error}", "a JSON of ./dev results", "write it anew"
        ) from error


def suites_section(suites: Sequence[tuple[str, Suite, list[Row]]]) -> Section | None:
    """The table of each run, its loaders, what was aimed at, and growth.

    Args:
        suites: name of a source, and what it holds.
    """
    names = [name for name, *_ in suites]
    blocks: list[Block] = []
    keys = []
    for name, suite, rows in suites:
        goals = suite.get("verdicts", [])
        if goals:
            met = sum(each["ratio"] >= each["goal"] for each in goals)
            what = of_source(name, names, "of the suites are met")
            keys.append(Key(f"{met} of {len(goals)}", "goals", what))
        if rows:
            blocks.append(
                make_table(
                    of_source(name, names, "Against other libraries"),
                    rows,
                    (
                        Column("", lambda row: row.cells()[0].replace("`", "")),
                        Column("fastft", lambda row: row.cells()[1].replace("`", "")),
                        Column("baseline in the same run", lambda row: row.cells()[2]),
                        Column("ratio", lambda row: row.cells()[3].replace("`", "")),
                    ),
                )
            )
        blocks += _loaders(suite, of_source(name, names, "Loaders"))
        blocks += _goals(goals, of_source(name, names, "What was aimed at"))
        blocks += _growth(suite, of_source(name, names, "By number of samples"))
        blocks += _others(suite, of_source(name, names, "Other benchmarks"))
        blocks.append(Notes((of_source(name, names, f"{describe_photos(suite)}."),)))
    return Section("suites", "Benchmarks", (), tuple(blocks), tuple(keys)) if blocks else None


def loader_infos(suite: Suite) -> list[Info]:
    """The contenders of the loaders' field."""
    found = (each for each in suite["benchmarks"] if (each["group"] or "").startswith("loaders: "))
    return [each["extra_info"] for each in found if "img_per_s" in each["extra_info"]]


def loader_panels(suite: Suite) -> tuple[Panel, ...]:
    """Bars of all loaders, those that decode apart from those that read pixels."""
    panels = []
    for reads, title in READS.items():
        infos = [each for each in loader_infos(suite) if each.get("reads", "jpeg") == reads]
        rows = [
            Bar(
                each["contender"],
                each["img_per_s"],
                write_rate(each["img_per_s"]),
                tone(is_stock=each.get("side") == "stock"),
            )
            for each in sorted(infos, key=lambda each: -each["img_per_s"])
        ]
        panels += [bar_panel(f"{title}, images/s", rows)] if rows else []
    return tuple(panels)


def describe_photos(suite: Suite) -> str:
    """The photos of a run in words: how many, how large."""
    facts = suite.get("photos") or {}
    if "images" not in facts:
        return "photos of the suites' own"
    kind = facts.get("photos", "synthetic")
    kind = kind if kind == "synthetic" else f"real ({kind})"
    return (
        f"{facts['images']:,} {kind} photos, {facts['mean_px']:,} px and "
        f"{facts['mean_bytes'] / 1e3:.0f} KB on average"
    )


def describe_machine(suite: Suite) -> str:
    """The machine and the versions of a run in words."""
    found = suite["machine_info"]
    versions = ", ".join(
        f"{name} {each}" for name, each in found.get("versions", {}).items() if each
    )
    return (
        f"{describe_processor(suite)} "
        f"({found.get('system', '?')}, {found.get('machine', '?')}), "
        f"Python {found.get('python', '?')}, {versions}"
    )


def describe_processor(suite: Suite) -> str:
    """Its cores and their kind."""
    found = suite["machine_info"]
    return f"{found.get('cores', '?')} cores of {found.get('cpu', '') or 'a processor'}"


def _loaders(suite: Suite, title: str) -> list[Block]:
    infos = sorted(loader_infos(suite), key=lambda each: -each["img_per_s"])
    if not infos:
        return []
    others = [each["contender"] for each in infos if each.get("side") == "stock"]

    def times(other: str) -> Column[Info]:
        def of(info: Info) -> Cell | str:
            found = info.get("ratio_to", {}).get(other)
            return Cell(write_ratio(found[0]), found[0]) if found else ""

        return Column(f"x {other}", of)

    table = make_table(
        title,
        infos,
        (
            Column("", lambda info: info["contender"]),
            Column("images/s", lambda info: info["img_per_s"], write_rate),
            Column("CPU ms an image", lambda info: info.get("cpu_ms_per_image"), write_ratio),
            *map(times, others),
        ),
    )
    note = "Blue: fastft, grey: others. The table holds how many times as fast as each other one."
    return [Exhibit(title, loader_panels(suite), table, note)]


def _goals(goals: Sequence[Goal], title: str) -> list[Block]:
    if not goals:
        return []
    rows = [
        Bar(
            each["what"],
            each["ratio"],
            write_ratio(each["ratio"]),
            BLUE if each["ratio"] >= each["goal"] else RED,
            mark=each["goal"],
            low=each["low"],
            high=each["high"],
        )
        for each in goals
    ]
    table = make_table(
        title,
        goals,
        (
            Column("", lambda goal: goal["what"]),
            Column("ours", lambda goal: goal["ours"]),
            Column("theirs", lambda goal: goal["theirs"]),
            Column("ratio", lambda goal: goal["ratio"], write_ratio),
            Column(
                "of the rounds",
                lambda goal: f"{write_ratio(goal['low'])} {UNKNOWN} {write_ratio(goal['high'])}",
            ),
            Column("goal", lambda goal: goal["goal"], write_ratio),
            Column(
                "",
                lambda goal: (
                    Cell("met", 1, "good")
                    if goal["ratio"] >= goal["goal"]
                    else Cell("missed", 0, "bad")
                ),
            ),
        ),
    )
    note = "How many times as fast, with the range of the rounds; the stroke is the goal."
    return [Exhibit(title, (span_panel("Times as fast", rows, log=True),), table, note)]


def _growth(suite: Suite, title: str) -> list[Block]:
    infos = [each["extra_info"] for each in suite["benchmarks"] if each["group"] == "growth"]
    if not infos:
        return []
    infos.sort(key=lambda info: info["samples"])
    ticks = [float(each) for each in sorted({info["samples"] for info in infos})]

    def panel(what: str, workers: int, of: Callable[[Info], float], tick: Number) -> Panel:
        names = dict.fromkeys(info["contender"] for info in infos)
        lines = [
            Line(
                name,
                tuple(
                    (float(info["samples"]), of(info))
                    for info in infos
                    if (info["contender"], info["workers"]) == (name, workers)
                ),
            )
            for name in names
        ]
        told = f"{what}, {count(workers, 'worker')}"
        return line_panel(told, lines, x_label="samples", y_tick=tick, x_ticks=ticks, log_x=True)

    workers = sorted({info["workers"] for info in infos})
    panels = [
        panel("Images/s", each, lambda info: info["img_per_s"], write_tick) for each in workers
    ]
    panels += [
        panel("Peak memory", each, lambda info: info["peak_rss_bytes"], write_bytes)
        for each in workers
    ]
    table = make_table(
        title,
        infos,
        (
            Column("", lambda info: info["contender"]),
            Column("samples", lambda info: info["samples"]),
            Column("workers", lambda info: info["workers"]),
            Column("images/s", lambda info: info["img_per_s"], write_rate),
            Column("peak memory", lambda info: info["peak_rss_bytes"], write_bytes),
            Column("first batch", lambda info: info.get("first_batch_s"), write_seconds),
        ),
    )
    return [Exhibit(title, tuple(panels), table)]


def _others(suite: Suite, title: str) -> list[Block]:
    """Benchmarks of groups that nothing above shows."""
    others = [each for each in suite["benchmarks"] if not (each["group"] or "").startswith(_SHOWN)]
    if not others:
        return []
    return [
        make_table(
            title,
            others,
            (
                Column("", lambda each: each["extra_info"].get("contender") or each["fullname"]),
                Column("group", lambda each: each["group"] or ""),
                Column("images/s", lambda each: each["extra_info"].get("img_per_s"), write_rate),
                Column("baseline", lambda each: each["extra_info"].get("baseline", "")),
                Column("ratio", lambda each: each["extra_info"].get("ratio"), write_ratio),
            ),
        )
    ]
