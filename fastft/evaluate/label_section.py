"""Findings about several labels, as tables on the terminal and as a section of a page."""

from __future__ import annotations

from collections.abc import Sequence

from rich.console import Console

from fastft.evaluate.label_result import LabelEvaluation, LabelRow
from fastft.evaluate.section import Entitle, Told, enumerate_names, lay_out, name_views
from fastft.results.charts import Bar, bar_panel
from fastft.results.numbers import is_known, write_accuracy, write_measure
from fastft.results.tables import (
    Block,
    Column,
    Exhibit,
    Picture,
    Section,
    Table,
    make_table,
    print_table,
)

#: Rows of the printed table at most, and bars of the chart.
_ROWS, _BARS = 20, 16


def print_label_evaluation(found: LabelEvaluation, console: Console) -> None:
    """Print the figures, and the labels that are told worst."""
    console.print(_figures(found))
    if averaged := _name_views(found):
        console.print(averaged)
    print_table(label_table(found, is_short=True), console, _ROWS)
    if (more := len(found.labels) - _ROWS) > 0:
        console.print(f"and {more:,} more of a higher average precision; evaluation.json has all")
    for what, names in (
        ("that no image here has, and so in no mean", _names(found, "support")),
        ("never told, so precision counts as 0", _names(found, "predicted")),
    ):
        if names:
            console.print(f"{what}: {enumerate_names(names)}", markup=False)


def label_section(
    evaluations: Sequence[tuple[str, LabelEvaluation, Picture | None]],
) -> Section | None:
    """The scores of models of several labels, and their mistakes.

    Args:
        evaluations: name of a source, what it holds, and the picture of the worst mistakes.
    """
    return lay_out("labels", "Evaluation of labels", evaluations, _tell)


def _tell(found: LabelEvaluation, entitle: Entitle) -> Told:
    table = label_table(found, entitle("Labels, the hardest first"))
    hardest = [
        Bar(each.name, each.average_precision or 0.0, write_accuracy(each.average_precision))
        for each in _hardest_first(found)[:_BARS]
        if is_known(each.average_precision)
    ]
    panels = (bar_panel("Average precision by label", hardest),) if hardest else ()
    block: Block = Exhibit(table.title, panels, table) if panels else table
    key, figures = f"mAP on {found.samples:,} images", (_figures(found), _name_views(found))
    return Told(figures, found.mean_average_precision, key, [block])


def label_line(found: LabelEvaluation) -> str:
    """The score in a few words."""
    return f"mAP {found.mean_average_precision:.4f}"


def label_table(
    found: LabelEvaluation, title: str = "Labels, the hardest first", *, is_short: bool = False
) -> Table:
    """A row for each label, that of the lowest average precision first; short: for a terminal."""
    columns: list[Column[LabelRow]] = [
        Column("label", lambda each: each.name),
        Column("AP", lambda each: each.average_precision, write_accuracy),
        Column("precision", lambda each: each.precision, write_accuracy),
        Column("recall", lambda each: each.recall, write_accuracy),
        Column("F1", lambda each: each.f1, write_accuracy),
        Column("images", lambda each: each.support),
        Column("told", lambda each: each.predicted),
    ]
    if not is_short:
        columns += [
            Column("from", lambda each: each.threshold, write_accuracy),
            Column("best F1", lambda each: each.best_f1, write_accuracy),
            Column("from there on", lambda each: each.best_threshold, write_accuracy),
        ]
    return make_table(title, _hardest_first(found), columns)


def _hardest_first(found: LabelEvaluation) -> list[LabelRow]:
    def rank(row: LabelRow) -> float:
        return 2.0 if row.average_precision is None else row.average_precision

    return sorted(found.labels, key=rank)


def _names(found: LabelEvaluation, field: str) -> list[str]:
    """The labels of which a count is nought."""
    return [each.name for each in found.labels if not getattr(each, field)]


def _figures(found: LabelEvaluation) -> str:
    return (
        f"{label_line(found)}; micro F1 {found.micro_f1:.4f}, macro F1 {found.macro_f1:.4f}; "
        f"{found.exact:,} of {found.samples:,} images with all labels right "
        f"({found.subset_accuracy:.1%}), {found.label_accuracy:.1%} of all decisions; mean loss "
        f"{write_measure(found.loss)}"
    )


def _name_views(found: LabelEvaluation) -> str:
    plain = found.plain_mean_average_precision
    return (
        "" if plain is None else f"{name_views(found.config)}; mAP of the images alone {plain:.4f}"
    )
