"""Where a conversion writes: which files, whether they may be replaced, whether they fit."""

from __future__ import annotations

import shutil
from collections.abc import Collection
from pathlib import Path

from pipelines.beton import read_index
from pipelines.errors import DataError, FastftError, UsageError


def name_outputs(src: Path, out: Path, splits: Collection[str]) -> dict[str, Path]:
    """Which file each split is written to.

    Args:
        src: what is converted.
        out: the `.beton` to write; for splits, the folder to write them in.
        splits: their names; '' alone if there are none.

    Raises:
        UsageError: `out` does not fit, or something is there already that is no `.beton`.
    """
    if "" not in splits:
        if out.suffix == ".beton" or out.is_file():
            found, expected = "is one file", f"a folder for the splits of {src}"
            raise UsageError(out, found, expected, "name a folder")
        outputs = {split: out / f"{split}.beton" for split in splits}
    else:
        if out.is_dir():
            source = src.resolve()
            out = out / f"{source.name if source.is_dir() else source.stem}.beton"
        elif out.suffix != ".beton":
            out = out.with_name(out.name + ".beton")
        outputs = {"": out}
    for file in outputs.values():
        _check_replaceable(file)
    return outputs


def require_space(out: Path, needed: int) -> None:
    """Raise DataError unless `needed` bytes are free where `out` is to be."""
    existing = out
    while not existing.exists():
        existing = existing.parent
    free = shutil.disk_usage(existing).free
    if needed > free:
        found, expected = f"{free:,} bytes free on its disk", f"{needed:,} for the images' bytes"
        raise DataError(out, found, expected, "free some or name another disk")


def _check_replaceable(out: Path) -> None:
    if out.is_dir():
        raise UsageError(out, "is a folder", "a file to write", "name another output")
    if out.exists() and out.stat().st_size:
        try:
            read_index(out)
        except FastftError as error:
            found = "exists and is no whole .beton"
            raise UsageError(out, found, "a new name", "remove it or name another") from error
