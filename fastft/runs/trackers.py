"""Experiment trackers beside the folder of a run, which stays the source: who is told, and when.

Trackers hear of rows on threads of their own, so that none of them holds up the training. One that
fails is named once, and the run goes on without it.
"""

from __future__ import annotations

import queue
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from fastft.results.read import parse_object, read_bytes
from fastft.runs.folder import TRACKED, write_json
from fastft.runs.metrics import StepMetrics
from fastft.runs.tracker import Ending, Row, Tracker
from pipelines.errors import DataError, FastftError, UsageError, one_line

#: What each tracker's library is called, by people and by Python.
_LIBRARIES = {
    "tensorboard": ("TensorBoard", "tensorboard"),
    "wandb": ("Weights & Biases", "wandb"),
    "mlflow": ("MLflow", "mlflow"),
}
#: How long the end of a run waits for what trackers have yet to send: less than the 30 s after
#: which schedulers kill what they have asked to stop.
CLOSE_S = 20.0
#: Rows that a tracker may lag behind: some 30 MB.
_MOST_ROWS = 100_000


class Trackers:
    """The trackers of one run."""

    def __init__(self, feeds: Sequence[_Feed], say: Callable[[str], None]) -> None:
        """Take those that are open; `say` tells people of those that fail."""
        self._feeds, self._say, self._named = feeds, say, set[str]()

    def add(self, row: Row) -> None:
        """Tell all of a row; returns at once."""
        for feed in self._feeds:
            feed.put(row)
        self._name_failed()

    def close(self, ending: Ending) -> None:
        """Say how the run ended, and wait for what is yet to be sent, CLOSE_S at most."""
        until = time.monotonic() + CLOSE_S
        for feed in self._feeds:
            feed.end(ending)
        for feed in self._feeds:
            feed.wait(until)
        self._name_failed()

    def _name_failed(self) -> None:
        for feed in self._feeds:
            if feed.failed and feed.name not in self._named:
                self._named.add(feed.name)
                self._say(f"{feed.name} is told no more: {feed.failed}; metrics.jsonl has all rows")


def open_trackers(
    names: Sequence[str],
    out: Path,
    settings: Mapping[str, Any],
    say: Callable[[str], None],
    *,
    first_step: int = 0,
    heard: tuple[int, int] = (-1, -1),
) -> Trackers | None:
    """Open the trackers of a run, or those of a run that is continued.

    Of a run that is continued a tracker is not told again what it heard after the checkpoint. One
    that cannot be opened is named, and the run goes on without it: who restarts a job is no person.

    Args:
        names: of `config.train.TRACKERS`, each once.
        out: the run's folder; which run is its own in each tracker is kept there.
        settings: the run's, as JSON values.
        say: tells people.
        first_step: the step that the run begins with.
        heard: the last step and epoch that were told after the checkpoint that it goes on from.

    Returns:
        None if there are none: then nothing is loaded.

    Raises:
        UsageError: the library of a new run's tracker is not installed.
        DataError: a new run's tracker cannot be opened.
    """
    if not names:
        return None
    kept = _read_keys(out) if (out / TRACKED).exists() else {}
    feeds: list[_Feed] = []
    try:
        for name in names:
            try:
                tracker = _open(name, out, settings, kept.get(name, ""), first_step)
            except FastftError as error:
                if not first_step:
                    raise
                say(f"{error}; the run goes on without it")
                continue
            goes_on = tracker.key and tracker.key == kept.get(name)
            feeds.append(_Feed(name, tracker, heard if goes_on else (-1, -1)))
            if tracker.key:
                kept[name] = tracker.key
                write_json(out / TRACKED, kept)
            say(f"tracked by {name}: {tracker.place}")
    except BaseException:
        Trackers(feeds, say).close(Ending("failed", {}))
        raise
    return Trackers(feeds, say)


def require_trackers(names: Sequence[str]) -> None:
    """Refuse trackers whose library is not there, without loading it.

    Raises:
        UsageError: with the command that installs it.
    """
    for name in names:
        spec = find_spec(_LIBRARIES[name][1])
        if spec is None or spec.origin is None:  # a folder of that name is no library
            raise _missing(name, "is not installed")


class _Feed:
    """Tells one tracker, on a thread.

    Attributes:
        name: the tracker's.
        failed: what it failed with, in a line; '' if it did not.
    """

    def __init__(self, name: str, tracker: Tracker, heard: tuple[int, int]) -> None:
        """Begin; `heard` are the last step and epoch that it is not told of again."""
        self.name, self.failed = name, ""
        self._tracker, self._heard = tracker, heard
        self._queue: queue.Queue[Row | Ending] = queue.Queue(_MOST_ROWS)
        # A library that hangs must not keep the process from ending.
        self._thread = threading.Thread(target=self._run, name=f"tracker {name}", daemon=True)
        self._thread.start()

    def put(self, row: Row) -> None:
        is_step = isinstance(row, StepMetrics)
        number = row.step if isinstance(row, StepMetrics) else row.epoch
        if self.failed or number <= self._heard[not is_step]:
            return
        try:
            self._queue.put_nowait(row)
        except queue.Full:
            self.failed = f"it lags {_MOST_ROWS:,} rows behind"

    def end(self, ending: Ending) -> None:
        with suppress(queue.Full):  # it hangs
            self._queue.put_nowait(ending)

    def wait(self, until: float) -> None:
        """Wait for its end, at most until then on the monotonic clock."""
        self._thread.join(max(0.0, until - time.monotonic()))
        if self._thread.is_alive():
            self.failed = self.failed or f"it has not sent all within {CLOSE_S:g} s"

    def _run(self) -> None:
        ending = None
        while ending is None:
            first = self._queue.get()
            waiting = [first, *(self._queue.get_nowait() for _ in range(self._queue.qsize()))]
            rows = [each for each in waiting if not isinstance(each, Ending)]
            ending = next((each for each in waiting if isinstance(each, Ending)), None)
            if rows and not self.failed:
                self._try(lambda rows=rows: self._tracker.add(rows))  # type: ignore[misc]
        self._try(lambda: self._tracker.close(ending))

    def _try(self, call: Callable[[], None]) -> None:
        try:
            call()
        except Exception as error:  # whatever a library raises: its server is gone, its disk full
            self.failed = self.failed or _told(error)


def _open(name: str, out: Path, settings: Mapping[str, Any], key: str, first_step: int) -> Tracker:
    """One tracker.

    Raises:
        UsageError: its library is not installed.
        DataError: it cannot be opened.
    """
    try:
        if name == "wandb":
            from fastft.runs.wandb_run import WandbRun

            return WandbRun(out, settings, key, limit_s=CLOSE_S / 2)
        if name == "mlflow":
            from fastft.runs.mlflow_run import MlflowRun

            return MlflowRun(out, settings, key)
        from fastft.runs.board import Board

        return Board(out / "tensorboard", settings, first_step)
    except ImportError as error:
        raise _missing(name, f"cannot be imported ({_told(error)})") from error
    except FastftError:
        raise
    except Exception as error:  # whatever a library raises: no login, no such address
        remedy = "see its settings, or leave it out"
        raise DataError(
            f"--track {name}", f"cannot be opened: {_told(error)}", "", remedy
        ) from error


def _missing(name: str, what: str) -> UsageError:
    remedy = f'pip install "fastft[{name}]"'
    return UsageError(
        f"--track {name}", f"{_LIBRARIES[name][0]} {what}", "it beside fastft", remedy
    )


def _told(error: Exception) -> str:
    text = str(error).strip() or type(error).__name__
    return one_line(text.splitlines()[0][:300].rstrip(" ."))


def _read_keys(out: Path) -> dict[str, str]:
    """What the tracked runs are continued by; of a damaged file nothing."""
    try:
        found = parse_object(read_bytes(out / TRACKED, 1 << 12), str(out / TRACKED))
    except DataError:
        return {}
    return {name: key for name, key in found.items() if isinstance(key, str)}
