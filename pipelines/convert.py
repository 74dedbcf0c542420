"""From listed samples to `.beton` files: workers, quarantine, progress, all or nothing.

Threads read, check and encode (each of these releases the interpreter lock); the caller's thread
takes their results in sample order and writes, so the output is the same for any number of
threads. What bounds it: without validation the copy of each byte (read, CRC-32, write), with
validation the entropy decoding of each JPEG.
"""

from __future__ import annotations

import time
import zlib
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path

import numpy as np

from pipelines.beton_writer import BetonWriter
from pipelines.encode import MODES, Encoded, EncodePolicy, Encoder, Mode
from pipelines.errors import DataError, UsageError
from pipelines.listing import Listing, open_listings
from pipelines.outputs import name_outputs, open_writer, publish, require_space, writing
from pipelines.shards import Quarantined, Shard, cut_listings, parse_shard
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
        src: a folder of class folders, a zip of them or a `.rec`, or what holds one of each
            split: `train` and `val` or `test`.
        out: the `.beton` to write, or for splits the folder to write them in.
        max_bad: how many broken images are left out before the command fails: a number, or a
            share of all such as `1%` (rounded up). Each shard counts its own.
        workers: threads; 0 takes every CPU this process may use.
        classes: names for RecordIO's labels 0, 1, ...; by default the labels' numbers. Class
            folders have names, and take none.
        shard: `i/n` converts the i-th of n parts, to be merged by `pipelines.merge`; '' all.
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
    classes: tuple[str, ...] = ()
    shard: str = ""

    def __post_init__(self) -> None:
        if self.mode not in MODES:
            raise UsageError("--mode", repr(self.mode), f"one of {', '.join(MODES)}")
        _require("--quality", self.quality, 1, 100)
        _require("--proportion", self.proportion, 0, 1)
        _require("--max-side", self.max_side, 0, 65535)
        _require("--workers", self.workers, 0, 1024)
        allowed_bad(self.max_bad, 100)
        parse_shard(self.shard)
        for name in self.classes:
            if not name.strip() or "/" in name or "\0" in name or self.classes.count(name) > 1:
                raise UsageError("--classes", repr(name), "each name once, none empty or with a /")

    @property
    def policy(self) -> EncodePolicy:
        """How images are stored."""
        return EncodePolicy(
            mode=self.mode, quality=self.quality, max_side=self.max_side,
            apply_exif=self.apply_exif, proportion=self.proportion, verify=self.verify,
        )  # fmt: skip


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
    """Convert a data set to one `.beton`, or its splits to one each; or a shard of them.

    All outputs appear together at the end, or none does.

    Raises:
        DataError: `src` is not as it should be, too many images are broken, a class loses its
            last image, a shard has no whole one, or the disk is full.
        UsageError: `out` does not fit `src`, or would replace what is no `.beton`; there are
            more shards than images.
    """
    reports: list[Report] = []
    with open_listings(config.src, config.classes) as listings, ExitStack() as stack:
        outputs = name_outputs(config.src, config.out, listings, parse_shard(config.shard))
        shards = _cut(config, listings)
        parts = {split: range(len(listing)) for split, listing in listings.items()}
        parts.update((split, shard.part) for split, shard in shards.items())
        if config.mode == "passthrough" and not config.max_side:
            sizes = (listings[split].size_bytes(i) for split, part in parts.items() for i in part)
            require_space(config.out, sum(sizes))
        writers = []
        for split, listing in listings.items():
            writer = stack.enter_context(open_writer(outputs[split], len(parts[split])))
            work = _Work(split, listing, parts[split], shards.get(split), writer)
            reports.append(_convert_part(config, work, on_progress))
            writers.append(writer)
        bad = [report.quarantined for report in reports]
        publish(zip(writers, bad, strict=True))
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


@dataclass(frozen=True, slots=True)
class _Work:
    """The samples `part` of a listing, to be written as a shard or, with None, as the whole."""

    split: str
    listing: Listing
    part: range
    shard: Shard | None
    writer: BetonWriter


def _cut(config: ConvertConfig, listings: Mapping[str, Listing]) -> dict[str, Shard]:
    """What part of each split is converted; empty if all is."""
    asked = parse_shard(config.shard)
    if asked is None:
        return {}
    names = {split: listing.names for split, listing in listings.items()}
    sizes = {
        split: np.fromiter(map(listing.size_bytes, range(len(listing))), np.int64, len(listing))
        for split, listing in listings.items()
    }
    return cut_listings(*asked, names, sizes, asdict(config.policy))


def _convert_part(config: ConvertConfig, work: _Work, on_progress: Progress | None) -> Report:
    started = time.perf_counter()
    listing, part, writer = work.listing, work.part, work.writer
    report = Report(work.split, writer.path, listing.classes, ignored=listing.ignored)
    allowed = allowed_bad(config.max_bad, len(part))
    kept: Counter[int] = Counter()
    first_bad: dict[int, Quarantined] = {}
    sample = part.start
    encoder = Encoder(config.policy)
    workers = config.workers or cpu_count()
    with ThreadPoolExecutor(workers, thread_name_prefix="convert") as executor:
        for results in in_order(executor, _tasks(listing, part, encoder), ahead=2 * workers):
            for encoded, checksum in results:
                name, label = listing.names[sample], int(listing.labels[sample])
                report.bytes_in += encoded.source_bytes
                if encoded.stored is None:
                    report.quarantined.append(Quarantined(name, encoded.reason))
                    first_bad.setdefault(label, report.quarantined[-1])
                    if len(report.quarantined) > allowed:
                        raise _too_many_bad(listing, report, allowed)
                else:
                    with writing(writer.path):
                        writer.append(encoded.stored, label, name, checksum)
                    kept[label] += 1
                    report.reencoded += encoded.reencoded
                    if encoded.reason:
                        report.warnings.append(Quarantined(name, encoded.reason))
                sample += 1
            if on_progress is not None:
                on_progress(work.split, sample - part.start, len(part), report.bytes_in)
    shard = work.shard
    if shard is None:
        for label, name in enumerate(listing.classes):
            if not kept[label]:
                raise _all_bad(listing.where(name), first_bad[label], "replace them")
    else:  # which need not have an image of each class; that is for merging to look at
        if not kept:
            remedy = "replace them or take fewer shards"
            raise _all_bad(str(writer.path), report.quarantined[0], remedy)
        shard = replace(shard, quarantined=tuple(report.quarantined))
    with writing(writer.path):
        report.bytes_out = writer.finish(listing.classes, shard)
    report.images = len(writer)
    report.seconds = time.perf_counter() - started
    return report


def _tasks(
    listing: Listing, part: range, encoder: Encoder
) -> Iterator[Callable[[], list[tuple[Encoded, int]]]]:
    """The samples of `part` in order, as tasks that give each one's result and its CRC-32."""

    def task(samples: Sequence[int]) -> Callable[[], list[tuple[Encoded, int]]]:
        def run() -> list[tuple[Encoded, int]]:
            results = []
            for sample in samples:
                try:
                    data = listing.read(sample)
                except DataError as error:
                    encoded = Encoded(None, 0, reason=error.found)
                else:
                    encoded = encoder.encode(data, sample)
                crc = zlib.crc32(encoded.stored.data) if encoded.stored is not None else 0
                results.append((encoded, crc))
            return results

        return run

    first, size = part.start, 0
    for sample in part:
        size += listing.size_bytes(sample)
        if sample - first + 1 == _TASK_IMAGES or size >= _TASK_BYTES:
            yield task(range(first, sample + 1))
            first, size = sample + 1, 0
    if first < part.stop:
        yield task(range(first, part.stop))


def _all_bad(where: str, first: Quarantined, remedy: str) -> DataError:
    found = f"every image is broken, the first ({first.name}): {first.reason}"
    return DataError(where, found, "at least one whole image", remedy)


def _too_many_bad(listing: Listing, report: Report, allowed: int) -> DataError:
    last = report.quarantined[-1]
    found = f"{last.reason} (broken image number {len(report.quarantined)})"
    if len(report.quarantined) == 1:
        found = last.reason
    expected, remedy = f"at most {allowed} broken", "remove it or raise --max-bad"
    return DataError(listing.where(last.name), found, expected, remedy)


def _require(option: str, value: float, least: float, most: float) -> None:
    if not least <= value <= most:
        raise UsageError(option, str(value), f"{least} to {most}")
