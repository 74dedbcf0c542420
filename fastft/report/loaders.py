"""Sections on what `fastft bench` measured: loaders, and the ceilings that bound them."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence

from fastft.report.charts import Line, Row, Scale, fit_scale, row_chart
from fastft.report.lines import Series, line_chart
from fastft.report.parts import (
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
    write_number,
    write_rate,
    write_seconds,
    write_share,
    write_tick,
)
from fastft.report.read_bench import Bench, LoaderRate
from fastft.report.read_suite import Suite
from fastft.report.suites import count_workers, suite_blocks, suite_keys, wide_scale

Maybe = float | None
#: torchvision's own pipeline, which is there to compare with.
_STOCK = "stock"


def throughput_section(benches: Sequence[Bench], suites: Sequence[Suite]) -> Section | None:
    """How fast loaders are here, and whatever else the suites measured."""
    lead, blocks = [], list[Block]()
    for bench in benches:
        advice = " ".join(f"{capitalize(each)}." for each in (bench.advice, bench.reason) if each)
        lead += [of_source(bench, benches, advice)] if advice else []
        blocks += _loader_blocks(bench, benches)
    blocks += suite_blocks(suites)
    return Section("throughput", "Throughput", tuple(lead), tuple(blocks)) if blocks else None


def ceilings_section(benches: Sequence[Bench]) -> Section | None:
    """What each stage could do alone, and how near to it the loaders come."""
    blocks: list[Block] = []
    for bench in benches:
        if bench.stages:
            blocks.append(_stages(bench, benches))
        if any(each.ceiling_img_per_s is not None for each in bench.loaders):
            blocks.append(_shares(bench, benches))
    lead = (
        "Each stage alone, on the same data. A loader is no faster than the slowest stage that it "
        "goes through, and training no faster than the slower of loader and model.",
    )
    return Section("ceilings", "Stage ceilings", lead, tuple(blocks)) if blocks else None


def speed_keys(benches: Sequence[Bench], suites: Sequence[Suite]) -> list[Key]:
    """What the head of the page says of speed."""
    keys = []
    for bench in benches:
        if not bench.fastest:
            continue
        best = bench.fastest[0]
        what = f"{_named(best)}, the fastest loader"
        keys.append(Key(write_rate(best.img_per_s), "images/s", of_source(bench, benches, what)))
        if best.share_of_ceiling is not None:
            what = f"of what {bench.label(best.binds)} allows, which binds {best.loader}"
            share = write_share(best.share_of_ceiling)
            keys.append(Key(share, "", of_source(bench, benches, what)))
    return [*keys, *suite_keys(suites)]


def _loader_blocks(bench: Bench, benches: Sequence[Bench]) -> Iterable[Block]:
    heads = ("loader", "workers", "images/s", "first epoch", "cold cache", "training", "CPU/image",
             "peak memory", "import", "first batch", "bytes/image")  # fmt: skip
    title = of_source(bench, benches, "Loaders")
    table = Table(title, heads, tuple(map(_loader_cells, bench.loaders)))
    if bench.loaders:
        rates = [Row(_named(r), r.img_per_s, write_rate(r.img_per_s), _tone(r))
                 for r in bench.fastest]  # fmt: skip
        costs = [Row(_named(r), r.cpu_s_per_image, write_ms(r.cpu_s_per_image), _tone(r))
                 for r in bench.fastest]  # fmt: skip
        panels = (
            Panel("Images/s, page cache warm", row_chart("Images per second by loader", rates)),
            Panel("CPU time per image", row_chart("CPU time per image by loader", costs)),
        )
        yield Figure(title, bench.data, panels, table)
    if len({each.workers for each in bench.loaders}) > 1:
        yield _by_workers(bench, of_source(bench, benches, "By workers"), table)
    if bench.skipped:
        lines = (f"Left out: {loader}: {reason}" for loader, reason in bench.skipped)
        yield Notes(tuple(of_source(bench, benches, line) for line in lines))


def _by_workers(bench: Bench, title: str, table: Table) -> Figure:
    workers = sorted({float(each.workers) for each in bench.loaders})
    x = Scale(workers[0], workers[-1], log=workers[0] > 0)

    def panel(
        what: str,
        of: Callable[[LoaderRate], Maybe],
        write: Callable[[Maybe], str],
        tick: Callable[[Maybe], str],
        y: Scale,
    ) -> Panel:
        series = []
        for style, name in enumerate(fold([[each.loader for each in bench.loaders]])):
            points = [(float(r.workers), of(r)) for r in bench.loaders if r.loader == name]
            series.append(Series(name, tuple(sorted(points, key=lambda at: at[0])), style))
        return Panel(what, line_chart(
            what, series, x=x, y=y, x_title="workers", x_number=write_number, y_number=write,
            y_tick=tick,
            x_ticks=workers,
        ))  # fmt: skip

    rates = wide_scale(each.img_per_s for each in bench.loaders)
    memory = fit_scale(each.peak_rss_bytes for each in bench.loaders)
    panels = (
        panel("Images/s", lambda each: each.img_per_s, write_rate, write_tick, rates),
        panel(
            "Peak memory of all processes",
            lambda r: r.peak_rss_bytes,
            write_bytes,
            write_byte_tick,
            memory,
        ),
    )
    return Figure(title, "", panels, table)


def _loader_cells(each: LoaderRate) -> tuple[Cell, ...]:
    return (
        Cell(each.loader),
        Cell(f"{each.workers:,}", each.workers),
        Cell(write_rate(each.img_per_s), each.img_per_s),
        Cell(write_rate(each.first_epoch_img_per_s), each.first_epoch_img_per_s),
        Cell(write_rate(each.cold_img_per_s), each.cold_img_per_s),
        Cell(write_rate(each.train_img_per_s), each.train_img_per_s),
        Cell(write_ms(each.cpu_s_per_image), each.cpu_s_per_image),
        Cell(write_bytes(each.peak_rss_bytes), each.peak_rss_bytes),
        Cell(write_seconds(each.import_s), each.import_s),
        Cell(write_seconds(each.first_batch_s), each.first_batch_s),
        Cell(write_number(each.bytes_per_image), each.bytes_per_image),
    )


def _stages(bench: Bench, benches: Sequence[Bench]) -> Figure:
    model, rows = bench.model_img_per_s, []
    binding = bench.fastest[0].binds if bench.fastest else ""
    for stage in bench.stages:
        if stage.img_per_s is None or (stage.name == "model_step" and len(bench.stages) > 1):
            continue
        binds = stage.name == binding
        label = f"{stage.label}: binds" if binds else stage.label
        tone = "bad" if binds else "ours"
        rows.append(Row(label, stage.img_per_s, write_rate(stage.img_per_s), tone, mark=model))
    chart = row_chart(
        "Ceiling of each stage, images per second", rows, style="dot", axis=write_tick,
        scale=fit_scale([model, *(row.value for row in rows)], log=True),
        line=Line(model, f"model step {write_rate(model)}") if model else None,
    )  # fmt: skip
    cells = tuple(
        (Cell(each.label), Cell(write_rate(each.img_per_s), each.img_per_s), Cell(each.note))
        for each in bench.stages
    )
    title = of_source(bench, benches, "Stages alone")
    note = "Images/s; equal lengths are equal factors."
    if any(row.tone == "bad" for row in rows):
        note += f" Marked: what binds {bench.fastest[0].loader}, the fastest loader."
    return Figure(title, note, (Panel("", chart),), Table(title, ("stage", "images/s", ""), cells))


def _shares(bench: Bench, benches: Sequence[Bench]) -> Figure:
    rows = [
        Row(f"{each.loader}: {bench.label(each.binds)}", each.img_per_s,
            write_share(each.share_of_ceiling), _tone(each), limit=each.ceiling_img_per_s)
        for each in bench.fastest
    ]  # fmt: skip
    cells = tuple(
        (
            Cell(each.loader), Cell(f"{each.workers:,}", each.workers),
            Cell(write_rate(each.img_per_s), each.img_per_s),
            Cell(write_rate(each.ceiling_img_per_s), each.ceiling_img_per_s),
            Cell(write_share(each.share_of_ceiling), each.share_of_ceiling),
            Cell(bench.label(each.binds)),
        )
        for each in bench.loaders
    )  # fmt: skip
    heads = ("loader", "workers", "images/s", "ceiling", "share", "what binds")
    title = of_source(bench, benches, "Loaders against their ceilings")
    note = "Bars: images/s; outlined: what the stage that binds would allow."
    chart = row_chart("Images per second against the ceiling", rows)
    return Figure(title, note, (Panel("", chart),), Table(title, heads, cells))


def _tone(each: LoaderRate) -> str:
    return "other" if each.loader == _STOCK else "ours"


def _named(each: LoaderRate) -> str:
    return f"{each.loader}, {count_workers(each.workers)}"
