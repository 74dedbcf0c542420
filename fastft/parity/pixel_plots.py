"""The findings of `fastft parity` about pixels: on the terminal, as a picture and in a page.

The picture shows each loader's worst sample beside what it should be.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import matplotlib as mpl
import numpy as np
from matplotlib.figure import Figure
from rich.console import Console

from fastft.parity.result import AS_STORED, SUSPECT_P, Pixels, Row, StockRow, Verdict
from fastft.results.charts import Bar, bar_panel
from fastft.results.numbers import UNKNOWN, write_number
from fastft.results.plots import BLUE, RED, STYLE, Panel, save_figure
from fastft.results.tables import (
    Block,
    Cell,
    Column,
    Exhibit,
    Key,
    Picture,
    Section,
    Table,
    make_table,
    of_source,
    print_table,
)

if TYPE_CHECKING:  # torch would come with it, which a page does not need
    from fastft.parity.pixels import Worst

_COLUMNS = ("crop of the original", "reference", "loader", "difference")


def print_pixels(found: Pixels, console: Console) -> None:
    """Print each loader's distances, stage by stage, and one sentence about it."""
    print_table(pixel_table(found), console)
    if found.stock:
        print_table(stock_table(found.stock), console)
    for row in found.rows:
        if row.loader == AS_STORED and row.distance.mean:
            off = f"{row.distance.mean:.3f} levels from the reference's in the mean"
            console.print(f"{AS_STORED}: the samples are {off}, before any loader reads them")
    for verdict in found.verdicts:
        console.print(_sentence(verdict), markup=False)


def pixel_section(
    comparisons: Sequence[tuple[str, Pixels, Picture | None]],
) -> Section | None:
    """Whether the loaders feed the same pixels.

    Args:
        comparisons: name of a source, what it holds, and the picture beside it.
    """
    names = [name for name, *_ in comparisons]
    blocks: list[Block] = []
    keys = []
    for name, found, picture in comparisons:
        kept = f"{sum(each.passed for each in found.verdicts)} of {len(found.verdicts)}"
        keys.append(Key(kept, "loaders", of_source(name, names, "feed the pixels they state")))
        blocks.append(verdict_table(found, of_source(name, names, "Loaders")))
        title = of_source(name, names, "From sample to batch")
        blocks.append(Exhibit(title, (_mean_panel(found),), pixel_table(found)))
        if found.stock:
            blocks.append(stock_table(found.stock))
        blocks += [picture] if picture else []
    lead = ("Distances from the reference are in levels of 255.",)
    return Section("parity", "Parity", lead, tuple(blocks), tuple(keys))


def pixel_table(found: Pixels) -> Table:
    """Each loader's distances, stage by stage."""
    title = f"Distance from the reference, levels of 255, {found.images:,} images"
    return make_table(
        title,
        found.rows,
        (
            Column("loader", lambda row: row.loader),
            Column("stage", lambda row: row.stage),
            Column("view", lambda row: row.view),
            Column("mean", lambda row: row.distance.mean, _write_level),
            Column("99.9 %", lambda row: row.distance.most_but_0_1_percent, write_number),
            Column("max", lambda row: row.distance.most, write_number),
            Column("PSNR, dB", _psnr),
            Column("exact", lambda row: row.distance.exact, _write_exact),
        ),
    )


def verdict_table(found: Pixels, title: str) -> Table:
    """The distance that each loader states, and whether it keeps it."""
    return make_table(
        title,
        found.verdicts,
        (
            Column("loader", lambda each: each.loader),
            Column("", _verdict_cell),
            Column("states", _stated),
            Column("distance comes from", lambda each: each.cause),
        ),
    )


def stock_table(rows: Sequence[StockRow]) -> Table:
    """The libraries' own pipelines, which follow no plan."""
    lines = [
        (
            "evaluation: mean levels off",
            [Cell(_write_level(r.evaluation.mean), r.evaluation.mean) for r in rows],
        ),
        ("evaluation: at most", [Cell(str(r.evaluation.most), r.evaluation.most) for r in rows]),
    ]
    for part, kind in (("crops", "crops"), ("photos", "pixels")):
        for at, likeness in enumerate(getattr(rows[0], part)):
            cells = []
            for row in rows:
                each = getattr(row, part)[at]
                is_odd = each.p < SUSPECT_P
                text = f"{each.statistic:.3f}  p {each.p:.2g}{'  differs' if is_odd else ''}"
                cells.append(Cell(text, each.statistic, "bad" if is_odd else ""))
            lines.append((f"{kind}: {likeness.what}", cells))
    lines.append(
        ("pixels: sharpness, ours = 1", [Cell(f"{r.sharpness:.3f}", r.sharpness) for r in rows])
    )
    heads = ("", *(row.name for row in rows))
    cells_of = tuple((Cell(what), *cells) for what, cells in lines)
    return Table("The libraries' own pipelines", heads, cells_of)


def draw_worst(worst: Sequence[Worst], out: Path) -> None:
    """Draw a row for each loader and view to a PNG; one row is enough for a loader that is exact.

    The differences are amplified alike, as far as the largest of them allows.

    Raises:
        DataError: `out` cannot be written.
    """
    off = {each.loader for each in worst if each.distance}
    worst = [each for each in worst if each.loader in off or each.view == "train"]
    apart = [np.abs(each.found.astype(int) - each.wanted) for each in worst]
    most = max(int(each.max()) for each in apart)
    gain = 255 // most if most else 1
    with mpl.rc_context(STYLE):
        figure = Figure(
            figsize=(2.1 * len(_COLUMNS) + 1.2, 2.25 * len(worst)), layout="constrained"
        )
        grid = figure.subplots(len(worst), len(_COLUMNS), squeeze=False)
        for axes in grid.ravel():
            axes.set(xticks=[], yticks=[])
            axes.spines[:].set_visible(False)
        for axes, title in zip(grid[0], _COLUMNS, strict=True):
            axes.set_title(f"{title} x {gain}" if title == "difference" and gain > 1 else title)
        for row, each, difference in zip(grid, worst, apart, strict=True):
            amplified = np.minimum(difference * gain, 255).astype(np.uint8)
            for axes, image in zip(
                row, (each.crop, each.wanted, each.found, amplified), strict=True
            ):
                axes.imshow(image, interpolation="nearest")
            row[0].set_ylabel(f"{each.loader}\n{each.view}", fontweight="bold")
            row[0].set_xlabel(each.name, fontsize=8)
            row[3].set_xlabel(_describe(each.distance, int(difference.max())), fontsize=8)
        save_figure(figure, out)


def _mean_panel(found: Pixels) -> Panel:
    failed = {each.loader for each in found.verdicts if not each.passed}
    rows = [
        Bar(
            f"{row.loader}, {row.view}",
            row.distance.mean,
            f"{_write_level(row.distance.mean)}, at most {row.distance.most}",
            RED if row.loader in failed else BLUE,
        )
        for row in found.rows
        if row.stage == "whole"
    ]
    return bar_panel("Mean difference, levels", rows)


def _describe(mean: float, most: int) -> str:
    return f"mean {mean:.3f}, at most {most}" if most else "none: all pixels are equal"


def _psnr(row: Row) -> Cell:
    psnr = row.distance.psnr_db
    return Cell("" if psnr is None else f"{psnr:.1f}", psnr)


def _verdict_cell(verdict: Verdict) -> Cell:
    if not verdict.in_order:
        return Cell("failed: out of order", 0, "bad")
    if verdict.passed:
        return Cell("passed" if verdict.stated else "states nothing", 1, "good")
    return Cell("failed", 0, "bad")


def _stated(verdict: Verdict) -> str:
    if verdict.stated is None:
        return ""
    more = {"scaled": verdict.scaled, "operations": verdict.operations}
    said = [f"{name}: {_promise(each)}" for name, each in more.items() if each is not None]
    return "; ".join([_promise(verdict.stated), *said])


def _promise(stated: tuple[float, int]) -> str:
    mean, most = stated
    return f"mean {mean:g}, at most {most}" if most else "0"


def _sentence(verdict: Verdict) -> str:
    if not verdict.in_order:
        return f"{verdict.loader}: FAILED, its samples do not come in the plan's order"
    origin = {
        "nothing": "every pixel is the reference's",
        "decode": "its distance comes from what it decodes",
        "resize": "its distance comes from its resize",
    }.get(verdict.cause, "its distance comes from both decoding and resize")
    if verdict.stated is None:
        return f"{verdict.loader}: {origin}; nothing is promised of it here"
    kept = "passed" if verdict.passed else "FAILED"
    return f"{verdict.loader}: {kept} ({_stated(verdict)}); {origin}"


def _write_level(value: float | None) -> str:
    return UNKNOWN if value is None else f"{value:.3f}" if value else "0"


def _write_exact(value: float | None) -> str:
    if value is None:
        return UNKNOWN
    # 99.9999 % must not read as 100 %.
    return "100 %" if value >= 1 else f"{min(value, 0.99999):.3%}"
