"""The contact sheets of `fastft check`: pairs of copies side by side, and odd images."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from fastft.check.copies import Link
from fastft.check.look import open_to_show
from fastft.check.odd import label_of
from fastft.check.parts import Parts
from fastft.check.result import KINDS, Check, Pair
from fastft.check.scan import Scan
from fastft.check.section import describe_pair
from fastft.config.check import CheckConfig
from fastft.datasets.contact_sheet import draw_sheet
from fastft.datasets.show import Band, Cell, Sheet, fit

SHEETS = ("leaks.png", "duplicates.png", "odd.png")
#: Images fit into a square of this side, px; pairs and images in a row.
_SIDE_PX, _PAIRS, _COLUMNS = 150, 3, 6

Groups = Sequence[tuple[NDArray[np.int64], list[Link]]]


def write_sheets(
    check: Check, groups: Groups, odd: Sequence[int], parts: Parts, found: Scan, config: CheckConfig
) -> list[str]:
    """Draw those sheets for which something was found; gives their names.

    Args:
        check: what was found.
        groups: of copies, by number, as in `check`.
        odd: number of each odd image, as in `check`.
        parts: the splits.
        found: what is known of their images.
        config: where to, and how much.

    Raises:
        DataError: a sheet cannot be written.
    """
    draw = _Drawer(parts, found)
    pairs = [
        (int(members[pair.first]), int(members[pair.second]), pair)
        for (members, _), group in zip(groups, check.groups, strict=True)
        for pair in group.pairs
    ]
    across = [each for each in pairs if found.splits[each[0]] != found.splits[each[1]]]
    within = [each for each in pairs if found.splits[each[0]] == found.splits[each[1]]]
    kinds: dict[str, list[tuple[int, str]]] = {kind: [] for kind in KINDS}
    for number, each in zip(odd, check.odd, strict=True):
        if each.kind != "broken":
            kinds[each.kind].append((number, each.said))
    held = {kind: rows for kind, rows in kinds.items() if rows}
    share = max(1, config.max_sheet // max(1, len(held)))
    sheets: dict[str, tuple[str, list[Band]]] = {
        "leaks.png": ("copies across splits", [*draw.leaks(across, config.max_sheet)]),
        "duplicates.png": ("copies within a split", [*draw.copies(within, config.max_sheet)]),
        "odd.png": (
            "images out of the ordinary",
            [draw.odd(kind, rows, share) for kind, rows in held.items()],
        ),
    }
    written = []
    for name, (what, bands) in sheets.items():
        if bands:
            slots = (_SIDE_PX,) if name == "odd.png" else (_SIDE_PX, _SIDE_PX)
            draw_sheet(
                Sheet(str(config.data), what, slots, tuple(bands), 0), Path(config.out, name)
            )
            written.append(name)
    return written


class _Drawer:
    """Makes cells of images by number."""

    def __init__(self, parts: Parts, found: Scan) -> None:
        self._parts, self._found = parts, found

    def leaks(self, pairs: list[tuple[int, int, Pair]], most: int) -> Iterator[Band]:
        """A band for each two splits."""

        def of_splits(pair: tuple[int, int, Pair]) -> str:
            return " and ".join(self._parts.all[self._found.splits[end]].split for end in pair[:2])

        yield from self._bands(pairs, of_splits, most)

    def copies(self, pairs: list[tuple[int, int, Pair]], most: int) -> Iterator[Band]:
        """Bands of pairs with two labels, of the same bytes, of others."""

        def kind(pair: tuple[int, int, Pair]) -> str:
            if self._found.labels[pair[0]] != self._found.labels[pair[1]]:
                return "Two labels"
            return "The same bytes" if pair[2].exact else "Close"

        order = ("Two labels", "Close", "The same bytes")
        yield from self._bands(sorted(pairs, key=lambda each: order.index(kind(each))), kind, most)

    def odd(self, kind: str, rows: list[tuple[int, str]], most: int) -> Band:
        """A band of one kind."""
        cells = [self._cell(number, said) for number, said in rows[:most]]
        return Band(
            kind.capitalize(), _note(len(cells), len(rows), "image"), _fold(cells, _COLUMNS)
        )

    def _bands(
        self,
        pairs: list[tuple[int, int, Pair]],
        name: Callable[[tuple[int, int, Pair]], str],
        most: int,
    ) -> Iterator[Band]:
        names = list(dict.fromkeys(map(name, pairs)))
        for each in names:
            own = [pair for pair in pairs if name(pair) == each]
            shown = own[: max(0, most)]
            most -= len(shown)
            cells = [
                self._cell(end, said)
                for one, other, pair in shown
                for end, said in ((one, describe_pair(pair)), (other, ""))
            ]
            if cells:
                yield Band(each, _note(len(shown), len(own), "pair"), _fold(cells, 2 * _PAIRS))

    def _cell(self, number: int, said: str) -> Cell:
        part = self._parts.all[int(self._found.splits[number])]
        sample = int(self._found.numbers[number])
        image = open_to_show(part.read(sample), _SIDE_PX)
        pixels = np.asarray(fit(image, _SIDE_PX, _SIDE_PX))
        label = label_of(self._parts, self._found, number)
        size = f"{self._found.widths[number]} × {self._found.heights[number]}"  # noqa: RUF001
        where = ", ".join(filter(None, (part.split, label)))
        name = part.name(sample).rpartition("/")[2]
        return Cell(pixels, tuple(filter(None, (name, where, said or size))))


def _fold(cells: list[Cell], columns: int) -> tuple[tuple[Cell, ...], ...]:
    return tuple(tuple(cells[at : at + columns]) for at in range(0, len(cells), columns))


def _note(shown: int, total: int, what: str) -> str:
    said = f"{total:,} {what if total == 1 else what + 's'}"
    return said if shown == total else f"{said}, the first {shown:,}"
