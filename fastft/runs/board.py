"""TensorBoard as a tracker, whose event files lie in the run's folder: `fastft[tensorboard]`."""

from __future__ import annotations

import json
import threading
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from torch.utils.tensorboard import SummaryWriter

from fastft.runs.tracker import Ending, Row, scalars
from pipelines.errors import DataError


class Board:
    """A `SummaryWriter` of rows; one that could not write says so as other files do.

    Its thread, which writes, would print a traceback of a full disk, and then the next row, which
    raises what ended it.
    """

    def __init__(self, out: Path, settings: Mapping[str, Any], first_step: int) -> None:
        """Open it, or go on in it; what it has of steps from `first_step` on counts no more.

        Args:
            out: the folder of event files.
            settings: the run's, which a new run begins with as a text.
            first_step: the step that the run begins with.

        Raises:
            DataError: `out` cannot be written.
        """
        self.key, self.place = "", f"tensorboard --logdir {out}"
        self._out = out
        self._hook, threading.excepthook = threading.excepthook, self._hear
        try:
            with self._named():
                self._writer: Any = SummaryWriter(str(out), purge_step=first_step or None)
                if not first_step:
                    text = json.dumps(settings, indent=1).replace("\n", "\n    ")
                    self._writer.add_text("settings", f"    {text}")  # as Markdown has code
        except BaseException:
            threading.excepthook = self._hook
            raise

    def add(self, rows: Sequence[Row]) -> None:
        """Rows as scalars: a step's at its step, an epoch's at its number, from 1.

        Raises:
            DataError: one, or one before it, cannot be written.
        """
        with self._named():
            for row in rows:
                for name, value, at in scalars(row):
                    self._writer.add_scalar(name, value, at)

    def close(self, ending: Ending) -> None:
        """Close it; TensorBoard shows no run's end, but what was last written.

        Raises:
            DataError: what it was told last cannot be written.
        """
        try:
            with self._named():
                if ending.summary:
                    self._writer.add_text("summary", json.dumps(dict(ending.summary)))
                self._writer.close()
        finally:
            threading.excepthook = self._hook

    def _hear(self, failed: Any) -> None:
        if not (failed.exc_type is not None and issubclass(failed.exc_type, OSError)):
            self._hook(failed)

    @contextmanager
    def _named(self) -> Iterator[None]:
        try:
            yield
        except OSError as error:
            found = f"cannot be written: {error.strerror or error}"
            raise DataError(self._out, found, "", "free some of the disk") from error
