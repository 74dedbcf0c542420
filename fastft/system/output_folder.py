"""The folder that a command writes its findings in."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from pipelines.errors import DataError, UsageError


@contextmanager
def output_folder(out: Path | None) -> Iterator[None]:
    """Make the folder before long work begins; remove it again if nothing comes of that."""
    if out is None:
        yield
        return
    if out.exists() and not out.is_dir():
        raise UsageError("--out", f"{out} is a file", "a folder", "name another")
    is_new = not out.exists()
    try:
        out.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        reason = (error.strerror or "cannot be made").lower()
        raise DataError(out, reason, "a folder to make") from error
    try:
        yield
    finally:
        if is_new and not any(out.iterdir()):
            out.rmdir()
