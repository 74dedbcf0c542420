"""The command line of `fastft export`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from fastft.config.checks import defaults
from fastft.config.export import ExportConfig
from fastft.system.progress import make_console

_DEFAULT = defaults(ExportConfig)


def export(
    run: Annotated[Path, typer.Argument(help="A run folder or a checkpoint.")],
    format: Annotated[str, typer.Option(help="onnx, torch or safetensors.")] = _DEFAULT.format,
    out: Annotated[
        Path | None,
        typer.Option(help="The folder to make.", show_default="RUN/exported/FORMAT"),
    ] = _DEFAULT.out,
    with_preprocessing: Annotated[
        bool,
        typer.Option(
            "--with-preprocessing",
            help="Make resizing, cutting and normalization part of the model: it takes whole "
            "photos, uint8 of any size.",
        ),
    ] = _DEFAULT.with_preprocessing,
    check: Annotated[
        list[Path] | None,
        typer.Option(
            help="Photos to compare predictions on: a file, a folder or a quoted pattern; may be "
            "given several times.",
            show_default="the run's evaluation data, else synthetic photos",
        ),
    ] = None,
    check_images: Annotated[
        int, typer.Option(help="Compare so many of them, spread evenly.")
    ] = _DEFAULT.check_images,
    overwrite: Annotated[
        bool, typer.Option("--overwrite", help="Replace an earlier export.")
    ] = _DEFAULT.overwrite,
) -> None:
    """Write a trained model for others to run: ONNX, a program of torch.export, or weights.

    The weights are those that evaluation is of. The folder holds the model, with class names,
    preprocessing and settings in its metadata, and a card. What was written is run in a process of
    its own, by onnxruntime or torch, and compared with the checkpoint; if predictions differ by
    more than 1e-4, nothing is left. fastft predict runs .onnx and .pt2 files, too.

    Example: fastft export run --format onnx

    Example: fastft export run --format torch --with-preprocessing --check photos/test
    """
    config = ExportConfig(
        run=run,
        format=format,
        out=out,
        with_preprocessing=with_preprocessing,
        check=tuple(check or ()),
        check_images=check_images,
        overwrite=overwrite,
    )
    from fastft.export.run import run_export

    run_export(config, make_console())
