"""The options of splits that are made of data which come without."""

from __future__ import annotations

from collections.abc import Callable
from typing import Annotated, Any

import typer

from fastft.cli.added_options import add_options, options_of
from fastft.config.division import make_division
from pipelines.formats.division import UNDIVIDED, Division

_PANEL = "Data"


def _option(text: str, usual: object) -> Any:
    return typer.Option(help=text, show_default=str(usual), rich_help_panel=_PANEL)


def splitting(
    *,
    val_split: Annotated[
        float | None,
        _option(
            "Of data without test or val, set this share apart to evaluate on, such as 0.2: of "
            "each class, by a hash of each photo's name, so that photos added later move none.",
            "none",
        ),
    ] = None,
    folds: Annotated[
        int | None,
        _option("Divide such data into so many folds, one of which is set apart.", "none"),
    ] = None,
    fold: Annotated[int | None, _option("That fold, from 0 on.", UNDIVIDED.fold)] = None,
    group_by: Annotated[
        str | None,
        _option(
            "A regular expression: photos of whose names it matches the same text stay on one "
            "side, such as 'patient[0-9]+'.",
            "a table's group column",
        ),
    ] = None,
    split_seed: Annotated[
        int | None, _option("Another seed divides otherwise.", UNDIVIDED.seed)
    ] = None,
) -> None:
    """The options that are added to commands which may make a split; never called."""


def takes_division(command: Callable[..., None]) -> Callable[..., None]:
    """Give a command these options, which it receives as `division`; None: none was given."""
    return add_options(command, options_of(splitting), "division", _gather)


def _gather(taken: dict[str, Any]) -> Division | None:
    given = {name: value for name, value in taken.items() if value is not None}
    return make_division(given) if given else None
