"""The command line of `fastft show`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer

from fastft.cli.addresses import find_here
from fastft.cli.augment_options import takes_augment_options
from fastft.config.augment import name_options
from fastft.config.checks import defaults
from fastft.config.commands import ShowConfig
from fastft.system.progress import make_console
from pipelines.augment import USUAL, Augment
from pipelines.errors import UsageError

_SHOW = defaults(ShowConfig)
# A title in the help.
_CROPS: Any = {"rich_help_panel": "Crops (--augmented)"}


@takes_augment_options
def show(
    *,
    data: Annotated[
        Path,
        typer.Argument(help="A .beton, a class folder, or a folder with splits: its train."),
    ],
    out: Annotated[Path, typer.Option(help="The PNG to write.")] = _SHOW.out,
    classes: Annotated[
        str, typer.Option(help="Such as hotdog,not-hotdog; by default the first eight.")
    ] = "",
    n: Annotated[
        int | None,
        typer.Option("--n", help="Images per class.", show_default="8, with --augmented 4 in all"),
    ] = _SHOW.n,
    split: Annotated[
        str | None, typer.Option(help="train, test or val, of a folder with splits.")
    ] = _SHOW.split,
    augmented: Annotated[
        bool, typer.Option("--augmented", help="Show what a model will see.", **_CROPS)
    ] = _SHOW.augmented,
    loader: Annotated[
        str | None,
        typer.Option(
            help="Whose pixels: torchvision, ffcv, dali or resident.",
            show_default=_SHOW.loader,
            **_CROPS,
        ),
    ] = None,
    view: Annotated[
        str | None,
        typer.Option(
            help="train, recordio, eval or eval-square.", show_default=_SHOW.view, **_CROPS
        ),
    ] = None,
    size: Annotated[
        int | None,
        typer.Option(help="Side of the crops, px.", show_default=str(_SHOW.size), **_CROPS),
    ] = None,
    epoch: Annotated[
        int | None,
        typer.Option(help="The first of six.", show_default=str(_SHOW.epoch), **_CROPS),
    ] = None,
    seed: Annotated[
        int | None,
        typer.Option(help="Of crops and flips.", show_default=str(_SHOW.seed), **_CROPS),
    ] = None,
    asked: Augment,
) -> None:
    """Draw a contact sheet of a data set.

    It has the first images of each class, and of the last class the last ones. With --augmented
    it has the crops of a few images as training cuts them, epoch after epoch: the very pixels that
    the loader hands to a model, and what was drawn for each of them.

    Example: fastft show data --augmented --augment trivial --erase 0.25

    Example: fastft show data --augmented --loader dali

    Example: fastft show data
    """
    crops: dict[str, Any] = {
        "loader": loader,
        "view": view,
        "size": size,
        "epoch": epoch,
        "seed": seed,
    }
    given = {name: value for name, value in crops.items() if value is not None}
    if given and not augmented:
        raise UsageError(f"--{next(iter(given))}", "given without --augmented", "with --augmented")
    if asked != USUAL and not augmented:
        options = ", ".join(name_options(asked))
        raise UsageError(options, "given without --augmented", "with --augmented")
    config = ShowConfig(
        data=find_here(data, out.parent),
        out=out,
        classes=tuple(filter(None, classes.split(","))),
        n=n,
        split=split,
        augmented=augmented,
        augment=asked,
        **given,
    )
    from fastft.datasets.show import make_sheet

    sheet = make_sheet(config)
    from fastft.datasets.contact_sheet import (
        draw_sheet,  # matplotlib takes 0.7 s, errors come first
    )

    draw_sheet(sheet, config.out)
    console = make_console()
    if sheet.left_out:
        console.print(
            f"{sheet.left_out:,} more classes are left out; --classes picks some", markup=False
        )
    console.print(str(out), markup=False)
