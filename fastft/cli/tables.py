"""Closing tables of commands."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import TYPE_CHECKING, TypeVar

import numpy as np
from rich.console import Console
from rich.markup import escape
from rich.table import Table

from fastft.datasets.inspect import pick_classes
from pipelines.errors import one_line
from pipelines.formats.layout import Note, Preparation

if TYPE_CHECKING:  # fastft.evaluate.predict loads torch, which fastft convert does without
    from fastft.evaluate.predict import Summary
    from pipelines.conversion.merge import Merged
    from pipelines.conversion.report import Report

    _Made = TypeVar("_Made", Report, Merged)

#: Rows that appear only where there are such images.
_NOTED = {
    Note.TURNED: "turned upright",
    Note.LYING: "lying on a side",
    Note.DEEP: "more than 8 bits",
}
#: Classes of a conversion that are printed: all up to so many, else so many first and rarest ones.
_CLASSES, _FIRST, _RAREST = 10, 5, 3


def conversion_table(reports: Sequence[Report]) -> Table:
    """The closing table of `fastft convert`: a column per output."""
    return _by_output(
        reports,
        {
            "images": lambda r: f"{r.images:,}",
            "classes": lambda r: f"{len(r.classes):,}",
            "": _count_classes,
            "read": lambda r: f"{r.bytes_in:,} bytes",
            "written": lambda r: f"{r.bytes_out:,} bytes",
            "re-encoded": lambda r: f"{r.notes[Note.REENCODED]:,}",
            "left out": lambda r: f"{len(r.quarantined):,} broken",
            "doubtful": lambda r: f"{len(r.doubtful):,}",
            "odd but whole": lambda r: f"{len(r.warnings):,}",
            **{
                row: partial(_count, note)
                for note, row in _NOTED.items()
                if any(report.notes[note] for report in reports)
            },
            "no images": lambda r: ", ".join(f"{n} {kind}" for kind, n in r.ignored.items()) or "0",
            "taken over": lambda r: f"{r.resumed:,}",
            "speed": lambda r: f"{r.img_per_s:,.0f} images/s",
        },
    )


def preparation_lines(reports: Sequence[Report], preparation: Preparation) -> list[str]:
    """Lines on images that `fastft convert` turned, clipped or scaled, or that lie on a side."""
    lines = []
    if n := _sum(reports, Note.LYING):
        lines.append(
            f"{_subject(reports, Note.LYING, 'photo is', 'photos are')} rotated by EXIF; the "
            "rotation is ignored, as torchvision does: pass --apply-exif to turn "
            f"{'it' if n == 1 else 'them'}"
        )
    if _sum(reports, Note.TURNED):
        subject = _subject(reports, Note.TURNED, "photo is", "photos are")
        lines.append(f"{subject} rotated by EXIF and turned upright")
    if n := _sum(reports, Note.GROWN):
        grown = [sum(report.grown_to for report in reports) / 1e6]
        grown.append(sum(report.grown_from for report in reports) / 1e6)
        lines.append(
            f"{n:,} turned {'photo is' if n == 1 else 'photos are'} stored as raw pixels, "
            f"{grown[0]:.1f} MB instead of {grown[1]:.1f} MB, as turning the JPEG would lose "
            f"pixels at its edge; --mode jpg stores {'it' if n == 1 else 'them'} as JPEG"
        )
    if _sum(reports, Note.DEEP):
        subject = _subject(reports, Note.DEEP, "image has", "images have")
        clipped = "clipped to 0-255, as torchvision does: pass --depth scale to map the range"
        done = "mapped to 0-255" if preparation.depth == "scale" else clipped
        lines.append(f"{subject} more than 8 bits per channel, {done}")
    return lines


def _sum(reports: Sequence[Report], note: Note) -> int:
    return sum(report.notes[note] for report in reports)


def _count(note: Note, report: Report) -> str:
    return f"{report.notes[note]:,}"


def _subject(reports: Sequence[Report], note: Note, one: str, many: str) -> str:
    """The number of images that a note is of, with the first of them."""
    count = _sum(reports, note)
    first = one_line(next(report.first[note] for report in reports if note in report.first))
    noun, verb = (one if count == 1 else many).split()
    return f"{count:,} {noun} ({first if count == 1 else f'first {first}'}) {verb}"


def merge_table(reports: Sequence[Merged]) -> Table:
    """The closing table of `fastft merge`: a column per output."""
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


def print_remarks(reports: Sequence[Report], console: Console) -> None:
    """Print what may be meant otherwise in the source of a conversion, each line once."""
    for line in dict.fromkeys(line for report in reports for line in report.remarks):
        console.print(line, markup=False)


def _count_classes(report: Report) -> str:
    """Class names with their images, a line each."""
    counts = np.array([report.kept[label] for label in range(len(report.classes))], np.int64)
    picked = pick_classes(counts, _CLASSES, _FIRST, _RAREST)

    def say(labels: Sequence[int]) -> list[str]:
        return [f"{one_line(report.classes[label])}: {counts[label]:,}" for label in labels]

    lines = say(picked.first)
    if picked.rarest:
        lines += ["rarest:", *say(picked.rarest)]
    if picked.more:
        lines.append(f"and {picked.more:,} more")
    return "\n".join(lines)


def _by_output(reports: Sequence[_Made], rows: Mapping[str, Callable[[_Made], str]]) -> Table:
    table = Table("", *(escape(one_line(report.out.name)) for report in reports))
    for name, cell in rows.items():
        lines = (cell(report).split("\n") for report in reports)
        table.add_row(name, *(escape("\n".join(map(one_line, each))) for each in lines))
    return table


def print_predictions(summary: Summary, console: Console, *, top: int = 1) -> None:
    """A table of predictions with the `top` likeliest classes; of a single image as sentences."""
    if not summary.count:
        return
    if summary.count == 1:
        for sentence in summary.first[0].sentences(top):
            console.print(one_line(sentence), markup=False)
        return
    table = Table("image", *map(escape, map(one_line, summary.first[0].cells(top))))
    for row in summary.first:
        table.add_row(
            escape(one_line(str(row.path))),
            *(escape(one_line(cell)) for cell in row.cells(top).values()),
            style="" if row.is_right is not False else "red",
        )
    console.print(table)
    if more := summary.count - len(summary.first):
        console.print(f"and {more:,} more; --csv FILE keeps all")
    if summary.known:
        share = f"{summary.right / summary.known:.1%}"
        agree = f"{summary.right:,} of {summary.known:,} agree"
        console.print(f"{agree} with their folder's name ({share})")
