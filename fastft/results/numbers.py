"""The format of numbers, the same in a chart, in its table and on the terminal."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable
from dataclasses import dataclass

Number = Callable[[float | None], str]
#: For what is not known.
UNKNOWN = "\N{EN DASH}"
_KILO, _MEGA, _GIGA = 1e3, 1e6, 1e9
#: From here on an exponent is easier to read than all digits.
_LONG = 1e10


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


def write_points(value: float | None) -> str:
    """A difference of shares, in points of a hundred."""
    return UNKNOWN if value is None else f"{100 * value:+.1f}"


def write_span(low: float | None, high: float | None, write: Number = write_accuracy) -> str:
    """An interval; one seed has none."""
    return "one seed" if low is None or high is None else f"{write(low)} to {write(high)}"


def write_ratio(value: float | None) -> str:
    """A ratio."""
    if value is None:
        return UNKNOWN
    return f"{value:.2f}" if value >= 0.1 or value == 0 else f"{value:.2g}"


def count(number: int, name: str) -> str:
    """So many of a thing, in words."""
    return f"{number:,} {name}{'' if number == 1 else 's'}"


@dataclass(frozen=True, slots=True)
class Ratio:
    """A ratio of speeds, over the rounds."""

    median: float
    low: float
    high: float

    def __str__(self) -> str:
        return f"{self.median:.2f} ({self.low:.2f} - {self.high:.2f})"


def is_known(value: float | None) -> bool:
    """Whether there is a number: neither None nor NaN nor infinity."""
    return value is not None and math.isfinite(value)


def mean(values: Iterable[float | None]) -> float | None:
    """The mean of those that are known; None if none is."""
    known = [value for value in values if value is not None and math.isfinite(value)]
    return sum(known) / len(known) if known else None
