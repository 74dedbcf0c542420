"""Parts of a page, and the format of its numbers: the same in a chart and in its table."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar, Protocol

from markupsafe import Markup

#: For what is not known.
UNKNOWN = "\N{EN DASH}"
#: Rows of a table: more are read in the source.
_MOST_ROWS = 1000
_KILO, _MEGA, _GIGA = 1e3, 1e6, 1e9
#: From here on an exponent is easier to read than all digits.
_LONG = 1e10


class Source(Protocol):
    """Whatever was read from a file or folder, which has a name on the page."""

    @property
    def name(self) -> str:
        """The name."""


@dataclass(frozen=True, slots=True)
class Cell:
    """A cell of a table: its text, what it is sorted by, and whether it is `good` or `bad`."""

    text: str
    value: float | None = None
    tone: str = ""


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
        """Which columns hold numbers."""
        return tuple(
            any(row[at].value is not None for row in self.shown) for at in range(len(self.heads))
        )

    @property
    def left_out(self) -> int:
        """The number of rows that are not shown."""
        return len(self.rows) - len(self.shown)


@dataclass(frozen=True, slots=True)
class Panel:
    """One chart of a figure, which `charts` or `lines` has drawn."""

    title: str
    chart: Markup


@dataclass(frozen=True, slots=True)
class Figure:
    """Charts, and the table that holds each of their figures."""

    kind: ClassVar[str] = "figure"
    title: str
    note: str
    panels: tuple[Panel, ...]
    table: Table


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


Block = Table | Figure | Notes | Picture


@dataclass(frozen=True, slots=True)
class Section:
    """A part of the page."""

    anchor: str
    title: str
    lead: tuple[str, ...]
    blocks: tuple[Block, ...]


@dataclass(frozen=True, slots=True)
class Key:
    """A figure of the strip at the head of the page."""

    figure: str
    unit: str
    what: str


def write_rate(value: float | None) -> str:
    """Images per second."""
    if value is None:
        return UNKNOWN
    if value >= _LONG:
        return f"{value:.2e}"
    if value >= 10 * _MEGA:
        return f"{value / _MEGA:,.1f} M"
    return f"{value:,.0f}" if value >= 100 else f"{value:.3g}"


def write_number(value: float | None) -> str:
    """Any number, to three digits at least."""
    if value is None:
        return UNKNOWN
    if value == int(value) and abs(value) < _LONG:
        return f"{value:,.0f}"
    return f"{value:,.0f}" if 1000 <= abs(value) < _LONG else f"{value:.3g}"


def write_bytes(value: float | None) -> str:
    """An amount of memory, in powers of ten."""
    if value is None:
        return UNKNOWN
    if value >= 1000 * _GIGA:
        return f"{value / _GIGA:.3g} GB"
    if value >= _GIGA:
        return f"{value / _GIGA:.2f} GB"
    if value >= _MEGA:
        return f"{value / _MEGA:.0f} MB"
    return f"{value / _KILO:.3g} kB"


def write_measure(value: float | None) -> str:
    """A measured number, to three digits, the last ones of which may be noughts."""
    if value is None:
        return UNKNOWN
    size = abs(value)
    if size >= _LONG or 0 < size < 0.001:
        return f"{value:.2e}"
    return f"{value:,.{0 if size >= 100 else 1 if size >= 10 else 2 if size >= 1 else 3}f}"


def write_byte_tick(value: float | None) -> str:
    """A round amount of memory beside a chart."""
    return f"{write_tick(value)}B" if value else "0"


def write_ms(value_s: float | None) -> str:
    """A short time, given in seconds."""
    return UNKNOWN if value_s is None else f"{write_measure(1e3 * value_s)} ms"


def write_seconds(value: float | None) -> str:
    """A time."""
    return UNKNOWN if value is None else f"{write_measure(value)} s"


def write_share(value: float | None) -> str:
    """A share of one."""
    if value is None:
        return UNKNOWN
    return f"{100 * value:.{0 if value >= 0.0995 else 1}f} %"


def write_share_tick(value: float | None) -> str:
    """A round share of one beside a chart."""
    return UNKNOWN if value is None else f"{100 * value:.3g} %"


def write_tick(value: float | None) -> str:
    """A round number below or beside a chart: as short as may be."""
    if value is None:
        return UNKNOWN
    units = ((_GIGA, " G"), (_MEGA, " M"), (_KILO, " k"))
    for unit, name in units if abs(value) < 1000 * _GIGA else ():
        if abs(value) >= unit:
            return f"{value / unit:.3g}{name}"
    return f"{value:.3g}"


def write_accuracy(value: float | None) -> str:
    """A share of right answers, as other commands write it."""
    return UNKNOWN if value is None else f"{value:.3f}"


def write_signed(value: float | None) -> str:
    """A difference; nought has no sign."""
    if value is None:
        return UNKNOWN
    text = f"{value:+.2f}"
    return text[1:] if float(text) == 0 else text


def capitalize(text: str) -> str:
    """`text` as a sentence begins; no other letter is changed."""
    return text[:1].upper() + text[1:]


def fold(lists: Sequence[Sequence[str]]) -> tuple[str, ...]:
    """All of them in the order in which they first come, each once."""
    return tuple(dict.fromkeys(each for every in lists for each in every))


def of_source(source: Source, among: Sequence[Source], text: str) -> str:
    """`text`, with the name of its source before it if there are several."""
    return f"{source.name}: {text}" if len(among) > 1 else text
