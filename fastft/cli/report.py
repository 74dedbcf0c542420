"""The command line of `fastft report`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from fastft.system.progress import make_console


def report(
    sources: Annotated[
        list[Path],
        typer.Argument(
            metavar="RUN_OR_BENCH...",
            help="Folders of fastft train, bench, compare, sweep, parity, evaluate or check, or "
            "their JSON files; JSON of the benchmark suites.",
        ),
    ],
    out: Annotated[
        Path, typer.Option(help="The file to write; an earlier page there is replaced.")
    ] = Path("report.html"),
    title: Annotated[
        str, typer.Option(help="The page's title.", show_default="the sources' names")
    ] = "",
) -> None:
    """Write one HTML page of what other commands measured; it needs no other file and no network.

    Throughput, what each stage allows, how cost grows, parity, the curves of trainings,
    evaluations, data, machines: whatever the sources hold. Sources are recognized by their content.
    Several of a kind are shown side by side: the curves of runs in one chart, with the settings
    that differ. Below each chart are its figures.

    Example: fastft report run

    Example: fastft report run run2 --out runs.html --title "Two learning rates"

    Example: fastft report bench parity run
    """
    from fastft.report.page import write_report

    page = write_report(sources, out, title)
    names = ", ".join(section.title.lower() for section in page.sections)
    size = out.stat().st_size
    make_console().print(f"{out}: {size:,} bytes; {names}", markup=False)
