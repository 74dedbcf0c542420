"""Sections on what the suites measured: contests with other libraries, memory, start-up, growth."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence

from fastft.report.charts import Row, Scale, fit_scale, row_chart
from fastft.report.lines import Series, line_chart
from fastft.report.parts import (
    UNKNOWN,
    Block,
    Cell,
    Figure,
    Key,
    Notes,
    Panel,
    Section,
    Table,
    capitalize,
    fold,
    of_source,
    write_byte_tick,
    write_bytes,
    write_ms,
    write_rate,
    write_seconds,
    write_tick,
)
from fastft.report.read_suite import Contender, Goal, Growth, Measure, Start, Suite

#: Above this factor between largest and smallest, equal lengths are equal factors.
_WIDE = 8.0
#: A table says it, too: a bar is not known by its colour alone.
_COLORS = "Blue: fastft. Grey: others."
_VERDICTS = {None: Cell(""), True: Cell("met", 1, "good"), False: Cell("missed", 0, "bad")}
_TIMES = "\N{MULTIPLICATION SIGN}"

Maybe = float | None


def suite_blocks(suites: Sequence[Suite]) -> list[Block]:
    """Charts of all groups, those of several sources side by side."""
    blocks: list[Block] = [_goals(suite, suites) for suite in suites if suite.goals]
    for family in fold([[_family(each) for each in suite.contenders] for suite in suites]):
        for suite in suites:
            chosen = [each for each in suite.contenders if _family(each) == family]
            if chosen:
                blocks.append(_contest(family, chosen, suite, suites))
                blocks += _ratios(family, chosen, suite, suites)
    for suite in suites:
        blocks += _measures(suite, suites)
    photos = (of_source(suite, suites, suite.photos) for suite in suites if suite.photos)
    return [*blocks, Notes(tuple(photos))] if blocks else []


def growth_section(suites: Sequence[Suite]) -> Section | None:
    """Images per second and memory over the number of samples."""
    blocks = tuple(_growth(suite, suites) for suite in suites if suite.growth)
    lead = ("How speed and memory change with the number of samples.",)
    return Section("growth", "Growth", lead, blocks) if blocks else None


def suite_keys(suites: Sequence[Suite]) -> list[Key]:
    """How many goals were met."""
    keys = []
    for suite in suites:
        found = [each.is_met for each in suite.goals] + [each.is_met for each in suite.contenders]
        aims = [each for each in found if each is not None]
        if aims:
            met = f"{sum(aims)} of {len(aims)}"
            keys.append(Key(met, "goals", of_source(suite, suites, "of the benchmarks are met")))
    return keys


def wide_scale(values: Iterable[Maybe]) -> Scale:
    """From nought, or of factors if the values are far apart."""
    known = [value for value in values if value is not None]
    is_wide = bool(known) and min(known) > 0 and max(known) > _WIDE * min(known)
    return fit_scale(known, log=is_wide)


def _family(contender: Contender) -> str:
    """Duels of one kind make one chart, whatever they are between."""
    return contender.group.partition(": ")[0] if contender.baseline else contender.group


def _contest(
    family: str, chosen: Sequence[Contender], suite: Suite, suites: Sequence[Suite]
) -> Figure:
    rates, costs, shown = [], [], set[tuple[str, Maybe]]()
    baselines = {each.baseline for each in chosen}
    if baselines == {""}:
        chosen = sorted(chosen, key=lambda each: -(each.img_per_s or 0.0))
    for each in chosen:
        if each.name in baselines and not each.baseline:
            continue  # it was measured anew beside each candidate
        baseline = (each.baseline, each.baseline_img_per_s)
        if each.baseline and baseline not in shown:
            shown.add(baseline)
            rates.append(_bar(*baseline, write_rate, "other"))
            costs.append(_bar(each.baseline, each.baseline_cpu_ms_per_image, _write_cost, "other"))
        tone = _tone(is_stock=each.is_stock)
        times = "" if each.ratio is None else f"  {_TIMES}{each.ratio:.2f}"
        rates.append(_bar(each.name + times, each.img_per_s, write_rate, tone))
        costs.append(_bar(each.name, each.cpu_ms_per_image, _write_cost, tone))
    panels = [Panel("Images/s", row_chart(f"{family}: images per second", rates))]
    # Of several sources the same charts stand side by side, and what they cost in the tables.
    if len(suites) == 1 and any(row.value is not None for row in costs):
        panels.append(Panel("CPU time per image", row_chart(f"{family}: CPU time", costs)))
    heads = ("", "images/s", "CPU/image", "baseline", "images/s", "CPU/image", "ratio",
             "of pairs", "goal", "")  # fmt: skip
    rows = tuple(_contest_cells(each) for each in chosen)
    title = of_source(suite, suites, capitalize(family))
    return Figure(title, _COLORS, tuple(panels), Table(title, heads, rows))


def _contest_cells(each: Contender) -> tuple[Cell, ...]:
    span = f" {UNKNOWN} ".join(f"{value:.2f}" for value in each.ratio_range if value is not None)
    known = bool(each.baseline)
    return (
        Cell(each.name),
        Cell(write_rate(each.img_per_s), each.img_per_s),
        Cell(_write_cost(each.cpu_ms_per_image), each.cpu_ms_per_image),
        Cell(each.baseline),
        Cell(write_rate(each.baseline_img_per_s) if known else "", each.baseline_img_per_s),
        Cell(_write_cost(each.baseline_cpu_ms_per_image) if known else "",
             each.baseline_cpu_ms_per_image),
        Cell("" if each.ratio is None else _write_ratio(each.ratio), each.ratio),
        Cell(span),
        Cell(each.goal),
        _VERDICTS[each.is_met],
    )  # fmt: skip


def _ratios(
    family: str, chosen: Sequence[Contender], suite: Suite, suites: Sequence[Suite]
) -> list[Block]:
    """Ours against the others, if ratios to each were taken."""
    stock = {each.name for each in chosen if each.is_stock}
    chosen = [each for each in chosen if not each.is_stock and each.ratios]
    others = [name for name in fold([list(each.ratios) for each in chosen]) if name in stock]
    if not others:
        return []
    rows = tuple(
        (Cell(each.name), *(_ratio_cell(each.ratios.get(other, ())) for other in others))
        for each in chosen
    )
    title = of_source(suite, suites, f"{capitalize(family)}: how many times as fast as")
    note = "Median, lowest and highest of the rounds."
    return [Table(title, ("", *others), rows, note, folded=True)]


def _ratio_cell(values: tuple[Maybe, ...]) -> Cell:
    known = [f"{value:.2f}" for value in values if value is not None]
    if not known:
        return Cell("")
    span = f" ({f' {UNKNOWN} '.join(known[1:])})" if len(known) > 1 else ""
    return Cell(known[0] + span, values[0])


def _measures(suite: Suite, suites: Sequence[Suite]) -> Iterable[Block]:
    if suite.starts:
        yield _starts(suite.starts, of_source(suite, suites, "Start-up"))
    peaks = [each for each in suite.measures if each.peak_bytes is not None]
    if peaks:
        yield _peaks(peaks, of_source(suite, suites, "Peak memory"))
    others = [each for each in suite.measures if each.peak_bytes is None]
    if others:
        title = of_source(suite, suites, "Other measurements")
        rows = tuple(_measure_cells(each) for each in others)
        yield Table(title, ("", "group", "a round", "figures"), rows)


def _starts(starts: Sequence[Start], title: str) -> Figure:
    def panel(what: str, of: Callable[[Start], Maybe]) -> Panel:
        rows = [_bar(r.name, of(r), write_seconds, _tone(is_stock=r.is_stock)) for r in starts]
        return Panel(what, row_chart(f"{title}: {what}", rows))

    panels = (
        panel("To the first batch, all imported", lambda each: each.first_batch_s),
        panel("To the first batch, from the process's start", lambda each: each.process_s),
    )
    cells = tuple(
        (Cell(each.name), Cell(write_seconds(each.first_batch_s), each.first_batch_s),
         Cell(write_seconds(each.process_s), each.process_s))
        for each in starts
    )  # fmt: skip
    table = Table(title, ("", "first batch", "the whole process"), cells)
    return Figure(title, _COLORS, panels, table)


def _peaks(peaks: Sequence[Measure], title: str) -> Figure:
    rows = [
        _bar(each.name, each.peak_bytes, write_bytes, _tone(is_stock=each.name.startswith("stock")))
        for each in peaks
    ]
    cells = tuple(
        (Cell(each.name), Cell(write_bytes(each.peak_bytes), each.peak_bytes)) for each in peaks
    )
    table = Table(title, ("", "of all processes"), cells)
    return Figure(title, _COLORS, (Panel("", row_chart(title, rows)),), table)


def _goals(suite: Suite, suites: Sequence[Suite]) -> Figure:
    """What was aimed at, on a scale of factors: some ratios are twenty times as large as others."""
    values = [v for each in suite.goals for v in (each.ratio, each.goal, each.low, each.high)]
    rows = [
        Row(f"{each.ours} / {each.theirs}", each.ratio, _write_ratio(each.ratio),
            "bad" if each.is_met is False else "ours", mark=each.goal, low=each.low, high=each.high)
        for each in suite.goals
    ]  # fmt: skip
    title = of_source(suite, suites, "What was aimed at")
    chart = row_chart(title, rows, style="interval", scale=fit_scale(values, log=True),
                      axis=write_tick)  # fmt: skip
    heads = ("", "ours", "theirs", "ratio", "of the rounds", "goal", "")
    table = Table(title, heads, tuple(map(_goal_cells, suite.goals)))
    note = "How many times as fast, with the range of the rounds; the stroke is the goal."
    return Figure(title, note, (Panel("", chart),), table)


def _goal_cells(each: Goal) -> tuple[Cell, ...]:
    return (
        Cell(each.what),
        Cell(each.ours),
        Cell(each.theirs),
        Cell(_write_ratio(each.ratio), each.ratio),
        Cell(f"{_write_ratio(each.low)} {UNKNOWN} {_write_ratio(each.high)}"),
        Cell(_write_ratio(each.goal), each.goal),
        _VERDICTS[each.is_met],
    )


def _measure_cells(each: Measure) -> tuple[Cell, ...]:
    figures = ", ".join(f"{name} {value}" for name, value in each.figures.items())
    return (Cell(each.name), Cell(each.group), Cell(write_seconds(each.median_s), each.median_s),
            Cell(figures))  # fmt: skip


def _growth(suite: Suite, suites: Sequence[Suite]) -> Figure:
    names = fold([[each.name for each in suite.growth]])
    samples = sorted({each.samples for each in suite.growth})
    workers = sorted({each.workers for each in suite.growth})
    x = Scale(samples[0], samples[-1], log=True)

    def panels(title: str, of: Callable[[Growth], Maybe], write: Callable[[Maybe], str],
               tick: Callable[[Maybe], str], y: Scale) -> Iterable[Panel]:  # fmt: skip
        for count in workers:
            told = f"{title}, {count_workers(count)}"
            series = [
                Series(name, tuple((float(each.samples), of(each)) for each in sorted(
                    suite.growth, key=lambda each: each.samples
                ) if each.name == name and each.workers == count), style)
                for style, name in enumerate(names)
            ]  # fmt: skip
            yield Panel(told, line_chart(
                told, series, x=x, y=y, x_title="samples", x_number=write_tick, y_number=write,
                y_tick=tick,
                x_ticks=[float(each) for each in samples],
            ))  # fmt: skip

    rates = [each.img_per_s for each in suite.growth]
    memory = [each.peak_rss_bytes for each in suite.growth]
    charts = (
        *panels("Images/s", lambda each: each.img_per_s, write_rate, write_tick, wide_scale(rates)),
        *panels(
            "Peak memory",
            lambda each: each.peak_rss_bytes,
            write_bytes,
            write_byte_tick,
            fit_scale(memory),
        ),
    )
    title = of_source(suite, suites, "By number of samples")
    heads = ("", "samples", "workers", "images/s", "peak memory", "first batch")
    return Figure(title, "", charts, Table(title, heads, tuple(map(_growth_cells, suite.growth))))


def _growth_cells(each: Growth) -> tuple[Cell, ...]:
    return (
        Cell(each.name),
        Cell(f"{each.samples:,}", each.samples),
        Cell(str(each.workers), each.workers),
        Cell(write_rate(each.img_per_s), each.img_per_s),
        Cell(write_bytes(each.peak_rss_bytes), each.peak_rss_bytes),
        Cell(write_seconds(each.first_batch_s), each.first_batch_s),
    )


def count_workers(count: int) -> str:
    """So many workers, in words."""
    return f"{count:,} worker{'' if count == 1 else 's'}"


def _tone(*, is_stock: bool) -> str:
    return "other" if is_stock else "ours"


def _write_ratio(value: Maybe) -> str:
    if value is None:
        return UNKNOWN
    return f"{value:.2f}" if value >= 0.1 or value == 0 else f"{value:.2g}"


def _bar(name: str, value: Maybe, write: Callable[[Maybe], str], tone: str) -> Row:
    return Row(name, value, write(value), tone)


def _write_cost(value_ms: Maybe) -> str:
    return write_ms(None if value_ms is None else value_ms / 1e3)
