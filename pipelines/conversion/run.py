"""From listed samples to `.beton` files: workers, quarantine, progress, all or nothing.

Threads read, check and encode (each of these releases the interpreter lock); the caller's thread
takes their results in sample order and writes, so the output is the same for any number of
threads. What bounds it: without validation the copy of each byte (read, CRC-32, write), with
validation the entropy decoding of each JPEG.
"""

from __future__ import annotations

import hashlib
import json
import os
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import AbstractContextManager, ExitStack
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import get_args

import numpy as np
from numpy.typing import NDArray

from pipelines.conversion.division import divide_listings
from pipelines.conversion.inputs import Listing, hash_labels, open_listings
from pipelines.conversion.journal import Entry, Journal, left_bytes, open_journaled
from pipelines.conversion.outputs import name_outputs, publish, require_space, writing
from pipelines.conversion.report import Report, Tally, allowed_bad
from pipelines.errors import DataError, UsageError, is_no_files
from pipelines.formats.beton_writer import BetonWriter
from pipelines.formats.columns import UNNAMED, ColumnNames
from pipelines.formats.crc import crc32
from pipelines.formats.division import UNDIVIDED, Division
from pipelines.formats.encode import (
    MODES,
    Encoded,
    EncodePolicy,
    Encoder,
    Mode,
    PointFinder,
)
from pipelines.formats.layout import About, Depth
from pipelines.formats.shards import Shard, cut_listings, parse_shard
from pipelines.images.limits import MAX_PIXELS, MOST_PIXELS
from pipelines.workers import cpu_count, in_order

#: on_progress(split, images done, images in all, bytes read so far)
Progress = Callable[[str, int, int, int], None]
#: Changes when photos that shrink become other pixels: since 2 the inverse DCT may begin.
_SHRINKING = b"2"
#: A task is this many images, or fewer if their files are large: long enough to hide the cost of
#: handing it over (about 50 us), short enough that few decoded images wait to be written.
_TASK_IMAGES, _TASK_BYTES = 32, 4 << 20
#: From so many bytes on, of all images, entry points into JPEGs are found. What finds them takes
#: 0.4 s longer to start with, and checks 1.2 to 1.5 times as fast as what it replaces; each loader
#: that begins at them saves 0.8 ms of a core when it first meets a photo of 0.12 MB (2 cores of a
#: Xeon): 32 MB of these are 0.1 s of each training.
_POINTS_FROM_BYTES = 32 << 20


@dataclass(frozen=True, kw_only=True, slots=True)
class ConvertConfig:
    """Settings of `fastft convert`; see `EncodePolicy` for how images are stored.

    Attributes:
        src: a folder of class folders, a zip of them or a `.rec`, or what holds one of each
            split: `train` and `val` or `test`.
        out: the `.beton` to write, or for splits the folder to write them in.
        max_bad: how many broken images are left out before the command fails: a number, or a
            share of all such as `1%` (rounded up). Each shard counts its own.
        workers: threads; 0 takes every CPU this process may use.
        classes: names for RecordIO's labels 0, 1, ...; by default the labels' numbers. Class
            folders have names, and take none.
        shard: `i/n` converts the i-th of n parts, to be merged by `merge`; '' all.
        max_pixels: an image of more counts as broken.
        resume: continue from what a killed conversion of the same images, by the same options, has
            left; its bytes are checked, so that the output is the same.
        names: columns of a table or packed data set.
        image_root: the folder that a table's paths are relative to; None: the table's own.
        division: the split to make of data that come without.
    """

    src: Path
    out: Path
    mode: Mode = "passthrough"
    quality: int = 95
    max_side: int = 0
    apply_exif: bool = False
    proportion: float = 0.5
    verify: bool = True
    strict: bool = False
    depth: Depth = "clip"
    max_bad: str = "1%"
    workers: int = 0
    classes: tuple[str, ...] = ()
    shard: str = ""
    max_pixels: int = MAX_PIXELS
    resume: bool = False
    names: ColumnNames = UNNAMED
    image_root: Path | None = None
    division: Division = UNDIVIDED

    def __post_init__(self) -> None:
        if self.mode not in MODES:
            raise UsageError("--mode", repr(self.mode), f"one of {', '.join(MODES)}")
        if self.strict and not self.verify:
            raise UsageError("--strict", "given with --no-verify", "one of them")
        if self.depth not in get_args(Depth):
            raise UsageError("--depth", repr(self.depth), f"one of {', '.join(get_args(Depth))}")
        _require("--quality", self.quality, 1, 100)
        _require("--proportion", self.proportion, 0, 1)
        _require("--max-side", self.max_side, 0, 65535)
        _require("--workers", self.workers, 0, 1024)
        _require("--max-pixels", self.max_pixels, 1, MOST_PIXELS)
        allowed_bad(self.max_bad, 100)
        parse_shard(self.shard)
        for name in self.classes:
            if not name.strip() or "/" in name or "\0" in name or self.classes.count(name) > 1:
                raise UsageError("--classes", repr(name), "each name once, none empty or with a /")

    @property
    def policy(self) -> EncodePolicy:
        """The form in which images are stored."""
        return EncodePolicy(
            mode=self.mode,
            quality=self.quality,
            max_side=self.max_side,
            apply_exif=self.apply_exif,
            proportion=self.proportion,
            verify=self.verify,
            strict=self.strict,
            max_pixels=self.max_pixels,
            depth=self.depth,
        )


def convert(
    config: ConvertConfig,
    on_progress: Progress | None = None,
    listings: AbstractContextManager[dict[str, Listing]] | None = None,
) -> list[Report]:
    """Convert a data set to one `.beton`, or its splits to one each; or a shard of them.

    All outputs appear together at the end, or none does.

    Args:
        config: what to convert, and how.
        on_progress: called now and then.
        listings: the samples, where they are opened elsewhere; None: of `config.src`.

    Raises:
        DataError: `src` is not as it should be, too many images are broken, a class loses its
            last image, a shard has no whole one, or the disk is full.
        UsageError: `out` does not fit `src`, or would replace what is no `.beton`; there are
            more shards than images; what is to be resumed is another conversion.
    """
    reports: list[Report] = []
    if listings is None:
        listings = open_listings(
            config.src, config.classes, names=config.names, image_root=config.image_root
        )
    with listings as opened, ExitStack() as stack:
        splits, said = divide_listings(config.src, opened, config.division)
        outputs = name_outputs(config.src, config.out, splits, parse_shard(config.shard))
        shards = _cut(config, splits)
        parts = {split: range(len(listing)) for split, listing in splits.items()}
        parts.update((split, shard.part) for split, shard in shards.items())
        sizes = {split: _sizes(splits[split], part) for split, part in parts.items()}
        if config.mode == "passthrough" and not config.max_side:
            needed = sum(int(each.sum()) for each in sizes.values())
            require_space(config.out, needed - sum(map(left_bytes, outputs.values())))
        finder = _make_finder(config, splits, sizes if not shards else None)
        writers = []
        for split, listing in splits.items():
            part = parts[split]
            writer, journal = stack.enter_context(
                open_journaled(
                    outputs[split],
                    len(part),
                    _identify(config, listing, part, sizes[split]),
                    resume=config.resume,
                )
            )
            given = listing, part, sizes[split], shards.get(split), finder
            work = _Work(split, *given, writer, journal)
            reports.append(_convert_part(config, work, on_progress))
            writers.append(writer)
        reports[0].remarks = (*said, *reports[0].remarks)
        named = ((report.quarantined, report.doubtful) for report in reports)
        publish((writer, *lists) for writer, lists in zip(writers, named, strict=True))
    return reports


@dataclass(frozen=True, slots=True)
class _Work:
    """The samples `part` of a listing, to be written as a shard or, with None, as the whole.

    `sizes` are those of their files, bytes: asked for once, as each is a system call.
    """

    split: str
    listing: Listing
    part: range
    sizes: NDArray[np.int64]
    shard: Shard | None
    finder: PointFinder | None
    writer: BetonWriter
    journal: Journal


def _cut(config: ConvertConfig, listings: Mapping[str, Listing]) -> dict[str, Shard]:
    """The part of each split that is converted; empty if all is."""
    asked = parse_shard(config.shard)
    if asked is None:
        return {}
    names = {split: listing.names for split, listing in listings.items()}
    sizes = {split: _sizes(each, range(len(each))) for split, each in listings.items()}
    said = {split: hash_labels(listing) for split, listing in listings.items()}
    return cut_listings(*asked, names, sizes, said, asdict(config.policy))


def _make_finder(
    config: ConvertConfig,
    listings: Mapping[str, Listing],
    sizes: Mapping[str, NDArray[np.int64]] | None,
) -> PointFinder | None:
    """A finder of entry points, where loading it is worth it: for all shards alike.

    Args:
        config: the conversion.
        listings: all of its samples.
        sizes: of their files, bytes, where they are known.
    """
    if not config.verify:
        return None
    if sizes is None:
        sizes = {split: _sizes(each, range(len(each))) for split, each in listings.items()}
    if sum(int(each.sum()) for each in sizes.values()) < _POINTS_FROM_BYTES:
        return None
    from pipelines.conversion.entry_points import EntryFinder  # numba takes 0.3 s

    return EntryFinder() if EntryFinder.is_served() else None


def _sizes(listing: Listing, part: range) -> NDArray[np.int64]:
    """int64[len(part)]: the sizes of samples' files, bytes."""
    return np.fromiter(map(listing.size_bytes, part), np.int64, len(part))


def _identify(
    config: ConvertConfig, listing: Listing, part: range, sizes: NDArray[np.int64]
) -> bytes:
    """The identity of a conversion, as far as it can be seen without reading the images."""
    settings = asdict(config.policy), listing.classes, part.start, part.stop
    digest = hashlib.sha256(json.dumps(settings).encode() + hash_labels(listing))
    if config.policy.max_side:
        digest.update(_SHRINKING)
    for sample, size in zip(part, sizes.tolist(), strict=True):  # a name begins with its class
        digest.update(os.fsencode(listing.names[sample]) + b"\0%d\0" % size)
    return digest.digest()


def _convert_part(config: ConvertConfig, work: _Work, on_progress: Progress | None) -> Report:
    started = time.perf_counter()
    listing, part, writer, journal = work.listing, work.part, work.writer, work.journal
    tally = Tally(work.split, writer.path, listing, part, config.max_bad)
    report = tally.report
    with writing(writer.path):
        _take_over(work, tally)
    encoder = Encoder(config.policy, work.finder)
    workers = config.workers or cpu_count()
    tasks = _tasks(work, tally.sample, encoder)
    with ThreadPoolExecutor(workers, thread_name_prefix="convert") as executor:
        for results in in_order(executor, tasks, ahead=2 * workers):
            for encoded, checksum in results:
                stored = encoded.stored
                sides, size = (0, 0), 0
                if stored is not None:
                    name, label = listing.names[tally.sample], int(listing.labels[tally.sample])
                    with writing(writer.path):
                        writer.append(stored, label, name, checksum, encoded.points)
                    sides, size = (stored.width, stored.height), len(stored.data)
                entry = Entry(
                    None if stored is None else stored.mode,
                    *sides,
                    size,
                    checksum,
                    encoded.source_bytes,
                    encoded.note,
                    encoded.reason,
                    (len(encoded.points), crc32(encoded.points)),
                )
                tally.count(entry)
                journal.add(entry)
            with writing(writer.path):
                journal.flush()
            if on_progress is not None:
                done = tally.sample - part.start
                on_progress(work.split, done, len(part), report.bytes_in)
    tally.require_classes(whole=work.shard is None)
    shard = work.shard
    if shard is not None:
        shard = replace(shard, quarantined=tuple(report.quarantined))
    with writing(writer.path):
        report.bytes_out = writer.finish(
            About(
                classes=listing.classes,
                shard=None if shard is None else shard.to_json(),
                preparation=config.policy.preparation,
                doubtful=tally.doubtful,
                odd=tally.odd,
                columns=listing.columns.take(np.flatnonzero(tally.whole) + part.start),
                division=str(config.division),
            )
        )
    report.images = len(writer)
    report.seconds = time.perf_counter() - started
    return report


def _take_over(work: _Work, tally: Tally) -> None:
    """Count what an earlier process has done, as far as its bytes are there."""
    writer, listing = work.writer, work.listing
    for entry in work.journal.earlier():
        sample = tally.sample
        if sample == work.part.stop:
            break
        if entry.mode is not None and not writer.adopt(
            entry.mode,
            (entry.width, entry.height),
            entry.size_bytes,
            int(listing.labels[sample]),
            listing.names[sample],
            entry.checksum,
            entry.points,
        ):
            break
        tally.count(entry)
    tally.report.resumed = tally.sample - work.part.start
    writer.go_on()
    work.journal.go_on()


def _tasks(
    work: _Work, first: int, encoder: Encoder
) -> Iterator[Callable[[], list[tuple[Encoded, int]]]]:
    """The samples from `first` on, in order, as tasks that give each one's result and CRC-32."""
    listing, part = work.listing, work.part

    def task(samples: Sequence[int]) -> Callable[[], list[tuple[Encoded, int]]]:
        def run() -> list[tuple[Encoded, int]]:
            results = []
            for sample in samples:
                encoded = _encode(listing, sample, encoder)
                crc = crc32(encoded.stored.data) if encoded.stored is not None else 0
                results.append((encoded, crc))
            return results

        return run

    size = 0
    for sample in range(first, part.stop):
        size += int(work.sizes[sample - part.start])
        if sample - first + 1 == _TASK_IMAGES or size >= _TASK_BYTES:
            yield task(range(first, sample + 1))
            first, size = sample + 1, 0
    if first < part.stop:
        yield task(range(first, part.stop))


def _encode(listing: Listing, sample: int, encoder: Encoder) -> Encoded:
    """The result of one image file.

    Raises:
        DataError: memory ran out, or this process may open no more files.
    """
    try:
        try:
            data = listing.read(sample)
        except DataError as error:
            if is_no_files(error):  # which says nothing of the image
                raise
            return Encoded(None, 0, reason=error.found)
        return encoder.encode(data, sample)
    except MemoryError as error:
        where = listing.where(listing.names[sample])
        remedy = "take fewer --workers or a machine that has more"
        raise DataError(where, "memory ran out", "", remedy) from error


def _require(option: str, value: float, least: float, most: float) -> None:
    if not least <= value <= most:
        raise UsageError(option, str(value), f"{least} to {most}")
