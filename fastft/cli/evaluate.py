"""The command lines of `fastft evaluate` and `fastft predict`: what a trained run is for."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from fastft.cli.addresses import find_here
from fastft.cli.data_options import takes_division
from fastft.config.checks import defaults
from fastft.config.commands import EvaluateConfig, PredictConfig
from fastft.system.progress import make_console
from pipelines.errors import DataError, one_line
from pipelines.formats.division import Division

_EVALUATE = defaults(EvaluateConfig)
_PREDICT = defaults(PredictConfig)
#: What None stands for in the help.
_AS_TRAINED = "as trained"
_VFLIP = "Average with the image upside down, too; with --flip all four."
_THRESHOLD = (
    "Of several labels: tell one from this probability on; best: from each one's own, at which F1 "
    "was highest on the run's evaluation split."
)
_CROPS = "1 or 5: average the crops at the centre and the four corners; five times the time."


@takes_division
def evaluate(
    *,
    run: Annotated[Path, typer.Argument(help="A run folder or a checkpoint.")],
    data: Annotated[
        Path,
        typer.Option(help="A folder with test or val, a .beton, or a folder of class folders."),
    ],
    out: Annotated[
        Path | None,
        typer.Option(
            help="The folder for what is found; an earlier evaluation there is replaced.",
            show_default="RUN/evaluation, of a checkpoint: evaluation",
        ),
    ] = _EVALUATE.out,
    split: Annotated[
        str | None,
        typer.Option(help="The split of --data to evaluate on.", show_default="test or val"),
    ] = _EVALUATE.split,
    flip: Annotated[
        bool,
        typer.Option(
            "--flip",
            help="Average each image's probabilities with its mirror image's; twice the time.",
        ),
    ] = _EVALUATE.flip,
    vflip: Annotated[bool, typer.Option("--vflip", help=_VFLIP)] = _EVALUATE.vflip,
    crops: Annotated[int, typer.Option(help=_CROPS)] = _EVALUATE.crops,
    n: Annotated[int, typer.Option(help="Images in top_losses.png.")] = _EVALUATE.n,
    threshold: Annotated[str, typer.Option(help=_THRESHOLD, show_default="0.5")] = "",
    loader: Annotated[
        str | None,
        typer.Option(
            help="auto, torchvision, ffcv, dali or resident, see fastft train.",
            show_default=_AS_TRAINED,
        ),
    ] = _EVALUATE.loader,
    batch_size: Annotated[
        int | None, typer.Option(help="Images per forward pass.", show_default=_AS_TRAINED)
    ] = _EVALUATE.batch_size,
    workers: Annotated[
        int | None,
        typer.Option(help="Decoding threads; 0 takes every CPU.", show_default=_AS_TRAINED),
    ] = _EVALUATE.workers,
    device: Annotated[
        str | None, typer.Option(help="auto, cpu, cuda or cuda:N.", show_default=_AS_TRAINED)
    ] = _EVALUATE.device,
    amp: Annotated[
        str | None, typer.Option(help="auto, bf16, fp16 or off.", show_default=_AS_TRAINED)
    ] = _EVALUATE.amp,
    division: Division | None,
) -> None:
    """Judge a trained run by labelled images.

    Prints accuracy with its 95% interval, mean loss, macro F1, precision and recall of the hardest
    classes and the most frequent mistakes. Writes all of it, a table of every image, the confusion
    matrix and the images of the highest loss into a folder. The data must have the run's classes.
    Of several labels it tells mAP and each label's average precision, of a number MAE, RMSE and R2.
    Data without splits are divided as the run's own were (--split train takes the other side); to
    judge by all of them, pass --val-split 0.

    Example: fastft evaluate run --data data
    """
    config = EvaluateConfig(
        run=run,
        data=find_here(data, run.parent),
        out=out,
        split=split,
        division=division,
        flip=flip,
        vflip=vflip,
        crops=crops,
        n=n,
        threshold=threshold,
        loader=loader,
        batch_size=batch_size,
        workers=workers,
        device=device,
        amp=amp,
    )
    from fastft.evaluate.run import run_evaluate

    run_evaluate(config, make_console())


def predict(
    run: Annotated[
        Path, typer.Argument(help="A run folder, a checkpoint, or what fastft export wrote.")
    ],
    images: Annotated[
        list[Path],
        typer.Argument(
            help="Image files, folders of them, or quoted patterns such as 'photos/**/*.jpg'."
        ),
    ],
    sheet: Annotated[
        Path | None, typer.Option(help="Draw up to 32 of the images with their predictions, a PNG.")
    ] = _PREDICT.sheet,
    csv: Annotated[
        Path | None,
        typer.Option(
            help="Write all predictions to this file, batch by batch; - prints them and nothing "
            "else."
        ),
    ] = _PREDICT.csv,
    json: Annotated[
        Path | None, typer.Option(help="The same, with the probabilities of all classes.")
    ] = _PREDICT.json,
    skip_done: Annotated[
        bool,
        typer.Option(
            "--skip-done",
            help="Continue the file of --csv: leave out images that have a row in it, or in "
            "FILE.part, which a command that was ended leaves.",
        ),
    ] = _PREDICT.skip_done,
    top: Annotated[
        int, typer.Option(help="Print so many of the likeliest classes.")
    ] = _PREDICT.top,
    threshold: Annotated[str, typer.Option(help=_THRESHOLD, show_default="0.5")] = "",
    flip: Annotated[
        bool,
        typer.Option("--flip", help="Average each image's probabilities with its mirror image's."),
    ] = _PREDICT.flip,
    vflip: Annotated[bool, typer.Option("--vflip", help=_VFLIP)] = _PREDICT.vflip,
    crops: Annotated[int, typer.Option(help=_CROPS)] = _PREDICT.crops,
    batch_size: Annotated[
        int | None,
        typer.Option(help="Images per forward pass.", show_default="16, on a GPU 256"),
    ] = _PREDICT.batch_size,
    workers: Annotated[
        int,
        typer.Option(
            help="Threads that decode, and on a CPU run the model, too; 0 takes every CPU."
        ),
    ] = _PREDICT.workers,
    device: Annotated[str, typer.Option(help="auto, cpu, cuda or cuda:N.")] = _PREDICT.device,
    amp: Annotated[
        str | None, typer.Option(help="auto, bf16, fp16 or off.", show_default=_AS_TRAINED)
    ] = _PREDICT.amp,
) -> None:
    """Print class and probability of images, their labels, or their numbers: what the run learnt.

    Images are prepared as in evaluation. If an image's folder has the name of a class, the
    share of right answers is printed, too. A broken one of many images is named and left out;
    the exit status is then 1. Of many images rows go to --csv as they come; a command that was
    ended continues with --skip-done.

    Example: fastft predict run photo.jpg photos/test --sheet sheet.png
    """
    config = PredictConfig(
        run=run,
        images=tuple(images),
        sheet=sheet,
        csv=csv,
        json=json,
        skip_done=skip_done,
        top=top,
        threshold=threshold,
        flip=flip,
        vflip=vflip,
        crops=crops,
        batch_size=batch_size,
        workers=workers,
        device=device,
        amp=amp,
    )
    from fastft.cli.tables import print_predictions
    from fastft.evaluate.csv_file import part_of
    from fastft.evaluate.predict import run_predict
    from fastft.system.progress import image_progress

    console = make_console()
    console.stderr = config.writes_stdout  # standard output is then for a program to read
    broken = 0

    def on_broken(error: DataError) -> None:
        nonlocal broken
        broken += 1
        console.print(f"left out: {one_line(error.where)}: {error.found}", markup=False)

    try:
        with image_progress(console, "predicting") as update:
            summary = run_predict(
                config,
                on_broken=on_broken,
                on_progress=lambda done, total: update("images", done, total, broken=broken),
            )
    except BaseException:
        if csv is not None and part_of(csv).is_file():
            console.print(
                f"{part_of(csv)} keeps what was done; the same command with --skip-done continues",
                markup=False,
            )
        raise
    if not config.writes_stdout:
        print_predictions(summary, console, top=top)
    if summary.done:
        console.print(f"{summary.done:,} were in {csv} before", markup=False)
    for written in config.outputs.values():
        console.print(str(written), markup=False)
    if broken:
        count = broken + summary.count
        raise DataError(f"{broken:,} of {count:,} images", "left out, since they cannot be read")
