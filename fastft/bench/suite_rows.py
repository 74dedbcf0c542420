"""Rows of the suites' table: which figures of a run, and in which words.

A row is made where its benchmarks are in the JSON, else left out. A cell is made of figures, each
of which may have its counterpart of another run in brackets.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from fastft.results.numbers import Ratio

OURS = "fastft "
TORCHVISION, FFCV = "torchvision, Pillow", "FFCV"
#: Duels, by contender.
CONVERTING = {
    "fastft convert": "convert, every image checked",
    "fastft convert --no-verify": "convert `--no-verify`",
    "fastft merge": "`merge` of shards",
}

Entry = Mapping[str, Any]


@dataclass(frozen=True, slots=True)
class Figure:
    """One figure of a cell.

    Attributes:
        value: with its unit.
        name: of what it is; may be empty.
    """

    value: str
    name: str = ""

    def beside(self, others: Sequence[Figure]) -> str:
        """The figure, and in brackets what another run says of the same."""
        other = next((each.value for each in others if each.name == self.name), "")
        value = f"{self.value} [{other}]" if other else self.value
        return f"{self.name}: {value}" if self.name else value


Figures = tuple[Figure, ...]


@dataclass(frozen=True, slots=True)
class Row:
    """A row of the table: what was measured, and the figures of its three cells."""

    what: str
    ours: Figures
    theirs: Figures = ()
    ratio: Figures = ()

    def cells(self, other: Row | None = None) -> list[str]:
        """The four cells, with another run's figures in brackets."""
        empty: tuple[Figures, ...] = ((), (), ())
        beside = (other.ours, other.theirs, other.ratio) if other else empty
        pairs = zip((self.ours, self.theirs, self.ratio), beside, strict=True)
        return [
            self.what,
            *("; ".join(each.beside(others) for each in figures) for figures, others in pairs),
        ]


def find_rows(entries: Sequence[Entry], verdicts: Iterable[Entry]) -> Iterator[Row]:
    """The rows of a run, in the table's order.

    Raises:
        KeyError: a benchmark lacks what such a one holds.
    """
    yield from _duels(entries, "convert")
    yield from _duels(entries, "merge")
    fields = [each for each in entries if (each.get("group") or "").startswith("loaders: ")]
    yield from _loaders([each["extra_info"] for each in fields])
    yield from _verdicts([each["extra_info"] for each in fields], verdicts)
    for spread in ("one core", "all cores"):
        if infos := _infos(entries, f"decode to RGB, {spread}"):
            yield _duel(f"JPEG to RGB alone, {spread}", infos)
    yield from _kernel(entries)
    yield from _steps(entries)
    yield from _starting(entries)
    yield from _planning(entries)
    yield from _memory(entries)
    yield from _growth(_infos(entries, "growth"))


def _infos(entries: Iterable[Entry], group: str) -> list[Entry]:
    return [each["extra_info"] for each in entries if (each.get("group") or "") == group]


def _duels(entries: Sequence[Entry], group: str) -> Iterator[Row]:
    for info in _infos(entries, group):
        if "baseline" not in info:
            continue
        contender: str = info["contender"]
        yield _duel(CONVERTING.get(contender) or contender, [info])


def _duel(what: str, infos: Sequence[Entry]) -> Row:
    """One contender against one or several others."""
    several = len(infos) > 1
    return Row(
        what,
        (Figure(_rate(infos[0])),),
        tuple(Figure(_rate(info, "baseline_img_per_s"), info["baseline"]) for info in infos),
        tuple(Figure(str(_ratio(info)), info["baseline"] if several else "") for info in infos),
    )


def _loaders(infos: Sequence[Entry]) -> Iterator[Row]:
    """Each of ours beside the best stock one on data of its kind, and torchvision's DataLoader."""
    stock = [info for info in infos if info["side"] == "stock"]
    for info in infos:
        if info["side"] == "stock":
            continue
        alike = [each for each in stock if each["reads"] == info["reads"]]
        best = sorted(alike, key=lambda each: -each["img_per_s"])[:1]
        common = [each for each in stock if each["contender"] == TORCHVISION and each not in best]
        others = [*best, *common]
        to = info["ratio_to"]
        name, comma, rest = info["contender"].removeprefix(OURS).partition(", ")
        yield Row(
            f"loader `{name}`{comma}{rest}",
            (Figure(_rate(info)),),
            tuple(Figure(_rate(each), each["contender"]) for each in others),
            tuple(Figure(str(Ratio(*to[each["contender"]])), each["contender"]) for each in others),
        )


def _verdicts(infos: Sequence[Entry], verdicts: Iterable[Entry]) -> Iterator[Row]:
    """The results of the goals against the best of others; the rest are in the file."""
    rates = {info["contender"]: _rate(info) for info in infos}
    for verdict in verdicts:
        if "best" not in verdict["what"]:
            continue
        came = Ratio(verdict["ratio"], verdict["low"], verdict["high"])
        ours, theirs = (
            (Figure(rates[verdict[side]], verdict[side]),) if verdict[side] in rates else ()
            for side in ("ours", "theirs")
        )
        what = f"{verdict['what']}: goal {verdict['goal']:g}"
        yield Row(what, ours, theirs, (Figure(str(came)),))


def _kernel(entries: Sequence[Entry]) -> Iterator[Row]:
    kinds = {
        each["fullname"].rpartition("[")[2].rstrip("]"): each["extra_info"]
        for each in entries
        if each.get("group") == "kernel" and "img_per_s" in each["extra_info"]
    }
    if kinds:
        yield Row(
            "`resident`'s kernel alone, one core",
            tuple(Figure(_rate(info), kind) for kind, info in kinds.items()),
            tuple(
                Figure(_rate(info, "memory_allows_img_per_s"), f"memory alone would allow {kind}")
                for kind, info in kinds.items()
            ),
            tuple(
                Figure(f"{info['share_of_memory_roofline']:.2f}", kind)
                for kind, info in kinds.items()
            ),
        )


def _steps(entries: Sequence[Entry]) -> Iterator[Row]:
    for info in _infos(entries, "training step, ResNet-18"):
        yield _duel(
            f"training step, ResNet-18, batches of {info['batch']} at {info['size']} px", [info]
        )
    fed = _infos(entries, "training step when fed: share of the compute bound")
    names = [_code(info["contender"].removeprefix("fed by ")) for info in fed]
    if fed:
        yield Row(
            "the same, fed by a loader: share of the step's own speed",
            tuple(Figure(_rate(info), name) for info, name in zip(fed, names, strict=True)),
            (Figure(_rate(fed[0], "baseline_img_per_s"), fed[0]["baseline"]),),
            tuple(Figure(str(_ratio(info)), name) for info, name in zip(fed, names, strict=True)),
        )


def _starting(entries: Sequence[Entry]) -> Iterator[Row]:
    """Seconds, and what share they are of FFCV's."""
    for info in _infos(entries, "start-up"):
        started = info.get("contenders", [])
        ours, stock = (
            [each for each in started if each["side"] == side] for side in ("fastft", "stock")
        )
        ffcv = next((each for each in stock if each["contender"] == FFCV), None)
        for what, key in (
            ("first batch of a second process, all imported", "first_batch_s"),
            ("the same with the imports", "process_s"),
        ):
            if ours:
                yield Row(
                    f"{what}: seconds, share of {FFCV}'s",
                    tuple(Figure(_seconds(each[key]), _code(each["contender"])) for each in ours),
                    tuple(Figure(_seconds(each[key]), each["contender"]) for each in stock),
                    tuple(
                        Figure(f"{each[key] / ffcv[key]:.2g}", _code(each["contender"]))
                        for each in ours
                        if ffcv
                    ),
                )
    commands = _infos(entries, "start-up of commands")
    figures = [Figure(_seconds(each["seconds"]), f"`{each['command']}`") for each in commands]
    ours_, others = (
        [each for each in figures if each.name.startswith("`fastft") is mine]
        for mine in (True, False)
    )
    if ours_:
        yield Row("a command that loads nothing", tuple(ours_), tuple(others))


def _planning(entries: Sequence[Entry]) -> Iterator[Row]:
    plans = [each for each in entries if each.get("group") == "plan"]
    if plans:
        size = plans[0]["extra_info"]["contender"].partition(", ")[2]
        yield Row(
            f"plan of {size}, one core",
            tuple(
                Figure(
                    _seconds(each["stats"]["median"]),
                    f"`{each['extra_info']['contender'].partition(', ')[0]}`",
                )
                for each in plans
            ),
        )


def _memory(entries: Sequence[Entry]) -> Iterator[Row]:
    infos = {info["contender"]: info for info in _infos(entries, "memory")}
    ours = {_code(name): info for name, info in infos.items() if name.startswith(OURS)}
    if ours:
        key = "peak_bytes_with_large"
        stock = [info for name, info in infos.items() if not name.startswith(OURS)]
        yield Row(
            "peak memory, one 24-megapixel photo among them",
            tuple(Figure(_megabytes(info[key]), name) for name, info in ours.items()),
            tuple(Figure(_megabytes(info[key]), info["contender"]) for info in stock),
            tuple(
                Figure(f"{info['ratio_to_stock_ffcv']:.2f}", name)
                for name, info in ours.items()
                if "ratio_to_stock_ffcv" in info
            ),
        )
    for info in ours.values():
        if "work_bytes" in info:
            what = f"`{info['contender'].removeprefix(OURS)}`, beside imports and pixels"
            yield Row(what, (Figure(_megabytes(info["work_bytes"]["large"])),))


def _growth(infos: Sequence[Entry]) -> Iterator[Row]:
    """The largest set beside the smallest, with the most workers."""
    cells = {(info["contender"], info["samples"], info["workers"]): info for info in infos}
    sizes = sorted({samples for _, samples, _ in cells})
    workers = max((workers for *_, workers in cells), default=0)
    if len(sizes) < 2:
        return
    names = dict.fromkeys(contender for contender, *_ in cells)
    pairs = [
        (cells[name, sizes[0], workers], cells[name, sizes[-1], workers])
        for name in names
        if {(name, sizes[0], workers), (name, sizes[-1], workers)} <= cells.keys()
    ]
    if not pairs:
        return
    count = f"{workers} worker{'s' if workers > 1 else ''}"
    for what, key, show in (
        ("images/s", "img_per_s", _count),
        ("peak memory", "peak_rss_bytes", _megabytes),
        ("first batch", "first_batch_s", _seconds),
    ):
        sides: dict[str, list[Figure]] = {"fastft": [], "stock": []}
        for small, large in pairs:
            value = f"{show(large[key])} ({show(small[key])})"
            name = large["contender"]
            sides[large["side"]].append(Figure(value, _code(name)))
        yield Row(
            f"{sizes[-1]:,} small photos (in parentheses {sizes[0]:,}), {count}: {what}",
            tuple(sides["fastft"]),
            tuple(sides["stock"]),
        )


def _code(contender: str) -> str:
    """One of ours by its loader's name."""
    name, comma, rest = contender.partition(", ")
    return f"`{name.removeprefix(OURS)}`{comma}{rest}" if contender.startswith(OURS) else contender


def _ratio(info: Entry) -> Ratio:
    return Ratio(info["ratio"], *info["ratio_range"])


def _rate(info: Entry, key: str = "img_per_s") -> str:
    return f"{_count(info[key])} img/s"


def _count(value: float) -> str:
    """Three digits: as many as repeat."""
    return f"{float(f'{value:.3g}'):,.0f}"


def _seconds(value: float) -> str:
    return f"{value:.2g} s"


def _megabytes(value: float) -> str:
    return f"{value / 1e6:,.0f} MB"
