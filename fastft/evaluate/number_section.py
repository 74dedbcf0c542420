"""Findings about a number, as lines and a table on the terminal and as a section of a page."""

from __future__ import annotations

from collections.abc import Sequence

from rich.console import Console

from fastft.evaluate.number_result import NumberEvaluation
from fastft.evaluate.section import Entitle, Told, lay_out, name_views
from fastft.results.numbers import write_measure
from fastft.results.tables import (
    Column,
    Picture,
    Section,
    Table,
    make_table,
    print_table,
)

#: Rows of the printed table at most.
_ROWS = 10


def print_number_evaluation(found: NumberEvaluation, console: Console) -> None:
    """Print the figures, and the largest errors."""
    console.print(_figures(found), markup=False)
    if averaged := _name_views(found):
        console.print(averaged)
    print_table(error_table(found), console, _ROWS)


def number_section(
    evaluations: Sequence[tuple[str, NumberEvaluation, Picture | None]],
) -> Section | None:
    """The errors of models of a number.

    Args:
        evaluations: name of a source, what it holds, and the picture of the largest errors.
    """
    return lay_out("number", "Evaluation of a number", evaluations, _tell)


def _tell(found: NumberEvaluation, entitle: Entitle) -> Told:
    key = f"R2 of {found.number} on {found.samples:,} images"
    figures, table = (_figures(found), _name_views(found)), entitle("Largest errors")
    return Told(figures, found.r2, key, [error_table(found, table)])


def number_line(found: NumberEvaluation) -> str:
    """The errors in a few words."""
    mae, rmse = write_measure(found.mae), write_measure(found.rmse)
    return f"R2 {found.r2:.4f}, MAE {mae}, RMSE {rmse}"


def error_table(found: NumberEvaluation, title: str = "Largest errors") -> Table:
    """A row for each of the largest errors."""
    return make_table(
        title,
        found.top_losses,
        (
            Column("image", lambda each: each.name),
            Column("truth", lambda each: each.truth, write_measure),
            Column("predicted", lambda each: each.predicted, write_measure),
            Column("error", lambda each: each.error, write_measure),
        ),
    )


def _figures(found: NumberEvaluation) -> str:
    return (
        f"{found.number}: {number_line(found)}; median error {write_measure(found.median_error)}, "
        f"mean error {write_measure(found.bias)}; {found.samples:,} images, whose mean is "
        f"{write_measure(found.mean)} and deviation {write_measure(found.deviation)}"
    )


def _name_views(found: NumberEvaluation) -> str:
    plain = found.plain_r2
    return (
        "" if plain is None else f"{name_views(found.config)}; R2 of the images alone {plain:.4f}"
    )
