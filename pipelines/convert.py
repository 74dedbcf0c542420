"""From class folders to `.beton` files: workers, quarantine, progress, all or nothing.

Threads read, check and encode (each of these releases the interpreter lock); the caller's thread
takes their results in sample order and writes, so the output is the same for any number of
threads. What bounds it: without validation the copy of each byte (read, CRC-32, write), with
validation the entropy decoding of each JPEG.
"""

from __future__ import annotations

import json
import os
import shutil
import time
import zlib
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from dataclasses import dataclass, field
from pathlib import Path

from pipelines.beton import read_index
from pipelines.beton_writer import BetonWriter
from pipelines.encode import MODES, Encoded, EncodePolicy, Encoder, Mode
from pipelines.errors import DataError, FastftError, UsageError
from pipelines.folder import Folder, read_folder, read_splits, split_folders
from pipelines.workers import cpu_count, in_order

#: on_progress(split, images done, images in all, bytes read so far)
Progress = Callable[[str, int, int, int], None]
#: A task is this many images, or fewer if their files are large: long enough to hide the cost of
#: handing it over (about 50 us), short enough that few decoded images wait to be written.
_TASK_IMAGES, _TASK_BYTES = 32, 4 << 20


@dataclass(frozen=True, kw_only=True, slots=True)
class ConvertConfig:
    """What `fastft convert` does; see `EncodePolicy` for how images are stored.

    Attributes:
        src: a folder of class folders, or one that holds `train` and `val` or `test`.
        out: the `.beton` to write, or for splits the folder to write them in.
        max_bad: how many broken images are left out before the command fails: a number, or a
            share of all such as `1%` (rounded up).
        workers: threads; 0 takes every CPU this process may use.
    """

    src: Path
    out: Path
    mode: Mode = "passthrough"
    quality: int = 95
    max_side: int = 0
    apply_exif: bool = False
    proportion: float = 0.5
    verify: bool = True
    max_bad: str = "1%"
    workers: int = 0

    def __post_init__(self) -> None:
        if self.mode not in MODES:
            raise UsageError("--mode", repr(self.mode), f"one of {', '.join(MODES)}")
        _require("--quality", self.quality, 1, 100)
        _require("--proportion", self.proportion, 0, 1)
        _require("--max-side", self.max_side, 0, 65535)
        _require("--workers", self.workers, 0, 1024)
        allowed_bad(self.max_bad, 100)


@dataclass(frozen=True, slots=True)
class Quarantined:
    """An image that was left out, and why."""

    name: str
    reason: str


@dataclass(slots=True)
class Report:
    """What one conversion did."""

    split: str
    out: Path
    classes: tuple[str, ...]
    images: int = 0
    bytes_in: int = 0
    bytes_out: int = 0
    reencoded: int = 0
    seconds: float = 0.0
    quarantined: list[Quarantined] = field(default_factory=list)
    warnings: list[Quarantined] = field(default_factory=list)
    ignored: dict[str, int] = field(default_factory=dict)


def convert(config: ConvertConfig, on_progress: Progress | None = None) -> list[Report]:
    """Convert a class folder to one `.beton`, or a folder of splits to one each.

    All outputs appear together at the end, or none does.

    Raises:
        DataError: the folder is not as it should be, too many images are broken, a class loses
            its last image, or the disk is full.
        UsageError: `out` does not fit `src`, or would replace what is no `.beton`.
    """
    folders = _read_source(config)
    _check_space(config, folders)
    reports: list[Report] = []
    with ExitStack() as stack:
        writers = []
        for split, (folder, out) in folders.items():
            writer = stack.enter_context(_open_writer(out, len(folder)))
            reports.append(_convert_folder(config, split, folder, writer, on_progress))
            writers.append(writer)
        for writer, report in zip(writers, reports, strict=True):
            try:
                writer.publish()
                _write_quarantine(report)
            except OSError as error:
                raise _write_failed(writer.path, error) from error
    return reports


def allowed_bad(max_bad: str, images: int) -> int:
    """How many of `images` may be broken under `--max-bad`.

    Raises:
        UsageError: `max_bad` is neither a number nor a percentage.
    """
    try:
        if max_bad.endswith("%"):
            share = float(max_bad[:-1])
            if 0 <= share <= 100:
                return -int(-images * share // 100)
        elif int(max_bad) >= 0:
            return int(max_bad)
    except ValueError:
        pass
    raise UsageError("--max-bad", repr(max_bad), "a number like 10 or a share like 1%")


def _read_source(config: ConvertConfig) -> dict[str, tuple[Folder, Path]]:
    """What to convert and where to: split name -> folder and output; '' where there is no split."""
    outputs: dict[str, tuple[Folder, Path]] = {}
    if split_folders(config.src):
        if config.out.suffix == ".beton" or config.out.is_file():
            raise UsageError(
                config.out,
                "is one file",
                f"a folder for the splits of {config.src}",
                "name a folder",
            )
        for split, folder in read_splits(config.src).items():
            outputs[split] = (folder, config.out / f"{split}.beton")
    else:
        out = config.out
        if out.is_dir():
            out = out / f"{config.src.resolve().name}.beton"
        elif out.suffix != ".beton":
            out = out.with_name(out.name + ".beton")
        outputs[""] = (read_folder(config.src), out)
    for _, out in outputs.values():
        _check_replaceable(out)
    return outputs


def _check_replaceable(out: Path) -> None:
    if out.is_dir():
        raise UsageError(out, "is a folder", "a file to write", "name another output")
    if out.exists() and out.stat().st_size:
        try:
            read_index(out)
        except FastftError as error:
            found = "exists and is no whole .beton"
            raise UsageError(out, found, "a new name", "remove it or name another") from error


def _check_space(config: ConvertConfig, folders: dict[str, tuple[Folder, Path]]) -> None:
    """Refuse at once what byte passthrough alone would not fit."""
    if config.mode != "passthrough" or config.max_side:
        return
    needed = 0
    for folder, _ in folders.values():
        needed += sum(_file_bytes(folder.path(sample)) for sample in range(len(folder)))
    existing = config.out
    while not existing.exists():
        existing = existing.parent
    free = shutil.disk_usage(existing).free
    if needed > free:
        raise DataError(
            config.out, f"{free:,} bytes free on its disk", f"{needed:,} for the images' bytes",
            "free some or name another disk",
        )  # fmt: skip


def _open_writer(out: Path, capacity: int) -> BetonWriter:
    try:
        return BetonWriter(out, capacity)
    except OSError as error:
        raise DataError(out, _said(error), "a folder to write in", "name another output") from error


def _convert_folder(
    config: ConvertConfig,
    split: str,
    folder: Folder,
    writer: BetonWriter,
    on_progress: Progress | None,
) -> Report:
    started = time.perf_counter()
    report = Report(split, writer.path, folder.classes, ignored=folder.ignored)
    allowed = allowed_bad(config.max_bad, len(folder))
    kept: Counter[int] = Counter()
    sample = 0
    policy = EncodePolicy(
        mode=config.mode, quality=config.quality, max_side=config.max_side,
        apply_exif=config.apply_exif, proportion=config.proportion, verify=config.verify,
    )  # fmt: skip
    encoder = Encoder(policy)
    workers = config.workers or cpu_count()
    with ThreadPoolExecutor(workers, thread_name_prefix="convert") as executor:
        for results in in_order(executor, _tasks(folder, encoder), ahead=2 * workers):
            for encoded, checksum in results:
                name = folder.names[sample]
                report.bytes_in += encoded.source_bytes
                if encoded.stored is None:
                    report.quarantined.append(Quarantined(name, encoded.reason))
                    if len(report.quarantined) > allowed:
                        raise _too_many_bad(folder, report, allowed)
                else:
                    label = int(folder.labels[sample])
                    _append(writer, encoded, label, name, checksum)
                    kept[label] += 1
                    report.reencoded += encoded.reencoded
                    if encoded.reason:
                        report.warnings.append(Quarantined(name, encoded.reason))
                sample += 1
            if on_progress is not None:
                on_progress(split, sample, len(folder), report.bytes_in)
    for label, name in enumerate(folder.classes):
        if not kept[label]:
            first = next(bad for bad in report.quarantined if bad.name.startswith(f"{name}/"))
            found = f"every image is broken, the first ({first.name}): {first.reason}"
            raise DataError(folder.root / name, found, "at least one whole image", "replace them")
    try:
        report.bytes_out = writer.finish(folder.classes)
    except OSError as error:
        raise _write_failed(writer.path, error) from error
    report.images = len(writer)
    report.seconds = time.perf_counter() - started
    return report


def _tasks(folder: Folder, encoder: Encoder) -> Iterator[Callable[[], list[tuple[Encoded, int]]]]:
    """The folder's samples in order, as tasks that give each one's result and its CRC-32."""

    def task(samples: Sequence[int]) -> Callable[[], list[tuple[Encoded, int]]]:
        def run() -> list[tuple[Encoded, int]]:
            results = []
            for sample in samples:
                encoded = encoder.encode_file(folder.path(sample), sample)
                crc = zlib.crc32(encoded.stored.data) if encoded.stored is not None else 0
                results.append((encoded, crc))
            return results

        return run

    first, size = 0, 0
    for sample in range(len(folder)):
        size += _file_bytes(folder.path(sample))
        if sample - first + 1 == _TASK_IMAGES or size >= _TASK_BYTES:
            yield task(range(first, sample + 1))
            first, size = sample + 1, 0
    if first < len(folder):
        yield task(range(first, len(folder)))


def _append(writer: BetonWriter, encoded: Encoded, label: int, name: str, checksum: int) -> None:
    assert encoded.stored is not None
    try:
        writer.append(encoded.stored, label, name, checksum)
    except OSError as error:
        raise _write_failed(writer.path, error) from error


def _write_failed(path: Path, error: OSError) -> DataError:
    return DataError(path, f"{_said(error)} while writing", "", "nothing was left behind")


def _too_many_bad(folder: Folder, report: Report, allowed: int) -> DataError:
    last = report.quarantined[-1]
    found = f"{last.reason} (broken image number {len(report.quarantined)})"
    if len(report.quarantined) == 1:
        found = last.reason
    return DataError(
        folder.root / last.name, found, f"at most {allowed} broken", "remove it or raise --max-bad"
    )


def _write_quarantine(report: Report) -> None:
    """Keep the names of what was left out beside the output; drop an earlier run's list."""
    path = report.out.with_suffix(".quarantine.json")
    if not report.quarantined:
        path.unlink(missing_ok=True)
        return
    rows = [{"name": bad.name, "reason": bad.reason} for bad in report.quarantined]
    path.write_text(json.dumps(rows, indent=1) + "\n", encoding="utf-8", errors="backslashreplace")


def _file_bytes(path: str) -> int:
    try:
        return os.stat(path).st_size
    except OSError:
        return 0  # reported when the file is read


def _said(error: OSError) -> str:
    return (error.strerror or type(error).__name__).lower()


def _require(option: str, value: float, least: float, most: float) -> None:
    if not least <= value <= most:
        raise UsageError(option, str(value), f"{least} to {most}")
