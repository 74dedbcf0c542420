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

from fastft.config.checks import plain
from fastft.config.commands import ParityConfig
from fastft.datasets.splits import training_split
from fastft.parity.pixel_plots import draw_worst, print_pixels
from fastft.parity.pixels import Comparison, compare, pick_loaders
from fastft.parity.result import Pixels, StockRow, WorstSample
from fastft.parity.stock import STOCK, compare_stock
from fastft.system.environment import environment, pick_device
from fastft.system.output_folder import output_folder
from fastft.system.progress import image_progress
from pipelines.atomic import write_whole
from pipelines.formats.source import open_source
from pipelines.loaders import Loader, make_loader
from pipelines.resident.keeping import MANY


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
    names = pick_loaders(config.loaders, config.decode)
    stock_rows: list[StockRow] = []
    with output_folder(config.out):
        with image_progress(console, "comparing") as update:
            comparison = compare(
                source,
                {name: _maker(name, config) for name in names},
                reference=reference,
                images=config.images,
                size=config.size,
                seed=config.seed,
                augment=config.augment,
                device=device,
                workers=config.workers,
                on_progress=lambda name, done, total: update("loaders", done, total),
                with_stored=lambda stored: stock_rows.extend(
                    _stock_rows(config, names, stored, update)
                ),
            )
        draw_worst(comparison.worst, config.out / "pixels.png")
        found = Pixels(
            config=plain(config),
            environment=environment(),
            seconds=round(time.perf_counter() - started, 1),
            images=comparison.images,
            passed=comparison.passed,
            rows=comparison.rows,
            verdicts=comparison.verdicts,
            worst=tuple(
                WorstSample(each.loader, each.view, each.name, each.distance)
                for each in comparison.worst
            ),
            stock=tuple(stock_rows),
        )
        write_whole(config.out / "pixels.json", json.dumps(asdict(found), indent=1) + "\n")
    print_pixels(found, console)
    return comparison


def _maker(name: str, config: ParityConfig) -> Callable[..., Loader]:
    # A loader of one epoch would keep no pixels, and there would be no store to compare.
    kept = {"store": config.store, "epochs": MANY}
    options: dict[str, Any] = kept if name == "resident" else {}
    form = config.preprocessing
    return partial(make_loader, name, decode=config.decode, preprocessing=form, **options)


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
