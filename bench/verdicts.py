"""Conclusions from a field's rounds: ratios within rounds, the best one, the goals.

How many times as fast one contender is as another is the median over the rounds of the ratio within
the round; its range stands beside it. Nothing here asserts a time.
"""

from __future__ import annotations

import statistics
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from bench.field import Laps
from fastft.results.numbers import Ratio

Found = Mapping[str, Laps]
#: A contender out of the field; None where there is no such one.
Pick = Callable[[Found], Laps | None]


@dataclass(frozen=True, slots=True)
class Goal:
    """The goal of a ratio.

    Attributes:
        what: in words, the two sides parted by " / ".
        ours, theirs: the two sides.
        at_least: the ratio.
    """

    what: str
    ours: Pick
    theirs: Pick
    at_least: float


@dataclass(frozen=True, kw_only=True, slots=True)
class Verdict:
    """The result of a goal; `ours` and `theirs` are names of contenders."""

    what: str
    ours: str
    theirs: str
    ratio: float
    low: float
    high: float
    goal: float

    def __str__(self) -> str:
        sides = zip(self.what.split(" / "), (self.ours, self.theirs), strict=True)
        what = " / ".join(side if side == name else f"{side} ({name})" for side, name in sides)
        return f"{what}: {Ratio(self.ratio, self.low, self.high)}, goal >= {self.goal:g}"


def img_per_s(laps: Laps) -> float:
    """Images/s of the median round."""
    return laps.images / statistics.median(laps.wall_s)


def cpu_ms_per_image(laps: Laps) -> float:
    """CPU time of all cores, on average."""
    return 1e3 * statistics.fmean(laps.cpu_s) / laps.images


def ratio(ours: Laps, theirs: Laps) -> Ratio:
    """The speed of `ours` over that of `theirs`; rounds need not be of as many images."""
    share = ours.images / theirs.images
    each = [share * b / a for a, b in zip(ours.wall_s, theirs.wall_s, strict=True)]
    return Ratio(*(round(value, 3) for value in (statistics.median(each), min(each), max(each))))


def named(name: str) -> Pick:
    """Picks the contender of a name."""
    return lambda found: found.get(name)


def fastest(side: str, reads: str) -> Pick:
    """The fastest one of a side on data of a kind, out of those that are read on without end."""

    def pick(found: Found) -> Laps | None:
        asked = [
            laps
            for laps in found.values()
            if (laps.entrant.side, laps.entrant.reads) == (side, reads) and not laps.entrant.anew
        ]
        return max(asked, key=img_per_s, default=None)

    return pick


def judge(found: Found, goals: Sequence[Goal]) -> list[Verdict]:
    """The results of the goals whose both sides took part."""
    verdicts = []
    for goal in goals:
        ours, theirs = goal.ours(found), goal.theirs(found)
        if ours is not None and theirs is not None:
            came = ratio(ours, theirs)
            verdict = Verdict(
                what=goal.what,
                ours=ours.entrant.name,
                theirs=theirs.entrant.name,
                ratio=came.median,
                low=came.low,
                high=came.high,
                goal=goal.at_least,
            )
            verdicts.append(verdict)
    return verdicts


def summary(laps: Laps, found: Found) -> dict[str, Any]:
    """A contender's part of the JSON, beside its seconds."""
    ratios = {name: ratio(laps, other) for name, other in found.items() if other is not laps}
    return {
        "contender": laps.entrant.name,
        "side": laps.entrant.side,
        "reads": laps.entrant.reads,
        "epochs": "first" if laps.entrant.anew else "later",
        "images": laps.images,
        "img_per_s": round(img_per_s(laps), 1),
        "cpu_ms_per_image": round(cpu_ms_per_image(laps), 4),
        "ratio_to": {name: [each.median, each.low, each.high] for name, each in ratios.items()},
    }


def table(found: Found, common: str, failed: Mapping[str, str] | None = None) -> list[list[str]]:
    """Rows of the closing table, the first its head; the slowest contender comes first.

    Args:
        found: the field.
        common: who all are compared with, beside the best stock one on data of their kind.
        failed: what befell others, by name.
    """
    rows = [["", "reads", "images/s", common, "best stock", "over rounds", "CPU ms/image", ""]]
    rows += [[name, *[""] * 6, reason] for name, reason in (failed or {}).items()]
    for laps in sorted(found.values(), key=img_per_s):
        base, best = found.get(common), fastest("stock", laps.entrant.reads)(found)
        to_best = ratio(laps, best) if best else None
        rows.append(
            [
                laps.entrant.name,
                laps.entrant.reads,
                f"{img_per_s(laps):,.0f}",
                f"{ratio(laps, base).median:.2f}" if base else "",
                f"{to_best.median:.2f}" if to_best else "",
                f"{to_best.low:.2f} - {to_best.high:.2f}" if to_best else "",
                f"{cpu_ms_per_image(laps):.3g}",
                f"the best stock one on {laps.entrant.reads}" if laps is best else "",
            ]
        )
    return rows
