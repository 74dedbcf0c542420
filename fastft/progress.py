"""Progress bars for long work; nothing is drawn where the output is no terminal."""

from __future__ import annotations

from types import TracebackType

from rich.console import Console
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    SpinnerColumn,
    TaskID,
    TextColumn,
    TimeElapsedColumn,
    TimeRemainingColumn,
)


class EpochProgress:
    """One epoch's steps, with the loss and the rate."""

    def __init__(self, console: Console, epoch: int, epochs: int, steps: int) -> None:
        self._progress = Progress(
            SpinnerColumn(),
            TextColumn(f"epoch {epoch + 1}/{epochs}"),
            BarColumn(),
            MofNCompleteColumn(),
            TextColumn("{task.fields[note]}"),
            TimeElapsedColumn(),
            TimeRemainingColumn(),
            console=console,
            transient=True,
            disable=not console.is_terminal,
        )
        self._task = self._progress.add_task("", total=steps, note="")

    def advance(self, loss: float, img_per_s: float) -> None:
        """One step more."""
        self._progress.update(self._task, advance=1, note=f"loss {loss:.3f}  {img_per_s:.0f} img/s")

    def __enter__(self) -> EpochProgress:
        self._progress.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        value: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._progress.stop()


class ImageProgress:
    """Images of one or several splits, with the rate; `update` takes absolute counts."""

    def __init__(self, console: Console, verb: str) -> None:
        self._progress = Progress(
            SpinnerColumn(),
            TextColumn(f"{verb} {{task.description}}"),
            BarColumn(),
            MofNCompleteColumn(),
            TextColumn("{task.fields[note]}"),
            TimeRemainingColumn(),
            console=console,
            transient=True,
            disable=not console.is_terminal,
        )
        self._tasks: dict[str, TaskID] = {}

    def update(self, name: str, done: int, total: int, done_bytes: int = 0) -> None:
        """`done` of `total` images of the split `name`."""
        if name not in self._tasks:
            self._tasks[name] = self._progress.add_task(name, total=total, note="")
        task = next(t for t in self._progress.tasks if t.id == self._tasks[name])
        rate = done / task.elapsed if task.elapsed else 0.0
        note = f"{rate:,.0f} img/s"
        if done_bytes and task.elapsed:
            note += f"  {done_bytes / task.elapsed / 1e6:,.0f} MB/s"
        self._progress.update(task.id, completed=done, note=note)

    def __enter__(self) -> ImageProgress:
        self._progress.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        value: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._progress.stop()
