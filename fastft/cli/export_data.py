"""The command line of `fastft export-data`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from fastft.system.progress import make_console


def export_data(
    file: Annotated[
        Path, typer.Argument(help="A .beton file, or a folder that holds train.beton and others.")
    ],
    out: Annotated[Path, typer.Argument(metavar="DIR", help="The folder to make.")],
    split: Annotated[
        str,
        typer.Option(
            help="Of a folder, the only split to write, straight into DIR.", show_default="all"
        ),
    ] = "",
    overwrite: Annotated[
        bool,
        typer.Option("--overwrite", help="Replace what export-data wrote there before."),
    ] = False,
) -> None:
    """Write the images of .beton files into folders, one for each class.

    JPEGs are written byte for byte as they are stored; what is stored as raw pixels becomes PNG,
    which loses nothing. Files are called as the images were that were converted. Of several labels
    or a number for each image, the images lie in DIR/images and labels.jsonl says the rest.

    Example: fastft export-data data photos

    Example: fastft export-data data/val.beton photos
    """
    from fastft.datasets.export_data import ExportConfig
    from fastft.datasets.export_data import export_data as run_export
    from fastft.system.progress import image_progress

    config = ExportConfig(file=file, out=out, split=split, overwrite=overwrite)
    console = make_console()
    with image_progress(console, "writing") as update:
        result = run_export(
            config, lambda name, done, n, size: update(name or file.name, done, n, size)
        )
    counts = [f"{images:,} {name or 'images'}" for name, images in result.images.items()]
    rate = sum(result.images.values()) / result.seconds
    pngs = f", {result.pngs:,} of them PNG" if result.pngs else ""
    console.print(
        f"{out}: {', '.join(counts)}{pngs}, {result.bytes / 1e6:.1f} MB, {rate:,.0f} images/s",
        markup=False,
    )
    for note in result.notes:
        console.print(note, markup=False)
