"""The command line of `fastft parity`, which has two halves."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer

from fastft.cli.addresses import find_here
from fastft.cli.augment_options import takes_augment_options
from fastft.config.checks import defaults
from fastft.config.commands import AccuracyConfig, ParityConfig
from fastft.system.progress import make_console
from pipelines.augment import Augment
from pipelines.errors import UsageError

_PARITY = defaults(ParityConfig)
_PROOF = defaults(AccuracyConfig)
# Titles in the help.
_PIXELS: Any = {"rich_help_panel": "Pixels"}
_MODELS: Any = {"rich_help_panel": "Models (--accuracy)"}


@takes_augment_options
def parity(
    *,
    data: Annotated[
        Path,
        typer.Argument(help="A .beton, a class folder, or a folder with splits: its train."),
    ],
    out: Annotated[Path, typer.Option(help="The folder for JSON and picture.")] = _PARITY.out,
    loaders: Annotated[
        str, typer.Option(help="Such as ffcv,dali; by default all that are installed.")
    ] = "",
    size: Annotated[
        int | None,
        typer.Option(
            help="Side of the images, px.", show_default=f"{_PARITY.size}, of models {_PROOF.size}"
        ),
    ] = None,
    seed: Annotated[int, typer.Option(help="Of crops and flips; of the first run.")] = _PARITY.seed,
    workers: Annotated[
        int, typer.Option(help="Decoding threads; 0 takes every CPU.")
    ] = _PARITY.workers,
    device: Annotated[str, typer.Option(help="auto, cpu, cuda or cuda:N.")] = _PARITY.device,
    decode: Annotated[
        str,
        typer.Option(
            help="exact, or scaled: the loaders that decode so, held against both definitions."
        ),
    ] = _PARITY.decode,
    stock: Annotated[
        bool | None,
        typer.Option("--stock", help="Look at the libraries' own pipelines, too.", **_PIXELS),
    ] = None,
    reference: Annotated[
        Path | None,
        typer.Option(help="What DATA was made from, if its pixels are the right ones.", **_PIXELS),
    ] = None,
    store: Annotated[
        str | None,
        typer.Option(
            help="What the resident loader keeps: rgb or yuv420.",
            show_default=_PARITY.store,
            **_PIXELS,
        ),
    ] = None,
    filter_: Annotated[
        str | None,
        typer.Option(
            "--filter",
            help="The filter that a model wants: bilinear or bicubic.",
            show_default=_PARITY.filter,
            **_PIXELS,
        ),
    ] = None,
    crop_share: Annotated[
        float | None,
        typer.Option(
            help="Share of the resized side that evaluation shows.",
            show_default=str(_PARITY.crop_share),
            **_PIXELS,
        ),
    ] = None,
    images: Annotated[
        int | None,
        typer.Option(
            help="Images to look at, evenly from all.", show_default=str(_PARITY.images), **_PIXELS
        ),
    ] = None,
    accuracy: Annotated[
        bool,
        typer.Option(
            "--accuracy", help="Compare the models that they train. DATA has splits.", **_MODELS
        ),
    ] = False,
    seeds: Annotated[
        int | None, typer.Option(help="Runs per loader.", show_default=str(_PROOF.seeds), **_MODELS)
    ] = None,
    epochs: Annotated[
        int | None,
        typer.Option(help="Epochs of each run.", show_default=str(_PROOF.epochs), **_MODELS),
    ] = None,
    batch_size: Annotated[
        int | None,
        typer.Option(help="Images per step.", show_default="64, or all if fewer", **_MODELS),
    ] = None,
    margin: Annotated[
        float | None,
        typer.Option(
            help=f"Differences of accuracy below it do not matter, points; {_PROOF.margin:g}.",
            **_MODELS,
        ),
    ] = None,
    lr: Annotated[
        float | None,
        typer.Option(
            help="Peak learning rate.", show_default="0.002, without weights 0.01", **_MODELS
        ),
    ] = None,
    weights: Annotated[
        str | None,
        typer.Option(
            help="warm (one body is trained first, for all runs), imagenet, none, or a file; "
            f"{_PROOF.weights}.",
            **_MODELS,
        ),
    ] = None,
    warm_epochs: Annotated[
        int | None,
        typer.Option(help="Epochs for that body.", show_default=str(_PROOF.warm_epochs), **_MODELS),
    ] = None,
    amp: Annotated[
        str | None,
        typer.Option(
            help="auto, bf16, fp16 or off; a run in another precision is the yardstick of loss "
            f"curves; {_PROOF.amp}.",
            **_MODELS,
        ),
    ] = None,
    asked: Augment,
) -> None:
    """Prove that the loaders feed the same pixels, or train the same models.

    By default every loader executes the same crops; printed is its distance from the reference
    in levels of 255, as a whole and for its decoder and its resize alone. With --accuracy every
    loader trains from the same weights with the same seeds, and the models are tested for
    equivalence with torchvision's own pipeline. Exit status 1 if a loader is farther off than
    it states. What options of augmentation ask for is looked at, too: operations by themselves,
    against torchvision's, or models, against those of its own random transforms.

    Example: fastft parity data --stock

    Example: fastft parity data --augment trivial

    Example: fastft parity data --accuracy
    """
    common: dict[str, Any] = {
        "data": find_here(data, out.parent),
        "out": out,
        "loaders": tuple(filter(None, loaders.split(","))),
        "seed": seed,
        "workers": workers,
        "device": device,
        "size": size,
        "decode": decode,
        "augment": asked,
    }
    pixels: dict[str, Any] = {
        "stock": stock,
        "reference": reference,
        "store": store,
        "filter": filter_,
        "crop_share": crop_share,
        "images": images,
    }
    models: dict[str, Any] = {
        "seeds": seeds,
        "epochs": epochs,
        "batch_size": batch_size,
        "margin": margin,
        "lr": lr,
        "weights": weights,
        "warm_epochs": warm_epochs,
        "amp": amp,
    }
    mine, others = (models, pixels) if accuracy else (pixels, models)
    if given := [name for name, value in others.items() if value is not None]:
        option = "--" + given[0].replace("_", "-")
        with_ = "without --accuracy" if accuracy else "with --accuracy"
        raise UsageError(option, f"given {'with' if accuracy else 'without'} --accuracy", with_)
    options = {name: value for name, value in {**common, **mine}.items() if value is not None}
    console = make_console()
    if accuracy:
        from fastft.parity.models import run_accuracy

        passed = run_accuracy(AccuracyConfig(**options), console).passed
    else:
        from fastft.parity.run import run_pixels

        passed = run_pixels(ParityConfig(**options), console).passed
    name = "accuracy" if accuracy else "pixels"
    console.print(f"{out}/{name}.json, {out}/{name}.png", markup=False)
    if not passed:
        raise typer.Exit(1)
