"""Class folders: which files are samples, what their labels are, in which order.

The rule is torchvision's ImageFolder's (classes are the sorted sub-folders, files are sorted
within them, deeper folders count), so that labels and sample numbers agree with anyone's earlier
work. Three differences, each on purpose: GIF counts as an image, dot files (`._x.jpg`, which
macOS leaves in archives) do not, and a folder link that leads back into itself is followed once.
What other listings share with folders (`archive`, `recordio`) is here, too: which names are
images, how they are ordered and labelled, what splits must have in common.
"""

from __future__ import annotations

import errno
import os
import stat
from collections import Counter
from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from pipelines.errors import DataError
from pipelines.layout import MAX_FILE_BYTES

#: torchvision's IMG_EXTENSIONS, and what else Pillow reads that people keep photos in.
IMAGE_SUFFIXES = frozenset(
    ".jpg .jpeg .jpe .jfif .png .bmp .gif .webp .tif .tiff .ppm .pgm .pnm .avif".split()
)
#: The names of a split folder, in the order in which they are reported.
SPLITS = ("train", "val", "test")
#: What a data set's evaluation split may be called, by preference.
EVAL_SPLITS = ("test", "val")
#: The image files of one class: each folder's path from the root -> its files, sorted.
Levels = dict[str, list[str]]


@dataclass(frozen=True, slots=True)
class Folder:
    """The samples below one folder of class folders.

    Attributes:
        root: the folder.
        classes: class names; a label is an index into them.
        names: each sample's path relative to `root`, in sample order, `/`-separated.
        labels: int64[N].
        ignored: suffix -> how many files were passed over as no images.
    """

    root: Path
    classes: tuple[str, ...]
    names: tuple[str, ...]
    labels: NDArray[np.int64]
    ignored: dict[str, int]

    def __len__(self) -> int:
        return len(self.names)

    def path(self, sample: int) -> str:
        """The file of sample number `sample`."""
        return os.path.join(self.root, self.names[sample])

    def where(self, name: str) -> str:
        """What to call a sample or a class in an error."""
        return os.path.join(self.root, name)

    def size_bytes(self, sample: int) -> int:
        """A sample's file size; 0 where there is no telling, which `read` then reports."""
        try:
            return os.stat(self.path(sample)).st_size
        except OSError:
            return 0

    def read(self, sample: int) -> bytes:
        """A sample's bytes.

        Raises:
            DataError: the file cannot be read.
        """
        path = self.path(sample)
        try:
            return read_bytes(path)
        except OSError as error:
            raise DataError(path, error.strerror or type(error).__name__) from error


def read_folder(root: Path, classes: tuple[str, ...] | None = None) -> Folder:
    """List the samples of a class folder.

    Args:
        root: a folder that holds one sub-folder per class.
        classes: the class list to label by, e.g. the training split's; default: the sub-folders.

    Raises:
        DataError: `root` is no folder, holds no class folders, a class has no image, or the
            sub-folders are not those of `classes`.
    """
    require_folder(root)
    entries = (entry for entry in os.scandir(root) if not entry.name.startswith("."))
    found = tuple(sorted(entry.name for entry in entries if _is_dir(entry)))
    if not found:
        raise DataError(
            root, "holds no class folders", "one sub-folder of images per class", _layout_hint(root)
        )
    require_classes(root, found, classes)
    ignored: Counter[str] = Counter()
    images: dict[str, Levels] = {name: {} for name in found}
    for name in found:
        _walk(os.path.join(root, name), name, images[name], ignored, ancestors=())
    names, labels = label_images(images, lambda name: root / name)
    return Folder(root, found, names, labels, dict(sorted(ignored.items())))


def label_images(
    images: Mapping[str, Levels], where: Callable[[str], object]
) -> tuple[tuple[str, ...], NDArray[np.int64]]:
    """Put the images of all classes in sample order.

    Args:
        images: class name -> its images; classes in label order.
        where: what to call a class in an error.

    Returns:
        The samples' names, and their labels: int64[N].

    Raises:
        DataError: a class has no image.
    """
    names: list[str] = []
    counts: list[int] = []
    for name, levels in images.items():
        files = [f"{level}/{file}" for level in sorted(levels) for file in levels[level]]
        if not files:
            raise DataError(
                where(name),
                "holds no images",
                f"at least one of {' '.join(sorted(IMAGE_SUFFIXES))}",
                "add images or remove the folder",
            )
        names += files
        counts.append(len(files))
    return tuple(names), np.repeat(np.arange(len(images), dtype=np.int64), counts)


def suffix(name: str) -> str:
    """A file name's suffix in lower case: one of `IMAGE_SUFFIXES` if the file is an image."""
    return os.path.splitext(name)[1].lower()


def require_classes(where: object, found: tuple[str, ...], classes: tuple[str, ...] | None) -> None:
    """Raise DataError unless a split's classes are those of the training split, if given."""
    if classes is not None and found != classes:
        raise DataError(
            where,
            f"has {_difference(found, classes)}",
            "the same classes in every split",
            "rename, add or remove classes until they agree",
        )


def require_train(where: object, splits: Collection[str], kind: str = " folder") -> None:
    """Raise DataError if there are evaluation splits without a training split."""
    if splits and "train" not in splits:
        found = f"has {', '.join(splits)} but no train{kind}"
        raise DataError(where, found, "train beside test or val")


def split_folders(root: Path) -> dict[str, Path]:
    """The `train`, `val` and `test` folders that `root` holds; empty if it holds classes itself.

    Raises:
        DataError: `root` is no folder, or has evaluation splits without a training split.
    """
    require_folder(root)
    splits = {name: root / name for name in SPLITS if (root / name).is_dir()}
    require_train(root, splits)
    return splits


def read_splits(root: Path) -> dict[str, Folder]:
    """Read every split below `root` with one class list, the training split's.

    Raises:
        DataError: as `read_folder` and `split_folders`.
    """
    folders: dict[str, Folder] = {}
    for name, path in split_folders(root).items():
        folders[name] = read_folder(path, folders["train"].classes if folders else None)
    return folders


def require_folder(root: Path) -> None:
    """Raise DataError unless `root` is a folder that can be listed."""
    if not root.exists():
        raise DataError(root, "no such folder", "a folder of class folders", "check the path")
    if not root.is_dir():
        expected = "a folder of class folders, a .zip of them or a .rec"
        raise DataError(root, "is a file", expected, "name its folder instead")
    if not os.access(root, os.R_OK | os.X_OK):
        raise DataError(root, "cannot be read", "read permission", "see its owner and mode")


def read_bytes(path: str) -> bytes:
    """A file's bytes by the fewest system calls: conversion is bound by them without validation.

    Raises:
        OSError: as the system says; or it is a pipe or a device, or larger than images are.
    """
    file, size = open_plain(path)
    try:
        data = os.read(file, size + 1)
        if len(data) == size:
            return data
        parts = [data]  # it is being written
        while len(parts[-1]) and sum(map(len, parts)) <= MAX_FILE_BYTES:
            parts.append(os.read(file, 1 << 24))
        return b"".join(parts)
    finally:
        os.close(file)


def open_plain(path: str) -> tuple[int, int]:
    """A descriptor of an image file, and its size in bytes.

    Raises:
        OSError: as the system says; or it is a pipe or a device, or larger than images are.
    """
    # Of a pipe that nobody writes to, opening alone would wait for ever.
    file = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK)
    state = os.fstat(file)
    if stat.S_ISREG(state.st_mode) and state.st_size <= MAX_FILE_BYTES:
        return file, state.st_size
    os.close(file)
    if not stat.S_ISREG(state.st_mode):
        raise OSError(errno.EINVAL, "is no plain file")
    found = f"is {state.st_size:,} bytes long, more than {MAX_FILE_BYTES:,}"
    raise OSError(errno.EFBIG, found)


def _walk(
    path: str,
    level: str,
    levels: Levels,
    ignored: Counter[str],
    ancestors: tuple[tuple[int, int], ...],
) -> None:
    """Fill `levels` with the sorted image files of each folder below `path`."""
    status = os.stat(path)
    identity = (status.st_dev, status.st_ino)
    if identity in ancestors:
        return
    try:
        entries = sorted(os.scandir(path), key=lambda entry: entry.name)
    except OSError as error:
        raise DataError(path, error.strerror or "cannot be read", "a readable folder") from error
    files = levels[level] = []
    for entry in entries:
        if entry.name.startswith("."):
            ignored["dot files"] += 1
        elif _is_dir(entry):
            _walk(entry.path, f"{level}/{entry.name}", levels, ignored, (*ancestors, identity))
        elif suffix(entry.name) in IMAGE_SUFFIXES:
            files.append(entry.name)
        else:
            ignored[suffix(entry.name) or "no suffix"] += 1


def _is_dir(entry: os.DirEntry[str]) -> bool:
    try:
        return entry.is_dir()
    except OSError:  # a link that cannot be followed is reported when it is read as a file
        return False


def _difference(found: tuple[str, ...], wanted: tuple[str, ...]) -> str:
    extra, missing = sorted(set(found) - set(wanted)), sorted(set(wanted) - set(found))
    parts = [f"no class {', '.join(missing)}"] if missing else []
    parts += [f"the additional class {', '.join(extra)}"] if extra else []
    return " and ".join(parts)


def _layout_hint(root: Path) -> str:
    if any(suffix(name) in IMAGE_SUFFIXES for name in os.listdir(root)):
        return "move the images into one folder per class"
    return "see fastft convert --help for the layout"
