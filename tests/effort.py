"""How far the tests go that could go on for ever: briefly in every run, far under `./dev soak`."""

import os
from typing import TypeVar

T = TypeVar("T")

#: Hours that loaders are kept busy for; 0 in an ordinary run.
SOAK_H = float(os.environ.get("FASTFT_SOAK") or 0)


def choose(short: T, long: T) -> T:
    """One of two amounts: of an ordinary run, of `./dev soak`."""
    return long if SOAK_H else short
