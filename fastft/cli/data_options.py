"""Options of data: the names of columns, and splits that are made of data which come without."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

import typer

from fastft.cli.added_options import add_options, options_of
from fastft.config.division import make_division
from pipelines.errors import UsageError
from pipelines.formats.columns import TASKS, ColumnNames
from pipelines.formats.division import UNDIVIDED, Division

_NAMED = ("image", "label", "split", "weight", "group")
_TABLES, _DATA = "Tables and packed data", "Data"


@dataclass(frozen=True, slots=True)
class Columns:
    """The columns' names, and the folder that paths in them are relative to."""

    names: ColumnNames
    image_root: Path | None


def _column(text: str, usual: str) -> Any:
    return typer.Option(help=f"The column {text}.", show_default=usual, rich_help_panel=_TABLES)


def naming(
    *,
    image_column: Annotated[
        str, _column("of the images, or of the paths to them", "path, file, image, ...")
    ] = "",
    label_column: Annotated[
        str,
        _column(
            "of the labels; several, with commas between, are labels that are 0 or 1",
            "label, class, target, ...",
        ),
    ] = "",
    split_column: Annotated[
        str, _column("that says train, val or test; - is none", "split, set, ...")
    ] = "",
    weight_column: Annotated[
        str, _column("of weights, for train --sampler weights; - is none", "weight, sample_weight")
    ] = "",
    group_column: Annotated[
        str, _column("of groups that a split keeps together; - is none", "group, patient, ...")
    ] = "",
    image_root: Annotated[
        Path | None,
        typer.Option(
            help="The folder that a table's paths are relative to.",
            show_default="the table's own",
            rich_help_panel=_TABLES,
        ),
    ] = None,
    task: Annotated[
        str,
        typer.Option(
            help="What the labels are: classes (one each), labels (any number each, such as "
            "'cat;dog') or number (to be predicted).",
            show_default="classes; labels of lists",
            rich_help_panel=_TABLES,
        ),
    ] = "",
) -> None:
    """The options that `takes_columns` adds to a command; never called."""


def takes_columns(command: Callable[..., None]) -> Callable[..., None]:
    """Give a command these options, which it receives as `columns`."""
    return add_options(command, options_of(naming), "columns", _gather_columns)


def _gather_columns(taken: dict[str, Any]) -> Columns:
    task = taken["task"]
    if task and task not in TASKS:
        raise UsageError("--task", repr(task), f"one of {', '.join(TASKS)}")
    names = {
        name: taken[f"{name}_column"] for name in ("image", "label", "split", "weight", "group")
    }
    return Columns(ColumnNames(**names, task=task), taken["image_root"])


def _split(text: str, usual: object) -> Any:
    return typer.Option(help=text, show_default=str(usual), rich_help_panel=_DATA)


def splitting(
    *,
    val_split: Annotated[
        float | None,
        _split(
            "Of data without test or val, set this share apart to evaluate on, such as 0.2: of "
            "each class, by a hash of each photo's name, so that photos added later move none.",
            "none",
        ),
    ] = None,
    folds: Annotated[
        int | None,
        _split("Divide such data into so many folds, one of which is set apart.", "none"),
    ] = None,
    fold: Annotated[int | None, _split("That fold, from 0 on.", UNDIVIDED.fold)] = None,
    group_by: Annotated[
        str | None,
        _split(
            "A regular expression: photos of whose names it matches the same text stay on one "
            "side, such as 'patient[0-9]+'.",
            "a table's group column",
        ),
    ] = None,
    split_seed: Annotated[
        int | None, _split("Another seed divides otherwise.", UNDIVIDED.seed)
    ] = None,
) -> None:
    """The options that are added to commands which may make a split; never called."""


def takes_division(command: Callable[..., None]) -> Callable[..., None]:
    """Give a command these options, which it receives as `division`; None: none was given."""
    return add_options(command, options_of(splitting), "division", _gather_division)


def _gather_division(taken: dict[str, Any]) -> Division | None:
    given = {name: value for name, value in taken.items() if value is not None}
    return make_division(given) if given else None
