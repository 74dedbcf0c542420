"""Tables of results, and the sections of a page that they and charts are laid out in.

The same `Table` is printed on the terminal by `print_table` and written as HTML by `report`.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import ClassVar, Generic, TypeVar

from rich.console import Console
from rich.markup import escape
from rich.table import Table as RichTable

from fastft.results.numbers import UNKNOWN, Number
from fastft.results.plots import Panel
from pipelines.errors import one_line

T = TypeVar("T")
#: Rows of a table on a page: more are read in the source.
_MOST_ROWS = 1000
_TONES = {"good": "green", "bad": "red", "": ""}


@dataclass(frozen=True, slots=True)
class Cell:
    """A cell of a table: its text, what it is sorted by, and whether it is `good` or `bad`."""

    text: str
    value: float | None = None
    tone: str = ""


@dataclass(frozen=True, slots=True)
class Column(Generic[T]):
    """One column: its head, what it takes of a row, and how it writes that if it is a number."""

    head: str
    of: Callable[[T], Cell | str | float | None]
    write: Number | None = None

    def cell(self, row: T) -> Cell:
        """The column's cell of a row."""
        found = self.of(row)
        if isinstance(found, Cell):
            return found
        if isinstance(found, str):
            return Cell(found)
        if isinstance(found, float) and not math.isfinite(found):
            found = None
        write = self.write or (lambda value: UNKNOWN if value is None else f"{value:,}")
        return Cell(write(found), found)


@dataclass(frozen=True, slots=True)
class Table:
    """A table; its first column names the row. A folded one is opened by its reader."""

    kind: ClassVar[str] = "table"
    title: str
    heads: tuple[str, ...]
    rows: tuple[tuple[Cell, ...], ...]
    note: str = ""
    folded: bool = False

    @property
    def shown(self) -> tuple[tuple[Cell, ...], ...]:
        """As many of the rows as a page can hold."""
        return self.rows[:_MOST_ROWS]

    @property
    def numeric(self) -> tuple[bool, ...]:
        """Whether each column holds numbers."""
        return tuple(
            any(row[at].value is not None for row in self.shown) for at in range(len(self.heads))
        )

    @property
    def left_out(self) -> int:
        """The number of rows that are not shown."""
        return len(self.rows) - len(self.shown)


def make_table(
    title: str,
    rows: Iterable[T],
    columns: Sequence[Column[T]],
    *,
    note: str = "",
    folded: bool = False,
) -> Table:
    """A table of a row for each thing."""
    cells = tuple(tuple(column.cell(row) for column in columns) for row in rows)
    return Table(title, tuple(column.head for column in columns), cells, note, folded)


def print_table(table: Table, console: Console, most: int | None = None) -> None:
    """Print a table, or its first `most` rows and how many more there are."""
    printed = RichTable(title=escape(one_line(table.title)), title_justify="left")
    for head, is_number in zip(table.heads, table.numeric, strict=True):
        printed.add_column(escape(one_line(head)), justify="right" if is_number else "left")
    printed.columns[0].no_wrap = True
    for row in table.rows[:most]:
        styles = (_TONES.get(each.tone, "") for each in row)
        texts = (escape(one_line(each.text)) for each in row)
        printed.add_row(
            *(
                f"[{style}]{text}[/]" if style else text
                for style, text in zip(styles, texts, strict=True)
            )
        )
    console.print(printed)
    if table.note:
        console.print(table.note, markup=False)


@dataclass(frozen=True, slots=True)
class Exhibit:
    """Charts, and the table that holds each of their figures."""

    kind: ClassVar[str] = "exhibit"
    title: str
    panels: tuple[Panel, ...]
    table: Table
    note: str = ""


@dataclass(frozen=True, slots=True)
class Notes:
    """Sentences."""

    kind: ClassVar[str] = "notes"
    lines: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Picture:
    """A picture as a data: URI, and its size in px."""

    kind: ClassVar[str] = "picture"
    title: str
    uri: str
    width: int
    height: int


Block = Table | Exhibit | Notes | Picture


@dataclass(frozen=True, slots=True)
class Key:
    """A figure of the strip at the head of the page."""

    figure: str
    unit: str
    what: str


@dataclass(frozen=True, slots=True)
class Section:
    """A part of the page.

    Attributes:
        anchor: names it in a link.
        title: its head.
        lead: sentences before its blocks.
        blocks: from the top.
        keys: what the head of the page says of it.
    """

    anchor: str
    title: str
    lead: tuple[str, ...]
    blocks: tuple[Block, ...]
    keys: tuple[Key, ...] = ()


def capitalize(text: str) -> str:
    """`text` as a sentence begins; no other letter is changed."""
    return text[:1].upper() + text[1:]


def fold(lists: Sequence[Sequence[str]]) -> tuple[str, ...]:
    """All of them in the order in which they first come, each once."""
    return tuple(dict.fromkeys(each for every in lists for each in every))


def of_source(name: str, names: Sequence[str], text: str) -> str:
    """`text`, with the name of its source before it if there are several."""
    return f"{name}: {text}" if len(names) > 1 else text
