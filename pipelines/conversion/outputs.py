"""The outputs of a conversion: which files, whether they may be replaced, whether they fit.

And how they appear, together at the end, and what is said where the system refuses to write.
"""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Collection, Iterable, Iterator, Sequence
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import asdict
from pathlib import Path

from pipelines.atomic import AtomicFile
from pipelines.errors import DataError, FastftError, UsageError
from pipelines.formats.beton import read_index
from pipelines.formats.beton_writer import BetonWriter
from pipelines.formats.shards import Quarantined, shard_path


def name_outputs(
    src: Path, out: Path, splits: Collection[str], shard: tuple[int, int] | None = None
) -> dict[str, Path]:
    """The file of each split.

    Args:
        src: what is converted.
        out: the `.beton` to write; for splits, the folder to write them in.
        splits: their names; '' alone if there are none.
        shard: which shard of how many is written in place of the whole file.

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
        outputs = {"": with_suffix(out)}
    for file in outputs.values():
        check_replaceable(file)  # of shards, too: what they are to be merged to
    if shard is not None:
        outputs = {split: shard_path(file, *shard) for split, file in outputs.items()}
        for file in outputs.values():
            check_replaceable(file)
    return outputs


def with_suffix(out: Path) -> Path:
    """The file that is meant by `out`, which need not say `.beton`."""
    return out if out.suffix == ".beton" else out.with_name(out.name + ".beton")


def require_space(out: Path, needed: int) -> None:
    """Raise DataError unless `needed` bytes are free where `out` is to be."""
    existing = out
    while not existing.exists():
        existing = existing.parent
    free = shutil.disk_usage(existing).free
    if needed > free:
        found, expected = f"{free:,} bytes free on its disk", f"{needed:,} for the images' bytes"
        raise DataError(out, found, expected, "free some or name another disk")


def check_replaceable(out: Path) -> None:
    """Raise UsageError if `out` is something that no conversion wrote."""
    if out.is_dir():
        raise UsageError(out, "is a folder", "a file to write", "name another output")
    # The longer of both names: found too long behind the conversion, the file would be there.
    with opening(out), suppress(FileNotFoundError, NotADirectoryError):
        quarantine_path(out).lstat()
    if out.exists() and out.stat().st_size:
        try:
            read_index(out)
        except FastftError as error:
            found = "exists and is no whole .beton"
            raise UsageError(out, found, "a new name", "remove it or name another") from error


def open_writer(out: Path, capacity: int, temporary: Path | None = None) -> BetonWriter:
    """A writer of `out`; see `BetonWriter`.

    Raises:
        DataError: there is no place to write it.
    """
    with opening(out):
        return BetonWriter(out, capacity, temporary)


@contextmanager
def opening(out: Path) -> Iterator[None]:
    """Turns what the system refuses in this block into a DataError: no place for `out`."""
    try:
        yield
    except OSError as error:
        raise DataError(out, _said(error), "a folder to write in", "name another output") from error


@contextmanager
def writing(out: Path, remedy: str = "nothing was left behind") -> Iterator[None]:
    """Turns what the system refuses in this block into a DataError that names `out`."""
    try:
        yield
    except OSError as error:
        found = f"{_said(error)} while writing"
        raise DataError(out, found, "", remedy) from error


def publish(
    outputs: Iterable[tuple[BetonWriter, Sequence[Quarantined], Sequence[Quarantined]]],
) -> None:
    """Put finished files into place, each with the list of what it leaves out and what is doubtful.

    Everything is on the disk before the first file appears.

    Raises:
        DataError: the system refuses.
    """
    ready: list[tuple[BetonWriter, AtomicFile | None]] = []
    with ExitStack() as stack:
        for writer, quarantined, doubtful in outputs:
            path = quarantine_path(writer.path)
            with writing(path):
                is_needed = quarantined or doubtful
                listed = stack.enter_context(AtomicFile(path)) if is_needed else None
                if listed is not None:
                    listed.write(_list_quarantined(quarantined, doubtful))
                    os.fsync(listed.descriptor)
            ready.append((writer, listed))
        for writer, listed in ready:
            with writing(writer.path, "what is there is whole"):
                writer.publish()
                if listed is None:  # an earlier run's
                    quarantine_path(writer.path).unlink(missing_ok=True)
                else:
                    listed.publish()


def quarantine_path(out: Path) -> Path:
    """The path of the list of samples that `out` leaves out or that are doubtful."""
    return out.with_suffix(".quarantine.json")


def _list_quarantined(quarantined: Sequence[Quarantined], doubtful: Sequence[Quarantined]) -> bytes:
    """Names and reasons as JSON; what is doubtful is marked as kept."""
    rows: list[dict[str, object]] = [asdict(bad) for bad in quarantined]
    rows += [asdict(each) | {"kept": True} for each in doubtful]
    return (json.dumps(rows, indent=1) + "\n").encode("utf-8", "backslashreplace")


def _said(error: OSError) -> str:
    return (error.strerror or type(error).__name__).lower()
