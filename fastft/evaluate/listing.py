"""The image files that are meant by files, folders and patterns."""

from __future__ import annotations

import glob
import os
from collections.abc import Iterable, Iterator, Sequence
from itertools import chain, dropwhile
from pathlib import Path

from pipelines.errors import DataError
from pipelines.formats.folder import IMAGE_SUFFIXES, folders_around, is_folder


def list_images(images: Sequence[Path]) -> list[Path]:
    """The image files that are meant, see `find_images`.

    Raises:
        DataError: see there.
    """
    return [Path(path) for path in find_images(images)]


def find_images(images: Sequence[Path]) -> list[str]:
    """The image files that are meant, in order of their paths within each argument.

    No file is opened, and of those in folders none is looked up: 10,000 take 0.1 s.

    Args:
        images: files, which are taken as they are; folders, of which all image files below are
            taken; or patterns such as `photos/**/*.jpg`. What exists is no pattern, whatever
            its name.

    Raises:
        DataError: a path does not exist, a pattern matches nothing, or a folder holds no images.
    """
    paths: list[str] = []
    for path in images:
        if path.is_dir():
            found = _sorted(_below(path))
        elif path.exists():
            found = [str(path)]
        elif glob.has_magic(str(path)):
            matches = [Path(match) for match in _expand(str(path))]
            files = (str(each) for each in matches if _is_image(each.name) and each.is_file())
            found = _sorted({*files, *chain(*(_below(match) for match in matches))})
        else:
            expected = "an image or a folder of images"
            raise DataError(path, "no such file", expected, "check the path")
        if not found:
            what = "holds no images" if path.is_dir() else "matches no images"
            raise DataError(path, what, "image files", "name another folder or pattern")
        paths += found
    return paths


def _sorted(paths: Iterable[str]) -> list[str]:
    """In the order of `Path`: folder by folder."""
    return sorted(paths, key=lambda path: path.split(os.sep))


def _expand(pattern: str) -> Iterator[str]:
    """Expands a pattern; `**` follows links, but enters each folder once.

    `glob` follows links that lead back as often as the system lets it: each of two in one folder
    forty times, which has no end.
    """
    parts = pattern.split(os.sep)
    if "**" not in parts:
        yield from glob.iglob(pattern)
        return
    at = parts.index("**")
    tops = glob.iglob(os.sep.join([*parts[:at], ""])) if at else [""]
    rest = os.sep.join(dropwhile("**".__eq__, parts[at + 1 :]))
    for top in tops:
        if not rest:
            yield top or os.curdir
            continue
        for folder, _ in _walk(Path(top)):
            yield from _expand(os.path.join(glob.escape(folder), rest))


def _below(folder: Path) -> Iterator[str]:
    """All image files below a folder, none below a file; links are followed, each folder once."""
    if folder.is_dir():
        for parent, names in _walk(folder):
            yield from (os.path.join(parent, name) for name in names if _is_image(name))


def _walk(top: Path) -> Iterator[tuple[str, list[str]]]:
    """A folder and those below it but hidden ones, each once, with the names of its files.

    Links to folders that it lies in lead back to it, and are not followed.
    """
    first = "" if top == Path() else str(top)
    waiting, seen = [first], {*folders_around(top)}
    while waiting:
        folder = waiting.pop()
        try:
            state = os.stat(folder or os.curdir)
            if (state.st_dev, state.st_ino) in seen and folder is not first:
                continue
            seen.add((state.st_dev, state.st_ino))
            with os.scandir(folder or os.curdir) as entries:
                kinds = {entry.name: is_folder(entry) for entry in entries}
        except OSError as error:
            found = (error.strerror or "cannot be read").lower()
            raise DataError(folder or os.curdir, found, "a readable folder") from error
        yield folder, [name for name, is_dir in kinds.items() if not is_dir]
        inner = (name for name, is_dir in kinds.items() if is_dir and not name.startswith("."))
        waiting += (os.path.join(folder, name) for name in sorted(inner, reverse=True))


def _is_image(name: str) -> bool:
    if name.startswith("."):
        return False
    return os.path.splitext(name)[1].lower() in IMAGE_SUFFIXES
