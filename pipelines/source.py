"""Where samples come from: a `.beton` or a class folder, alike to every loader."""

from __future__ import annotations

import hashlib
import os
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from pipelines.beton import read_index
from pipelines.encode import EncodePolicy, Encoder, read_stored
from pipelines.errors import DataError
from pipelines.folder import Folder, open_plain, read_folder
from pipelines.jpeg import describe, read_header
from pipelines.layout import MAX_PIXELS, Stored
from pipelines.pillow import TooManyPixels, open_image, too_large
from pipelines.unreadable import explain

#: Enough of a file to hold the frame header of most JPEGs, EXIF thumbnail included.
_HEAD_BYTES = 1 << 16
_REMEDY = "remove it, or run fastft convert to leave it out"


class Source(Protocol):
    """Labelled samples by number; a `pipelines.beton.Index` is one."""

    @property
    def path(self) -> Path:
        """The file or folder."""
        ...

    @property
    def classes(self) -> tuple[str, ...]:
        """Class names."""
        ...

    @property
    def labels(self) -> NDArray[np.int64]:
        """int64[N], indices into `classes`."""
        ...

    @property
    def widths(self) -> NDArray[np.int32]:
        """int32[N], px."""
        ...

    @property
    def heights(self) -> NDArray[np.int32]:
        """int32[N], px."""
        ...

    def __len__(self) -> int: ...
    def name(self, sample: int) -> str:
        """What to call a sample in an error."""
        ...

    def stored(self, sample: int) -> Stored:
        """A sample's bytes."""
        ...

    def fingerprint(self) -> bytes:
        """What changes when the samples do."""
        ...


class FolderSource:
    """A class folder as a source: files are read and encoded as `fastft convert` would store them.

    Only the header of each file is read here. There is no quarantine: a broken image is an error.
    """

    def __init__(self, folder: Folder) -> None:
        """Read every image's dimensions.

        Raises:
            DataError: a file is not an image.
        """
        self.path = folder.root
        self.classes = folder.classes
        self.labels = folder.labels
        self._folder = folder
        self._encoder = Encoder(EncodePolicy(verify=False))
        with ThreadPoolExecutor() as executor:
            paths = map(folder.path, range(len(folder)))
            sizes = np.array(list(executor.map(_read_size, paths, chunksize=64)), np.int32)
        self.widths, self.heights = sizes[:, 0].copy(), sizes[:, 1].copy()

    def __len__(self) -> int:
        return len(self._folder)

    def name(self, sample: int) -> str:
        """The sample's file, relative to the folder."""
        return self._folder.names[sample]

    def stored(self, sample: int) -> Stored:
        """Read and encode the sample's file.

        Raises:
            DataError: it is broken, gone, or of another size than when the source was made: whoever
                plans crops and makes room goes by that.
        """
        path = self._folder.path(sample)
        stored = read_stored(path, self._encoder, sample)
        width, height = int(self.widths[sample]), int(self.heights[sample])
        if (stored.width, stored.height) != (width, height):
            raise DataError(
                path, f"is now {stored.width} x {stored.height} px",
                f"{width} x {height} px, as it was before",
                "leave the files alone while they are read",
            )  # fmt: skip
        return stored

    def fingerprint(self) -> bytes:
        """Names, sizes and times of all files."""
        digest = hashlib.sha256()
        for sample, name in enumerate(self._folder.names):
            state = os.stat(self._folder.path(sample))
            digest.update(
                f"{name}\0{state.st_size}\0{state.st_mtime_ns}\0".encode("utf-8", "surrogateescape")
            )
        return digest.digest()

    def __reduce__(self) -> tuple[type[FolderSource], tuple[Folder]]:
        return type(self), (self._folder,)


def open_source(path: Path, classes: tuple[str, ...] | None = None) -> Source:
    """Open a `.beton` file or a class folder.

    Args:
        path: the file or folder.
        classes: the class list that it must have, e.g. the training split's.

    Raises:
        DataError: there is no such thing, it is broken, or its classes differ.
    """
    if path.is_dir():
        return FolderSource(read_folder(path, classes))
    if path.suffix.lower() in (".zip", ".rec"):
        found, remedy = f"is a {path.suffix.lower()}", f"fastft convert {path} data"
        raise DataError(path, found, "a .beton file or a class folder", f"first run {remedy}")
    index = read_index(path)
    if classes is not None and index.classes != classes:
        raise DataError(
            path,
            f"has the classes {', '.join(index.classes)}",
            ", ".join(classes),
            "convert all splits in one go",
        )
    return index


def _read_size(path: str) -> tuple[int, int]:
    """Width and height of an image file, px."""
    head = b""
    try:
        with open(open_plain(path)[0], "rb") as file:
            head = file.read(_HEAD_BYTES)
            header = read_header(head)
            if header is not None and header.is_common:
                width, height = header.width, header.height
                if width * height > MAX_PIXELS:  # before anybody makes room for them
                    raise TooManyPixels(too_large(width, height, MAX_PIXELS))
            else:
                with open_image(file, max_pixels=MAX_PIXELS) as image:
                    width, height = image.size
    except MemoryError:
        raise
    except Exception as error:  # whatever a hostile file makes a third-party parser raise
        found = getattr(error, "strerror", None) or explain(head) or describe(error)
        expected = "a smaller image" if isinstance(error, TooManyPixels) else "an image"
        raise DataError(path, found, expected, _REMEDY) from error
    return width, height
