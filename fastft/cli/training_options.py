"""The options of training, which all commands that train have in common."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Annotated, Any

import typer

from fastft.cli.added_options import add_options, options_of
from fastft.cli.augment_options import augmentation
from fastft.cli.data_options import splitting
from fastft.config.checks import defaults
from fastft.config.recipes import RECIPES, make_config, read_settings
from fastft.config.train import TrainConfig

_TRAIN = defaults(TrainConfig)


def _option(text: str, usual: object, panel: str) -> Any:
    """An option that a recipe or a file may set, too: not given, it is None."""
    return typer.Option(help=text, show_default=str(usual), rich_help_panel=panel)


def _flag(name: str, text: str, panel: str) -> Any:
    return typer.Option(name, help=text, show_default=False, rich_help_panel=panel)


_DATA, _MODEL, _LEARNING, SPEED, RUN = "Data", "Model", "Learning", "Speed", "Run"


def _training(
    *,
    data: Annotated[
        Path | None,
        typer.Option(help="A folder with train and test or val: .beton files or class folders."),
    ] = None,
    recipe: Annotated[
        str | None,
        typer.Option(
            help="Settings that go together: "
            + "; ".join(f"{name} ({each.about})" for name, each in RECIPES.items())
            + ". Single options count before it.",
            show_default="standard",
        ),
    ] = None,
    config: Annotated[
        Path | None,
        typer.Option(help="A TOML file of options (lr = 0.01), or the config.json of a run."),
    ] = None,
    arch: Annotated[
        str | None,
        _option(
            "A classification model of torchvision's, such as vit_b_16, or timm:NAME for any of "
            "timm's, such as timm:vit_small_patch14_reg4_dinov2 or timm:convnext_tiny.in12k; size, "
            "filter, mean and deviation of its images are the model's own. Needs fastft's extra "
            "timm.",
            "resnet18, or what the weights are of",
            _MODEL,
        ),
    ] = None,
    drop_path: Annotated[
        float | None,
        _option(
            "Drop a network's deepest path so often, others less, such as 0.1.",
            "as the model has it",
            _MODEL,
        ),
    ] = None,
    weights: Annotated[
        str | None,
        _option(
            "imagenet (of timm's models the weights that their tag names), none, or a run folder, "
            "a checkpoint or a state dict.",
            _TRAIN.weights,
            _MODEL,
        ),
    ] = None,
    reuse_head: Annotated[
        list[str] | None,
        _option(
            "Start a class from the source model's own output row, such as hotdog=934 "
            "(ImageNet's hot dog); may be repeated.",
            "none",
            _MODEL,
        ),
    ] = None,
    freeze: Annotated[
        str | None,
        _option(
            "backbone, or stages:N for the first N from the input; frozen batch norm keeps "
            "its statistics.",
            "nothing",
            _MODEL,
        ),
    ] = None,
    unfreeze_epoch: Annotated[
        int | None, _option("From this epoch on everything learns.", "never", _MODEL)
    ] = None,
    view: Annotated[
        str | None,
        _option(
            "How training images are cut: train (random resized crop) or recordio (scale jitter).",
            _TRAIN.view,
            _DATA,
        ),
    ] = None,
    eval_view: Annotated[
        str | None,
        _option(
            "How evaluation images are cut: eval (shorter side, then centre) or eval-square.",
            "the model's: eval",
            _DATA,
        ),
    ] = None,
    filter: Annotated[
        str | None,
        _option("Images are resized so: bilinear or bicubic.", "the model's: bilinear", _DATA),
    ] = None,
    crop_share: Annotated[
        float | None,
        _option("Share of the shorter side that evaluation shows.", "the model's: 0.875", _DATA),
    ] = None,
    apply_exif: Annotated[
        bool | None,
        _flag(
            "--apply-exif",
            "Turn images of class folders upright as their EXIF says; what "
            "convert was asked for counts for a .beton.",
            _DATA,
        ),
    ] = None,
    depth: Annotated[
        str | None,
        _option(
            "Images of more than 8 bits in class folders: clip or scale, see convert.",
            "clip, or what a .beton says",
            _DATA,
        ),
    ] = None,
    stock: Annotated[
        bool | None,
        _flag("--stock", "torchvision's own transforms and shuffling: a baseline.", _DATA),
    ] = None,
    size: Annotated[
        int | None,
        _option("Side of the images that the model sees, px.", "the model's: 224", _DATA),
    ] = None,
    start_size: Annotated[
        int | None,
        _option(
            "Side in the first epoch, growing to --size over two thirds of them, px.",
            "--size",
            _DATA,
        ),
    ] = None,
    epochs: Annotated[
        int | None, _option("Passes over the training set.", _TRAIN.epochs, _LEARNING)
    ] = None,
    batch_size: Annotated[
        int | None,
        _option("Images per step, over all processes.", "128, fast 64, or all if fewer", _LEARNING),
    ] = None,
    optimizer: Annotated[str | None, _option("sgd or adamw.", _TRAIN.optimizer, _LEARNING)] = None,
    lr: Annotated[
        float | None,
        _option(
            "Peak learning rate.", "0.002, without weights 0.01; adamw 0.0002, 0.001", _LEARNING
        ),
    ] = None,
    head_lr_factor: Annotated[
        float | None,
        _option("How much faster the output layer learns.", "10, without weights 1", _LEARNING),
    ] = None,
    momentum: Annotated[float | None, _option("Of SGD.", _TRAIN.momentum, _LEARNING)] = None,
    weight_decay: Annotated[
        float | None, _option("Of the optimizer.", _TRAIN.weight_decay, _LEARNING)
    ] = None,
    decay: Annotated[
        str | None,
        _option(
            "Weights that decay: all, or matrices, which spares biases, norms and positions.",
            "all; timm's: matrices",
            _LEARNING,
        ),
    ] = None,
    layer_decay: Annotated[
        float | None,
        _option("Each layer learns at so much of the next one's rate, such as 0.75.", 1, _LEARNING),
    ] = None,
    clip_grad: Annotated[
        float | None, _option("Largest norm of a step's gradients, such as 1.", "any", _LEARNING)
    ] = None,
    schedule: Annotated[
        str | None, _option("cosine (with a warm-up) or constant.", _TRAIN.schedule, _LEARNING)
    ] = None,
    warm_up: Annotated[
        float | None, _option("Share of the steps for the warm-up.", _TRAIN.warm_up, _LEARNING)
    ] = None,
    loss: Annotated[
        str | None, _option("mean or sum over the batch.", _TRAIN.loss, _LEARNING)
    ] = None,
    label_smoothing: Annotated[
        float | None,
        _option("Share of the target for all classes alike.", _TRAIN.label_smoothing, _LEARNING),
    ] = None,
    class_weight: Annotated[
        str | None,
        _option(
            "balanced, or like hotdog=6,*=0.5 (the star is every other class).",
            "all alike",
            _LEARNING,
        ),
    ] = None,
    sampler: Annotated[
        str | None,
        _option(
            "How often an epoch shows each image: shuffle (once), balanced (rare classes as often "
            "as common ones), sqrt (half-way there, which repeats rare images less), or weights "
            "(as the data's column says). Repeated images are cropped anew; an epoch keeps its "
            "length; evaluation shows each image once.",
            _TRAIN.sampler,
            _LEARNING,
        ),
    ] = None,
    ema: Annotated[
        float | None,
        _option(
            "Evaluate an average of the weights that decays by this per step, such as 0.99.",
            "none",
            _LEARNING,
        ),
    ] = None,
    patience: Annotated[
        int | None,
        _option(
            "Stop after so many epochs without a better accuracy (of labels mAP, of a number R2).",
            "never",
            _LEARNING,
        ),
    ] = None,
    loader: Annotated[
        str | None,
        _option(
            "auto, torchvision, ffcv, dali or resident, which decodes once and keeps the "
            "pixels. auto takes resident if the pixels fit on the GPU, else dali on a GPU; "
            "elsewhere resident if they fit into half the free memory, else ffcv, which needs "
            ".beton files; as far as they are installed.",
            _TRAIN.loader,
            SPEED,
        ),
    ] = None,
    decode: Annotated[
        str | None,
        _option(
            "exact, or scaled: large JPEGs are decoded at 1/2, 1/4 or 1/8 of their size while "
            "crops stay twice --size; half a level off in the mean, 1.5 times as fast on photos "
            "of 12.9 megapixels. Of ffcv, torchvision, and resident with --store-side.",
            _TRAIN.decode,
            SPEED,
        ),
    ] = None,
    store: Annotated[
        str | None,
        _option(
            "What resident keeps: rgb, or yuv420 in half the bytes, which costs chroma detail "
            "unless the photos are 4:2:0 JPEGs.",
            _TRAIN.store,
            SPEED,
        ),
    ] = None,
    store_side: Annotated[
        int | None,
        _option(
            "resident shrinks images to this shorter side first, px; 256 suits --size 224.",
            "never",
            SPEED,
        ),
    ] = None,
    store_file: Annotated[
        Path | None,
        _option(
            "Where resident keeps the pixels for the next run: X.store becomes X.train.store "
            "and X.eval.store.",
            "nowhere",
            SPEED,
        ),
    ] = None,
    amp: Annotated[
        str | None,
        _option(
            "auto, bf16, fp16 or off; auto takes what the device is fast in.", _TRAIN.amp, SPEED
        ),
    ] = None,
    compile: Annotated[
        str | None,
        _option(
            "How full batches are computed: off, default (torch.compile; other last digits), "
            "graph (one CUDA graph a step), or auto, which on a GPU takes another way where "
            "the run is long enough to earn it back, and says so.",
            _TRAIN.compile,
            SPEED,
        ),
    ] = None,
    workers: Annotated[
        int | None, _option("Decoding threads; 0 takes every CPU.", _TRAIN.workers, SPEED)
    ] = None,
    device: Annotated[
        str | None, _option("auto, cpu, cuda or cuda:N.", _TRAIN.device, SPEED)
    ] = None,
    micro_batch: Annotated[
        int | None,
        _option(
            "Most images of one forward pass of a process; a step adds up several of them.",
            "all of its share; on a GPU, as many as fit",
            SPEED,
        ),
    ] = None,
    sync_bn: Annotated[
        bool | None,
        _flag("--sync-bn", "Batch norm over the images of all processes.", _LEARNING),
    ] = None,
    checkpoint_every: Annotated[
        str | None,
        _option(
            "How often last.safetensors is written within an epoch: steps such as 500, or a "
            "time such as 30s or 5m; 0: never.",
            _TRAIN.checkpoint_every,
            RUN,
        ),
    ] = None,
    seed: Annotated[
        int | None, _option("Seed of crops, flips, order and new weights.", _TRAIN.seed, RUN)
    ] = None,
    track: Annotated[
        list[str] | None,
        _option(
            "Tell an experiment tracker, too: tensorboard, wandb or mlflow, each of fastft's extra "
            "of that name; may be repeated.",
            "none",
            RUN,
        ),
    ] = None,
    tensorboard: Annotated[
        bool | None, _flag("--tensorboard", "Short for --track tensorboard.", RUN)
    ] = None,
    overwrite: Annotated[
        bool | None, _flag("--overwrite", "Replace an earlier run in --out.", RUN)
    ] = None,
) -> None:
    """The options that `takes_training_options` adds to a command; never called."""


def takes_training_options(command: Callable[..., None]) -> Callable[..., None]:
    """Give a command the options of training, which it receives together as `training`.

    `training` maps each field of `TrainConfig` that was asked for to its value, beside `recipe` and
    `config`, which `make_config` takes apart from them.
    """
    return add_options(command, options_of(_training, splitting, augmentation), "training", _gather)


def _gather(taken: dict[str, Any]) -> dict[str, Any]:
    """The options that were given."""
    # An empty list where it was not given.
    for name in ("reuse_head", "track"):
        taken[name] = tuple(taken[name] or ()) or None
    return {name: value for name, value in taken.items() if value is not None}


def as_config(training: dict[str, Any], out: Path) -> TrainConfig:
    """The config that options ask for."""
    recipe, file = training.pop("recipe", None), training.pop("config", None)
    return make_config({**training, "out": out}, recipe=recipe, file=file)


def as_given(training: dict[str, Any]) -> dict[str, Any]:
    """The settings that options and a `--config` file ask for, and no others."""
    file = training.pop("config", None)
    return {**({} if file is None else read_settings(file)), **training}
