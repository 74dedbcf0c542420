"""The findings of `fastft bench` as tables and as a picture."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import matplotlib as mpl
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.ticker import FuncFormatter, NullFormatter
from rich.console import Console
from rich.markup import escape
from rich.table import Table

from fastft.bench.ceilings import Measured, count
from fastft.bench.result import Bench
from fastft.bench.stages import Stage
from fastft.system.plots import STYLE, save_figure

# Okabe and Ito's palette, as in `system.plots`; lines have markers of their own, too.
_BLUE, _GREEN, _RED, _GREY, _PALE = "#0072B2", "#009E73", "#D55E00", "#555555", "#b9c6d0"
_COLORS = ("#0072B2", "#E69F00", "#009E73", "#CC79A7", "#56B4E9")
_MARKERS = ("o", "s", "D", "^", "v")
#: Inches: of a row of bars, of what is around them.
_ROW, _AROUND = 0.31, 1.75
#: Of the axis, what the figures behind the longest bars take.
_ROOM = 0.2


def print_bench(found: Bench, console: Console) -> None:
    """Three tables, what was skipped, and what to do."""
    console.print(_stage_table(found))
    console.print(_speed_table(found))
    console.print(_cost_table(found))
    for loader, reason in found.skipped.items():
        console.print(f"skipped: {loader}: {reason}", markup=False)
    console.print(found.recommendation.line, markup=False, style="bold")
    console.print(found.recommendation.reason, markup=False)


def _stage_table(found: Bench) -> Table:
    title = f"Each stage alone: {_what(found)}, on {_where(found)}"
    table = Table("stage", "images/s", "", title=title, title_justify="left")
    table.columns[1].justify = "right"
    for stage in found.stages:
        table.add_row(stage.label, _rate(stage.img_per_s), escape(stage.note))
    return table


def _speed_table(found: Bench) -> Table:
    heads = ("images/s", "first\nepoch", "cold", "training", "of its\nceiling", "bound by")
    rows = [
        (
            _rate(row.img_per_s), _rate(row.first_epoch_img_per_s), _rate(row.cold_img_per_s),
            _rate(row.train_img_per_s),
            "" if row.share_of_ceiling is None else f"{row.share_of_ceiling:.0%}",
            _binds(row, found),
        )
        for row in found.loaders
    ]  # fmt: skip
    table = _loader_table("Loaders, images/s", heads, rows, found)
    table.columns[-1].justify = "left"
    return table


def _cost_table(found: Bench) -> Table:
    heads = ("CPU ms\nan image", "peak MB", "kB\nan image", "import,\ns", "first\nbatch, s")
    rows = [
        (
            f"{1e3 * row.cpu_s_per_image:.2f}", f"{row.peak_rss_bytes / 1e6:,.0f}",
            f"{row.bytes_per_image / 1e3:,.0f}", f"{row.import_s:.1f}", f"{row.first_batch_s:.2f}",
        )
        for row in found.loaders
    ]  # fmt: skip
    return _loader_table("What they take", heads, rows, found)


def _loader_table(
    title: str, heads: Sequence[str], rows: Sequence[Sequence[str]], found: Bench
) -> Table:
    """A row for each loader and number of workers."""
    table = Table("loader,\nworkers", *heads, title=title, title_justify="left")
    table.columns[0].no_wrap = True
    for column in table.columns[1:]:
        column.justify = "right"
    for row, cells in zip(found.loaders, rows, strict=True):
        style = "bold" if _is_best(row, found) else ""
        table.add_row(f"{row.loader}, {row.workers}", *cells, style=style)
    return table


def _binds(row: Measured, found: Bench) -> str:
    """The stage without its cores, which the row tells."""
    labels = {stage.name: stage.label for stage in found.stages}
    return labels.get(row.binds, row.binds).partition(",")[0]


def draw_bench(found: Bench, out: Path) -> None:
    """Draw stages and loaders as bars on one axis, and what the model can learn as a line.

    Raises:
        DataError: `out` cannot be written.
    """
    stages = [stage for stage in found.stages if stage.img_per_s]
    rows = _bar_rows(found)
    sweeps = len(found.config.workers) > 1
    height = _ROW * (len(stages) + len(rows) + 3) + _AROUND
    with mpl.rc_context(STYLE):
        figure = Figure(figsize=(14.5 if sweeps else 10.5, max(height, 4.6)), layout="constrained")
        if sweeps:
            bars, lines = figure.subplots(1, 2, width_ratios=(2.3, 1))
            _draw_sweeps(lines, found)
        else:
            bars = figure.subplots()
        _draw_bars(bars, found, stages, rows)
        figure.suptitle(
            f"Where the time goes: {_what(found)}, on {_where(found)}",
            x=0.01, ha="left", fontsize=12, fontweight="bold", parse_math=False,
        )  # fmt: skip
        save_figure(figure, out)


def _draw_bars(axes: Axes, found: Bench, stages: Sequence[Stage], rows: Sequence[Measured]) -> None:
    names: list[str] = []
    bold: list[int] = []

    def place(name: str, is_bold: bool = False) -> int:
        names.append(name)
        if is_bold:
            bold.append(len(names) - 1)
        return len(names) - 1

    place("each stage alone", True)
    for stage in stages:
        at = place(stage.label)
        is_model = stage.name == "model_step"
        axes.barh(at, stage.img_per_s or 0, 0.72, color=_RED if is_model else _PALE)
        _write(axes, stage.img_per_s or 0, at, _rate(stage.img_per_s))
    place("")
    place("loaders", True)
    for row in rows:
        is_best = _is_best(row, found)
        at = place(f"{row.loader}, {count(row.workers, 'worker')}", is_best)
        axes.barh(at, row.img_per_s, 0.72, color=_GREEN if is_best else _BLUE)
        text, ends = _rate(row.img_per_s), row.img_per_s
        if row.ceiling_img_per_s and row.share_of_ceiling:
            axes.plot([row.ceiling_img_per_s] * 2, [at - 0.36, at + 0.36], color="black", lw=2)
            text += f"  ({row.share_of_ceiling:.0%} of its ceiling)"
            ends = max(ends, row.ceiling_img_per_s)
        axes.plot(row.first_epoch_img_per_s, at, "D", color="white", mec="black", ms=5.5)
        if row.cold_img_per_s:
            axes.plot(row.cold_img_per_s, at, "o", color="white", mec="black", ms=5.5)
        _write(axes, ends, at, text, bold=is_best)
    axes.set_yticks(range(len(names)), names, parse_math=False)
    for at in bold:
        axes.get_yticklabels()[at].set_fontweight("bold")
    axes.set_ylim(len(names) - 0.4, -0.6)
    axes.tick_params(axis="y", length=0)
    axes.grid(axis="y", visible=False)
    _scale(axes, found, stages, rows)


def _scale(axes: Axes, found: Bench, stages: Sequence[Stage], rows: Sequence[Measured]) -> None:
    """A logarithmic axis on which every text has room, the model's line, and the legend."""
    rates = [stage.img_per_s or 0 for stage in stages]
    for row in rows:
        rates += [row.img_per_s, row.first_epoch_img_per_s, row.cold_img_per_s or row.img_per_s]
    low, high = min(rates), max(rates)
    axes.set_xscale("log")
    axes.set_xlim(low / 2, high * (high / low) ** _ROOM)
    axes.xaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:,.0f}"))
    axes.xaxis.set_minor_formatter(NullFormatter())
    axes.set_xlabel("images per second, logarithmic")
    marks: list[Any] = [
        Line2D([], [], color="black", lw=2, ls="", marker="|", ms=11, mew=2),
        Line2D([], [], color="white", marker="D", mec="black", ls="", ms=5.5),
    ]
    texts = ["its ceiling: what its stages allow", "first epoch, start included"]
    if any(row.cold_img_per_s for row in rows):
        marks.append(Line2D([], [], color="white", marker="o", mec="black", ls="", ms=5.5))
        texts.append("first epoch, photos not in memory")
    if model := found.model_img_per_s:
        axes.axvline(model, color=_RED, lw=1.5, ls=(0, (4, 2)))
        device = "GPU" if found.on_gpu else "CPU"
        side = 1 if model**2 < low * high else -1  # where there is more room
        axes.annotate(
            f"the {device} can learn {_rate(model)} images/s", (model, 1), (6 * side, 3),
            xycoords=axes.get_xaxis_transform(), textcoords="offset points", color=_RED,
            fontweight="bold", ha="left" if side > 0 else "right",
        )  # fmt: skip
    axes.legend(marks, texts, loc="upper center", bbox_to_anchor=(0.5, -0.13), ncols=2, fontsize=9)


def _draw_sweeps(axes: Axes, found: Bench) -> None:
    names = list(dict.fromkeys(row.loader for row in found.loaders))
    for name, color, marker in zip(names, _COLORS, _MARKERS, strict=False):
        rows = [row for row in found.loaders if row.loader == name]
        counts, rates = [row.workers for row in rows], [row.img_per_s for row in rows]
        axes.plot(counts, rates, color=color, marker=marker, label=name)
    if model := found.model_img_per_s:
        axes.axhline(model, color=_RED, lw=1.5, ls=(0, (4, 2)))
    axes.set_yscale("log")
    axes.set_xticks(found.config.workers)
    axes.yaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:,.0f}"))
    axes.yaxis.set_minor_formatter(NullFormatter())
    axes.set(title="Images per second by workers", xlabel="workers")
    axes.legend(loc="upper center", bbox_to_anchor=(0.5, -0.13), ncols=3, fontsize=9)


def _write(axes: Axes, ends: float, at: int, text: str, bold: bool = False) -> None:
    """A figure behind a bar's end."""
    axes.annotate(
        text, (ends, at), (5, 0), textcoords="offset points", va="center", fontsize=9,
        fontweight="bold" if bold else "normal", color=_GREY if not bold else "black",
        bbox={"boxstyle": "square,pad=0.1", "fc": "white", "ec": "none", "alpha": 0.85},
    )  # fmt: skip


def _bar_rows(found: Bench) -> list[Measured]:
    """Of each loader the row that is recommended, else the fastest."""
    best: dict[str, Measured] = {}
    for row in sorted(found.loaders, key=lambda row: (_is_best(row, found), row.img_per_s)):
        best[row.loader] = row
    return [best[name] for name in dict.fromkeys(row.loader for row in found.loaders)]


def _is_best(row: Measured, found: Bench) -> bool:
    named = found.recommendation
    return (row.loader, row.workers) == (named.loader, named.workers)


def _what(found: Bench) -> str:
    data = found.data
    return (
        f"{count(data.images, 'image')} of {data.mean_px / 1e6:.2f} megapixels "
        f"and {data.mean_bytes / 1e3:,.0f} kB"
    )


def _where(found: Bench) -> str:
    about = found.environment
    cores = f"{count(about['cpus'], 'core')} of {about['cpu']}"
    return f"{about['gpu']}, {cores}" if found.on_gpu else cores


def _rate(img_per_s: float | None) -> str:
    """To three digits or so."""
    if img_per_s is None:
        return ""
    if img_per_s < 99.5:
        return f"{img_per_s:.3g}"
    return f"{round(img_per_s, 2 - len(str(int(img_per_s))) + 1):,.0f}"
