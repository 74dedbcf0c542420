"""The findings of `fastft check` as a verdict, as tables, and as a section of a page."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from functools import partial

from rich.console import Console

from fastft.check.result import KINDS, Check, ClassRow, Group, Pair
from fastft.results.numbers import write_share
from fastft.results.tables import (
    Block,
    Cell,
    Column,
    Key,
    Picture,
    Section,
    Table,
    make_table,
    of_source,
    print_table,
)

#: Rows of each printed table at most; the JSON holds all.
_ROWS = 20
#: Names that a cell or a sentence lists at most.
_NAMED = 3
#: Images of the largest class over those of the smallest from which on it is a matter to mention.
_IMBALANCED = 3.0
_NOTHING = "nothing was found that training would suffer from"


@dataclass(frozen=True, slots=True)
class _CopyRow:
    """A row of the table of copies: a kind of groups, how many, and pairs of the first ones."""

    what: str
    groups: int
    images: int
    first: str


@dataclass(frozen=True, slots=True)
class _OddRow:
    """A row of the table of odd images: a kind, how many, what it means, and the first ones."""

    kind: str
    images: int
    they: str
    first: str


def sum_up(found: Check) -> Check:
    """The same findings with a verdict."""
    return replace(found, verdict=tuple(_judge(found)) or (_NOTHING,))


def print_check(found: Check, console: Console) -> None:
    """Print what was found, kind by kind, and the verdict."""
    for remark in found.remarks:
        console.print(remark, markup=False)
    tables = (split_table, copy_table, odd_table, class_table)
    for table in (make(found) for make in tables):
        if table.rows:
            print_table(table, console, _ROWS)
            if (more := len(table.rows) - _ROWS) > 0:
                console.print(f"and {more:,} more; check.json has all")
    for sentence in found.verdict:
        console.print(sentence, markup=False)


def check_section(checks: Sequence[tuple[str, Check, Picture | None]]) -> Section | None:
    """The findings about data.

    Args:
        checks: name of a source, what it holds, and the picture of its leaks.
    """
    names = [name for name, *_ in checks]
    blocks: list[Block] = []
    lead, keys = [], []
    for name, found, picture in checks:
        lead += [of_source(name, names, f"{sentence}.") for sentence in found.verdict]
        what = of_source(name, names, "images that are copies of one in another split")
        keys.append(Key(f"{found.leaked:,}", "", what))
        for make in (split_table, copy_table, odd_table, class_table):
            table = make(found)
            if table.rows:
                blocks.append(replace(table, title=of_source(name, names, table.title)))
        blocks += [picture] if picture else []
    return Section("check", "Data", tuple(lead), tuple(blocks), tuple(keys))


def split_table(found: Check) -> Table:
    """A row for each split."""
    return make_table(
        "Splits" if len(found.splits) > 1 else "Data",
        found.splits,
        (
            Column("split", lambda each: each.name or "all"),
            Column("images", lambda each: each.images),
            Column("classes", lambda each: each.classes),
            Column("broken", lambda each: _bad(each.broken)),
            Column("copies of another split", lambda each: _bad(each.copied)),
        ),
    )


def copy_table(found: Check) -> Table:
    """A row for each kind of copies; a group may be of several."""
    return make_table(
        "Copies",
        [row for row in _copy_rows(found) if row.groups],
        (
            Column("copies", lambda each: each.what),
            Column("groups", lambda each: each.groups),
            Column("images", lambda each: each.images),
            Column("first", lambda each: each.first),
        ),
    )


def odd_table(found: Check) -> Table:
    """A row for each kind of images out of the ordinary."""
    firsts: dict[str, list[str]] = {}
    for each in found.odd:
        named = firsts.setdefault(each.kind, [])
        if len(named) < _NAMED:
            named.append(f"{_in_split(each.split, each.name)}: {each.said}")
    rows = [
        _OddRow(kind, found.counts[kind], they, "; ".join(firsts.get(kind, ())))
        for kind, they in KINDS.items()
        if found.counts.get(kind)
    ]
    return make_table(
        "Images out of the ordinary",
        rows,
        (
            Column("kind", lambda each: each.kind),
            Column("images", lambda each: each.images),
            Column("they", lambda each: each.they),
            Column("first", lambda each: each.first),
        ),
    )


def class_table(found: Check) -> Table:
    """A row for each class, those with something to tell first, then the smallest."""
    rows = sorted(
        found.classes,
        key=lambda row: (not (row.missing or row.few or row.unlike), row.images[0], row.name),
    )
    counts: tuple[Column[ClassRow], ...] = tuple(
        Column(split.name or "images", partial(_images_in, at))
        for at, split in enumerate(found.splits)
    )
    return make_table(
        "Classes",
        rows,
        (
            Column("class", lambda row: row.name),
            *counts,
            Column("remarks", lambda row: "; ".join(_class_remarks(row))),
        ),
    )


def describe_pair(pair: Pair) -> str:
    """Why two images are copies."""
    if pair.exact:
        return "the same bytes"
    mirror = "mirrored, " if pair.mirrored else ""
    return f"{mirror}{pair.bits} bits, {pair.difference:.3f}"


def _judge(found: Check) -> Iterator[str]:
    before: list[str] = []
    for split in found.splits:
        if split.copied:
            share = write_share(split.copied / split.images)
            yield (
                f"leak: {split.copied:,} of {split.images:,} images of {split.name} ({share}) "
                f"{_are(split.copied, 'a copy', 'copies')} of images of {' or '.join(before)}; "
                "accuracy on them is no evidence: take them out of one"
            )
        before.append(split.name)
    if found.conflicts:
        yield (
            f"label conflicts: {_count(found.conflicts, 'group')} of copies with more than one "
            "class; at most one label is right"
        )
    same = [group for group in found.groups if not group.leak and not group.conflict]
    if same:
        spare = sum(len(group.members) - 1 for group in same)
        yield f"copies within a split and class: {_count(spare, 'image')} could go"
    counts = found.counts
    if counts.get("broken"):
        yield f"broken: {_count(counts['broken'], 'image')}; fastft convert leaves them out"
    others = [f"{n:,} {kind}" for kind in KINDS if kind != "broken" and (n := counts.get(kind))]
    if others:
        yield f"worth a look: {', '.join(others)}"
    if gone := [row.name for row in found.classes if row.missing]:
        yield f"not in every split: {_some(gone)}"
    if few := [row.name for row in found.classes if row.few]:
        yield f"few images: {_some(few)}"
    if found.imbalance is not None and found.imbalance >= _IMBALANCED:
        yield (
            f"imbalance: the largest class has {found.imbalance:g} times the images of the "
            "smallest; see train --class-weight balanced"
        )
    for row in found.classes:
        for said in row.unlike:
            yield f"shortcut: {row.name} is {said}; a model may learn that instead"


def _copy_rows(found: Check) -> Iterator[_CopyRow]:
    def row(what: str, groups: list[Group]) -> _CopyRow:
        images = sum(len(group.members) for group in groups)
        first = "; ".join(_name_pair(group) for group in groups[:_NAMED])
        return _CopyRow(what, len(groups), images, first)

    groups = list(found.groups)
    yield row("across splits", [group for group in groups if group.leak])
    yield row("across classes", [group for group in groups if group.conflict])
    yield row("within", [group for group in groups if not group.leak and not group.conflict])
    yield row("the same bytes", [group for group in groups if any(p.exact for p in group.pairs)])
    yield row("mirrored", [group for group in groups if any(p.mirrored for p in group.pairs)])


def _name_pair(group: Group) -> str:
    """The two images that say most of a group."""
    pair = telling_pair(group)
    one, other = group.members[pair.first], group.members[pair.second]
    return f"{_in_split(one.split, one.name)} and {_in_split(other.split, other.name)}"


def telling_pair(group: Group) -> Pair:
    """A pair across splits, else across classes, else the first."""
    for name in ("split", "label"):
        for pair in group.pairs:
            ends = (group.members[pair.first], group.members[pair.second])
            if getattr(ends[0], name) != getattr(ends[1], name):
                return pair
    return group.pairs[0]


def _images_in(split: int, row: ClassRow) -> int:
    return row.images[split]


def _class_remarks(row: ClassRow) -> Iterator[str]:
    if row.missing:
        yield f"not in {', '.join(row.missing)}"
    if row.few:
        yield "few images"
    yield from row.unlike


def _in_split(split: str, name: str) -> str:
    return f"{split}/{name}" if split else name


def _bad(count: int) -> Cell:
    return Cell(f"{count:,}", count, "bad" if count else "")


def _count(number: int, one: str) -> str:
    return f"{number:,} {one if number == 1 else one + 's'}"


def _are(number: int, one: str, many: str) -> str:
    return f"is {one}" if number == 1 else f"are {many}"


def _some(names: Sequence[str]) -> str:
    more = f" and {len(names) - _NAMED:,} more" if len(names) > _NAMED else ""
    return ", ".join(names[:_NAMED]) + more
