"""The folder of a run: when it may be made, what it begins with, when it is removed again."""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from pipelines.atomic import write_whole
from pipelines.errors import DataError, UsageError

CONFIG, METRICS = "config.json", "metrics.jsonl"
BEST, LAST = "best.safetensors", "last.safetensors"
#: The LAST before it, to continue from should LAST be damaged.
PREVIOUS = "previous.safetensors"
#: Names of earlier versions' files, by `torch.save`.
OLD = {BEST: "best.pt", LAST: "last.pt", PREVIOUS: "previous.pt"}
#: Its picture, and how a run ended that came to its end.
CURVES, SUMMARY = "curves.png", "summary.json"
#: What trackers call the run, to go on with it there.
TRACKED = "tracked.json"
#: What `--lr-find` leaves there begins so; a run that follows keeps it.
LR_FIND = "lr_find."
#: Patterns of what lies in a folder of many runs: one that was begun, one that has got somewhere.
MANY_BEGUN, MANY_KEEP = f"*/*seed-*/{CONFIG}", f"*/*seed-*/{BEST}"


def check_folder(out: Path, overwrite: bool, marker: str = CONFIG) -> None:
    """Refuse a folder that would lose something.

    Args:
        out: the folder to make.
        overwrite: whether what is there already may be replaced.
        marker: a pattern; something that matches it lies in every folder of this kind.

    Raises:
        UsageError: it holds other files, or runs that are not to be replaced.
    """
    if out.is_file():
        raise UsageError("--out", f"{out} is a file", "a folder to make", "name another")
    if not _contents(out):
        return
    if next(out.glob(marker), None) is None:
        raise UsageError("--out", f"{out} holds other files", "a new folder", "name another")
    if not overwrite:
        raise UsageError(
            "--out", f"{out} holds a run", "a new folder", "name another or add --overwrite"
        )


@contextmanager
def make_folder(out: Path, keep: str = LAST) -> Iterator[None]:
    """Make a folder anew; empty it again unless a file that matches `keep` comes to lie in it.

    A signal may raise in any line, also in those that make the folder or empty it: a launcher ends
    all processes when one has failed, just when the others clear away what they had begun.

    Raises:
        DataError: it cannot be made.
    """
    _empty(out)
    try:
        try:
            out.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise DataError(
                out, (error.strerror or "cannot be made").lower(), "a folder to make"
            ) from error
        yield
    finally:
        try:
            _empty_unless(out, keep)
        except BaseException:
            _empty_unless(out, keep)
            raise


def find_best(run: Path) -> Path:
    """The checkpoint that a run folder or a path stands for."""
    if not run.is_dir():
        return run
    is_old = (run / OLD[BEST]).exists() and not (run / BEST).exists()
    return run / (OLD[BEST] if is_old else BEST)


def find_lasts(out: Path) -> tuple[str, str]:
    """The names of what to continue a run from, and of what was that before it."""
    holds_new = any((out / name).exists() for name in (LAST, PREVIOUS))
    holds_old = any((out / OLD[name]).exists() for name in (LAST, PREVIOUS))
    return (OLD[LAST], OLD[PREVIOUS]) if holds_old and not holds_new else (LAST, PREVIOUS)


def remove_old(out: Path) -> None:
    """Remove checkpoints by an earlier version, for which there are newer ones."""
    for name, by in ((BEST, BEST), (PREVIOUS, LAST), (LAST, LAST)):
        if (out / by).exists():
            (out / OLD[name]).unlink(missing_ok=True)


def remove_leavings(out: Path) -> None:
    """Remove what processes that were killed have left half written."""
    for name in (CONFIG, CURVES, SUMMARY, TRACKED, *OLD, *OLD.values()):
        for stale in out.glob(f".{name}.*"):
            with suppress(OSError):  # a folder that may only be read
                stale.unlink()


def _contents(out: Path) -> list[Path]:
    """The files that would be lost: all but those of the search for a learning rate before the run.

    Half a config.json is what a process leaves that was killed before it had begun.
    """
    if not out.is_dir():
        return []
    skipped = (LR_FIND, f".{CONFIG}.")
    return [path for path in out.iterdir() if not path.name.startswith(skipped)]


def _empty_unless(out: Path, keep: str) -> None:
    if next(out.glob(keep), None) is None:
        _empty(out)


def _empty(out: Path) -> None:
    for path in (*_contents(out), *out.glob(f".{CONFIG}.*")):
        if path.is_dir() and not path.is_symlink():
            shutil.rmtree(path, ignore_errors=True)
        else:
            path.unlink(missing_ok=True)
    if out.is_dir() and not any(out.iterdir()):
        out.rmdir()


def write_json(path: Path, content: dict[str, Any]) -> None:
    """Write JSON for people and programs."""
    write_whole(path, json.dumps(content, indent=1) + "\n")
