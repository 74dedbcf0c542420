"""Splits that `convert` makes: parts of listings, as listings."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from pipelines.conversion.inputs import Listing
from pipelines.errors import UsageError
from pipelines.formats.columns import Columns
from pipelines.formats.division import Division, describe_division, divide


@dataclass(frozen=True, slots=True)
class Part:
    """Some samples of a listing, as a listing of their own; see `inputs.Listing`.

    Attributes:
        classes: all of the listing's.
        names: of these samples, in order.
        labels: int64[N].
        columns: of these samples.
        ignored, passed_over: of the listing, told once; of other parts nothing.
    """

    classes: tuple[str, ...]
    names: tuple[str, ...]
    labels: NDArray[np.int64]
    columns: Columns
    ignored: dict[str, int]
    passed_over: tuple[str, ...]
    _whole: Listing = field(repr=False)
    _samples: NDArray[np.int64] = field(repr=False)

    def __len__(self) -> int:
        return len(self.names)

    def where(self, name: str) -> str:
        """The name of a sample or a class in an error."""
        return self._whole.where(name)

    def size_bytes(self, sample: int) -> int:
        """The size of a sample's file, as far as it is known without reading it."""
        return self._whole.size_bytes(int(self._samples[sample]))

    def read(self, sample: int) -> bytes:
        """A sample's bytes; see `inputs.Listing`."""
        return self._whole.read(int(self._samples[sample]))


def take_part(listing: Listing, samples: NDArray[np.int64], *, is_first: bool) -> Part:
    """Some samples of a listing, as a listing of their own."""
    return Part(
        listing.classes,
        tuple(listing.names[sample] for sample in samples.tolist()),
        listing.labels[samples],
        listing.columns.take(samples),
        listing.ignored if is_first else {},
        listing.passed_over if is_first else (),
        listing,
        samples,
    )


def divide_listings(
    src: Path, listings: Mapping[str, Listing], division: Division
) -> tuple[Mapping[str, Listing], tuple[str, ...]]:
    """Make the split that was asked for, of data that come without.

    Data with `train` and `test` are given a `val` of some of `train`.

    Args:
        src: the data.
        listings: split -> listing; '' alone if there are none.
        division: how; nothing is done without.

    Returns:
        The listings of all splits, and lines on what was done.

    Raises:
        UsageError: there is a `val` already.
        DataError: see `divide`.
    """
    if not division:
        return listings, ()
    whole = "" if "" in listings else "train"
    if "val" in listings or whole not in listings:
        found = f"with {src}, which has {', '.join(listings)}"
        raise UsageError(str(division), found, "data without a val split", "leave it out")
    listing = listings[whole]
    divided = divide(src, listing.names, listing.labels, listing.classes, listing.columns, division)
    others = {split: each for split, each in listings.items() if split != whole}
    parts: dict[str, Listing] = {
        "train": take_part(listing, divided.train, is_first=True),
        "val": take_part(listing, divided.val, is_first=False),
    }
    return parts | others, (describe_division(divided, division), *divided.remarks)
