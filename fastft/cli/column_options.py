"""The options of what tables and packed data call their columns."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

import typer

from fastft.cli.added_options import add_options, options_of
from pipelines.errors import UsageError
from pipelines.formats.columns import TASKS, ColumnNames

_PANEL = "Tables and packed data"


@dataclass(frozen=True, slots=True)
class Columns:
    """The columns' names, and the folder that paths in them are relative to."""

    names: ColumnNames
    image_root: Path | None


def _column(text: str, usual: str) -> Any:
    return typer.Option(help=f"The column {text}.", show_default=usual, rich_help_panel=_PANEL)


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
            rich_help_panel=_PANEL,
        ),
    ] = None,
    task: Annotated[
        str,
        typer.Option(
            help="What the labels are: classes (one each), labels (any number each, such as "
            "'cat;dog') or number (to be predicted).",
            show_default="classes; labels of lists",
            rich_help_panel=_PANEL,
        ),
    ] = "",
) -> None:
    """The options that `takes_columns` adds to a command; never called."""


def takes_columns(command: Callable[..., None]) -> Callable[..., None]:
    """Give a command these options, which it receives as `columns`."""
    return add_options(command, options_of(naming), "columns", _gather)


def _gather(taken: dict[str, Any]) -> Columns:
    task = taken["task"]
    if task and task not in TASKS:
        raise UsageError("--task", repr(task), f"one of {', '.join(TASKS)}")
    names = {
        name: taken[f"{name}_column"] for name in ("image", "label", "split", "weight", "group")
    }
    return Columns(ColumnNames(**names, task=task), taken["image_root"])
