"""The source of samples: a `.beton` or a class folder, alike to every loader."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Sequence
from copy import copy
from dataclasses import asdict
from functools import partial
from pathlib import Path
from typing import Protocol, get_args

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from pipelines.errors import DataError, UsageError
from pipelines.formats.beton import read_index
from pipelines.formats.columns import Columns
from pipelines.formats.encode import EncodePolicy, Encoder, read_stored
from pipelines.formats.folder import Folder, read_folder
from pipelines.formats.layout import Depth, Preparation, Stored
from pipelines.formats.plain_file import open_plain, read_bytes
from pipelines.images.jpeg import describe, read_header
from pipelines.images.limits import MAX_PIXELS
from pipelines.images.pillow import TooManyPixels, open_image, too_large
from pipelines.images.turning import UPRIGHT, orientation_of, read_orientation, turned_size
from pipelines.images.unreadable import explain
from pipelines.workers import make_threads

#: Suffixes of what `fastft convert` reads beside class folders.
PACKED = frozenset((".zip", ".rec", ".tar", ".csv", ".tsv", ".jsonl", ".ndjson", ".parquet"))
#: Enough of a file to hold the frame header of most JPEGs, EXIF thumbnail included.
_HEAD_BYTES = 1 << 16
_JPEG = b"\xff\xd8\xff"
_DEFAULT = Preparation()
_REMEDY = "remove it, or run fastft convert to leave it out"


class Source(Protocol):
    """Labelled samples by number; a `beton.Index` is one."""

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

    @property
    def columns(self) -> Columns:
        """Each sample's columns beside its label."""
        ...

    @property
    def preparation(self) -> Preparation:
        """The preparation of the pixels."""
        ...

    def __len__(self) -> int: ...
    def take(self, samples: NDArray[np.int64]) -> Source:
        """A source of some of the samples, numbered anew in the order given."""
        ...

    def name(self, sample: int) -> str:
        """The name of a sample in an error."""
        ...

    def names(self) -> Sequence[str]:
        """The names of all samples."""
        ...

    def stored(self, sample: int) -> Stored:
        """A sample's bytes."""
        ...

    def entry_points(self, sample: int) -> tuple[int, NDArray[np.int64]] | None:
        """Entry points into a sample's JPEG, if they are known: see `kernels.entries`.

        Returns:
            MCUs between them; int64[...]. None: whoever wants them looks for them.
        """
        ...

    def fingerprint(self) -> bytes:
        """A fingerprint, which changes when the samples do."""
        ...


class FolderSource:
    """A class folder as a source: files are read and encoded as `fastft convert` would store them.

    Only the header of each file is read here. There is no quarantine: a broken image is an error.
    """

    def __init__(self, folder: Folder, preparation: Preparation = _DEFAULT) -> None:
        """Read every image's dimensions.

        Args:
            folder: the images.
            preparation: how to prepare them.

        Raises:
            DataError: a file is not an image.
        """
        self.path = folder.root
        self.classes = folder.classes
        self.labels = folder.labels
        self.columns = folder.columns
        self._folder = folder
        self.preparation = preparation
        self._encoder = Encoder(EncodePolicy(verify=False, **asdict(preparation)))
        with make_threads() as executor:
            paths = map(folder.path, range(len(folder)))
            read = partial(_read_size, apply_exif=preparation.apply_exif)
            sizes = np.array(list(executor.map(read, paths, chunksize=64)), np.int32)
        self.widths, self.heights = sizes[:, 0].copy(), sizes[:, 1].copy()

    def __len__(self) -> int:
        return len(self._folder)

    def take(self, samples: NDArray[np.int64]) -> FolderSource:
        """A source of some of the samples, numbered anew in the order given."""
        taken = copy(self)
        taken._folder = self._folder.take(samples)
        taken.labels, taken.columns = taken._folder.labels, taken._folder.columns
        taken.widths, taken.heights = self.widths[samples], self.heights[samples]
        return taken

    def name(self, sample: int) -> str:
        """The sample's file, relative to the folder."""
        return self._folder.names[sample]

    def names(self) -> Sequence[str]:
        """The files of all samples."""
        return self._folder.names

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
                path,
                f"is now {stored.width} x {stored.height} px",
                f"{width} x {height} px, as it was before",
                "leave the files alone while they are read",
            )
        return stored

    def entry_points(self, sample: int) -> None:
        """None: a folder holds none."""

    def fingerprint(self) -> bytes:
        """Names, sizes and times of all files, and how they are prepared."""
        digest = hashlib.sha256()
        if self.preparation != _DEFAULT:
            digest.update(str(self.preparation).encode() + b"\0")
        for sample, name in enumerate(self._folder.names):
            state = os.stat(self._folder.path(sample))
            digest.update(
                f"{name}\0{state.st_size}\0{state.st_mtime_ns}\0".encode("utf-8", "surrogateescape")
            )
        return digest.digest()

    def __reduce__(self) -> tuple[type[FolderSource], tuple[Folder, Preparation]]:
        return type(self), (self._folder, self.preparation)


def open_source(
    path: Path,
    classes: tuple[str, ...] | None = None,
    *,
    apply_exif: bool | None = None,
    depth: Depth | None = None,
) -> Source:
    """Open a `.beton` file or a class folder.

    Args:
        path: the file or folder.
        classes: the class list that it must have, e.g. the training split's.
        apply_exif, depth: how to prepare images, see `Preparation`. A `.beton` is prepared already:
            what is given must be what it says. None takes what it says, of a folder the default.

    Raises:
        DataError: there is no such thing, it is broken, or its classes differ.
        UsageError: a `.beton` is prepared otherwise, or there is no such `depth`.
    """
    if depth is not None and depth not in get_args(Depth):
        raise UsageError("depth", repr(depth), f"one of {', '.join(get_args(Depth))}")
    if path.is_dir():
        preparation = Preparation(apply_exif=bool(apply_exif), depth=depth or _DEFAULT.depth)
        return FolderSource(read_folder(path, classes), preparation)
    if path.suffix.lower() in PACKED:
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
    require_prepared(index, apply_exif, depth)
    return index


def require_prepared(source: Source, apply_exif: bool | None, depth: Depth | None) -> None:
    """Refuse a source that is prepared otherwise; None: in either way.

    Raises:
        UsageError: it is.
    """
    if apply_exif is None and depth is None:
        return
    found = source.preparation
    wanted = Preparation(
        apply_exif=found.apply_exif if apply_exif is None else bool(apply_exif),
        depth=found.depth if depth is None else depth,
    )
    if found != wanted:
        raise UsageError(
            source.path,
            f"was converted with {found}",
            f"{wanted}",
            "leave these options out, or rerun fastft convert with them",
        )


def _read_size(path: str, *, apply_exif: bool = False) -> tuple[int, int]:
    """Width and height of an image file, px; on request once it is turned upright."""
    head, orientation = b"", UPRIGHT
    try:
        with open(open_plain(path)[0], "rb") as file:
            head = file.read(_HEAD_BYTES)
            header = read_header(head)
            if header is not None and header.is_common:
                width, height = header.width, header.height
                if width * height > MAX_PIXELS:  # before anybody makes room for them
                    raise TooManyPixels(too_large(width, height, MAX_PIXELS))
                if apply_exif:  # which stands before the header
                    orientation = read_orientation(head)
            else:
                with open_image(file, max_pixels=MAX_PIXELS) as image:
                    width, height = image.size
                    if apply_exif:
                        orientation = _read_orientation(path, head, image)
    except MemoryError:
        raise
    except Exception as error:  # whatever a hostile file makes a third-party parser raise
        found = getattr(error, "strerror", None) or explain(head) or describe(error)
        expected = "a smaller image" if isinstance(error, TooManyPixels) else "an image"
        raise DataError(path, found, expected, _REMEDY) from error
    return turned_size(width, height, orientation)


def _read_orientation(path: str, head: bytes, image: Image.Image) -> int:
    """The orientation of an image whose header `head` does not hold, as the encoder will see it."""
    if head.startswith(_JPEG):
        data = read_bytes(path)
        if read_header(data) is not None:
            return read_orientation(data)
    try:
        return orientation_of(image)
    except MemoryError:
        raise
    except Exception:  # broken, which is said when it is read
        return UPRIGHT
