"""How far the tests go that could go on for ever: briefly in every run, far under `./dev soak`."""

import os
from collections.abc import Callable
from typing import Any, TypeVar

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


def rest(*cases: Any) -> list[Any]:
    """Cases of a parametrized test that `./dev soak` adds; others stand for them in ordinary runs.

    A tuple holds the values of several parameters.
    """
    if not SOAK_H:
        return []
    each = [case if isinstance(case, tuple) else (case,) for case in cases]
    return [pytest.param(*values, marks=pytest.mark.soak) for values in each]


def long(test: T) -> T:
    """A test that `./dev soak` runs, and no other: shorter ones stand for it in ordinary runs."""
    return pytest.mark.soak(pytest.mark.long(test))


def leave_out_long(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Deselect what only `./dev soak` runs, in any other run."""
    if SOAK_H:
        return
    left_out = [item for item in items if item.get_closest_marker("long")]
    if left_out:
        config.hook.pytest_deselected(items=left_out)
        items[:] = [item for item in items if not item.get_closest_marker("long")]


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
