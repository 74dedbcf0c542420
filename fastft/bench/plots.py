"""The findings of `fastft bench` as tables and charts: on the terminal, in a PNG and in a page."""

from __future__ import annotations

from collections.abc import Sequence

from rich.console import Console

from fastft.bench.result import Bench, Measured
from fastft.results.charts import Bar, Line, bar_panel, line_panel
from fastft.results.numbers import (
    count,
    write_bytes,
    write_ms,
    write_number,
    write_rate,
    write_seconds,
    write_share,
)
from fastft.results.plots import BLUE, GREEN, PALE, RED, Panel
from fastft.results.tables import (
    Cell,
    Column,
    Exhibit,
    Key,
    Notes,
    Section,
    Table,
    capitalize,
    make_table,
    of_source,
    print_table,
)

#: torchvision's own pipeline, which is there to compare with.
_STOCK = "stock"


def print_bench(found: Bench, console: Console) -> None:
    """Print three tables, what was skipped, and what to do."""
    for table in (stage_table(found), speed_table(found), cost_table(found)):
        print_table(table, console)
    for each in found.skipped:
        console.print(f"skipped: {each.loader}: {each.reason}", markup=False)
    console.print(found.recommendation.line, markup=False, style="bold")
    console.print(found.recommendation.reason, markup=False)


def bench_section(benches: Sequence[tuple[str, Bench]]) -> Section | None:
    """The speed of loaders here, of each stage alone, and what binds.

    Args:
        benches: name of a source, and what it holds.
    """
    names = [name for name, _ in benches]
    lead, keys = [], list[Key]()
    blocks: list[Exhibit | Table | Notes] = []
    for name, found in benches:
        advice = (found.recommendation.line, found.recommendation.reason)
        said = " ".join(f"{capitalize(each)}." for each in advice if each)
        lead += [of_source(name, names, said)] if said else []
        keys += _keys(name, found, names)
        blocks += [
            Exhibit(of_source(name, names, "Loaders"), loader_panels(found), speed_table(found)),
            cost_table(found),
            Exhibit(
                of_source(name, names, "Stages alone"),
                (stage_panel(found),),
                stage_table(found),
                "A loader is no faster than the slowest stage that it goes through, and training "
                "no faster than the slower of loader and model.",
            ),
        ]
        left_out = (f"Left out: {each.loader}: {each.reason}" for each in found.skipped)
        blocks += [Notes(tuple(left_out))] if found.skipped else []
    return Section("bench", "Speed here", tuple(lead), tuple(blocks), tuple(keys))


def bench_panels(found: Bench) -> tuple[str, tuple[Panel, ...]]:
    """The heading and the charts of `bench.png`."""
    heading = f"Where the time goes: {_what(found)}, on {_where(found)}"
    return heading, (stage_panel(found), *loader_panels(found))


def stage_panel(found: Bench) -> Panel:
    """Bars of each stage alone; the one that binds the fastest loader is marked."""
    model = found.model_img_per_s
    binding = found.fastest[0].binds if found.fastest else ""
    rows = []
    for stage in found.stages:
        if stage.img_per_s is None or (stage.name == "model_step" and len(found.stages) > 1):
            continue
        binds = stage.name == binding
        label = f"{stage.label}: binds {found.fastest[0].loader}" if binds else stage.label
        color = RED if binds else BLUE
        rows.append(Bar(label, stage.img_per_s, write_rate(stage.img_per_s), color))
    line = (model, f"the model step: {write_rate(model)}") if model else None
    return bar_panel("Each stage alone, images/s, logarithmic", rows, log=True, line=line)


def loader_panels(found: Bench) -> tuple[Panel, ...]:
    """Loaders beside their ceilings, and by workers where several numbers were tried."""
    rows = [
        Bar(
            _named(row),
            row.img_per_s,
            write_rate(row.img_per_s) + _of_ceiling(row),
            GREEN if found.is_best(row) else PALE if row.loader == _STOCK else BLUE,
            limit=row.ceiling_img_per_s,
            mark=row.first_epoch_img_per_s,
        )
        for row in found.fastest
    ]
    title = "Images/s; outline: what stages allow, stroke: first epoch"
    panels = [bar_panel(title, rows)]
    workers = sorted({float(row.workers) for row in found.loaders})
    if len(workers) > 1:
        names = dict.fromkeys(row.loader for row in found.loaders)
        lines = [
            Line(
                name,
                tuple(
                    sorted(
                        (float(row.workers), row.img_per_s)
                        for row in found.loaders
                        if row.loader == name
                    )
                ),
            )
            for name in names
        ]
        panels.append(line_panel("Images/s by workers", lines, x_label="workers", x_ticks=workers))
    return tuple(panels)


def stage_table(found: Bench) -> Table:
    """Each stage alone."""
    title = f"Each stage alone: {_what(found)}, on {_where(found)}"
    return make_table(
        title,
        found.stages,
        (
            Column("stage", lambda stage: stage.label),
            Column("images/s", lambda stage: stage.img_per_s, write_rate),
            Column("", lambda stage: stage.note),
        ),
    )


def speed_table(found: Bench) -> Table:
    """A row for each loader and number of workers: its rates, and what binds it."""
    return make_table(
        "Loaders, images/s",
        found.loaders,
        (
            Column("loader, workers", lambda row: _row_name(row, found)),
            Column("images/s", lambda row: row.img_per_s, write_rate),
            Column("first epoch", lambda row: row.first_epoch_img_per_s, write_rate),
            Column("cold", lambda row: row.cold_img_per_s, write_rate),
            Column("training", lambda row: row.train_img_per_s, write_rate),
            Column("ceiling", lambda row: row.ceiling_img_per_s, write_rate),
            Column("share", lambda row: row.share_of_ceiling, write_share),
            Column("bound by", lambda row: found.label(row.binds).partition(",")[0]),
        ),
    )


def cost_table(found: Bench) -> Table:
    """A row for each loader and number of workers: what it takes."""
    return make_table(
        "What they take",
        found.loaders,
        (
            Column("loader, workers", lambda row: _row_name(row, found)),
            Column("CPU an image", lambda row: row.cpu_s_per_image, write_ms),
            Column("peak memory", lambda row: float(row.peak_rss_bytes), write_bytes),
            Column("bytes an image", lambda row: row.bytes_per_image, write_number),
            Column("import", lambda row: row.import_s, write_seconds),
            Column("first batch", lambda row: row.first_batch_s, write_seconds),
        ),
    )


def _keys(name: str, found: Bench, names: Sequence[str]) -> list[Key]:
    if not found.fastest:
        return []
    best = found.fastest[0]
    what = of_source(name, names, f"{_named(best)}, the fastest loader")
    keys = [Key(write_rate(best.img_per_s), "images/s", what)]
    if best.share_of_ceiling is not None:
        what = f"of what {found.label(best.binds)} allows, which binds {best.loader}"
        keys.append(Key(write_share(best.share_of_ceiling), "", of_source(name, names, what)))
    return keys


def _row_name(row: Measured, found: Bench) -> Cell:
    return Cell(f"{row.loader}, {row.workers}", None, "good" if found.is_best(row) else "")


def _named(row: Measured) -> str:
    return f"{row.loader}, {count(row.workers, 'worker')}"


def _of_ceiling(row: Measured) -> str:
    share = row.share_of_ceiling
    return "" if share is None else f"  ({write_share(share)} of its ceiling)"


def _what(found: Bench) -> str:
    data = found.data
    return (
        f"{count(data.images, 'image')} of {data.mean_px / 1e6:.2f} megapixels "
        f"and {data.mean_bytes / 1e3:,.0f} kB"
    )


def _where(found: Bench) -> str:
    about = found.environment
    cores = f"{count(about.get('cpus') or 1, 'core')} of {about.get('cpu') or 'a processor'}"
    return f"{about.get('gpu')}, {cores}" if found.on_gpu else cores
