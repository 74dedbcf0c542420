"""Random numbers by counter: the n-th draw of a sample, whatever was drawn before."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from pipelines.order import Ints, split_mix

Floats = NDArray[np.float64]


def make_key(seed: int, epoch: int, purpose: int) -> np.uint64:
    """The key of one (seed, epoch) for one purpose: always three parts, see `order`."""
    state = np.random.SeedSequence((seed, epoch, purpose)).generate_state(1, np.uint64)
    return np.uint64(state[0])


def uniform(key: np.uint64, samples: Ints, draw: int, of: int) -> Floats:
    """float64[B] in [0, 1): number `draw` of the `of` numbers that each sample has."""
    counter = samples.astype(np.uint64)
    counter *= np.uint64(of)
    counter += np.uint64(draw + 1)
    split_mix(counter, key)
    counter >>= np.uint64(11)
    return counter.astype(np.float64) * 2.0**-53
