import io
from collections import Counter
from pathlib import Path

import numpy as np
from rich.console import Console
from rich.table import Table
from runs import Command

from fastft.cli.tables import conversion_table
from fastft.datasets.inspect import Picked, class_table, pick_classes
from pipelines.conversion.report import Report


def text_of(table: Table) -> list[str]:
    console = Console(file=io.StringIO(), width=120)
    console.print(table)
    assert isinstance(console.file, io.StringIO)
    return [line.strip("│ ") for line in console.file.getvalue().splitlines() if "│" in line]


def test_few_classes_are_shown_many_sampled() -> None:
    counts = np.array([5, 1, 9, 2, 7, 2, 3, 1])
    assert pick_classes(counts, 8, 3, 2) == Picked(tuple(range(8)), (), 0)
    assert pick_classes(counts, 7, 3, 2) == Picked((0, 1, 2), (7, 3), 3)
    assert pick_classes(np.full(9, 4), 8, 3, 2) == Picked((0, 1, 2), (), 6)  # none is rare


def test_a_conversion_shows_classes_with_counts() -> None:
    few = Report("", Path("few.beton"), ("ants", "bees"), kept=Counter({0: 1234, 1: 5}))
    few.seconds = 1
    lines = text_of(conversion_table([few]))
    assert [line.split("│")[-1].strip() for line in lines[1:4]] == ["2", "ants: 1,234", "bees: 5"]
    names = tuple(f"c{label:02}" for label in range(30))
    many = Report("", Path("many.beton"), names, kept=Counter({k: 99 - k for k in range(30)}))
    many.seconds = 1
    lines = text_of(conversion_table([many]))
    assert [line.split("│")[-1].strip() for line in lines[1:12]] == [
        "30",
        "c00: 99",
        "c01: 98",
        "c02: 97",
        "c03: 96",
        "c04: 95",
        "rarest:",
        "c29: 70",
        "c28: 71",
        "c27: 72",
        "and 22 more",
    ]


def test_converting_shows_classes_of_each_split(
    photos: Path, tmp_path: Path, fastft: Command
) -> None:
    status, text, _ = fastft("convert", photos, tmp_path / "out")
    assert status == 0
    cells = [[cell.strip() for cell in line.split("│")[2:4]] for line in text.splitlines()]
    for name in ("cross", "disk", "ring"):
        assert [f"{name}: 11", f"{name}: 2"] in cells


def test_inspecting_66000_classes_shows_first_and_rarest() -> None:
    labels = np.repeat(np.arange(66_000), 3)
    labels = np.delete(labels, [3 * 40_000, 3 * 50_000, 3 * 50_000 + 1])
    table = class_table(tuple(f"n{k:05}" for k in range(66_000)), np.bincount(labels))
    rows = [[cell.strip() for cell in line.split("│")] for line in text_of(table)]
    assert len(rows) < 50
    assert rows[:2] == [["0", "n00000", "3"], ["1", "n00001", "3"]]
    assert rows[20:23] == [["rarest:"], ["50000", "n50000", "1"], ["40000", "n40000", "2"]]
    assert rows[-1] == ["and 65,960 more"]
