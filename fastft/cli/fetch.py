"""The command line of `fastft fetch`."""

from __future__ import annotations

import shlex
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from rich.console import Console

from fastft.config.checks import defaults
from fastft.datasets.fetch import KNOWN, FetchConfig, FetchResult
from fastft.system.progress import make_console

if TYPE_CHECKING:
    from fastft.datasets.part import Report

_FETCH = defaults(FetchConfig)


def fetch(
    source: Annotated[
        str,
        typer.Argument(
            metavar="NAME|URL", help=f"A known data set ({', '.join(KNOWN)}), or http://..."
        ),
    ],
    out: Annotated[
        Path, typer.Argument(metavar="DIR", help="The folder to put it in.")
    ] = _FETCH.out,
    sha1: Annotated[str, typer.Option(help="SHA-1 of the file at URL, 40 hex digits.")] = "",
    sha256: Annotated[str, typer.Option(help="SHA-256 of it, 64 hex digits.")] = "",
    keep: Annotated[
        bool, typer.Option("--keep", help="Leave the archive beside what came out of it.")
    ] = _FETCH.keep,
) -> None:
    """Download a data set, check its hash, unpack it.

    A download that was cut off continues when the command is run again; what is complete is not
    fetched twice. An archive whose files lie in one folder becomes DIR/that folder, any other
    DIR/its own name; a file that is no archive stays a file. hotdog is 2,000 photos to train on
    and 800 to test.

    Example: fastft fetch hotdog
    """
    from fastft.datasets.fetch import fetch as run_fetch

    config = FetchConfig(source=source, out=out, sha1=sha1, sha256=sha256, keep=keep)
    console = make_console()
    with byte_progress(console) as update:
        result = run_fetch(config, update)
    for line in describe(config, result):
        console.print(line, markup=False)


def describe(config: FetchConfig, result: FetchResult) -> Iterator[str]:
    """Lines that say where the data are and what to do with them."""
    from pipelines.errors import one_line
    from pipelines.formats.folder import read_folder, split_folders

    path = one_line(str(result.path))
    what = f"{result.files:,} files" if result.path.is_dir() else "a file"
    how = "there already" if result.was_there else f"{result.received_bytes / 1e6:,.1f} MB received"
    held = ", its hash is right" if config.expected else ""
    yield f"{path}: {what}, {how}{held}"
    if result.archive is not None:
        yield f"{one_line(str(result.archive))}: the archive, kept"
    if config.source in KNOWN:
        for name, folder in split_folders(result.path).items():
            split = read_folder(folder)
            counts = (
                f"{int((split.labels == i).sum()):,} {c}" for i, c in enumerate(split.classes)
            )
            yield f"{name}: {', '.join(counts)}"
        yield f"Next: fastft convert {shlex.quote(path)} data"
        yield "      fastft train --data data --out run"
    elif not config.expected:
        yield "No hash was given to hold it against. Next time, and in scripts, add"
        yield f"  --sha256 {result.digests.sha256}"


@contextmanager
def byte_progress(console: Console) -> Iterator[Report]:
    """A bar for each stage; call what is given with its name, bytes done and in all, or None."""
    from rich.progress import (
        BarColumn,
        DownloadColumn,
        Progress,
        TaskID,
        TextColumn,
        TimeRemainingColumn,
        TransferSpeedColumn,
    )

    columns = (
        TextColumn("{task.description}", markup=False),
        BarColumn(),
        DownloadColumn(),
        TransferSpeedColumn(),
        TimeRemainingColumn(),
    )
    with Progress(
        *columns, console=console, transient=True, disable=not console.is_terminal
    ) as bar:
        tasks: dict[str, TaskID] = {}

        def update(stage: str, done: int, total: int | None) -> None:
            if stage not in tasks:
                # What an earlier run received is not part of this one's speed.
                tasks[stage] = bar.add_task(stage, total=total, completed=done)
            bar.update(tasks[stage], completed=done, total=total)

        yield update
