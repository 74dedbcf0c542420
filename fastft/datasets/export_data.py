"""From `.beton` files back to folders of images, for other programs and for looking at them.

JPEGs are written byte for byte as they are stored, raw pixels as PNG, which keeps them. One class
of each image becomes class folders; several labels or a number become `images/` and a table,
`labels.jsonl`. Converting what was written gives the same bytes and labels again.
"""

from __future__ import annotations

import hashlib
import io
import json
import os
import shutil
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from fastft.datasets.export_names import JPEG, PNG, FileNames, name_folders
from pipelines.atomic import temporary_prefix, unguessable
from pipelines.conversion.outputs import require_space
from pipelines.errors import DataError, UsageError
from pipelines.formats.beton import Index, read_index
from pipelines.formats.layout import MODE_JPG, Stored
from pipelines.formats.splits import SPLITS, name_splits, split_of
from pipelines.workers import cpu_count, in_order

MARKER = ".fastft-export.json"
WRITER = "fastft export-data"
TABLE, IMAGES = "labels.jsonl", "images"
#: Images per task: long enough to hide what handing it over costs.
_TASK_IMAGES = 32
#: zlib's level. MB and CPU seconds of 60 photos of hymenoptera, on a 2-core VM: 21.7 and 1.5 by
#: level 1, 21.4 and 1.8 by 3, 20.5 and 4.4 by 6, which is usual.
_PNG_LEVEL = 3

#: Called with a split's name, images done, in all, and bytes written.
Progress = Callable[[str, int, int, int], None]


@dataclass(frozen=True, kw_only=True, slots=True)
class ExportConfig:
    """Settings of an export.

    Attributes:
        file: a `.beton`, or a folder that holds one for each split.
        out: the folder to make.
        split: of a folder, the only split to write; empty: all of them.
        overwrite: replace `out` if it holds nothing but what an export wrote.
    """

    file: Path
    out: Path
    split: str = ""
    overwrite: bool = False


@dataclass(frozen=True, kw_only=True, slots=True)
class ExportResult:
    """The result of an export.

    Attributes:
        images: split, or '' -> images written.
        pngs: how many of all are PNG.
        bytes: of all images.
        seconds: what it took.
        notes: lines on what converting the folder would make different.
    """

    images: dict[str, int]
    pngs: int
    bytes: int
    seconds: float
    notes: tuple[str, ...]


def export_data(config: ExportConfig, on_progress: Progress | None = None) -> ExportResult:
    """Write folders of images: whole, or not at all.

    Args:
        config: what to write where.
        on_progress: called in this thread.

    Raises:
        DataError: the file is damaged, `out` holds something else or cannot be written.
        UsageError: there is no such split.
    """
    start_s = time.perf_counter()
    indexes = _open(config)
    out = config.out.resolve()
    _require_free(config)
    require_space(out, sum(int(index.sizes.sum()) for index in indexes.values()))
    staging: Path | None = None
    written = _Written(on_progress)
    try:
        out.parent.mkdir(parents=True, exist_ok=True)
        prefix = unguessable(temporary_prefix(out))
        staging = Path(tempfile.mkdtemp(prefix=prefix, suffix=".partial", dir=out.parent))
        # A folder of its own inside: mkdtemp's is readable by its owner alone, the result is not.
        root = staging / "data"
        root.mkdir()
        for split, index in indexes.items():
            written.write(split, index, root / split)
        (root / MARKER).write_text(json.dumps({"writer": WRITER, "digest": _digest(root)}) + "\n")
        _require_free(config)
        if out.exists():
            out.rename(staging / "replaced")
        root.rename(out)
    except OSError as error:
        reason = error.strerror or str(error)
        expected = "a folder that can be written"
        raise DataError(config.out, reason.lower(), expected, "choose another") from error
    finally:
        if staging is not None:
            shutil.rmtree(staging, ignore_errors=True)
    return ExportResult(
        images={split: len(index) for split, index in indexes.items()},
        pngs=written.pngs,
        bytes=written.bytes,
        seconds=time.perf_counter() - start_s,
        notes=tuple(dict.fromkeys(note for index in indexes.values() for note in _notes(index))),
    )


def _open(config: ExportConfig) -> dict[str, Index]:
    """Split, or '' -> what is to be written.

    Raises:
        DataError: there is no `.beton`, or one is damaged.
        UsageError: there is no such split.
    """
    if not config.file.is_dir():
        if config.split:
            given = f"given with the file {config.file}"
            raise UsageError("--split", given, "a folder with splits", "leave it out")
        return {"": read_index(config.file)}
    names = sorted(path.name for path in config.file.glob("*.beton"))
    found = name_splits(config.file, names, "file", lambda name: name.removesuffix(".beton"))
    if not found:
        said = f"holds {names[0]}, of no split by its name" if names else "holds no .beton"
        remedy = f"name {config.file / names[0]}" if names else "see fastft convert"
        raise DataError(config.file, said, f"{', '.join(SPLITS)}.beton", remedy)
    if not config.split:
        return {split: read_index(config.file / name) for split, name in found.items()}
    asked = split_of(config.split)
    if asked is None or asked not in found:
        expected = f"one of {', '.join(found)}"
        raise UsageError("--split", f"{config.file} has no {config.split}", expected)
    return {"": read_index(config.file / found[asked])}


class _Written:
    """Writes splits, and counts.

    Attributes:
        pngs: images that were stored raw.
        bytes: of all images.
    """

    def __init__(self, on_progress: Progress | None) -> None:
        self.pngs = self.bytes = 0
        self._report = on_progress

    def write(self, split: str, index: Index, folder: Path) -> None:
        """Write a split's images, and its table if it has one.

        Raises:
            DataError: a sample's bytes have changed since they were stored.
            OSError: as the system says.
        """
        paths = list(_name(index))
        if not _is_classes(index):
            folder.mkdir(exist_ok=True)
            with (folder / TABLE).open("x", encoding="utf-8") as table:
                table.writelines(_lines(index, paths))
        for each in dict.fromkeys(os.path.dirname(path) for path in paths):
            (folder / each).mkdir(parents=True, exist_ok=True)

        def task(samples: range) -> Callable[[], list[int]]:
            return lambda: [_write_one(index, i, folder / paths[i]) for i in samples]

        starts = range(0, len(paths), _TASK_IMAGES)
        tasks = (task(range(i, min(i + _TASK_IMAGES, len(paths)))) for i in starts)
        workers, done, size = cpu_count(), 0, 0
        with ThreadPoolExecutor(workers, thread_name_prefix="export") as executor:
            for sizes in in_order(executor, tasks, ahead=2 * workers):
                done, size = done + len(sizes), size + sum(sizes)
                if self._report is not None:
                    self._report(split, done, len(paths), size)
        self.bytes += size
        self.pngs += int((index.modes != MODE_JPG).sum())


def _is_classes(index: Index) -> bool:
    return index.columns.task == "classes"


def _name(index: Index) -> Iterator[str]:
    """The path of each sample's file."""
    names, digits = FileNames(), max(6, len(str(len(index))))
    folders = name_folders(index.classes) if _is_classes(index) else ()
    for sample in range(len(index)):
        folder, name = IMAGES, f"{sample + 1:0{digits}d}"
        if index.has_names:
            name = index.name(sample)
        if folders:
            label = int(index.labels[sample])
            folder = folders[label]
            name = name.removeprefix(f"{index.classes[label].replace('/', '_')}/")
            name = name.removeprefix(f"{index.classes[label]}/")
        yield names.make(folder, name, JPEG if index.modes[sample] == MODE_JPG else PNG)


def _write_one(index: Index, sample: int, path: Path) -> int:
    """Write an image; gives its bytes."""
    data = _encode(index.stored(sample))
    with path.open("xb") as file:
        file.write(data)
    return len(data)


def _encode(stored: Stored) -> bytes:
    if stored.mode == MODE_JPG:
        return stored.data
    target = io.BytesIO()
    image = Image.frombytes("RGB", (stored.width, stored.height), stored.data)
    image.save(target, "PNG", compress_level=_PNG_LEVEL)
    return target.getvalue()


def _lines(index: Index, paths: Sequence[str]) -> Iterator[str]:
    """A line of JSON for each sample: its path and what is known of it."""
    columns = index.columns
    targets = columns.targets
    for sample, path in enumerate(paths):
        row: dict[str, Any] = {"path": path}
        if targets is not None and columns.task == "labels":
            row["labels"] = [index.classes[i] for i in np.flatnonzero(targets[sample])]
        elif targets is not None:
            row["label"] = _number(targets[sample, 0])
        if columns.weights is not None:
            row["weight"] = _number(columns.weights[sample])
        if columns.groups is not None:
            row["group"] = f"{int(columns.groups[sample]):016x}"
        yield json.dumps(row) + "\n"


def _number(value: np.float32) -> float:
    """A number of as many digits as it takes to be read as the same float32."""
    return float(str(value))


def _notes(index: Index) -> Iterator[str]:
    """Lines on what converting the exported folder would make different."""
    columns = index.columns
    folders = name_folders(index.classes) if _is_classes(index) else index.classes
    for name, folder in zip(index.classes, folders, strict=True):
        if name != folder:
            yield f"the folder of class {name!r} is called {folder!r}"
    if list(folders) != sorted(folders) and columns.task != "number":
        yield "converted again, classes are numbered in the order of their names, another than now"
    if _is_classes(index) and (columns.weights is not None or columns.groups is not None):
        yield "class folders do not say weights and groups"


def _require_free(config: ExportConfig) -> None:
    """Let pass what does not exist, is empty, or may be overwritten and is as it was exported."""
    out = config.out
    if not out.exists():
        return
    if not out.is_dir():
        raise DataError(out, "a file", "a folder or nothing", "choose another")
    if not any(out.iterdir()):
        return
    if not config.overwrite:
        remedy = "choose another or give --overwrite"
        raise DataError(out, "a folder that is not empty", "a new or empty one", remedy)
    try:
        said = json.loads((out / MARKER).read_text())
        is_ours = isinstance(said, dict) and said.get("writer") == WRITER
        is_whole = is_ours and said.get("digest") == _digest(out)
    except (OSError, ValueError, RecursionError):
        is_whole = False
    if not is_whole:
        expected = "it as an export has left it"
        remedy = "choose another folder or remove it yourself"
        raise DataError(out, f"holds what {WRITER} did not write", expected, remedy)


def _digest(root: Path) -> str:
    """A hash of which files a folder holds, and their sizes; the marker is left out."""
    digest = hashlib.sha256()
    for folder, names, files in os.walk(root):
        names.sort()
        for name in sorted(files):
            path = Path(folder) / name
            said = os.fsencode(path.relative_to(root))
            if said != os.fsencode(MARKER):
                state = path.lstat()
                digest.update(said + b"\0%d %d\0" % (state.st_mode & 0o170000, state.st_size))
        for name in names:  # empty ones, and links to folders
            digest.update(b"/%s\0%d" % (os.fsencode(name), os.path.islink(Path(folder) / name)))
    return digest.hexdigest()
