"""The command line of conversion: `convert` and `merge`."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, cast

import typer
from rich.console import Console

from fastft.cli.data_options import Columns, takes_columns, takes_division
from fastft.config.checks import defaults
from fastft.system.progress import make_console
from pipelines.conversion.run import ConvertConfig
from pipelines.conversion.run import convert as run_convert
from pipelines.errors import one_line
from pipelines.formats.division import UNDIVIDED, Division
from pipelines.formats.encode import Mode
from pipelines.formats.layout import Depth

if TYPE_CHECKING:
    from pipelines.conversion.report import Report
    from pipelines.formats.shards import Quarantined

_CONVERT = defaults(ConvertConfig)


@takes_columns
@takes_division
def convert(
    *,
    src: Annotated[
        Path,
        typer.Argument(
            help="A folder of class folders, with train and test or val or without; a .zip of "
            "that; a table of paths and labels (.csv, .tsv, .jsonl, .parquet); WebDataset's .tar; "
            "a Hugging Face data set (save_to_disk, or .parquet with images); MXNet's .rec; or a "
            "folder of such files."
        ),
    ],
    out: Annotated[
        Path, typer.Argument(help="The .beton to write; for splits, the folder to write them in.")
    ],
    mode: Annotated[
        str,
        typer.Option(
            help="passthrough: JPEGs byte for byte, the rest as raw pixels; jpg: the rest as JPEG; "
            "raw: all as raw pixels; proportion: a share of the JPEGs kept, the rest raw."
        ),
    ] = _CONVERT.mode,
    max_side: Annotated[
        int, typer.Option(help="Shrink images whose longer side is larger, px; 0: never.")
    ] = _CONVERT.max_side,
    quality: Annotated[
        int, typer.Option(help="JPEG quality of what is encoded anew.")
    ] = _CONVERT.quality,
    proportion: Annotated[
        float, typer.Option(help="The share that --mode proportion keeps.")
    ] = _CONVERT.proportion,
    apply_exif: Annotated[
        bool, typer.Option(help="Turn images upright as their EXIF says; torchvision does not.")
    ] = _CONVERT.apply_exif,
    depth: Annotated[
        str,
        typer.Option(
            help="More than 8 bits per channel: clip (255 at most, as torchvision does) or scale: "
            "16 bits by 257, floats and other integers from the image's least to its largest value."
        ),
    ] = _CONVERT.depth,
    verify: Annotated[
        bool, typer.Option(help="Decode every image once to find broken ones.")
    ] = _CONVERT.verify,
    strict: Annotated[
        bool,
        typer.Option("--strict", help="Leave out doubtful images, too: they count as broken."),
    ] = _CONVERT.strict,
    max_bad: Annotated[
        str, typer.Option(help="Broken images to leave out before failing: a number or a share.")
    ] = _CONVERT.max_bad,
    max_pixels: Annotated[
        int,
        typer.Option(help="Leave out larger images, width x height; 268435456 is the most."),
    ] = _CONVERT.max_pixels,
    workers: Annotated[int, typer.Option(help="Threads; 0 takes every CPU.")] = _CONVERT.workers,
    classes: Annotated[
        str,
        typer.Option(
            help="What the labels 0, 1, ... mean where they are numbers, with commas between; by "
            "default the numbers are the classes' names."
        ),
    ] = ",".join(_CONVERT.classes),
    shard: Annotated[
        str,
        typer.Option(
            metavar="I/N",
            help="Convert the I-th of N parts alone, such as 2/8; see fastft merge.",
        ),
    ] = _CONVERT.shard,
    resume: Annotated[
        bool, typer.Option("--resume", help="Go on with what a killed conversion has left.")
    ] = _CONVERT.resume,
    division: Division | None,
    columns: Columns,
) -> None:
    """Turn images, however they are packed, into one .beton file per split.

    JPEGs are stored byte for byte. Broken images are left out, named and counted. An image that
    decodes without an error and still looks damaged is called doubtful: it is named, and kept
    unless --strict is given. The output appears whole or not at all; stock ffcv.Loader reads it
    too.

    Example: fastft convert photos data

    Example: fastft convert photos data --val-split 0.2 --group-by 'patient[0-9]+'

    Example: fastft convert labels.csv data --label-column species --image-root photos

    SRC, OUT or both may be addresses: s3://, gs://, hf://, https://.

    Example: fastft convert s3://bucket/photos s3://bucket/data

    Example: fastft convert hotdog_train.rec train.beton --classes not-hotdog,hotdog

    Many jobs, on as many machines, share a large conversion: each takes one part of the images by
    --shard, all with the same SRC, OUT and options, and fastft merge makes of the parts what one
    job would have written. --max-bad then holds for each part.

    Example: fastft convert photos data --shard 2/8

    The same command with --resume continues a conversion that was killed; without it, what that
    left is removed. Errors and Ctrl-C leave nothing.

    Example: fastft convert photos data --resume
    """
    from fastft.cli.tables import conversion_table, preparation_lines, print_remarks

    config = ConvertConfig(
        src=src,
        out=out,
        mode=cast(Mode, mode),
        max_side=max_side,
        quality=quality,
        proportion=proportion,
        apply_exif=apply_exif,
        depth=cast(Depth, depth),
        verify=verify,
        strict=strict,
        max_bad=max_bad,
        max_pixels=max_pixels,
        workers=workers,
        classes=tuple(name.strip() for name in classes.split(",")) if classes else (),
        shard=shard,
        resume=resume,
        names=columns.names,
        image_root=columns.image_root,
        division=division or UNDIVIDED,
    )
    console = make_console()
    reports = _run(config, console)
    console.print(conversion_table(reports))
    for report in reports:
        _print_named("left out", report.quarantined, console)
        _print_named("doubtful", report.doubtful, console)
    if any(report.doubtful for report in reports):
        console.print("doubtful images are kept: look at them, or leave them out with --strict")
    print_remarks(reports, console)
    for line in preparation_lines(reports, config.policy.preparation):
        console.print(line, markup=False)
    if shard:
        console.print(f"shard {shard}; with all of them done: fastft merge {out}", markup=False)


def merge(
    out: Annotated[
        Path, typer.Argument(help="What fastft convert was given: the folder or the .beton.")
    ],
    remove_shards: Annotated[
        bool, typer.Option("--remove-shards", help="Delete the shards once the output is on disk.")
    ] = False,
) -> None:
    """Put the shards of a conversion together: byte for byte what convert writes without --shard.

    Checks first that every shard is there, whole and of the same conversion, and every image's
    checksum while it is copied. The output appears whole or not at all.

    Example: fastft merge data --remove-shards

    On a cluster with SLURM, eight jobs and then one:

    sbatch --array=1-8 --wrap 'fastft convert photos data --shard $SLURM_ARRAY_TASK_ID/8'

    sbatch --dependency=afterok:JOB --wrap 'fastft merge data --remove-shards'
    """
    from fastft.cli.tables import merge_table
    from fastft.system.progress import image_progress
    from pipelines.conversion.merge import merge as run_merge

    console = make_console()
    with image_progress(console, "merging") as update:
        reports = run_merge(out, remove_shards=remove_shards, on_progress=update)
    console.print(merge_table(reports))
    for report in reports:
        _print_named("left out", report.quarantined, console)
        _print_named("doubtful", report.doubtful, console)


def _run(config: ConvertConfig, console: Console) -> list[Report]:
    """Convert with progress, from or to an address if there is one."""
    from fastft.system.progress import image_progress
    from pipelines.remote.address import remote_address

    def tell(split: str, done: int, count: int, size: int) -> None:
        update(split or config.src.name, done, count, size)

    if remote_address(config.src) is None and remote_address(config.out) is None:
        with image_progress(console, "converting") as update:
            return run_convert(config, tell)
    from fastft.cli.fetch import byte_progress
    from pipelines.remote.conversion import convert_remote

    with byte_progress(console) as on_bytes, image_progress(console, "converting") as update:
        return convert_remote(config, tell, on_bytes)


def _print_named(what: str, images: Sequence[Quarantined], console: Console) -> None:
    for each in images[:10]:
        console.print(f"{what}: {one_line(each.name)}: {each.reason}", markup=False)
    if len(images) > 10:
        console.print(f"{what}: {len(images) - 10:,} more, see *.quarantine.json")
