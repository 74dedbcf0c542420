"""The command line of what makes, describes and exports data."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from fastft.cli.addresses import find_here
from fastft.cli.data_options import Columns, takes_columns
from fastft.config.checks import defaults
from fastft.datasets.synth import SynthConfig, write_synth
from fastft.system.progress import make_console
from pipelines.errors import UsageError
from pipelines.formats.source import PACKED

_SYNTH = defaults(SynthConfig)


def synth(
    out: Annotated[Path, typer.Argument(metavar="DIR", help="The folder to make.")],
    family: Annotated[
        str,
        typer.Option(help="shapes or weaves: one can be the source, one the target of a transfer."),
    ] = _SYNTH.family,
    classes: Annotated[int, typer.Option(help="How many classes.")] = _SYNTH.classes,
    per_class: Annotated[int, typer.Option(help="Training images per class.")] = _SYNTH.per_class,
    test_per_class: Annotated[
        int | None, typer.Option(help="Test images per class; by default a fifth of --per-class.")
    ] = _SYNTH.test_per_class,
    size: Annotated[
        str, typer.Option(help="Mean width and height, px; each image varies.")
    ] = "{}x{}".format(*_SYNTH.size),
    seed: Annotated[int, typer.Option(help="Same seed, same bytes.")] = _SYNTH.seed,
    workers: Annotated[int, typer.Option(help="Processes; 0 takes every CPU.")] = 0,
    overwrite: Annotated[
        bool, typer.Option(help="Replace what synth wrote there before.")
    ] = _SYNTH.overwrite,
) -> None:
    """Make a data set of photo-like JPEGs in class folders, train and test.

    Its classes differ in shape or texture alone, not in colour, size or file size.

    Example: fastft synth photos --classes 4 --per-class 250
    """
    from fastft.system.progress import image_progress

    config = SynthConfig(
        out=out,
        family=family,
        classes=classes,
        per_class=per_class,
        test_per_class=test_per_class,
        size=_parse_size(size),
        seed=seed,
        workers=workers or None,
        overwrite=overwrite,
    )
    console = make_console()
    with image_progress(console, "drawing") as update:
        result = write_synth(config, lambda done, total: update(str(out), done, total))
    rate = (result.train_images + result.test_images) / result.seconds
    console.print(
        f"{out}: {result.train_images:,} training and {result.test_images:,} test images, classes "
        f"{', '.join(result.classes)}, {result.bytes / 1e6:.1f} MB, {rate:.0f} images/s",
        markup=False,
    )


@takes_columns
def inspect(
    *,
    file: Annotated[
        Path,
        typer.Argument(
            help="A .beton file, fastft's or stock FFCV's; or what convert takes: a folder, zip, "
            "table, tar, Hugging Face data set or RecordIO."
        ),
    ],
    verify: Annotated[
        bool, typer.Option("--verify", help="Check every sample's checksum, of a .beton.")
    ] = False,
    columns: Columns,
) -> None:
    """Show what a .beton holds: header, classes with counts, a histogram of sizes.

    Of data that are not converted yet: samples, classes with counts, columns, split by split.

    Example: fastft inspect data/train.beton --verify

    Example: fastft inspect labels.csv --label-column species
    """
    from fastft.datasets.inspect import describe
    from fastft.system.progress import image_progress

    console = make_console()
    file = find_here(file, Path.cwd())
    is_unconverted = file.is_dir() and not any(file.glob("*.beton"))
    if is_unconverted or file.suffix.lower() in PACKED:
        if verify:
            found = f"given for {file}, which has no checksums"
            raise UsageError("--verify", found, "a .beton", "fastft convert checks all images")
        from fastft.datasets.inspect_listings import describe_listings

        describe_listings(file, console, names=columns.names, image_root=columns.image_root)
        return
    with image_progress(console, "checking") as update:
        describe(
            file,
            console,
            verify=verify,
            on_progress=lambda done, total: update(file.name, done, total),
        )


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

    file = find_here(file, Path.cwd())
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


def _parse_size(text: str) -> tuple[int, int]:
    width, _, height = text.partition("x")
    try:
        return int(width), int(height or width)
    except ValueError:
        raise UsageError("--size", repr(text), "WIDTHxHEIGHT such as 200x160") from None
