"""Tars of WebDataset, what is in them, and why they are refused."""

import io
import tarfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from pipelines.errors import DataError, FastftError
from pipelines.formats.columns import ColumnNames
from pipelines.formats.packed.webdataset import Tars, open_tars

NO_NAMES = ColumnNames()
Files = list[tuple[str, bytes]]
PAIRS: Files = [("a.jpg", b"A" * 700), ("a.cls", b"1"), ("b.jpg", b"B"), ("b.cls", b"0")]


def write_tar(path: Path, files: Files, **options: int) -> Path:
    """A tar of these files, by the standard library."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with tarfile.open(path, "w", **options) as target:
        for name, content in files:
            info = tarfile.TarInfo(name)
            info.size = len(content)
            target.addfile(info, io.BytesIO(content))
    return path


def read_all(src: Path, names: ColumnNames = NO_NAMES, classes: tuple[str, ...] = ()) -> dict:
    """Split -> name -> class and bytes, or what reading is refused with."""
    with open_tars(src, names, classes) as listings:
        return {split: dict(samples(each)) for split, each in listings.items()}


def samples(listing: Tars) -> Iterator[tuple[str, tuple[str, bytes | str]]]:
    assert len(listing) == len(listing.labels) == len(set(listing.names))
    for i, name in enumerate(listing.names):
        try:
            data: bytes | str = listing.read(i)
            assert listing.size_bytes(i) == len(data)
        except DataError as error:
            data = error.found if error.where == listing.where(name) else str(error)
        yield name, (listing.classes[listing.labels[i]], data)


def failure(src: Path, names: ColumnNames = NO_NAMES, classes: tuple[str, ...] = ()) -> str:
    """The message that refuses a tar: one line."""
    with pytest.raises(FastftError) as caught, open_tars(src, names, classes):
        pass
    assert "\n" not in str(caught.value)
    return str(caught.value)
