"""`fastft parity`: pixels compared, judged, told as a table, JSON and a picture."""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict
from functools import partial
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.markup import escape
from rich.table import Table

from fastft.config.commands import ParityConfig
from fastft.datasets.splits import training_split
from fastft.parity.distance import Distance
from fastft.parity.pixel_plots import draw_worst
from fastft.parity.pixels import AS_STORED, Comparison, Verdict, compare, pick_loaders
from fastft.parity.stock import STOCK, SUSPECT_P, StockRow, compare_stock
from fastft.system.environment import environment, pick_device
from fastft.system.output_folder import output_folder
from fastft.system.progress import image_progress
from pipelines.atomic import write_whole
from pipelines.formats.source import open_source
from pipelines.loaders import Loader, make_loader


def run_pixels(config: ParityConfig, console: Console) -> Comparison:
    """Compare the loaders' pixels with the reference's and report.

    Writes `pixels.json` and `pixels.png` in `config.out`.

    Raises:
        UsageError: loaders that cannot be compared, or settings out of range.
        DataError: data that cannot be read, or an output that cannot be written.
    """
    started = time.perf_counter()
    device = pick_device(config.device)
    source = open_source(training_split(config.data))
    reference = None
    if config.reference is not None:
        path = training_split(config.reference)
        # Photos are right as the data were asked to show them.
        reference = open_source(path, **(asdict(source.preparation) if path.is_dir() else {}))
    names = pick_loaders(config.loaders)
    stock_rows: list[StockRow] = []
    with output_folder(config.out):
        with image_progress(console, "comparing") as update:
            comparison = compare(
                source, {name: _maker(name, config) for name in names}, reference=reference,
                images=config.images, size=config.size, seed=config.seed, device=device,
                workers=config.workers,
                on_progress=lambda name, done, total: update("loaders", done, total),
                with_stored=lambda stored: stock_rows.extend(
                    _stock_rows(config, names, stored, update)
                ),
            )  # fmt: skip
        draw_worst(comparison.worst, config.out / "pixels.png")
        content = {
            "config": {k: str(v) if isinstance(v, Path) else v for k, v in asdict(config).items()},
            "environment": environment(),
            "seconds": round(time.perf_counter() - started, 1),
            "images": comparison.images,
            "passed": comparison.passed,
            "rows": [asdict(row) for row in comparison.rows],
            "verdicts": [asdict(verdict) for verdict in comparison.verdicts],
            "worst": [
                {"loader": each.loader, "view": each.view, "name": each.name, "mean": each.distance}
                for each in comparison.worst
            ],
            "stock": [asdict(row) for row in stock_rows],
        }
        write_whole(config.out / "pixels.json", json.dumps(content, indent=1) + "\n")
    console.print(pixel_table(comparison))
    if stock_rows:
        console.print(stock_table(stock_rows))
    for row in comparison.rows:
        if row.loader == AS_STORED and row.distance.mean:
            off = f"{row.distance.mean:.3f} levels from the reference's in the mean"
            console.print(f"{AS_STORED}: the samples are {off}, before any loader reads them")
    for verdict in comparison.verdicts:
        console.print(_sentence(verdict), markup=False)
    return comparison


def pixel_table(comparison: Comparison) -> Table:
    """Each loader's distances, stage by stage."""
    table = Table(
        "loader", "stage", "view", "mean", "99.9 %", "max", "PSNR, dB", "exact",
        title=f"Distance from the reference, levels of 255, {comparison.images:,} images",
    )  # fmt: skip
    last = ""
    for row in comparison.rows:
        name = "" if row.loader == last else escape(row.loader)
        if name and last:
            table.add_section()
        table.add_row(name, row.stage, row.view, *_cells(row.distance))
        last = row.loader
    return table


def stock_table(rows: Sequence[StockRow]) -> Table:
    """The libraries' own pipelines, which follow no plan."""
    table = Table("", *(row.name for row in rows), title="The libraries' own pipelines")
    table.add_row("evaluation: mean levels off", *(f"{row.evaluation.mean:.3f}" for row in rows))
    table.add_row("evaluation: at most", *(str(row.evaluation.most) for row in rows))
    table.add_section()
    for part, kind in (("crops", "crops"), ("photos", "pixels")):
        for at, likeness in enumerate(getattr(rows[0], part)):
            cells = []
            for row in rows:
                each = getattr(row, part)[at]
                mark = "  differs" if each.p < SUSPECT_P else ""
                cells.append(f"{each.statistic:.3f}  p {each.p:.2g}{mark}")
            table.add_row(f"{kind}: {likeness.what}", *cells)
        table.add_section()
    table.add_row("pixels: sharpness, ours = 1", *(f"{row.sharpness:.3f}" for row in rows))
    return table


def _maker(name: str, config: ParityConfig) -> Callable[..., Loader]:
    options: dict[str, Any] = {"store": config.store} if name == "resident" else {}
    return partial(make_loader, name, **options)


def _stock_rows(
    config: ParityConfig, names: Sequence[str], stored: Path, update: Any
) -> list[StockRow]:
    if not config.stock:
        return []
    rows = []
    chosen = [name for name in names if name in STOCK]
    for done, name in enumerate(chosen):
        update("stock pipelines", done, len(chosen))
        rows.append(compare_stock(name, stored, config.size, config.seed))
    update("stock pipelines", len(chosen), len(chosen))
    return rows


def _cells(distance: Distance) -> list[str]:
    psnr = "" if distance.psnr_db is None else f"{distance.psnr_db:.1f}"
    # 99.9999 % must not read as 100 %.
    exact = "100 %" if distance.exact == 1 else f"{min(distance.exact, 0.99999):.3%}"
    return [
        f"{distance.mean:.3f}", str(distance.most_but_0_1_percent), str(distance.most), psnr, exact,
    ]  # fmt: skip


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
    mean, most = verdict.stated
    stated = f"mean {mean:g}, at most {most}" if most else "0"
    return f"{verdict.loader}: {'passed' if verdict.passed else 'FAILED'} ({stated}); {origin}"
