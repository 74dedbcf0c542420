"""How far the tests go that could go on for ever: briefly in every run, far under `./dev soak`."""

import os
from typing import TypeVar

T = TypeVar("T")

#: Hours that loaders are kept busy for; 0 in an ordinary run.
SOAK_H = float(os.environ.get("FASTFT_SOAK") or 0)


def choose(short: T, long: T) -> T:
    """One of two forms: of an ordinary run, of `./dev soak`."""
    return long if SOAK_H else short


def scale(short: int, long: int) -> int:
    """How many: in an ordinary run, in an hour of `./dev soak`; between them in less of it."""
    return round(short + (long - short) * min(1.0, SOAK_H))
