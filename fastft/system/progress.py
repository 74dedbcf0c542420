"""Progress bars for long work; nothing is drawn where the output is no terminal."""

from __future__ import annotations

import logging
import os
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

from rich.console import Console
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    SpinnerColumn,
    TextColumn,
    TimeElapsedColumn,
    TimeRemainingColumn,
)

from pipelines.errors import one_line

#: The logger that tells when a kernel is compiled.
_KERNELS = "pipelines.kernels"


class _LineConsole(Console):
    """Prints a text that is not markup as the one line that it is, whatever names it holds."""

    def print(self, *objects: Any, **options: Any) -> None:
        if options.get("markup") is False:
            objects = tuple(one_line(part) if isinstance(part, str) else part for part in objects)
        super().print(*objects, **options)


def make_console() -> Console:
    """The console of commands: the terminal breaks lines, and no text is coloured."""
    return _LineConsole(highlight=False, soft_wrap=True)


def tell_of_compiling() -> None:
    """Say once on a terminal what a command waits for that compiles kernels."""
    if sys.stderr.isatty():
        logger = logging.getLogger(_KERNELS)
        logger.setLevel(logging.INFO)
        logger.addHandler(_Compiling())


class _Compiling(logging.Handler):
    """Says so in this process alone: a forked one shares the terminal, and no lock."""

    def __init__(self) -> None:
        super().__init__()
        self._process = os.getpid()

    def emit(self, record: logging.LogRecord) -> None:
        if self._process == os.getpid():
            self._process = 0
            text = "fastft: compiles kernels for this machine: once, some 20 s"
            print(text, file=sys.stderr, flush=True)


@contextmanager
def epoch_progress(
    console: Console, epoch: int, epochs: int, steps: int, done: int = 0
) -> Iterator[Callable[[float, float], None]]:
    """A bar over one epoch's steps; call what is given with loss and images/s after each."""
    with _bar(console) as bar:
        task = bar.add_task(f"epoch {epoch + 1}/{epochs}", total=steps, completed=done, note="")

        def advance(loss: float, img_per_s: float) -> None:
            bar.update(task, advance=1, note=f"loss {loss:.3f}  {img_per_s:.0f} img/s")

        yield advance


@contextmanager
def image_progress(console: Console, verb: str) -> Iterator[Callable[..., None]]:
    """A bar for each split; call what is given with its name, images done, in all, bytes done."""
    with _bar(console) as bar:
        tasks = {}

        def update(
            name: str, done: int, total: int, done_bytes: int = 0, *, broken: int = 0
        ) -> None:
            if name not in tasks:
                tasks[name] = bar.add_task(one_line(f"{verb} {name}"), total=total, note="")
            elapsed_s = next(t.elapsed for t in bar.tasks if t.id == tasks[name]) or 0.0
            note = f"{done / elapsed_s:,.0f} img/s" if elapsed_s else ""
            if done_bytes and elapsed_s:
                note += f"  {done_bytes / elapsed_s / 1e6:,.0f} MB/s"
            if broken:
                note += f"  {broken:,} broken"
            bar.update(tasks[name], completed=done, note=note)

        yield update


def _bar(console: Console) -> Progress:
    return Progress(
        SpinnerColumn(),
        TextColumn("{task.description}", markup=False),
        BarColumn(),
        MofNCompleteColumn(),
        TextColumn("{task.fields[note]}"),
        TimeElapsedColumn(),
        TimeRemainingColumn(),
        console=console,
        transient=True,
        disable=not console.is_terminal,
    )
