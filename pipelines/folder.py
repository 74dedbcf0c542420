"""Class folders: which files are samples, what their labels are, in which order.

The rule is torchvision's ImageFolder's (classes are the sorted sub-folders, files are sorted
within them, deeper folders count), so that labels and sample numbers agree with anyone's earlier
work. Three differences, each on purpose: GIF counts as an image, dot files (`._x.jpg`, which
macOS leaves in archives) do not, and a folder link that leads back into itself is followed once.
No file is opened here.
"""

from __future__ import annotations

import os
from collections import Counter
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from pipelines.errors import DataError

#: torchvision's IMG_EXTENSIONS, and what else Pillow reads that people keep photos in.
IMAGE_SUFFIXES = frozenset(
    ".jpg .jpeg .jpe .jfif .png .bmp .gif .webp .tif .tiff .ppm .pgm .pnm .avif".split()
)
#: The names of a split folder, in the order in which they are reported.
SPLITS = ("train", "val", "test")
#: What a data set's evaluation split may be called, by preference.
EVAL_SPLITS = ("test", "val")


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
    if classes is not None and found != classes:
        raise DataError(
            root,
            f"has {_difference(found, classes)}",
            "the same classes in every split",
            "rename, add or remove class folders until they agree",
        )
    names: list[str] = []
    counts: list[int] = []
    ignored: Counter[str] = Counter()
    for name in found:
        levels: dict[str, list[str]] = {}
        _walk(os.path.join(root, name), name, levels, ignored, ancestors=())
        images = [f"{level}/{file}" for level in sorted(levels) for file in levels[level]]
        if not images:
            raise DataError(
                root / name,
                "holds no images",
                f"at least one of {' '.join(sorted(IMAGE_SUFFIXES))}",
                "add images or remove the folder",
            )
        names += images
        counts.append(len(images))
    labels = np.repeat(np.arange(len(found), dtype=np.int64), counts)
    return Folder(root, found, tuple(names), labels, dict(sorted(ignored.items())))


def split_folders(root: Path) -> dict[str, Path]:
    """The `train`, `val` and `test` folders that `root` holds; empty if it holds classes itself.

    Raises:
        DataError: `root` is no folder, or has evaluation splits without a training split.
    """
    require_folder(root)
    splits = {name: root / name for name in SPLITS if (root / name).is_dir()}
    if splits and "train" not in splits:
        raise DataError(
            root, f"has {', '.join(splits)} but no train folder", "train beside test or val"
        )
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
        raise DataError(root, "is a file", "a folder of class folders", "name its folder instead")
    if not os.access(root, os.R_OK | os.X_OK):
        raise DataError(root, "cannot be read", "read permission", "see its owner and mode")


def _walk(
    path: str,
    level: str,
    levels: dict[str, list[str]],
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
        suffix = os.path.splitext(entry.name)[1].lower()
        if entry.name.startswith("."):
            ignored["dot files"] += 1
        elif _is_dir(entry):
            _walk(entry.path, f"{level}/{entry.name}", levels, ignored, (*ancestors, identity))
        elif suffix in IMAGE_SUFFIXES:
            files.append(entry.name)
        else:
            ignored[suffix or "no suffix"] += 1


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
    if any(os.path.splitext(name)[1].lower() in IMAGE_SUFFIXES for name in os.listdir(root)):
        return "move the images into one folder per class"
    return "see fastft convert --help for the layout"
