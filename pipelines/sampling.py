"""Imbalance: how often an epoch shows each sample, and the draws that make it so.

A sampler gives samples frequencies. An epoch keeps its length, N draws for N samples, and each
sample comes as often as its frequency says, rounded down or up by chance: systematic sampling,
which varies far less than draws with replacement. Each class, too, comes as often as it should,
within one.

Where a sample comes several times in an epoch, each of its visits has a number of its own, `sample`
for one of them and N more for each further one, by which its crops, flips and operations are drawn:
so no two visits look alike, and one of them looks as it would without a sampler.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Literal, get_args

import numpy as np
from numpy.typing import NDArray

from pipelines.errors import DataError, UsageError
from pipelines.order import Floats, Ints

#: `shuffle`: each sample once. `balanced`: each class as often as every other. `sqrt`: between the
#: two, a class as often as the square root of its size says. `weights`: as the data set's weights
#: say.
Sampler = Literal["shuffle", "balanced", "sqrt", "weights"]
SAMPLERS: tuple[Sampler, ...] = get_args(Sampler)
#: The purpose of some numbers of one (seed, epoch); part of the seed: never renumber. 1 to 6 are
#: orders, boxes, operations, mixes and a caller's own transforms.
_VISITS = 7
#: The largest share of an epoch that one sample may be given by weights: beyond it they are more
#: likely a mistake than meant. Balanced classes never come to more.
_MOST_SHARE = 0.5


@dataclass(frozen=True, slots=True)
class Frequencies:
    """The mean number of visits that samples have in an epoch.

    Attributes:
        expected: float64[N], above 0; they add up to N.
        strata: unsigned[N]: together, samples of the same number come as often as they should,
            within one. The class, where there is one.
    """

    expected: Floats
    strata: NDArray[np.unsignedinteger]

    def __len__(self) -> int:
        return len(self.expected)

    def draw(self, *, seed: int, epoch: int) -> Ints:
        """int64[N]: the visits of an epoch, in the order in which they come; see `find_samples`.

        Source: systematic sampling with a random start of a list in random order; Madow, "On the
        theory of systematic sampling, II", Annals of Mathematical Statistics 20, 1949.
        """
        count = len(self)
        bits = np.random.Philox(np.random.SeedSequence((seed, epoch, _VISITS)))
        random = np.random.Generator(bits)
        samples = np.arange(count, dtype=np.int64)
        random.shuffle(samples)
        samples = samples[np.argsort(self.strata[samples], kind="stable")]
        ends = np.cumsum(self.expected[samples])
        ends[-1:] = count  # which sums of fractions miss by their last digits
        # A sample has the points start + k, for whole k, that lie between its end and the last's.
        reached = np.ceil(ends - random.random()).astype(np.int64).clip(0, count)
        times = np.diff(reached, prepend=0)
        visits = np.repeat(samples, times)
        turns = np.arange(count, dtype=np.int64) - np.repeat(reached - times, times)
        visits += turns * count
        random.shuffle(visits)
        return visits


def find_samples(visits: Ints, count: int) -> Ints:
    """int64[B]: the samples, of `count`, that are visited."""
    return visits % count


def find_frequencies(
    sampler: Sampler,
    labels: Ints,
    *,
    task: str = "classes",
    targets: NDArray[np.float32] | None = None,
    weights: NDArray[np.float32] | None = None,
    where: str | Path = "the data",
) -> Frequencies | None:
    """The frequencies that a sampler gives samples.

    Of several labels a sample is worth what the rarest of its labels is; to have none counts as a
    label, too.

    Args:
        sampler: one of SAMPLERS.
        labels: int64[N] classes.
        task, targets, weights: see `formats.columns`.
        where: the data's name in errors.

    Returns:
        None where all samples come alike: an epoch is the same as without a sampler.

    Raises:
        UsageError: no such sampler, or one that needs classes or weights which are not there.
        DataError: a weight that is no positive number, or that leaves too little for others.
    """
    require_sampler(sampler)
    if sampler == "shuffle":
        return None
    groups, sizes = _group(labels, task, targets)
    if sampler == "weights":
        if weights is None:
            raise UsageError(
                f"sampler {sampler!r}",
                f"{where} has no weights",
                "a column of weights",
                "convert a table that has one, or take sampler 'balanced'",
            )
        worth = _checked(weights, where)
    elif task == "number":
        found = f"{where} holds a number for each image"
        raise UsageError(f"sampler {sampler!r}", found, "classes or labels", "take 'weights'")
    else:
        worth = 1.0 / sizes[groups]
        if sampler == "sqrt":
            worth = np.sqrt(worth)
    if not len(worth) or worth.min() == worth.max():
        return None
    expected = worth * (len(worth) / worth.sum())
    if sampler == "weights" and expected.max() > _MOST_SHARE * len(worth):
        share = expected.max() / len(worth)
        found = f"gives sample {int(expected.argmax())} {share:.0%} of all weight"
        raise DataError(where, found, "at most half for one sample", "give it a smaller weight")
    return Frequencies(expected, groups)


def require_sampler(sampler: object) -> None:
    """Refuse what is no sampler, such as torch's own.

    Raises:
        UsageError: it is none.
    """
    if not isinstance(sampler, str) or sampler not in SAMPLERS:
        found = repr(sampler) if isinstance(sampler, str) else f"a {type(sampler).__name__}"
        raise UsageError("sampler", found, f"one of {', '.join(SAMPLERS)}")


def _group(
    labels: Ints, task: str, targets: NDArray[np.float32] | None
) -> tuple[NDArray[np.unsignedinteger], Ints]:
    """Each sample's group, and each group's size: its class, or the rarest of its labels."""
    if task == "labels" and targets is not None:
        has = targets > 0
        sizes = np.append(has.sum(axis=0), (~has.any(axis=1)).sum()).astype(np.int64)
        # Behind the labels one more, of samples without any.
        rarest_first = np.argsort(sizes[:-1], kind="stable")
        first = rarest_first[has[:, rarest_first].argmax(axis=1)]
        groups = np.where(has.any(axis=1), first, len(sizes) - 1)
    elif task == "classes":
        groups, sizes = labels, np.bincount(labels).astype(np.int64)
    else:
        groups, sizes = np.zeros(len(labels), np.int64), np.array([len(labels)])
    # Short numbers, which NumPy sorts by radix.
    return groups.astype(np.min_scalar_type(len(sizes))), sizes


def _checked(weights: NDArray[np.float32], where: str | Path) -> Floats:
    """Weights as float64."""
    worth = weights.astype(np.float64)
    odd = np.flatnonzero(~(np.isfinite(worth) & (worth > 0)))
    if odd.size:
        found = f"gives sample {odd[0]} the weight {worth[odd[0]]:g}"
        raise DataError(where, found, "positive numbers", "mend the column of weights")
    return worth
