"""How far the tests go that could go on for ever: briefly in every run, far under `./dev soak`."""

import os
from collections.abc import Callable
from typing import TypeVar

import pytest

T = TypeVar("T")

#: Hours that loaders are kept busy for; 0 in an ordinary run.
SOAK_H = float(os.environ.get("FASTFT_SOAK") or 0)


def choose(short: T, long: T) -> T:
    """One of two forms: of an ordinary run, of `./dev soak`."""
    return long if SOAK_H else short


def scale(short: int, long: int) -> int:
    """How many: in an ordinary run, in an hour of `./dev soak`; between them in less of it."""
    return round(short + (long - short) * min(1.0, SOAK_H))


def pytest_itemcollected(item: pytest.Item) -> None:
    asked = getattr(item, "fixturenames", ())
    if "tried" in asked:
        item.add_marker("soak")
    if "triton_kernels" in asked:
        item.add_marker("kernel")


@pytest.fixture
def tried(record_property: Callable[[str, object], None]) -> Callable[..., None]:
    """Counts what a test has put to the proof, for the table of `soak.py`.

    Called with what it is, as the table shall name it, and how many of them: `tried("convert killed
    by kill -9", 20)`. Tests of one name add up; those that ask for this are what `./dev soak` runs.
    """

    def count(what: str, number: int = 1) -> None:
        record_property("tried", [what, number])

    return count
