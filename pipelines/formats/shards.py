"""A conversion split over jobs: which job takes which images, and what its files say of that.

Every job lists all images and cuts the list alike, so that no job need know of another. The cut
depends on nothing but the images' sizes, which the listing's hash covers: shards of one hash are
parts of one cut, whatever machines made them. A shard is a `.beton` like any other; what merging
must know stands in it (`layout`: behind the class names), so nothing can go astray.
"""

from __future__ import annotations

import hashlib
import os
import re
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from pipelines.errors import UsageError

_ASKED = re.compile("([1-9][0-9]{0,8})/([1-9][0-9]{0,8})")
_NAMED = re.compile(r"(.+)\.([1-9][0-9]{0,8})-of-([1-9][0-9]{0,8})\.beton", re.DOTALL)
#: What a file's 64-bit numbers can count.
_MOST_SAMPLES = 2**63 - 1


@dataclass(frozen=True, slots=True)
class Quarantined:
    """An image that was left out or is doubtful, and why."""

    name: str
    reason: str


@dataclass(frozen=True, kw_only=True, slots=True)
class Shard:
    """The part of a conversion that a file is.

    Attributes:
        index: which of the shards, from 1.
        of: how many there are.
        split: the split that this is a part of; '' if there are none.
        splits: all splits of the conversion.
        start, stop: the samples of the split's listing that it stands for.
        samples: how many the split's listing has.
        listing: hash of all splits' names and sizes.
        policy: how images are stored, by option.
        quarantined: those of its samples that it leaves out.
    """

    index: int
    of: int
    split: str
    splits: tuple[str, ...]
    start: int
    stop: int
    samples: int
    listing: str
    policy: dict[str, Any]
    quarantined: tuple[Quarantined, ...] = ()

    @property
    def part(self) -> range:
        """The samples of the split's listing that it stands for."""
        return range(self.start, self.stop)

    def to_json(self) -> dict[str, Any]:
        """As the file holds it; see `read_shard`."""
        return asdict(self)


def read_shard(values: Any) -> Shard:
    """A shard's own words, checked for type and range.

    Raises:
        TypeError, ValueError: they are not those of `Shard.to_json`.
    """
    bad = tuple(Quarantined(**row) for row in values["quarantined"])
    shard = Shard(**{**values, "splits": tuple(values["splits"]), "quarantined": bad})
    texts = [shard.split, shard.listing, *shard.splits]
    texts += [text for row in bad for text in (row.name, row.reason)]
    numbers = (shard.index, shard.of, shard.start, shard.stop, shard.samples)
    if not (
        all(type(number) is int for number in numbers)
        and all(isinstance(text, str) for text in texts)
        and isinstance(shard.policy, dict)
        and 1 <= shard.index <= shard.of
        and 0 <= shard.start < shard.stop <= shard.samples <= _MOST_SAMPLES
        and shard.split in shard.splits
    ):
        raise ValueError("values out of range")
    return shard


def parse_shard(text: str) -> tuple[int, int] | None:
    """The shard that `--shard` asks for, and of how many; None if it is empty.

    Raises:
        UsageError: it is not i/n with i from 1 to n.
    """
    if not text:
        return None
    asked = _ASKED.fullmatch(text)
    if asked is None or int(asked[1]) > int(asked[2]):
        raise UsageError("--shard", repr(text), "i/n with i from 1 to n, such as 2/8")
    return int(asked[1]), int(asked[2])


def cut_listings(
    index: int,
    of: int,
    names: Mapping[str, tuple[str, ...]],
    sizes: Mapping[str, NDArray[np.int64]],
    labels: Mapping[str, bytes],
    policy: Mapping[str, Any],
) -> dict[str, Shard]:
    """The part of each split that shard `index` of `of` is.

    Args:
        index, of: as asked for.
        names: split -> its samples' names, in order.
        sizes: split -> int64[N], its samples' sizes, bytes.
        labels: split -> a hash of what is known of them beside their names; empty: nothing is.
        policy: how images are stored.

    Raises:
        UsageError: a split has fewer images than there are shards.
    """
    digest = hashlib.sha256()
    for split in names:
        if of > len(names[split]):
            found = f"{of:,} shards for the {len(names[split]):,} images"
            raise UsageError(
                "--shard",
                f"{found} of {split}" if split else found,
                f"at most {len(names[split]):,}",
                "take fewer shards",
            )
        # A name may hold anything but NUL. Lone surrogates stand for bytes that are no UTF-8.
        text = "\0".join((split, str(len(names[split])), *names[split], ""))
        digest.update(text.encode("utf-8", "surrogatepass"))
        digest.update(sizes[split].astype("<i8").tobytes() + labels[split])
    shards = {}
    for split in names:
        starts = cut(sizes[split], of)
        shards[split] = Shard(
            index=index,
            of=of,
            split=split,
            splits=tuple(names),
            start=int(starts[index - 1]),
            stop=int(starts[index]),
            samples=len(names[split]),
            listing=digest.hexdigest(),
            policy=dict(policy),
        )
    return shards


def cut(sizes: NDArray[np.int64], of: int) -> NDArray[np.int64]:
    """Cut samples into `of` runs of about equally many bytes, each of at least one sample.

    Args:
        sizes: int64[N], bytes; N >= of.
        of: how many runs.

    Returns:
        int64[of + 1]: run i is from the i-th to the next.
    """
    ends = np.concatenate((np.zeros(1, np.int64), np.cumsum(sizes)))
    # In Python's integers, as a total times a count can pass 64 bits.
    goals = [int(ends[-1]) * i // of for i in range(of + 1)]
    starts = np.searchsorted(ends, np.array(goals, np.int64)).astype(np.int64)
    starts[-1] = len(sizes)
    # One sample at least for every run before a start, and one for every run from it on.
    steps = np.arange(of + 1)
    starts = np.maximum.accumulate(starts - steps) + steps
    return np.minimum(starts, len(sizes) - steps[::-1])


def shard_path(out: Path, index: int, of: int) -> Path:
    """The path of shard `index` of `of` of the file `out`: `train.2-of-8.beton`."""
    return out.with_name(f"{out.stem}.{index}-of-{of}.beton")


def shard_number(path: Path) -> tuple[int, int] | None:
    """The shard that a file is by its name, and of how many; None if it is none."""
    named = _NAMED.fullmatch(path.name)
    return (int(named[2]), int(named[3])) if named else None


def find_shards(folder: Path) -> dict[str, dict[int, dict[int, Path]]]:
    """The shards in a folder: name without the number -> how many -> number -> path.

    Raises:
        OSError: the folder cannot be listed; one that does not exist holds none.
    """
    found: dict[str, dict[int, dict[int, Path]]] = {}
    if folder.is_dir():
        for name in sorted(os.listdir(folder)):
            named = _NAMED.fullmatch(name)
            if named and not name.startswith("."):
                sets = found.setdefault(named[1], {})
                sets.setdefault(int(named[3]), {})[int(named[2])] = folder / name
    return found
