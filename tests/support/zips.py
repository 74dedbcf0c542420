"""Zips of class folders, what is in them, and why they are refused."""

import zipfile
import zlib
from collections.abc import Iterable, Mapping
from pathlib import Path

import pytest

from pipelines.errors import DataError
from pipelines.formats.archive import open_archive

STORED, DEFLATED = zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED


def write_zip(path: Path, files: Mapping[str, bytes] | Iterable[str], method: int = STORED) -> Path:
    """A zip of these files; of names alone each file holds its name."""
    if not isinstance(files, Mapping):
        files = {name: name.encode() for name in files}
    with zipfile.ZipFile(path, "w", method) as target:
        for name, content in files.items():
            target.writestr(name, content)
    return path


def zip_folder(folder: Path, path: Path, method: int, below: str = "") -> Path:
    """A zip of a folder's files, in an order that is not theirs."""
    with zipfile.ZipFile(path, "w", method) as target:
        for file in sorted(folder.rglob("*"), key=lambda file: zlib.crc32(bytes(file))):
            target.write(file, below + str(file.relative_to(folder)))
    return path


def read_all(path: Path) -> dict[str, bytes | str]:
    """Every sample of a zip by its whole name: its bytes, or why there are none."""
    found: dict[str, bytes | str] = {}
    with open_archive(path) as listings:
        for listing in listings.values():
            for sample, name in enumerate(listing.names):
                try:
                    found[listing.prefix + name] = listing.read(sample)
                except DataError as error:
                    found[error.where.removeprefix(f"{path}: ")] = error.found
    return found


def failure(path: Path) -> DataError:
    """What a zip is refused with: one line that names it."""
    with pytest.raises(DataError) as caught, open_archive(path):
        pass
    assert str(caught.value).startswith(str(path))
    assert "\n" not in str(caught.value)
    return caught.value
