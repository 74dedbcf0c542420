"""Counts and reports of a conversion's samples, and the limit of broken ones."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from pipelines.conversion.inputs import Listing, describe_remarks
from pipelines.conversion.journal import Entry
from pipelines.errors import DataError, UsageError
from pipelines.formats.layout import Note
from pipelines.formats.shards import Quarantined


@dataclass(slots=True)
class Report:
    """The report of one conversion.

    Attributes:
        kept: label -> whole images that have it.
        resumed: images, whole and broken, that an earlier process had done.
        notes: how many images each note was made of.
        first: note -> the first of these images.
        grown_from, grown_to: bytes of JPEGs that were turned as pixels, as files and as stored.
        quarantined: what was left out, and why.
        doubtful: what may show wrong pixels, and why.
        warnings: what is odd and yet whole.
        ignored: kind of file -> how many are no samples.
        seconds: this process's.
        remarks: lines on what may be meant otherwise.
    """

    split: str
    out: Path
    classes: tuple[str, ...]
    images: int = 0
    kept: Counter[int] = field(default_factory=Counter)
    resumed: int = 0
    bytes_in: int = 0
    bytes_out: int = 0
    notes: Counter[Note] = field(default_factory=Counter)
    first: dict[Note, str] = field(default_factory=dict)
    grown_from: int = 0
    grown_to: int = 0
    seconds: float = 0.0
    quarantined: list[Quarantined] = field(default_factory=list)
    doubtful: list[Quarantined] = field(default_factory=list)
    warnings: list[Quarantined] = field(default_factory=list)
    ignored: dict[str, int] = field(default_factory=dict)
    remarks: tuple[str, ...] = ()

    @property
    def img_per_s(self) -> float:
        """Images per second of what this process did."""
        return (self.images + len(self.quarantined) - self.resumed) / self.seconds


class Tally:
    """Counts of a part's samples so far.

    Attributes:
        report: of them.
        kept: its label -> whole images.
        whole: bool[N], which samples of the part are whole.
        first_bad: label -> the first broken one.
        doubtful: number among the whole images -> why its pixels may be wrong.
        odd: number among the whole images -> what is odd about it.
        sample: the next one.
    """

    def __init__(self, split: str, out: Path, listing: Listing, part: range, max_bad: str) -> None:
        """Begin.

        Args:
            split: its name; '' if there is only one.
            out: where the part is written.
            listing: the samples.
            part: which of them.
            max_bad: how many may be broken; see `allowed_bad`.
        """
        self.report = Report(split, out, listing.classes, ignored=listing.ignored)
        self.report.remarks = describe_remarks(listing)
        self.kept = self.report.kept
        self.first_bad: dict[int, Quarantined] = {}
        self.doubtful: dict[int, str] = {}
        self.odd: dict[int, str] = {}
        self.whole = np.zeros(len(part), np.bool_)
        self._start = self.sample = part.start
        self._images = 0
        self._listing, self._allowed = listing, allowed_bad(max_bad, len(part))

    def count(self, entry: Entry) -> None:
        """Count the next sample.

        Raises:
            DataError: too many are broken.
        """
        report, label = self.report, int(self._listing.labels[self.sample])
        name = self._listing.names[self.sample]
        report.bytes_in += entry.source_bytes
        if entry.mode is None:
            report.quarantined.append(Quarantined(name, entry.reason))
            self.first_bad.setdefault(label, report.quarantined[-1])
            if len(report.quarantined) > self._allowed:
                raise _too_many_bad(self._listing, report, self._allowed)
        else:
            self.kept.update(self._listing.columns.labels_of(self.sample, label))
            self.whole[self.sample - self._start] = True
            for note in (note for note in Note if note in entry.note):
                report.notes[note] += 1
                report.first.setdefault(note, name)
            if Note.GROWN in entry.note:
                report.grown_from += entry.source_bytes
                report.grown_to += entry.size_bytes
            if Note.DOUBTFUL in entry.note:
                self.doubtful[self._images] = entry.reason
                report.doubtful.append(Quarantined(name, entry.reason))
            elif entry.reason:
                self.odd[self._images] = entry.reason
                report.warnings.append(Quarantined(name, entry.reason))
            self._images += 1
        self.sample += 1

    def require_classes(self, *, whole: bool) -> None:
        """Refuse an output that says nothing of a class.

        Args:
            whole: every class must be there; a shard need not have an image of each, but of one.

        Raises:
            DataError: a class has lost its last image.
        """
        if whole and self._listing.columns.task == "classes":
            for label, name in enumerate(self._listing.classes):
                # A fold may have no image of a small class to begin with.
                if not self.kept[label] and label in self.first_bad:
                    where = self._listing.where(name)
                    raise _all_bad(where, self.first_bad[label], "replace them")
        elif not self.kept:
            remedy = "replace them or take fewer shards"
            raise _all_bad(str(self.report.out), self.report.quarantined[0], remedy)


def allowed_bad(max_bad: str, images: int) -> int:
    """The number of `images` that may be broken under `--max-bad`.

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
