"""Tables of data that are not converted yet: `fastft inspect` of all that `convert` takes."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from rich.console import Console
from rich.markup import escape
from rich.table import Table

from fastft.datasets.inspect import class_table, describe_columns
from pipelines.conversion.inputs import Listing, describe_remarks, open_listings
from pipelines.errors import one_line
from pipelines.formats.columns import UNNAMED, ColumnNames

#: Samples that are named.
_NAMED = 3


def describe_listings(
    path: Path,
    console: Console,
    *,
    classes: tuple[str, ...] = (),
    names: ColumnNames = UNNAMED,
    image_root: Path | None = None,
) -> None:
    """Print what `convert` would make a `.beton` of, split by split; no image is decoded.

    Args:
        path: the data.
        console: where tables go.
        classes, names, image_root: as `open_listings` takes them.

    Raises:
        As `open_listings`.
    """
    with open_listings(path, classes, names=names, image_root=image_root) as listings:
        for split, listing in listings.items():
            console.print(_header(f"{path}: {split}" if split else str(path), listing))
            counts = listing.columns.count(listing.labels, len(listing.classes))
            console.print(class_table(listing.classes, counts))
            for line in describe_remarks(listing):
                console.print(line, markup=False)
    console.print(f"no .beton yet: fastft convert {path} data", markup=False)


def _header(title: str, listing: Listing) -> Table:
    sizes = np.fromiter(map(listing.size_bytes, range(len(listing))), np.int64, len(listing))
    shown = [listing.names[at] for at in range(min(_NAMED, len(listing)))]
    missing = int((sizes == 0).sum())
    rows = {
        "samples": f"{len(listing):,}",
        "files": f"{int(sizes.sum()):,} bytes, {sizes.mean():,.0f} on average",
        "first": escape(one_line(", ".join(shown))),
        **describe_columns(listing.columns),
        "no images": ", ".join(f"{n} {kind}" for kind, n in listing.ignored.items()) or "0",
    }
    if missing:
        first = escape(one_line(listing.names[int(np.argmax(sizes == 0))]))
        rows["missing or empty"] = f"{missing:,} files, the first {first}"
    table = Table(show_header=False, title=escape(one_line(title)), title_justify="left")
    for name, value in rows.items():
        table.add_row(name, value)
    return table
