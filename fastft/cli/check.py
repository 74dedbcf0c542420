"""The command line of `fastft check`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from fastft.cli.addresses import find_here
from fastft.cli.data_options import Columns, takes_columns, takes_division
from fastft.config.check import CheckConfig
from fastft.config.checks import defaults
from fastft.system.progress import make_console
from pipelines.formats.division import UNDIVIDED, Division

_CHECK = defaults(CheckConfig)


@takes_division
@takes_columns
def check(
    *,
    data: Annotated[
        Path,
        typer.Argument(
            help="A folder with splits, class folders, a .beton, or what else convert reads: zips, "
            "tables, tars, Hugging Face data sets, RecordIO."
        ),
    ],
    out: Annotated[
        Path, typer.Option(help="The folder for check.json and the contact sheets.")
    ] = _CHECK.out,
    threshold: Annotated[
        int,
        typer.Option(
            help="Bits of 64 in which the hashes of two copies may differ, 0 to 12; a second look "
            "at their thumbnails follows in any case."
        ),
    ] = _CHECK.threshold,
    size: Annotated[
        int,
        typer.Option(
            help="Side that a model will see, px: photos of less than a quarter are called tiny."
        ),
    ] = _CHECK.size,
    quick: Annotated[
        bool,
        typer.Option(
            "--quick",
            help="Decode JPEGs at a part of their size alone: less time, and damage that "
            "decoders only warn of is missed.",
        ),
    ] = _CHECK.quick,
    strict: Annotated[
        bool,
        typer.Option(
            "--strict",
            help="Exit with status 1 if copies lie in several splits, or have several labels.",
        ),
    ] = _CHECK.strict,
    max_sheet: Annotated[
        int, typer.Option(help="Pairs or images on a contact sheet at most.")
    ] = _CHECK.max_sheet,
    workers: Annotated[
        int, typer.Option(help="Decoding threads; 0 takes every CPU.")
    ] = _CHECK.workers,
    columns: Columns,
    division: Division | None,
) -> None:
    """Look at a data set before training: copies, leaks, broken and odd images, classes.

    Copies are found by their bytes, and by what they show: shrunk, enlarged, encoded anew,
    brighter, darker and mirrored ones, too. Copies in two splits are a leak: a model has seen
    what it is tested with. Copies of two classes are a label conflict.

    Every image is decoded. Broken and doubtful ones are named with the reason; so are tiny,
    huge and very long ones, those that lie on a side, gray ones among colour, and pictures of
    one colour. Classes of few images are told, such that one split lacks, and such whose files
    are unlike all others. Nothing in DATA is changed.

    check.json holds all findings; leaks.png, duplicates.png and odd.png show them. Exit status
    0 whatever is found, unless --strict asks for 1.

    Example: fastft check photos

    Of data without splits, --val-split and --folds show what would lie on both sides, as train
    and convert would divide them; --group-by keeps together what belongs together.

    Example: fastft check data --strict --quick

    Example: fastft check photos --val-split 0.2 --group-by 'patient[0-9]+' --strict

    Example: fastft check data/train.beton --out looked-at --threshold 4
    """
    config = CheckConfig(
        data=find_here(data, out.parent),
        out=out,
        threshold=threshold,
        size=size,
        quick=quick,
        strict=strict,
        max_sheet=max_sheet,
        workers=workers,
        names=columns.names,
        image_root=columns.image_root,
        division=division or UNDIVIDED,
    )
    from fastft.check.run import run_check

    found = run_check(config, make_console())
    if strict and (found.leaked or found.conflicts):
        raise typer.Exit(1)
