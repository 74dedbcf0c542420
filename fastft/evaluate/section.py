"""The findings of `fastft evaluate` as tables on the terminal, and as a section of a page."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any, TypeVar

from rich.console import Console

from fastft.evaluate.result import Evaluation
from fastft.results.charts import Bar, bar_panel
from fastft.results.numbers import write_accuracy, write_measure, write_share
from fastft.results.tables import (
    Block,
    Cell,
    Column,
    Exhibit,
    Key,
    Picture,
    Section,
    Table,
    make_table,
    of_source,
    print_table,
)

#: Rows of each printed table at most; the JSON holds all.
_CLASS_ROWS, _PAIR_ROWS = 20, 10
#: Names that a sentence lists at most.
_NAMED = 5
#: A confusion matrix of more classes is no table any more; classes that a chart shows.
_MOST_MATRIX, _MOST_CLASSES = 12, 16
#: Shades of a cell of the matrix.
_SHADES = 9
#: Views that evaluation averages, by whether it mirrors images and turns them upside down.
_TURNED = {
    (True, False): "as it is and mirrored",
    (False, True): "as it is and upside down",
    (True, True): "as it is, mirrored, upside down and both",
}


#: Names the source in a title, where there are several.
Entitle = Callable[[str], str]
Found = TypeVar("Found")


@dataclass(frozen=True, slots=True)
class Told:
    """The part of a section that one evaluation has.

    Attributes:
        figures: sentences without their stops; empty ones are left out.
        score: its figure at the page's head.
        key: what that is of.
        blocks: its tables and charts.
    """

    figures: Sequence[str]
    score: float
    key: str
    blocks: Sequence[Block]


def lay_out(
    anchor: str,
    title: str,
    evaluations: Sequence[tuple[str, Found, Picture | None]],
    tell: Callable[[Found, Entitle], Told],
) -> Section:
    """The section of some evaluations of one task.

    Args:
        anchor, title: of the section.
        evaluations: name of a source, what it holds, and the picture of the worst mistakes.
        tell: the part of one of them.
    """
    names = [name for name, *_ in evaluations]
    blocks: list[Block] = []
    lead, keys = [], []
    for name, found, picture in evaluations:
        entitle = partial(of_source, name, names)
        told = tell(found, entitle)
        lead.append(entitle(f"{'; '.join(filter(None, told.figures))}."))
        keys.append(Key(write_accuracy(told.score), "", entitle(told.key)))
        blocks += [*told.blocks, *([picture] if picture else [])]
    return Section(anchor, title, tuple(lead), tuple(blocks), tuple(keys))


def print_evaluation(found: Evaluation, console: Console) -> None:
    """Print the figures, the hardest classes and the most frequent mistakes."""
    console.print(_figures(found))
    if averaged := _name_views(found):
        console.print(averaged)
    print_table(class_table(found), console, _CLASS_ROWS)
    if (more := len(found.classes) - _CLASS_ROWS) > 0:
        console.print(f"and {more:,} more of a higher F1; evaluation.json has all")
    never = [each.name for each in found.classes if not each.predicted]
    if never:
        console.print(
            f"never predicted, so precision counts as 0: {enumerate_names(never)}", markup=False
        )
    if found.confused:
        print_table(pair_table(found), console, _PAIR_ROWS)
    if (more := len(found.confused) - _PAIR_ROWS) > 0:
        console.print(f"and {more:,} more pairs; evaluation.json has all")


def evaluation_section(
    evaluations: Sequence[tuple[str, Evaluation, Picture | None]],
) -> Section | None:
    """The scores of the models, and their mistakes.

    Args:
        evaluations: name of a source, what it holds, and the picture of the worst mistakes.
    """
    return lay_out("evaluation", "Evaluation", evaluations, _tell)


def _tell(found: Evaluation, entitle: Entitle) -> Told:
    table = class_table(found, entitle("Classes, the hardest first"))
    hardest = [Bar(row[0].text, row[3].value, row[3].text) for row in table.rows[:_MOST_CLASSES]]
    blocks: list[Block] = [Exhibit(table.title, (bar_panel("F1 by class", hardest),), table)]
    if len(found.classes) <= _MOST_MATRIX:
        blocks.append(_matrix(found, entitle("Truth, and what was predicted")))
    elif found.confused:
        blocks.append(pair_table(found, entitle("Most confused")))
    key = f"accuracy on {found.samples:,} images"
    return Told((_figures(found), _name_views(found)), found.accuracy, key, blocks)


def accuracy_line(found: Evaluation) -> str:
    """The accuracy, and how far to trust it."""
    low, high = found.interval
    return f"accuracy {found.accuracy:.4f} (95% interval {low:.4f} to {high:.4f})"


def class_table(found: Evaluation, title: str = "Classes, the hardest first") -> Table:
    """A row for each class, that of the lowest F1 first."""
    return make_table(
        title,
        sorted(found.classes, key=lambda each: each.f1),
        (
            Column("class", lambda each: each.name),
            Column("precision", lambda each: each.precision, write_accuracy),
            Column("recall", lambda each: each.recall, write_accuracy),
            Column("F1", lambda each: each.f1, write_accuracy),
            Column("images", lambda each: each.support),
        ),
    )


def pair_table(found: Evaluation, title: str = "Most confused") -> Table:
    """The mistakes that are made, the most frequent first."""
    return make_table(
        title,
        found.confused,
        (
            Column("truth", lambda each: each.truth),
            Column("predicted", lambda each: each.predicted),
            Column("images", lambda each: each.count),
            Column("share of the truth", lambda each: each.share, write_share),
        ),
    )


def enumerate_names(names: Sequence[str]) -> str:
    """The names, or the first few and how many more there are."""
    more = f" and {len(names) - _NAMED:,} more" if len(names) > _NAMED else ""
    return ", ".join(names[:_NAMED]) + more


def _figures(found: Evaluation) -> str:
    return (
        f"{accuracy_line(found)}, {found.right:,} of {found.samples:,} right; mean loss "
        f"{write_measure(found.loss)}; macro F1 {found.macro_f1:.4f}"
    )


def _name_views(found: Evaluation) -> str:
    """The views that were averaged, in words; empty if there was one."""
    if found.plain_accuracy is None:
        return ""
    return f"{name_views(found.config)}; accuracy of the images alone {found.plain_accuracy:.4f}"


def name_views(config: Mapping[str, Any]) -> str:
    """The views that an evaluation of these settings averaged, in words."""
    # The config of an evaluation from before there were other views names none of them.
    flip, vflip = (config.get(name) is True for name in ("flip", "vflip"))
    crops = 5 if config.get("crops") == 5 else 1
    if crops == 1 and not vflip:
        views = "each image and its mirror image"
    else:
        parts = ["the crops at its centre and corners"] if crops > 1 else []
        parts += [_TURNED[flip, vflip]] if flip or vflip else []
        count = crops * (1 + flip) * (1 + vflip)
        views = f"{count} views of each image: {', each '.join(parts)}"
    return f"averaged over {views}"


def _matrix(found: Evaluation, title: str) -> Table:
    names = [each.name for each in found.classes]
    rows = []
    for at, (name, counts) in enumerate(zip(names, found.confusion, strict=True)):
        total = sum(counts) or 1
        cells = []
        for column, count in enumerate(counts):
            shade = round(_SHADES * max(count / total, 0.0) ** 0.5)
            tone = f"{'right' if at == column else 'wrong'}-{shade}"
            cells.append(Cell(f"{count:,}", count, tone))
        rows.append((Cell(name), *cells))
    return Table(title, ("truth", *names), tuple(rows))
