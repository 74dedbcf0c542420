"""Closing tables of commands."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, TypeVar

from rich.console import Console
from rich.markup import escape
from rich.table import Table

from pipelines.errors import one_line
from pipelines.layout import Note

if TYPE_CHECKING:  # fastft.predict loads torch, which fastft convert does without
    from fastft.predict import Prediction
    from pipelines.merge import Merged
    from pipelines.tally import Report

    _Made = TypeVar("_Made", Report, Merged)

#: Rows of predictions that are printed; all of them go to --csv.
_ROWS = 40


def conversion_table(reports: Sequence[Report]) -> Table:
    """What `fastft convert` did: a column per output."""
    return _by_output(
        reports,
        {
            "images": lambda r: f"{r.images:,}",
            "classes": lambda r: f"{len(r.classes):,}",
            "read": lambda r: f"{r.bytes_in:,} bytes",
            "written": lambda r: f"{r.bytes_out:,} bytes",
            "re-encoded": lambda r: f"{r.notes[Note.REENCODED]:,}",
            "left out": lambda r: f"{len(r.quarantined):,} broken",
            "doubtful": lambda r: f"{len(r.doubtful):,}",
            "odd but whole": lambda r: f"{len(r.warnings):,}",
            "no images": lambda r: ", ".join(f"{n} {kind}" for kind, n in r.ignored.items()) or "0",
            "taken over": lambda r: f"{r.resumed:,}",
            "speed": lambda r: f"{r.img_per_s:,.0f} images/s",
        },
    )


def merge_table(reports: Sequence[Merged]) -> Table:
    """What `fastft merge` did: a column per output."""
    return _by_output(
        reports,
        {
            "images": lambda r: f"{r.images:,}",
            "classes": lambda r: f"{len(r.classes):,}",
            "shards": lambda r: f"{r.shards:,}",
            "written": lambda r: f"{r.bytes_out:,} bytes",
            "left out": lambda r: f"{len(r.quarantined):,} broken",
            "doubtful": lambda r: f"{len(r.doubtful):,}",
            "speed": lambda r: f"{r.bytes_out / r.seconds / 1e6:,.0f} MB/s",
        },
    )


def _by_output(reports: Sequence[_Made], rows: Mapping[str, Callable[[_Made], str]]) -> Table:
    table = Table("", *(escape(one_line(report.out.name)) for report in reports))
    for name, cell in rows.items():
        table.add_row(name, *(escape(one_line(cell(report))) for report in reports))
    return table


def print_predictions(predictions: Sequence[Prediction], console: Console, *, top: int = 1) -> None:
    """A table of predictions with the `top` likeliest classes; of a single image as sentences."""
    if len(predictions) == 1:
        for label, probability in predictions[0].best(top):
            console.print(f"With prob={probability:.3f}, {one_line(label)}", markup=False)
        return
    ranks = min(top, len(predictions[0].classes))
    names = ("class", "probability")
    table = Table("image", *(names if ranks == 1 else map(str, range(1, ranks + 1))))
    for row in predictions[:_ROWS]:
        best = [(escape(one_line(label)), f"{share:.3f}") for label, share in row.best(ranks)]
        wrong = row.truth is not None and row.truth != row.label
        table.add_row(
            escape(one_line(str(row.path))),
            *(best[0] if ranks == 1 else (f"{label} {share}" for label, share in best)),
            style="red" if wrong else "",
        )
    console.print(table)
    if len(predictions) > _ROWS:
        console.print(f"and {len(predictions) - _ROWS:,} more; --csv FILE keeps all")
    known = [row for row in predictions if row.truth is not None]
    if known:
        right = sum(row.truth == row.label for row in known)
        share = right / len(known)
        console.print(f"{right:,} of {len(known):,} agree with their folder's name ({share:.1%})")
