"""Lines on how many images classes have, which are rare, and what samplers make of them."""

from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from fastft.datasets.imbalance import advise, count_images, describe_classes, describe_imbalance
from pipelines.formats.columns import NONE, Columns
from pipelines.sampling import find_frequencies


def source_of(*sizes: int, columns: Columns = NONE, names: Any = None) -> Any:
    """A source of so many images of each class."""
    return SimpleNamespace(
        labels=np.repeat(np.arange(len(sizes)), sizes),
        classes=tuple(names or (f"c{at}" for at in range(len(sizes)))),
        columns=columns,
    )


def loader_of(source: Any, sampler: Any, weights: Any = None) -> Any:
    columns = source.columns
    found = find_frequencies(
        sampler, source.labels, task=columns.task, targets=columns.targets, weights=weights
    )
    return SimpleNamespace(source=source, sampling=sampler, frequencies=found)


@pytest.mark.parametrize(
    ("sizes", "line"),
    [
        ((100, 100), "100 images of each class"),
        ((1000, 12), "images of each class: c0 1,000, c1 12"),
        (range(5, 11), "images of each class: from 5 (c0) to 10 (c5), 8 in the median"),
        ((7,), ""),
    ],
)
def test_classes_are_counted_in_a_line(sizes: Any, line: str) -> None:
    assert describe_classes(source_of(*sizes)) == line


@pytest.mark.parametrize(
    ("sizes", "named"),
    [
        ((1000, 100), ""),
        ((1000, 99), "rare class: c1 (99), beside c0 (1,000);"),
        ((30, 19), ""),  # fewer than 20, but not few beside the others
        ((41, 20), ""),
        ((40, 19), "rare class: c1 (19), beside c0 (40);"),
        ((11, 4, 11), "rare class: c1 (4), beside c0 (11);"),
        ((9, 8, 5), ""),
        ((900, 7, 5, 0), "rare classes: c2 (5), c1 (7), beside c0 (900);"),
        ((900, 4, 3, 2, 1, 1), "rare classes: c4 (1), c5 (1), c3 (2) and 2 more, beside c0 (900);"),
        ((5,), ""),
    ],
)
def test_rare_classes_are_named(sizes: Any, named: str) -> None:
    line = advise(source_of(*sizes))
    assert line.startswith(named)
    assert bool(line) == bool(named)
    if named:
        assert "--sampler balanced" in line
        assert "--class-weight balanced" in line


def test_names_stay_in_one_line() -> None:
    loader = loader_of(source_of(90, 2, names=("a\nb", "\x1b[31mred")), "balanced")
    for line in (*describe_imbalance(loader, ""), advise(loader.source)):
        assert line.isprintable()


def test_labels_are_counted_and_numbers_are_not() -> None:
    targets = np.zeros((50, 3), np.float32)
    targets[:, 0], targets[:25, 1], targets[0, 2] = 1, 1, 1
    source = source_of(50, columns=Columns(task="labels", targets=targets), names="abc")
    assert count_images(source).tolist() == [50, 25, 1]
    assert describe_classes(source) == "images of each label: a 50, b 25, c 1"
    assert advise(source).startswith("rare label: c (1), beside a (50);")
    balanced = loader_of(source, "balanced")
    said = describe_imbalance(balanced, "")[-1]
    assert said == "sampler balanced: an epoch is 50 draws; an image comes 0.41 to 20 times"
    number = Columns(task="number", targets=np.ones((3, 1), np.float32))
    source = source_of(3, columns=number)
    assert describe_classes(source) == advise(source) == ""


def test_samplers_are_told() -> None:
    source = source_of(90, 10)
    assert describe_imbalance(loader_of(source, "shuffle"), "balanced") == [
        "images of each class: c0 90, c1 10"
    ]
    assert describe_imbalance(loader_of(source, "shuffle"), "")[1:] == [advise(source)]
    [_, line] = describe_imbalance(loader_of(source, "balanced"), "")
    assert line == (
        "sampler balanced: an epoch is 100 draws; an image of c1 comes 5 times, one of c0 0.56 "
        "times"
    )
    [_, _, both] = describe_imbalance(loader_of(source, "sqrt"), "c1=3")
    assert both.startswith("--class-weight c1=3 counts beside --sampler sqrt")
    [_, line] = describe_imbalance(loader_of(source_of(9, 9), "balanced"), "")
    assert line == "sampler balanced: all images come alike, as without it"
    weights = np.linspace(1, 3, 100).astype(np.float32)
    [_, line] = describe_imbalance(loader_of(source, "weights", weights), "")
    assert line == "sampler weights: an epoch is 100 draws; an image comes 0.5 to 1.5 times"
