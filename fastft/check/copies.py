"""Finds copies among photos: the same bytes, or prints that are close; and groups of them.

Photos whose hashes differ in few bits are found without comparing each with each: of 4 bands of 16
bits, one differs in a quarter of those at most, and what differs so little from a band is looked
up in a table. All pairs within the threshold are found so, in time that grows with the photos and
with how many of them share a band. Pairs that a group has joined already are not looked at again.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from itertools import combinations

import numpy as np
from numpy.typing import NDArray

from fastft.check.hashes import (
    BAND_BITS,
    BANDS,
    MIRRORED,
    MOST_DIFFERENCE,
    MOST_TINT,
    Prints,
    measure,
)

#: Pairs of which hashes, and of which thumbnails, are compared at once: some MB of
#: temporary arrays, which a cache holds.
_HASHES, _THUMBNAILS = 1 << 18, 1 << 12
_MASK = (1 << BAND_BITS) - 1

Ints = NDArray[np.int64]


@dataclass(frozen=True, slots=True)
class Link:
    """Two photos of a group, and why they are.

    Attributes:
        first, second: numbers of photos.
        is_exact: whether their bytes are the same.
        is_mirrored: whether one is the other's mirror image.
        bits: in which their hashes differ.
        difference: of their thumbnails, see `hashes.measure`.
    """

    first: int
    second: int
    is_exact: bool
    is_mirrored: bool
    bits: int
    difference: float


def find_copies(
    digests: NDArray[np.void],
    prints: Prints,
    usable: NDArray[np.bool_],
    threshold: int,
    on_progress: Callable[[int, int], None],
) -> list[Link]:
    """Links of which groups of copies are made: one fewer than a group has photos.

    Args:
        digests: V16[N], of their bytes.
        prints: of N photos.
        usable: bool[N], the photos that may be copies by their bytes and by their prints.
        threshold: bits in which the hashes of copies may differ.
        on_progress: called with lookups done, and in all.
    """
    forest = _Forest(len(digests))
    candidates = np.flatnonzero(usable)
    links = [Link(*pair, True, False, 0, 0.0) for pair in _same(digests, candidates)]
    if links:
        forest.join(*(np.array([getattr(x, end) for x in links]) for end in ("first", "second")))
    alone = candidates[forest.roots[candidates] == candidates]
    for one, other, bits, mirrored in _close(prints.hashes[alone], threshold, on_progress):
        links += _accepted(prints, forest, alone[one], alone[other], bits, mirrored)
    return links


def gather(links: list[Link]) -> list[tuple[Ints, list[Link]]]:
    """Groups of linked photos and their links, by their first photo."""
    ends = sorted({end for link in links for end in (link.first, link.second)})
    places = {end: at for at, end in enumerate(ends)}
    forest = _Forest(len(ends))
    forest.join(
        np.array([places[link.first] for link in links], np.int64),
        np.array([places[link.second] for link in links], np.int64),
    )
    members: dict[int, list[int]] = {}
    held: dict[int, list[Link]] = {}
    for end, root in zip(ends, forest.roots.tolist(), strict=True):
        members.setdefault(root, []).append(end)
    for link in links:
        held.setdefault(int(forest.roots[places[link.first]]), []).append(link)
    return [(np.array(members[root], np.int64), held[root]) for root in members]


class _Forest:
    """Groups of numbers; a group's root is its least.

    Attributes:
        roots: int64[N].
    """

    def __init__(self, count: int) -> None:
        self.roots = np.arange(count)

    def join(self, one: Ints, other: Ints) -> Ints:
        """Join the groups of pairs; gives the pairs that joined two, in the order given."""
        joined = [np.empty(0, np.int64)]
        left = np.arange(len(one))
        while len(left):
            ends = np.sort(np.stack((self.roots[one[left]], self.roots[other[left]])), 0)
            apart = ends[0] != ends[1]
            left, ends = left[apart], ends[:, apart]
            # A root goes to one other in each round, and no root that takes one goes anywhere.
            _, at = np.unique(ends[1], return_index=True)
            parents = np.arange(len(self.roots))
            parents[ends[1, at]] = ends[0, at]
            while not np.array_equal(parents, further := parents[parents]):
                parents = further
            self.roots = parents[self.roots]
            joined.append(left[at])
        return np.sort(np.concatenate(joined))


def _same(digests: NDArray[np.void], candidates: Ints) -> Iterator[tuple[int, int]]:
    """Each photo that has the bytes of an earlier one, and the first of these."""
    order = candidates[np.argsort(digests[candidates], kind="stable")]
    is_same = digests[order[1:]] == digests[order[:-1]]
    first = -1
    pairs = []
    for before, number, same in zip(order[:-1], order[1:], is_same, strict=True):
        first = (first if first >= 0 else int(before)) if same else -1
        if same:
            pairs.append((first, int(number)))
    yield from sorted(pairs)


def _close(
    hashes: NDArray[np.uint64], threshold: int, on_progress: Callable[[int, int], None]
) -> Iterator[tuple[Ints, Ints, Ints, bool]]:
    """Pairs of hashes that differ in few bits, each at least once, smaller differences first."""
    within = threshold // BANDS
    masks = [
        sum(1 << bit for bit in bits)
        for count in range(within + 1)
        for bits in combinations(range(BAND_BITS), count)
    ]
    tables = [_Table(hashes, band) for band in range(BANDS)]
    total, done = 2 * len(masks) * BANDS, 0
    for mirrored, turned in ((False, np.uint64(0)), (True, MIRRORED)):
        for mask in masks:
            for table in tables:
                for one, other, bits in table.near(mask, turned, threshold):
                    yield one, other, bits, mirrored
                done += 1
                on_progress(done, total)


class _Table:
    """Hashes by the number that one of their bands is."""

    def __init__(self, hashes: NDArray[np.uint64], band: int) -> None:
        self._shift = BAND_BITS * band
        keys = (hashes >> np.uint64(self._shift) & np.uint64(_MASK)).astype(np.int64)
        self._order = np.argsort(keys, kind="stable")
        # In the order of their keys: what is compared with each other lies together.
        self._keys, self._hashes = keys[self._order], hashes[self._order]
        self._starts = np.concatenate(([0], np.cumsum(np.bincount(keys, minlength=_MASK + 1))))

    def near(
        self, mask: int, turned: np.uint64, threshold: int
    ) -> Iterator[tuple[Ints, Ints, Ints]]:
        """Pairs whose bands differ by `mask` and whose hashes differ in few bits.

        Args:
            mask: bits of the band.
            turned: by what one hash of a pair is changed before they are compared.
            threshold: bits in which they may differ then.

        Yields:
            Places of the pairs' hashes, each pair once, and the bits in which they differ.
        """
        for one, other in self._pairs(mask ^ int(turned) >> self._shift & _MASK):
            bits = np.bitwise_count(self._hashes[one] ^ self._hashes[other] ^ turned)
            near = np.flatnonzero(bits <= threshold)
            if len(near):
                places = self._order[one[near]], self._order[other[near]]
                yield *places, bits[near].astype(np.int64)

    def _pairs(self, mask: int) -> Iterator[tuple[NDArray[np.int32], NDArray[np.int32]]]:
        """Pairs of places in this table whose keys differ by `mask`, so many at once."""
        others = self._keys ^ mask
        first, stop = self._starts[others], self._starts[others + 1]
        if mask:
            stop = np.where(self._keys < others, stop, first)
        else:
            first = np.arange(1, len(first) + 1)
        counts = stop - first
        held = np.flatnonzero(counts)
        first, counts = first[held], counts[held]
        ends = np.cumsum(counts)
        at = 0
        while at < len(held):
            before = int(ends[at - 1]) if at else 0
            until = max(at + 1, int(np.searchsorted(ends, before + _HASHES, "right")))
            some = counts[at:until]
            one = np.repeat(held[at:until].astype(np.int32), some)
            start = first[at:until] - (ends[at:until] - some - before)
            other = np.repeat(start.astype(np.int32), some)
            other += np.arange(len(other), dtype=np.int32)
            yield one, other
            at = until


def _accepted(
    prints: Prints, forest: _Forest, one: Ints, other: Ints, bits: Ints, mirrored: bool
) -> Iterator[Link]:
    """Links of those pairs whose thumbnails are close, and which join two groups."""
    for at in range(0, len(one), _THUMBNAILS):
        part = slice(at, at + _THUMBNAILS)
        first, second = np.minimum(one[part], other[part]), np.maximum(one[part], other[part])
        apart = np.flatnonzero(forest.roots[first] != forest.roots[second])
        if not len(apart):
            continue
        first, second, some = first[apart], second[apart], bits[part][apart]
        difference, tint = measure(prints, first, second, mirrored=mirrored)
        close = np.flatnonzero((difference <= MOST_DIFFERENCE) & (tint <= MOST_TINT))
        close = close[np.lexsort((second[close], first[close], difference[close]))]
        for row in close[forest.join(first[close], second[close])].tolist():
            apart_by = round(max(0.0, float(difference[row])), 4)
            ends = int(first[row]), int(second[row])
            yield Link(*ends, False, mirrored, int(some[row]), apart_by)
