"""Recipes: sets of training settings by name, and how they, a file and the command line combine.

What the command line says counts before what a `--config` file says, that before the recipe, and
the recipe before the defaults of `TrainConfig`.
"""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Mapping
from dataclasses import MISSING, dataclass, fields
from pathlib import Path
from types import NoneType, UnionType
from typing import Any, Literal, Union, get_args, get_origin, get_type_hints

from fastft.config.train import TrainConfig
from pipelines.errors import DataError, FormatError, UsageError

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib

STANDARD = "standard"
#: What belongs to a run and not to how it is made.
_NOT_IN_FILES = ("out", "overwrite")
#: A file of settings is some hundred bytes long. The parser of TOML takes memory with the square of
#: what stands in a line: at most 70 MB with these.
_MOST_BYTES, _MOST_LINE = 1 << 18, 1 << 13


@dataclass(frozen=True, slots=True)
class Recipe:
    """Settings that go together.

    Attributes:
        about: one line for people.
        options: values of `TrainConfig` by field.
        from_scratch: what replaces them with `--weights none`.
    """

    about: str
    options: Mapping[str, Any]
    from_scratch: Mapping[str, Any]


RECIPES: dict[str, Recipe] = {
    STANDARD: Recipe("SGD with momentum, a new output layer at ten times the rate, cosine", {}, {}),
    # Source: Zhang et al., "Dive into Deep Learning", section 14.2, PyTorch. Its loss is summed
    # over the batch; SGD has no momentum; precision is float32. With `--eval-view eval-square` as
    # in the editions that evaluate by Resize([256, 256]).
    "d2l": Recipe(
        "Dive into Deep Learning's fine-tuning, as its PyTorch edition has it",
        {
            "arch": "resnet18",
            "size": 224,
            "epochs": 5,
            "optimizer": "sgd",
            "lr": 5e-5,
            "head_lr_factor": 10.0,
            "momentum": 0.0,
            "weight_decay": 0.001,
            "schedule": "constant",
            "loss": "sum",
            "amp": "off",
        },
        {"lr": 5e-4, "head_lr_factor": 1.0},
    ),
    # How it was found: 30 sets of settings, each 3 epochs on 1,000 photos of `fastft synth` (shapes
    # at 64 px) from a model of weaves, 2 or 3 seeds. SGD's best rate came to 0.92, AdamW's to
    # 0.95, with smoothed labels to 0.97, and it forgives a rate twice or half as high. An average
    # of weights, frozen first epochs, a longer warm-up and growing images cost accuracy or gave
    # none. From scratch, at twice the rate, ten epochs of milder crops gave 0.99 (2 seeds). On
    # weights from ImageNet it has not been tried.
    "fast": Recipe(
        "AdamW, smoothed labels: the best accuracy for the time that was found here",
        {
            "optimizer": "adamw",
            "lr": 1e-3,
            "head_lr_factor": 3.0,
            "weight_decay": 0.05,
            "label_smoothing": 0.1,
            "usual_batch_size": 64,
            "epochs": 3,
        },
        {"lr": 2e-3, "head_lr_factor": 1.0},
    ),
    # How they were found: `bench.recipes` on 240 synthetic photos of four shapes at 48 px, from a
    # model of weaves (10 epochs) and from scratch (16), in the settings of `fast`, batches of 32;
    # two seeds (one from scratch) for each of five sets. Milder crops gained 6 to 7 points. Beside
    # them colour jitter, random erasing, CutMix and TrivialAugment cost 0 to 9 again: they are for
    # longer runs. On hymenoptera, three seeds, no set differs from another by more than chance.
    "small": Recipe(
        "few photos, on weights: AdamW, milder crops, 10 epochs",
        {
            "optimizer": "adamw",
            "lr": 1e-3,
            "head_lr_factor": 3.0,
            "weight_decay": 0.05,
            "label_smoothing": 0.1,
            "usual_batch_size": 32,
            "epochs": 10,
            "scale": (0.35, 1.0),
        },
        {"lr": 2e-3, "head_lr_factor": 1.0},
    ),
    "scratch": Recipe(
        "without weights: AdamW, milder crops, 16 epochs",
        {
            "weights": "none",
            "optimizer": "adamw",
            "lr": 2e-3,
            "head_lr_factor": 1.0,
            "weight_decay": 0.05,
            "label_smoothing": 0.1,
            "usual_batch_size": 32,
            "epochs": 16,
            "scale": (0.35, 1.0),
        },
        {},
    ),
    # Source: He et al., "Masked Autoencoders Are Scalable Vision Learners", CVPR 2022, table 9, the
    # fine-tuning of ViT-B: AdamW at 1e-3 for 256 images, which is 5e-4 for 128; decay 0.05, layer
    # decay 0.75, a warm-up of 5 of 100 epochs, smoothing 0.1, drop path 0.1. Its RandAugment, MixUp
    # and CutMix are for such long trainings, and left to `--augment`, `--mixup`, `--cutmix`.
    # Without weights: Touvron et al., "Training data-efficient image transformers", ICML 2021,
    # table 9: 5e-4 for 512 images. None of it has been tried here on anybody's weights.
    "transformer": Recipe(
        "vision transformers on weights: AdamW, layer decay 0.75, drop path 0.1",
        {
            "optimizer": "adamw",
            "lr": 5e-4,
            "head_lr_factor": 1.0,
            "weight_decay": 0.05,
            "decay": "matrices",
            "layer_decay": 0.75,
            "drop_path": 0.1,
            "warm_up": 0.05,
            "label_smoothing": 0.1,
            "usual_batch_size": 128,
        },
        {"lr": 1.25e-4, "layer_decay": 1.0},
    ),
    # Source: the MXNet draft of that section, "Not hotdog": ImageRecordIter's scale jitter, plain
    # SGD, and a loss of (1 + 5 y) / 5 times cross-entropy, where y is 1 for a hot dog: 6 to 1.
    "recordio": Recipe(
        "the tutorial's older MXNet draft: scale jitter, and hot dogs that count six times",
        {
            "view": "recordio",
            "optimizer": "sgd",
            "lr": 0.1,
            "head_lr_factor": 1.0,
            "momentum": 0.0,
            "weight_decay": 0.002,
            "schedule": "constant",
            "class_weight": "hotdog=1.2,*=0.2",
        },
        {},
    ),
}


def make_config(
    options: Mapping[str, Any], *, recipe: str | None = None, file: Path | None = None
) -> TrainConfig:
    """A config from what was asked for.

    Args:
        options: values of `TrainConfig` by field, as the command line gives them.
        recipe: a name of RECIPES; None takes the file's, else the standard one.
        file: a TOML file of such values and of `recipe`, or the config.json of a run.

    Raises:
        DataError: the file cannot be read or is none.
        UsageError: no such recipe; a field that does not exist, or a value of the wrong type.
    """
    read = {} if file is None else read_settings(file)
    name = recipe or read.pop("recipe", None) or STANDARD
    read.pop("recipe", None)
    if name not in RECIPES:
        raise UsageError("--recipe", repr(name), f"one of {', '.join(RECIPES)}")
    chosen = RECIPES[name]
    merged = {**chosen.options, **read, **options}
    if merged.get("weights") == "none":
        merged = {**chosen.options, **chosen.from_scratch, **read, **options}
    for field in fields(TrainConfig):
        if field.default is MISSING and merged.get(field.name) is None:
            raise UsageError(f"--{field.name}", "missing", "a path", "see fastft train --help")
    return TrainConfig(**merged, recipe=name)


def read_settings(file: Path) -> dict[str, Any]:
    """The settings in a TOML file, or in a run's config.json: field -> value.

    Raises:
        DataError: the file cannot be read or is no such file.
        UsageError: it names a field that does not exist, or gives one a value of a wrong type.
    """
    return as_settings(read_plain(file), file)


def read_plain(file: Path) -> dict[str, Any]:
    """Reads the settings in a TOML file, or in a run's config.json.

    Raises:
        DataError: the file cannot be read or is no such file.
    """
    try:
        with file.open("rb") as opened:
            content = opened.read(_MOST_BYTES + 1)
        text = content.decode()
    except (OSError, UnicodeDecodeError) as error:
        reason = getattr(error, "strerror", None) or "not text"
        raise DataError(file, str(reason).lower(), "a TOML file", "check --config") from error
    if len(content) > _MOST_BYTES:
        raise DataError(file, f"more than {_MOST_BYTES:,} bytes", "a TOML file", "check --config")
    longest = max(map(len, text.split("\n")))
    if file.suffix != ".json" and longest > _MOST_LINE:
        found = f"a line of {longest:,} letters"
        raise FormatError(file, found, f"at most {_MOST_LINE:,}", "break it within brackets")
    try:
        if file.suffix != ".json":
            return tomllib.loads(text)
        return without_place(json.loads(text)["config"])
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
        kind = "a run's config.json" if file.suffix == ".json" else "TOML"
        raise FormatError(file, f"does not parse ({error})", kind, "") from error


def without_place(config: Mapping[str, Any]) -> dict[str, Any]:
    """A run's settings without what says where it was."""
    return {name: value for name, value in config.items() if name not in _NOT_IN_FILES}


def as_settings(content: Mapping[str, Any], where: Path) -> dict[str, Any]:
    """Settings as a file holds them, as `TrainConfig` does: field -> value.

    Args:
        content: the settings.
        where: the file, for messages.

    Raises:
        UsageError: a field that does not exist, or a value of a wrong type.
    """
    hints = get_type_hints(TrainConfig)
    settings: dict[str, Any] = {}
    for key, value in content.items():
        name = key.replace("-", "_")
        if name not in hints or name in _NOT_IN_FILES:
            known = ", ".join(sorted(set(hints) - set(_NOT_IN_FILES)))
            raise UsageError(where, f"a setting {key[:100]!r}", f"one of {known}")
        settings[name] = _as(hints[name], value, f"{where}: {key}")
    return settings


def _as(kind: Any, value: Any, where: str) -> Any:
    """`value` as a field of type `kind` holds it."""
    origin, arguments = get_origin(kind), get_args(kind)
    if origin in (Union, UnionType):
        if value is None and NoneType in arguments:
            return None
        (kind,) = (each for each in arguments if each is not NoneType)
        return _as(kind, value, where)
    if origin is Literal:
        kind = str
    if origin is tuple:
        if type(value) in (int, float) and float in arguments:
            value = [value]
        if isinstance(value, list) and (arguments[1] is Ellipsis or len(value) == len(arguments)):
            return tuple(_as(arguments[0], each, where) for each in value)
    if kind is Path and isinstance(value, str) and _is_nameable(value):
        return Path(value)
    is_huge = type(value) is int and abs(value) >= 1 << 63
    if kind is float and type(value) is int and not is_huge:
        return float(value)
    if origin is not tuple and type(value) is kind and not is_huge:
        return value
    names = {int: "a whole number", float: "a number", bool: "true or false", Path: "a path"}
    wanted = names.get(kind, "a string")
    if origin is tuple:
        count = "" if arguments[1] is Ellipsis else f"{len(arguments)} "
        wanted = f"a list of {count}{'strings' if arguments[0] is str else 'numbers'}"
    # Of a number of many digits Python makes no text, of a deeply nested list neither.
    is_short = isinstance(value, str | int | float) and not is_huge and len(str(value)) < 200
    kinds = {dict: "a table", int: "a number of many digits", list: "a list", str: "a long text"}
    found = repr(value) if is_short else kinds.get(type(value), type(value).__name__)
    raise UsageError(where, found, wanted)


def _is_nameable(text: str) -> bool:
    """Whether there can be a file of this name."""
    try:
        return b"\0" not in os.fsencode(text)
    except UnicodeEncodeError:
        return False
