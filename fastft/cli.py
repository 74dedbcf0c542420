"""The command line: arguments to a config, a config to one call, errors to one line.

Nothing heavy is imported before a command needs it: `fastft --help` loads no torch.
"""

from __future__ import annotations

import os
import sys
import warnings
from pathlib import Path
from typing import Annotated, Any, cast

import typer

from fastft.cli_parity import parity
from fastft.config import Amp, PredictConfig, Schedule, StoreKind, TrainConfig, defaults
from fastft.progress import make_console
from fastft.synth import SynthConfig, write_synth
from pipelines.convert import ConvertConfig
from pipelines.convert import convert as run_convert
from pipelines.encode import Mode
from pipelines.errors import FastftError, UsageError, one_line

app = typer.Typer(
    help="Fine-tune image classifiers with the input path out of the way.\n\n"
    "A folder of images becomes one .beton file, which any loader feeds to a ResNet-18:\n\n"
    "  fastft convert photos data\n\n"
    "  fastft train --data data --out run\n\n"
    "  fastft predict run photos/test",
    no_args_is_help=True,
    add_completion=False,
    rich_markup_mode="rich",
    pretty_exceptions_enable=False,
)
# The class of every complaint about arguments, which typer keeps in a private module.
_ArgumentError: Any = typer.BadParameter.__base__

#: What typer makes of Ctrl-C, and shells of a process that died of it.
_INTERRUPTED = 130

_SYNTH = defaults(SynthConfig)
_CONVERT = defaults(ConvertConfig)
_TRAIN = defaults(TrainConfig)
_PREDICT = defaults(PredictConfig)


@app.command()
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
    from fastft.progress import image_progress

    config = SynthConfig(
        out=out, family=family, classes=classes, per_class=per_class, test_per_class=test_per_class,
        size=_parse_size(size), seed=seed, workers=workers or None, overwrite=overwrite,
    )  # fmt: skip
    console = make_console()
    with image_progress(console, "drawing") as update:
        result = write_synth(config, lambda done, total: update(str(out), done, total))
    rate = (result.train_images + result.test_images) / result.seconds
    console.print(
        f"{out}: {result.train_images:,} training and {result.test_images:,} test images, classes "
        f"{', '.join(result.classes)}, {result.bytes / 1e6:.1f} MB, {rate:.0f} images/s"
    )


@app.command()
def convert(
    src: Annotated[
        Path, typer.Argument(help="A folder of class folders, or of train and test or val.")
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
    verify: Annotated[
        bool, typer.Option(help="Decode every image once to find broken ones.")
    ] = _CONVERT.verify,
    max_bad: Annotated[
        str, typer.Option(help="Broken images to leave out before failing: a number or a share.")
    ] = _CONVERT.max_bad,
    workers: Annotated[int, typer.Option(help="Threads; 0 takes every CPU.")] = _CONVERT.workers,
) -> None:
    """Turn a folder of images into one .beton file per split.

    JPEGs are stored byte for byte. Broken images are left out, named and counted. The output
    appears whole or not at all; stock ffcv.Loader reads it too.

    Example: fastft convert photos data
    """
    from fastft.progress import image_progress
    from fastft.tables import conversion_table

    config = ConvertConfig(
        src=src, out=out, mode=cast(Mode, mode), max_side=max_side, quality=quality,
        proportion=proportion, apply_exif=apply_exif, verify=verify, max_bad=max_bad,
        workers=workers,
    )  # fmt: skip
    console = make_console()
    with image_progress(console, "converting") as update:
        reports = run_convert(
            config, lambda split, done, n, size: update(split or src.name, done, n, size)
        )
    console.print(conversion_table(reports))
    for report in reports:
        for bad in report.quarantined[:10]:
            console.print(f"left out: {one_line(bad.name)}: {bad.reason}", markup=False)
        if len(report.quarantined) > 10:
            console.print(f"and {len(report.quarantined) - 10} more, see *.quarantine.json")


@app.command()
def inspect(
    file: Annotated[Path, typer.Argument(help="A .beton file, fastft's or stock FFCV's.")],
    verify: Annotated[
        bool, typer.Option("--verify", help="Check every sample's checksum.")
    ] = False,
) -> None:
    """Show what a .beton holds: header, classes with counts, a histogram of sizes.

    Example: fastft inspect data/train.beton --verify
    """
    from fastft.describe import describe
    from fastft.progress import image_progress

    console = make_console()
    with image_progress(console, "checking") as update:
        describe(
            file, console, verify=verify,
            on_progress=lambda done, total: update(file.name, done, total),
        )  # fmt: skip


@app.command()
def train(
    data: Annotated[
        Path,
        typer.Option(help="A folder with train and test or val: .beton files or class folders."),
    ],
    out: Annotated[Path, typer.Option(help="The run folder to make.")],
    loader: Annotated[
        str,
        typer.Option(
            help="auto, torchvision, ffcv, dali or resident, which decodes once and keeps the "
            "pixels. auto takes dali on a GPU; elsewhere resident if the pixels fit into half the "
            "free memory, else ffcv, which needs .beton files; as far as they are installed."
        ),
    ] = _TRAIN.loader,
    store: Annotated[
        str,
        typer.Option(
            help="What resident keeps: rgb, or yuv420 in half the bytes, which costs chroma detail "
            "unless the photos are 4:2:0 JPEGs."
        ),
    ] = _TRAIN.store,
    store_side: Annotated[
        int,
        typer.Option(
            help="resident shrinks images to this shorter side first, px; 0 keeps sizes. "
            "256 suits --size 224."
        ),
    ] = _TRAIN.store_side,
    store_file: Annotated[
        Path | None,
        typer.Option(
            help="Where resident keeps the pixels for the next run: X.store becomes X.train.store "
            "and X.eval.store."
        ),
    ] = _TRAIN.store_file,
    stock: Annotated[
        bool,
        typer.Option("--stock", help="torchvision's own transforms and shuffling: a baseline."),
    ] = _TRAIN.stock,
    weights: Annotated[
        str, typer.Option(help="imagenet, none, or a file: a checkpoint or a state dict.")
    ] = _TRAIN.weights,
    size: Annotated[
        int, typer.Option(help="Side of the images that the model sees, px.")
    ] = _TRAIN.size,
    epochs: Annotated[int, typer.Option(help="Passes over the training set.")] = _TRAIN.epochs,
    batch_size: Annotated[
        int | None, typer.Option(help="Images per step; by default 128, or all if fewer.")
    ] = _TRAIN.batch_size,
    lr: Annotated[
        float | None,
        typer.Option(help="Peak learning rate; by default 0.002, without weights 0.01."),
    ] = _TRAIN.lr,
    head_lr_factor: Annotated[
        float | None,
        typer.Option(
            help="How much faster the output layer learns; by default 10, without weights 1."
        ),
    ] = _TRAIN.head_lr_factor,
    momentum: Annotated[float, typer.Option(help="Of SGD.")] = _TRAIN.momentum,
    weight_decay: Annotated[float, typer.Option(help="Of SGD.")] = _TRAIN.weight_decay,
    schedule: Annotated[
        str, typer.Option(help="cosine (with a warm-up) or constant.")
    ] = _TRAIN.schedule,
    amp: Annotated[
        str, typer.Option(help="auto, bf16, fp16 or off; auto takes what the device is fast in.")
    ] = _TRAIN.amp,
    seed: Annotated[
        int, typer.Option(help="Of crops, flips, order and new weights.")
    ] = _TRAIN.seed,
    workers: Annotated[
        int, typer.Option(help="Decoding threads; 0 takes every CPU.")
    ] = _TRAIN.workers,
    device: Annotated[str, typer.Option(help="auto, cpu, cuda or cuda:N.")] = _TRAIN.device,
    overwrite: Annotated[
        bool, typer.Option("--overwrite", help="Replace an earlier run in --out.")
    ] = _TRAIN.overwrite,
) -> None:
    """Fine-tune a ResNet-18 and write a run folder.

    The folder holds config.json, metrics.jsonl, last.pt, best.pt and curves.png.

    Example: fastft train --data data --out run --epochs 5
    """
    config = TrainConfig(
        data=data, out=out, loader=loader, store=cast(StoreKind, store), store_side=store_side,
        store_file=store_file, stock=stock, weights=weights, size=size, epochs=epochs,
        batch_size=batch_size, lr=lr, head_lr_factor=head_lr_factor, momentum=momentum,
        weight_decay=weight_decay, schedule=cast(Schedule, schedule), amp=cast(Amp, amp), seed=seed,
        workers=workers, device=device, overwrite=overwrite,
    )  # fmt: skip
    from fastft.train import train as run

    console = make_console()
    result = run(config, console)
    console.print(
        f"best accuracy {result.best_accuracy:.3f} in {result.seconds:.1f} s; "
        f"{out}/best.pt, {out}/curves.png",
        markup=False,
    )


@app.command()
def predict(
    run: Annotated[Path, typer.Argument(help="A run folder, or a checkpoint.")],
    images: Annotated[list[Path], typer.Argument(help="Image files, or folders of them.")],
    sheet: Annotated[
        Path | None, typer.Option(help="Draw up to 32 of the images with their predictions, a PNG.")
    ] = _PREDICT.sheet,
    csv: Annotated[
        Path | None, typer.Option(help="Write all predictions to this file.")
    ] = _PREDICT.csv,
    batch_size: Annotated[int, typer.Option(help="Images per forward pass.")] = _PREDICT.batch_size,
    device: Annotated[str, typer.Option(help="auto, cpu, cuda or cuda:N.")] = _PREDICT.device,
) -> None:
    """Print class and probability of images.

    Images are cut as in evaluation. Where an image's folder bears a class name, the share of right
    answers is printed too.

    Example: fastft predict run photo.jpg photos/test --sheet sheet.png
    """
    config = PredictConfig(
        run=run, images=tuple(images), sheet=sheet, csv=csv, batch_size=batch_size, device=device
    )
    from fastft.predict import predict as run_predict
    from fastft.tables import print_predictions

    console = make_console()
    print_predictions(run_predict(config), console)
    for written in (sheet, csv):
        if written is not None:
            console.print(str(written), markup=False)


app.command()(parity)


def main() -> None:
    """Run the command line; ends the process with 0, 1 (data), 2 (usage) or 130 (Ctrl-C)."""
    # Pillow says it of transparent palette images, whose transparency nobody asked for here.
    warnings.filterwarnings("ignore", message="Palette images with Transparency")
    try:
        status = app(prog_name="fastft", standalone_mode=False) or 0
        if status == _INTERRUPTED:
            raise KeyboardInterrupt
        sys.exit(status)
    except FastftError as error:
        _fail(str(error), error.exit_code)
    except _ArgumentError as error:
        where = getattr(getattr(error, "ctx", None), "command_path", "fastft")
        _fail(f"{where}: {error.format_message()} See {where} --help", 2)
    except RuntimeError as error:
        if "DataLoader worker" not in str(error):
            raise
        _fail(f"fastft: {error} If memory ran out, take fewer --workers.", 1)
    except (KeyboardInterrupt, typer.Abort):
        _fail("fastft: interrupted", _INTERRUPTED)
    except BrokenPipeError:  # the reader of a pipe has left; nobody is there to be told
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        sys.exit(1)
    except OSError as error:  # a full disk, a missing permission: the machine's doing, not a bug
        _fail(f"{error.filename or 'fastft'}: {error.strerror or error}", 1)


def _fail(message: str, status: int) -> None:
    print(one_line(message), file=sys.stderr)
    sys.exit(status)


def _parse_size(text: str) -> tuple[int, int]:
    width, _, height = text.partition("x")
    try:
        return int(width), int(height or width)
    except ValueError:
        raise UsageError("--size", repr(text), "WIDTHxHEIGHT such as 200x160") from None
