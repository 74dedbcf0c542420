"""Names of exported files: like those that samples have, but fit to be written anywhere.

A `.beton` may say any name. What is made of it lies in the folder that it is meant for, is no dot
file, is short enough for common file systems, differs from all others in more than case or
Unicode form, and ends as its content is.
"""

from __future__ import annotations

import hashlib
import os
import re
import unicodedata
from collections import Counter
from collections.abc import Iterable

from pipelines.formats.folder import IMAGE_SUFFIXES, MACOS_FOLDER

JPEG, PNG = (".jpg", ".jpeg", ".jpe", ".jfif"), (".png",)
#: File systems take 255 bytes of a name, and room is left for a number that tells names apart.
_MOST_PART_BYTES = 200
#: Linux takes 4,096 bytes of a path, macOS 1,024; the folder itself comes before.
_MOST_PATH_BYTES, _MOST_PARTS = 700, 32
#: Letters that no name has: NUL and other control characters.
_CONTROL = re.compile(r"[\x00-\x1f\x7f]")
_UNNAMED = "unnamed"


def name_folders(classes: Iterable[str]) -> tuple[str, ...]:
    """A folder's name for each class, all different."""
    seen: set[str] = set()
    found = []
    for name in classes:
        folder = _part(name.replace("/", "_"))
        folder = f"_{folder}" if folder == MACOS_FOLDER else folder
        number, base = 1, folder
        while _fold(folder) in seen:
            number += 1
            folder = f"{base}_{number}"
        seen.add(_fold(folder))
        found.append(folder)
    return tuple(found)


class FileNames:
    """Names files in one folder, each differently."""

    def __init__(self) -> None:
        self._files: set[str] = set()
        self._folders: set[str] = set()
        self._numbers: Counter[str] = Counter()

    def make(self, folder: str, name: str, suffixes: tuple[str, ...]) -> str:
        """A path for a sample.

        Args:
            folder: one that it is to lie in, a plain name.
            name: what it is called, `/`-separated; anything.
            suffixes: what its name may end in; the first is taken where it does not.
        """
        parts = [_part(part) for part in re.split(r"[/\\]", name) if part not in ("", ".", "..")]
        parts = parts or [_UNNAMED]
        if len(parts) > _MOST_PARTS or len(os.fsencode("/".join(parts))) > _MOST_PATH_BYTES:
            parts = [_shorten("_".join(parts))]
        if any(_fold(above) in self._files for above in _above([folder, *parts])):
            parts = [_shorten("_".join(parts))]  # a file has the name of a folder
        stem, suffix = os.path.splitext("/".join([folder, *parts]))
        if suffix.lower() not in suffixes:
            stem = stem if suffix.lower() in IMAGE_SUFFIXES else stem + suffix
            suffix = suffixes[0]
        path, base = stem + suffix, _fold(stem + suffix)
        while _fold(path) in self._files or _fold(path) in self._folders:
            self._numbers[base] += 1
            path = f"{stem}_{self._numbers[base] + 1}{suffix}"
        self._files.add(_fold(path))
        self._folders.update(map(_fold, _above(path.split("/"))))
        return path


def _above(parts: list[str]) -> list[str]:
    """The folders that a path leads through."""
    return ["/".join(parts[:count]) for count in range(1, len(parts))]


def _fold(path: str) -> str:
    """A path as file systems see it that care least about letters."""
    return unicodedata.normalize("NFD", path).casefold()


def _part(part: str) -> str:
    """The name of a file or folder, made plain."""
    try:
        os.fsencode(part)
    except UnicodeEncodeError:  # half of a surrogate pair, as JSON may say
        part = part.encode("utf-8", "replace").decode()
    part = _CONTROL.sub("_", part).rstrip(" .")
    if part.startswith("."):
        part = f"_{part[1:]}"
    return _shorten(part) or "_"


def _shorten(part: str) -> str:
    """A name of few enough bytes; of a longer one a hash tells it apart."""
    encoded = os.fsencode(part)
    if len(encoded) <= _MOST_PART_BYTES:
        return part
    stem, suffix = os.path.splitext(part)
    suffix = suffix if suffix.lower() in IMAGE_SUFFIXES else ""
    kept = os.fsencode(stem)[: _MOST_PART_BYTES // 2].decode("utf-8", "ignore")
    return f"{kept}-{hashlib.sha256(encoded).hexdigest()[:16]}{suffix}"
