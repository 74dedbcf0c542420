"""In which order an epoch visits its samples: a whole array, or computed where it is asked for.

A shuffle takes the memory and time of the whole set, however little one rank reads of it: for 100
million samples 800 MB and seconds of a core, in each of a thousand processes that need 98 thousand
samples. So beyond `WHOLE_LIMIT` an order is a function of the position: nothing is held, the first
batch is there at once, and ranks agree without speaking to each other.

Two orders are random, and they differ: a set that grows past the limit comes in another order.

- Up to the limit, Philox over SeedSequence((seed, epoch, purpose)) shuffles an array. Three parts
  always: NumPy's SeedSequence ignores trailing zeros, so (seed, epoch) alone would collide with
  (seed,) for epoch 0.
- Beyond it, `KeyedOrder` is a bijection of 0..N-1 whose keys come from another such sequence.

Here too is the SplitMix64 stream, of which this bijection and all draws by sample take numbers.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, cast

import numpy as np
from numpy.typing import NDArray

Ints = NDArray[np.int64]
Words = NDArray[np.uint64]
Floats = NDArray[np.float64]

#: Samples up to which an order is an array. Numbers below it may not change: whoever resumes a run
#: must find its order. 2**24 are 134 MB and 1.0 s of one core (2.6 GHz Xeon) in every process,
#: under what a process that imported torch takes; 100 M were 800 MB and 6.9 s. No set of the
#: ImageNet-1k kind, for which the shuffle was there first, comes near it.
WHOLE_LIMIT = 1 << 24
#: What the numbers of one (seed, epoch) are for; part of the seed, so never renumber. 2 are boxes.
_SHUFFLED, _KEYED = 1, 3
#: Rounds of the Feistel network, and bits that it permutes at least. In 400,000 orders of 3 to 64
#: samples positions, pairs and triples were biased by 4 to 6 rounds and by 8 no more (chi-square);
#: with halves of 1 or 2 bits by 12 still. Beyond the limit there are 25 bits or more.
_ROUNDS, _MIN_BITS = 8, 6
#: Samples are computed in blocks of this many, so that temporaries stay in the cache: boxes of
#: 1.28 M samples took 0.55 s whole, 0.25 s in blocks of 16 k (2.6 GHz Xeon, one core).
BLOCK = 1 << 14
#: SplitMix64's increment and multipliers. Source: Steele, Lea, Flood, "Fast splittable
#: pseudorandom number generators", OOPSLA 2014; constants of Vigna's public-domain splitmix64.c.
_GAMMA, _MIX_1, _MIX_2 = 0x9E3779B97F4A7C15, 0xBF58476D1CE4E5B9, 0x94D049BB133111EB


def make_order(count: int, *, seed: int, epoch: int, shuffled: bool) -> Ints:
    """The samples 0..count-1, each once: by chance, or as they are filed.

    Returns:
        int64[count], or what stands in for it: numpy's types know no name for "indexed like an
        array", and a protocol of our own could not be handed on to what takes arrays. A
        `ComputedOrder` has an array's len, iteration, indices, slices (which are arrays) and
        `np.asarray`. It is no array in anything else.
    """
    if count > WHOLE_LIMIT:
        return cast(Ints, KeyedOrder(count, seed, epoch) if shuffled else FiledOrder(count))
    order = np.arange(count, dtype=np.int64)
    if shuffled:
        bits = np.random.Philox(np.random.SeedSequence((seed, epoch, _SHUFFLED)))
        np.random.Generator(bits).shuffle(order)
    return order


def make_key(seed: int, epoch: int, purpose: int) -> np.uint64:
    """The key of a stream of numbers of one (seed, epoch), for one purpose."""
    state = np.random.SeedSequence((seed, epoch, purpose)).generate_state(1, np.uint64)
    return np.uint64(state[0])


def uniform(key: np.uint64, samples: Ints, draw: int, of: int) -> Floats:
    """float64[B] in [0, 1): number `draw` of the `of` numbers that each sample has of a stream."""
    counter = samples.astype(np.uint64)
    counter *= np.uint64(of)
    counter += np.uint64(draw + 1)
    split_mix(counter, key)
    counter >>= np.uint64(11)
    return counter.astype(np.float64) * 2.0**-53


def share_of(begin: int, size: int, rank: int, world: int) -> Ints:
    """int64[share]: the positions that one of `world` ranks takes of a batch.

    They are those of `np.array_split`, which would make the others' as well.
    """
    share, more = divmod(size, world)
    first = begin + rank * share + min(rank, more)
    return np.arange(first, first + share + (rank < more), dtype=np.int64)


def shares_of(
    order: Ints,
    batch_size: int,
    rank: int,
    world: int,
    start: int,
    drop_last: bool,
    partners: bool,
) -> Iterator[Ints]:
    """One rank's part of an order, a batch at a time; see `plan.Plan.shares`."""
    count = len(order)
    end = count - (count - start) % batch_size if drop_last else count
    # Small shares, computed many at a time, cost little more than a large one.
    group = max(1, BLOCK // -(-batch_size // world)) * batch_size
    for first in range(start, end, group):
        batches = range(first, min(first + group, end), batch_size)
        sizes = [min(batch_size, end - at) for at in batches]
        places = [share_of(at, n, rank, world) for at, n in zip(batches, sizes, strict=True)]
        if partners:
            places = [
                np.append((own[:1] - at - 1) % n + at, own)
                for own, at, n in zip(places, batches, sizes, strict=True)
            ]
        taken = order[np.concatenate(places)]
        yield from np.split(taken, np.cumsum([len(each) for each in places[:-1]]))


@dataclass(frozen=True, slots=True)
class ComputedOrder(ABC):
    """An order over `count` samples that is computed where it is asked for.

    It holds next to nothing, whoever copies or pickles it. Indexing is numpy's for one axis, by
    number, slice or array of numbers, and gives int64 of the same shape, always a fresh array.

    Attributes:
        count: N, at most 2**62.
    """

    count: int

    @abstractmethod
    def _compute(self, positions: Ints) -> Ints:
        """int64[B] samples at int64[B] positions, each in 0..count-1; B is at most BLOCK."""

    def __len__(self) -> int:
        return self.count

    def __getitem__(self, at: Any) -> Any:
        if isinstance(at, slice):
            span = range(*at.indices(self.count))
            samples = np.empty(len(span), np.int64)
            for start in range(0, len(span), BLOCK):
                part = span[start : start + BLOCK]
                positions = np.arange(part.start, part.stop, part.step, dtype=np.int64)
                samples[start : start + BLOCK] = self._compute(positions)
            return samples
        found = np.asarray(at)
        if not np.issubdtype(found.dtype, np.integer):
            raise IndexError(f"an order is indexed by whole numbers, not by {found.dtype}")
        if found.size and not -self.count <= found.min() <= found.max() < self.count:
            raise IndexError(f"{found.min()} to {found.max()} in an order of {self.count}")
        flat = found.astype(np.int64).reshape(-1)
        flat[flat < 0] += self.count
        for start in range(0, len(flat), BLOCK):
            flat[start : start + BLOCK] = self._compute(flat[start : start + BLOCK])
        return flat.reshape(found.shape) if found.ndim else flat[0]

    def __iter__(self) -> Iterator[np.int64]:
        for start in range(0, self.count, BLOCK):
            yield from self[start : start + BLOCK]

    def __array__(self, dtype: Any = None, copy: bool | None = None) -> NDArray[Any]:
        if copy is False:
            raise ValueError("an order that is computed cannot be had without making an array")
        samples: Ints = self[:]
        return samples if dtype is None else samples.astype(dtype, copy=False)


@dataclass(frozen=True, slots=True)
class FiledOrder(ComputedOrder):
    """Samples as they are filed: 0, 1, 2 and so on."""

    def _compute(self, positions: Ints) -> Ints:
        return positions


@dataclass(frozen=True, slots=True)
class KeyedOrder(ComputedOrder):
    """Samples by chance: a keyed bijection of 0..count-1.

    A Feistel network permutes the numbers of as many bits as `count` needs; its two halves may
    differ by a bit, for each in turn is changed by a function of the other and none is swapped.
    What comes out at `count` or above goes in again: such a walk along a cycle of the permutation
    ends, at the latest where it began, and no two walks end alike. Of a large set under half walk.

    Source: Black, Rogaway, "Ciphers with arbitrary finite domains", CT-RSA 2002, for the walk and
    the network; its round functions here are SplitMix64 streams, which makes an order that looks
    random to statistics, not to somebody who would break it.

    Attributes:
        count: N.
        seed, epoch: not negative; what the order is a function of.
    """

    seed: int
    epoch: int

    def _compute(self, positions: Ints) -> Ints:
        sequence = np.random.SeedSequence((self.seed, self.epoch, _KEYED))
        keys = sequence.generate_state(_ROUNDS, np.uint64).astype(np.uint64)
        samples = self._permute(positions.astype(np.uint64), keys)
        walking = np.flatnonzero(samples >= self.count)
        while walking.size:
            further = self._permute(samples[walking], keys)
            samples[walking] = further
            walking = walking[further >= self.count]
        return samples.view(np.int64)

    def _permute(self, numbers: Words, keys: Words) -> Words:
        """One pass through the network, over all numbers of as many bits as the count needs."""
        bits = max((self.count - 1).bit_length(), _MIN_BITS)
        low_bits, high_bits = np.uint64(bits // 2), np.uint64(bits - bits // 2)
        high = numbers >> low_bits
        low = numbers & np.uint64((1 << int(low_bits)) - 1)
        for at in range(0, len(keys), 2):
            # The upper bits of SplitMix64's numbers are the better mixed ones.
            low ^= split_mix(high.copy(), keys[at]) >> (np.uint64(64) - low_bits)
            high ^= split_mix(low.copy(), keys[at + 1]) >> (np.uint64(64) - high_bits)
        high <<= low_bits
        high |= low
        return high


def split_mix(numbers: Words, key: np.uint64) -> Words:
    """Those numbers, by position, of the SplitMix64 stream that begins at `key`; in place.

    Args:
        numbers: uint64[B], the positions in the stream; overwritten.
        key: where the stream begins.

    Returns:
        `numbers`.
    """
    numbers *= np.uint64(_GAMMA)
    numbers += key
    for shift, multiplier in ((30, _MIX_1), (27, _MIX_2)):
        numbers ^= numbers >> np.uint64(shift)
        numbers *= np.uint64(multiplier)
    numbers ^= numbers >> np.uint64(31)
    return numbers
