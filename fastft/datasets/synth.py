"""Writes an embedded data set: class folders of synthetic photos, for demos, tests and transfer.

Knows the folder layout, the seeds, the workers and when a folder may be replaced; what a photo
looks like is `synth_draw`'s. A photo's bytes are a function of (seed, family, split, class,
index) alone, so neither the workers nor the other counts change them.
"""

from __future__ import annotations

import json
import shutil
import tempfile
import time
from collections.abc import Callable, Iterator
from concurrent.futures import FIRST_COMPLETED, ProcessPoolExecutor, wait
from concurrent.futures.process import BrokenProcessPool
from dataclasses import dataclass
from multiprocessing import get_context
from pathlib import Path
from typing import Any

import numpy as np

from fastft.datasets.synth_draw import draw_jpeg
from fastft.datasets.synth_motif import FAMILIES
from pipelines.atomic import temporary_prefix, unguessable
from pipelines.errors import DataError, UsageError
from pipelines.workers import cpu_count, end_with_parent, not_interrupted, require_thread_room

MARKER = "synth.json"
WRITER = "fastft synth"
SPLITS = ("train", "test")
SIDE_PX = (32, 8192)
MAX_PER_CLASS = 1_000_000
# Photos per task: long enough to hide the queue, short enough for an even finish and progress.
CHUNK = 16
# Below this, drawing takes less than starting processes (0.4 s on 2 cores).
MIN_FOR_WORKERS = 96

#: How often it is looked whether tasks can still end.
_LOOK_S = 1.0


@dataclass(frozen=True, kw_only=True, slots=True)
class SynthConfig:
    """A data set to write.

    Args:
        out: the folder to make; its parents are made too.
        family: "shapes" or "weaves". They share light, noise and colours but no class: one can
            be the source task and the other the target task of a transfer.
        classes: how many of the family's classes, its first ones; at least 2.
        per_class: training photos per class.
        test_per_class: test photos per class; a fifth of `per_class` (at least 1) if None.
        size: mean width and height in px; every photo's own vary about it.
        seed: 0 to 2**32 - 1.
        workers: processes; as many as CPUs this process may use if None.
        overwrite: replace `out` if it holds nothing but what synth itself wrote.
    """

    out: Path
    family: str = "shapes"
    classes: int = 4
    per_class: int = 250
    test_per_class: int | None = None
    size: tuple[int, int] = (200, 160)
    seed: int = 0
    workers: int | None = None
    overwrite: bool = False

    def __post_init__(self) -> None:
        """Refuse what cannot be written.

        Raises:
            UsageError: a value is out of range.
        """
        if self.family not in FAMILIES:
            raise UsageError("--family", repr(self.family), " or ".join(FAMILIES))
        _check_range("--classes", self.classes, 2, len(FAMILIES[self.family]))
        _check_range("--per-class", self.per_class, 1, MAX_PER_CLASS)
        if self.test_per_class is not None:
            _check_range("--test-per-class", self.test_per_class, 1, MAX_PER_CLASS)
        if len(self.size) != 2:
            raise UsageError("--size", f"{len(self.size)} numbers", "width and height")
        for side in self.size:
            _check_range("--size", side, *SIDE_PX, unit=" px")
        _check_range("--seed", self.seed, 0, 2**32 - 1)
        if self.workers is not None:
            _check_range("--workers", self.workers, 1, 1024)

    @property
    def class_names(self) -> tuple[str, ...]:
        """Names of the class folders, in the order of the family, not of the alphabet."""
        return FAMILIES[self.family][: self.classes]

    @property
    def counts(self) -> dict[str, int]:
        """Photos per class of each split."""
        test = self.test_per_class
        return {
            "train": self.per_class,
            "test": max(1, self.per_class // 5) if test is None else test,
        }


@dataclass(frozen=True, kw_only=True, slots=True)
class SynthResult:
    """The result of writing."""

    out: Path
    family: str
    classes: tuple[str, ...]
    train_images: int
    test_images: int
    bytes: int
    seconds: float


@dataclass(frozen=True, kw_only=True, slots=True)
class _Task:
    """A run of photos of one class and split, for one worker."""

    folder: Path
    family: str
    split_id: int
    class_id: int
    start: int
    stop: int
    digits: int
    size: tuple[int, int]
    seed: int


def write_synth(
    config: SynthConfig, on_progress: Callable[[int, int], None] | None = None
) -> SynthResult:
    """Write the data set: `out/train/<class>/0000.jpg` ..., `out/test/<class>/...`, and a marker.

    It is drawn into a temporary folder beside `out` and renamed when complete: `out` is whole,
    or as it was.

    Args:
        config: what to write.
        on_progress: called in this thread with (photos written, photos in all).

    Raises:
        DataError: `out` is a file, holds what synth did not write, or cannot be written.
    """
    start_s = time.perf_counter()
    out = config.out.resolve()
    _check_free(out, config)
    staging: Path | None = None
    try:
        out.parent.mkdir(parents=True, exist_ok=True)
        prefix = unguessable(temporary_prefix(out))
        staging = Path(tempfile.mkdtemp(prefix=prefix, suffix=".partial", dir=out.parent))
        # A folder of its own inside: mkdtemp's is readable by its owner alone, the result is not.
        root = staging / "data"
        size_bytes = _write_photos(config, root, on_progress)
        (root / MARKER).write_text(json.dumps(_marker(config), indent=2) + "\n")
        _check_free(out, config)
        if out.exists():
            out.rename(staging / "replaced")
        root.rename(out)
    except OSError as error:
        reason = error.strerror or str(error)
        raise DataError(
            config.out, reason.lower(), "a folder that can be written", "choose another"
        ) from error
    finally:
        if staging is not None:
            shutil.rmtree(staging, ignore_errors=True)
    return SynthResult(
        out=config.out,
        family=config.family,
        classes=config.class_names,
        train_images=config.classes * config.counts["train"],
        test_images=config.classes * config.counts["test"],
        bytes=size_bytes,
        seconds=time.perf_counter() - start_s,
    )


# --- the photos --------------------------------------------------------------------------------


def _write_photos(
    config: SynthConfig, root: Path, on_progress: Callable[[int, int], None] | None
) -> int:
    """Draw every photo under `root`; the files' bytes in all."""
    tasks = list(_make_tasks(config, root))
    for folder in dict.fromkeys(task.folder for task in tasks):
        folder.mkdir(parents=True)
    total = sum(task.stop - task.start for task in tasks)
    workers = min(config.workers or cpu_count(), len(tasks))
    if total < MIN_FOR_WORKERS:
        workers = 1
    done = size_bytes = 0
    for photos, written_bytes in _run_tasks(tasks, workers):
        done += photos
        size_bytes += written_bytes
        if on_progress is not None:
            on_progress(done, total)
    return size_bytes


def _make_tasks(config: SynthConfig, root: Path) -> Iterator[_Task]:
    for split_id, split in enumerate(SPLITS):
        count = config.counts[split]
        for class_id, name in enumerate(config.class_names):
            for start in range(0, count, CHUNK):
                yield _Task(
                    folder=root / split / name,
                    family=config.family,
                    split_id=split_id,
                    class_id=class_id,
                    start=start,
                    stop=min(start + CHUNK, count),
                    digits=_digits(count),
                    size=config.size,
                    seed=config.seed,
                )


def _run_tasks(tasks: list[_Task], workers: int) -> Iterator[tuple[int, int]]:
    """(photos, bytes) of each task as it ends, in no particular order."""
    if workers == 1:
        yield from map(_write_task, tasks)
        return
    # spawn: a caller may hold threads (torch), which a forked child would inherit as locks.
    pool = ProcessPoolExecutor(
        workers, mp_context=get_context("spawn"), initializer=end_with_parent
    )
    try:
        require_thread_room()
        with not_interrupted():
            pending = {pool.submit(_write_task, task) for task in tasks}
        while pending:
            ended, pending = wait(pending, _LOOK_S, return_when=FIRST_COMPLETED)
            manager: Any = pool._executor_manager_thread
            if not ended and not manager.is_alive():  # no task would ever end
                raise MemoryError("a thread has died")
            for future in ended:
                yield future.result()
    except BrokenProcessPool as error:
        remedy = "if memory ran out, take fewer --workers"
        raise DataError("synth", "one of its processes was killed", "", remedy) from error
    finally:
        pool.shutdown(wait=True, cancel_futures=True)


def _write_task(task: _Task) -> tuple[int, int]:
    size_bytes = 0
    family_id = list(FAMILIES).index(task.family)
    for index in range(task.start, task.stop):
        # Always five parts: SeedSequence pads with zeros, so a shorter list could equal a longer.
        parts = [task.seed, family_id, task.split_id, task.class_id, index]
        rng = np.random.Generator(np.random.Philox(np.random.SeedSequence(parts)))
        data = draw_jpeg(rng, task.family, task.class_id, task.size)
        (task.folder / f"{index:0{task.digits}d}.jpg").write_bytes(data)
        size_bytes += len(data)
    return task.stop - task.start, size_bytes


# --- the folder --------------------------------------------------------------------------------


def _marker(config: SynthConfig) -> dict[str, Any]:
    return {
        "writer": WRITER,
        "family": config.family,
        "classes": list(config.class_names),
        "counts": config.counts,
        "size": list(config.size),
        "seed": config.seed,
    }


def _check_free(out: Path, config: SynthConfig) -> None:
    """Let pass what does not exist, is empty, or may be overwritten and holds nothing foreign."""
    if not out.exists():
        return
    if not out.is_dir():
        raise DataError(config.out, "a file", "a folder or nothing", "choose another")
    if not any(out.iterdir()):
        return
    if not config.overwrite:
        raise DataError(
            config.out,
            "a folder that is not empty",
            "a new or empty one",
            "choose another or give --overwrite",
        )
    foreign = _first_foreign(out)
    if foreign is not None:
        raise DataError(
            config.out,
            f"{foreign}, which {WRITER} did not write",
            "nothing else in a folder to overwrite",
            "choose another folder or remove it yourself",
        )


def _first_foreign(out: Path) -> str | None:
    """Path under `out` of something that its marker does not account for, or None."""
    try:
        marker = json.loads((out / MARKER).read_text())
        if marker["writer"] != WRITER:
            return MARKER
        names = {str(name) for name in marker["classes"]}
        counts = {split: marker["counts"][split] for split in SPLITS}
        if not all(type(count) is int for count in counts.values()):
            return MARKER
    except FileNotFoundError:
        return min(entry.name for entry in out.iterdir())
    except (ValueError, TypeError, KeyError, OSError, RecursionError):
        return MARKER
    for folder, allowed in [(out, {MARKER, *SPLITS}), *((out / split, names) for split in SPLITS)]:
        for entry in sorted(folder.iterdir() if folder.is_dir() else ()):
            if entry.name not in allowed or entry.is_symlink():
                return str(entry.relative_to(out))
            if entry.is_dir() == (entry.name == MARKER):
                return str(entry.relative_to(out))
    for split, count in counts.items():
        for file in sorted((out / split).glob("*/*")):
            index = int(file.stem) if file.stem.isascii() and file.stem.isdecimal() else -1
            is_written = 0 <= index < count and file.name == f"{index:0{_digits(count)}d}.jpg"
            if not is_written or not file.is_file() or file.is_symlink():
                return str(file.relative_to(out))
    return None


def _digits(count: int) -> int:
    return max(4, len(str(count - 1)))


def _check_range(option: str, value: int, low: int, high: int, unit: str = "") -> None:
    if not low <= value <= high:
        raise UsageError(option, f"{value}{unit}", f"{low} to {high}{unit}")
