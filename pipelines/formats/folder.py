"""Class folders: which files are samples, what their labels are, in which order.

The rule is torchvision's ImageFolder's (classes are the sorted sub-folders, files are sorted
within them, deeper folders count), so that labels and sample numbers agree with anyone's earlier
work. Four differences, each on purpose: GIF counts as an image, what macOS leaves behind (`._x.jpg`
and other dot files, `__MACOSX`) does not, a link to a folder that it lies in is not followed, and
classes are refused whose names another file system takes for one. What other listings share with
folders (`archive`, `recordio`) is here, too: which names are images, how they are ordered and
labelled, what splits must have in common. `splits` knows which folders are splits.
"""

from __future__ import annotations

import os
import unicodedata
from collections import Counter
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from pipelines.errors import DataError
from pipelines.formats import splits
from pipelines.formats.columns import NONE, Columns
from pipelines.formats.plain_file import read_bytes
from pipelines.formats.splits import (
    Layout,
    describe_loose_images,
    enumerate_some,
    read_layout,
    require_train,
)

#: torchvision's IMG_EXTENSIONS, and what else Pillow reads that people keep photos in.
IMAGE_SUFFIXES = frozenset(
    ".jpg .jpeg .jpe .jfif .png .bmp .gif .webp .tif .tiff .ppm .pgm .pnm .avif".split()
)
#: Where macOS puts the Finder's notes on what is in a zip.
MACOS_FOLDER = "__MACOSX"
#: Deeper than any data set, less deep than Python's recursion.
MAX_DEPTH = 100
#: So many folders may links lead to: where they lead to each other, there is no end of ways.
_MOST_BY_LINKS = 10_000
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
        passed_over: folders beside it that are no split.
        columns: nothing is known beside the labels.
    """

    root: Path
    classes: tuple[str, ...]
    names: tuple[str, ...]
    labels: NDArray[np.int64]
    ignored: dict[str, int]
    passed_over: tuple[str, ...] = ()
    columns: Columns = NONE

    def __len__(self) -> int:
        return len(self.names)

    def take(self, samples: NDArray[np.int64]) -> Folder:
        """Some of the samples, in the order given."""
        names = tuple(self.names[sample] for sample in samples.tolist())
        columns = self.columns.take(samples)
        return replace(self, names=names, labels=self.labels[samples], columns=columns)

    def path(self, sample: int) -> str:
        """The file of sample number `sample`."""
        return os.path.join(self.root, self.names[sample])

    def where(self, name: str) -> str:
        """The name of a sample or a class in an error."""
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
        DataError: `root` is no folder, holds no class folders but perhaps splits, a class has no
            image, or the sub-folders are not those of `classes`.
    """
    require_folder(root)
    found = list_folders(root)
    if not found:
        raise DataError(
            root, "holds no class folders", "one sub-folder of images per class", _layout_hint(root)
        )
    if classes is None:
        layout = find_layout(root)
        splits.require_no_splits(root, layout, f"name {root / layout.first} instead")
    require_classes(root, found, classes)
    walk = _Walk(root)
    images = {name: walk.list(os.path.join(root, name), name) for name in found}
    names, labels = label_images(images, lambda name: root / name)
    return Folder(root, found, names, labels, dict(sorted(walk.ignored.items())))


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
        DataError: a class has no image, or holds splits.
    """
    splits.require_no_splits_below(images, where)
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


def is_class(name: str) -> bool:
    """Whether a folder of this name beside others is a class, and no program's own."""
    return not name.startswith(".") and name != MACOS_FOLDER


def find_clash(names: Iterable[str]) -> str:
    """Two names, in words, that differ only in case or in how Unicode spells them; or ''.

    On many file systems (macOS's, Windows's) they are one folder: whoever copies the data there has
    one class less, and photos of both in it.
    """
    seen: dict[str, str] = {}
    for name in dict.fromkeys(names):
        # Source: Unicode 16, 3.13.5, D145; folding leaves what is decomposed so, in every letter.
        folded = unicodedata.normalize("NFD", name).casefold()
        first = seen.setdefault(folded, name)
        if first != name:
            alike = unicodedata.normalize("NFC", first) == unicodedata.normalize("NFC", name)
            say = ascii if alike else repr  # which shows what looks the same
            return f"{say(first)} and {say(name)}"
    return ""


def require_classes(
    where: object,
    found: tuple[str, ...],
    classes: tuple[str, ...] | None,
    *,
    may_lack: bool = False,
) -> None:
    """Raise DataError unless class names can be told apart wherever the data may be copied.

    And unless a split's classes are those of the training split, if given; or with `may_lack`, some
    of them: an empty folder is a mistake, a table of few rows need not have one of each class.
    """
    if clash := find_clash((*(classes or ()), *found)):
        raise DataError(
            where,
            f"has the classes {clash}, one name on other file systems",
            "names that differ in more than case or Unicode form",
            "rename one, or move its images to the other",
        )
    fits = classes is None or (set(found) <= {*classes} if may_lack else found == classes)
    if classes is not None and not fits:
        raise DataError(
            where,
            f"has {_difference(found, classes, may_lack=may_lack)}",
            "the same classes in every split",
            "rename, add or remove classes until they agree",
        )


def find_layout(root: Path, *, needs_train: bool = True) -> Layout:
    """Whether a folder holds splits or classes; see `splits.read_layout`.

    Raises:
        DataError: `root` is no folder, or two folders are the same split.
    """
    require_folder(root)
    return read_layout(
        root,
        list_folders(root),
        lambda name: bool(list_folders(root / name)),
        needs_train=needs_train,
    )


def split_folders(root: Path) -> dict[str, Path]:
    """Split -> its folder in `root`; empty if `root` holds classes itself.

    Raises:
        DataError: `root` is no folder, has evaluation splits without a training split, or two
            folders for one split.
    """
    return {split: root / name for split, name in _require_layout(root).splits.items()}


def read_splits(root: Path) -> dict[str, Folder]:
    """Read every split below `root` with one class list, the training split's.

    Raises:
        DataError: as `read_folder` and `split_folders`.
    """
    layout = _require_layout(root)
    folders: dict[str, Folder] = {}
    for split, name in layout.splits.items():
        path = root / name
        if folders:
            folders[split] = read_folder(path, folders["train"].classes)
        else:
            splits.require_no_splits(path, find_layout(path), f"name {path} instead")
            folders[split] = replace(read_folder(path), passed_over=layout.passed_over)
    return folders


def _require_layout(root: Path) -> Layout:
    layout = find_layout(root)
    require_train(root, layout, f"name {root / layout.first} to take it alone")
    return layout


def require_folder(root: Path) -> None:
    """Raise DataError unless `root` is a folder that can be listed."""
    if not root.exists():
        raise DataError(root, "no such folder", "a folder of class folders", "check the path")
    if not root.is_dir():
        expected = "a folder of class folders, a .zip of them or a .rec"
        raise DataError(root, "is a file", expected, "name its folder instead")
    if not os.access(root, os.R_OK | os.X_OK):
        raise DataError(root, "cannot be read", "read permission", "see its owner and mode")


def folders_around(folder: Path) -> frozenset[tuple[int, int]]:
    """Identities of a folder and all that it lies in: links to these lead back."""
    here = folder.resolve()
    states = [os.stat(each) for each in (here, *here.parents)]
    return frozenset((state.st_dev, state.st_ino) for state in states)


class _Walk:
    """Lists images below class folders, and what else is there.

    Attributes:
        ignored: suffix -> how many files were passed over as no images.
    """

    def __init__(self, root: Path) -> None:
        self.ignored: Counter[str] = Counter()
        self._around, self._by_links = folders_around(root), 0

    def list(self, path: str, name: str) -> Levels:
        """The images of one class."""
        levels: Levels = {}
        self._enter(path, name, levels, self._around, False)
        return levels

    def _enter(
        self,
        path: str,
        level: str,
        levels: Levels,
        ancestors: frozenset[tuple[int, int]],
        by_link: bool,
    ) -> None:
        """Fill `levels` with the sorted image files of each folder from `path` on."""
        try:
            status = os.stat(path)
            identity = (status.st_dev, status.st_ino)
            if identity in ancestors:
                return
            with os.scandir(path) as found:
                entries = sorted(found, key=lambda entry: entry.name)
        except OSError as error:
            raise DataError(
                path, error.strerror or "cannot be read", "a readable folder"
            ) from error
        if level.count("/") > MAX_DEPTH:
            raise DataError(path, f"lies more than {MAX_DEPTH} folders deep", "fewer", "move it up")
        self._by_links += by_link
        if self._by_links > _MOST_BY_LINKS:
            said = f"links lead to more than {_MOST_BY_LINKS:,} folders"
            raise DataError(path, said, "fewer", "remove links to folders")
        files = levels[level] = []
        for entry in entries:
            if entry.name.startswith("."):
                self.ignored["dot files"] += 1
            elif is_folder(entry):
                below, linked = f"{level}/{entry.name}", by_link or entry.is_symlink()
                self._enter(entry.path, below, levels, ancestors | {identity}, linked)
            elif suffix(entry.name) in IMAGE_SUFFIXES:
                files.append(entry.name)
            else:
                self.ignored[suffix(entry.name) or "no suffix"] += 1


def list_folders(root: Path) -> tuple[str, ...]:
    """The folders in a folder that may be classes or splits, sorted.

    Raises:
        DataError: it cannot be listed.
    """
    try:
        with os.scandir(root) as entries:
            return tuple(sorted(e.name for e in entries if is_class(e.name) and is_folder(e)))
    except OSError as error:
        found = error.strerror or "cannot be read"
        raise DataError(root, found, "a readable folder") from error


def is_folder(entry: os.DirEntry[str]) -> bool:
    """Whether what a folder holds is a folder, or a link to one."""
    try:
        return entry.is_dir()
    except OSError:  # a link that cannot be followed is reported when it is read as a file
        return False


def _difference(found: tuple[str, ...], wanted: tuple[str, ...], *, may_lack: bool) -> str:
    extra, missing = sorted(set(found) - set(wanted)), sorted(set(wanted) - set(found))
    lists = {"no class": [] if may_lack else missing, "the additional class": extra}
    said = {what: enumerate_some(names) for what, names in lists.items() if names}
    return " and ".join(f"{what} {names}" for what, names in said.items())


def _layout_hint(root: Path) -> str:
    has_images = any(suffix(name) in IMAGE_SUFFIXES for name in os.listdir(root))
    usual = "see fastft convert --help for the layout"
    return describe_loose_images(root.absolute()) if has_images else usual
