"""Rates of listing tables of many rows: opening, labels and splits, without a look at images.

    python -m bench.listing --rows 1000000 --out bench/results/listing.json

Each table has a path, a label and a split in each row. Listings of all forms must be equal. Rates
are of CPU time of one process, medians of several.
"""

from __future__ import annotations

import argparse
import csv
import json
import resource
import statistics
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np

from fastft.system.environment import environment
from pipelines.conversion.inputs import Listing, open_listings

_CLASSES, _ROUNDS = 1000, 5
Row = tuple[str, str, str]


def make_rows(count: int) -> Iterator[Row]:
    """Rows as a table of ImageNet's size has them."""
    for row in range(count):
        label = f"n{row * 7919 % _CLASSES:08}"
        yield f"images/{label}/{label}_{row:08}.jpg", label, "val" if row % 19 == 0 else "train"


def write_csv(path: Path, count: int, quoting: int = csv.QUOTE_MINIMAL) -> None:
    with path.open("w", newline="") as file:
        writer = csv.writer(file, quoting=quoting)  # type: ignore[arg-type]
        writer.writerow(("path", "label", "split"))
        writer.writerows(make_rows(count))


def write_json_lines(path: Path, count: int) -> None:
    with path.open("w") as file:
        for image, label, split in make_rows(count):
            file.write(json.dumps({"path": image, "label": label, "split": split}) + "\n")


def write_parquet(path: Path, count: int) -> None:
    import pyarrow
    from pyarrow import parquet

    columns = [list(column) for column in zip(*make_rows(count), strict=True)]
    parquet.write_table(pyarrow.table(columns, names=["path", "label", "split"]), path)


WRITERS: dict[str, tuple[str, Callable[[Path, int], None]]] = {
    "CSV": ("a.csv", write_csv),
    "CSV, all cells quoted": ("b.csv", lambda path, count: write_csv(path, count, csv.QUOTE_ALL)),
    "Parquet": ("c.parquet", write_parquet),
    "JSON Lines": ("d.jsonl", write_json_lines),
}


def measure(path: Path) -> tuple[float, dict[str, Listing]]:
    """Seconds of CPU time to list a table, and its listings."""
    started = time.process_time()
    with open_listings(path) as listings:
        return time.process_time() - started, listings


def same(one: dict[str, Listing], other: dict[str, Listing]) -> bool:
    return one.keys() == other.keys() and all(
        mine.names == its.names
        and mine.classes == its.classes
        and np.array_equal(mine.labels, its.labels)
        for mine, its in zip(one.values(), other.values(), strict=True)
    )


def main() -> None:
    """Measure as the command line says; prints and writes the rates."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rows", type=int, default=1_000_000)
    parser.add_argument("--out", type=Path)
    options = parser.parse_args()
    found: dict[str, dict[str, float]] = {}
    with tempfile.TemporaryDirectory() as folder:
        first: dict[str, Listing] = {}
        for name, (file, write) in WRITERS.items():
            path = Path(folder) / file
            write(path, options.rows)
            seconds = []
            for _ in range(_ROUNDS):
                took, listings = measure(path)
                seconds.append(took)
            first = first or listings
            assert same(first, listings), f"{name} is listed otherwise"
            rates = [options.rows / each for each in seconds]
            found[name] = {
                "rows_per_s": statistics.median(rates),
                "least": min(rates),
                "most": max(rates),
                "bytes": path.stat().st_size,
            }
            print(
                f"{name}: {found[name]['rows_per_s']:,.0f} rows/s "
                f"({min(rates):,.0f} to {max(rates):,.0f})"
            )
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
    result = {"environment": environment(), "rows": options.rows, "rounds": _ROUNDS}
    result |= {"peak_bytes": peak, "tables": found}
    if options.out is not None:
        options.out.parent.mkdir(parents=True, exist_ok=True)
        options.out.write_text(json.dumps(result, indent=1) + "\n")


if __name__ == "__main__":
    main()
