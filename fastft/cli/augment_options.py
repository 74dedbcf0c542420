"""The options of augmentation, which all commands have in common that cut training images."""

from __future__ import annotations

from collections.abc import Callable
from typing import Annotated, Any

import typer

from fastft.cli.added_options import add_options, options_of
from fastft.config.augment import AUGMENT_FIELDS, make_augment
from pipelines.augment import POLICIES, USUAL, Augment
from pipelines.errors import UsageError

_PANEL = "Augmentation"


def _numbers(text: str) -> tuple[float, ...]:
    """Numbers with commas between them."""
    try:
        return tuple(float(part) for part in text.split(","))
    except ValueError:
        expected = "numbers with commas between them, such as 0.35,1"
        raise UsageError("augmentation", repr(text), expected) from None


def _option(text: str, usual: object) -> Any:
    return typer.Option(help=text, show_default=str(usual), rich_help_panel=_PANEL)


def _several(text: str, usual: object, metavar: str) -> Any:
    return typer.Option(
        help=text,
        show_default=str(usual),
        rich_help_panel=_PANEL,
        parser=_numbers,
        metavar=metavar,
    )


def augmentation(
    *,
    augment: Annotated[
        str | None,
        _option(
            f"{', '.join(POLICIES)}: TrivialAugment is one strong operation for each image, "
            "RandAugment several, such as rand-n2-m9.",
            USUAL.policy,
        ),
    ] = None,
    scale: Annotated[
        Any, _several("Share of the photo that a crop has.", "0.08,1", "LOW,HIGH")
    ] = None,
    ratio: Annotated[
        Any, _several("A crop's width by its height.", "0.75,1.333", "LOW,HIGH")
    ] = None,
    hflip: Annotated[float | None, _option("Probability of a mirror image.", USUAL.hflip)] = None,
    vflip: Annotated[
        float | None, _option("Probability of an image upside down.", USUAL.vflip)
    ] = None,
    color_jitter: Annotated[
        Any,
        _several(
            "How far brightness, contrast and saturation may be off, such as 0.4; or each, and "
            "how far hue may be turned (0.5 is opposite): 0.4,0.4,0.4,0.1.",
            "none",
            "NUMBERS",
        ),
    ] = None,
    grayscale: Annotated[
        float | None, _option("Probability of no colours.", USUAL.grayscale)
    ] = None,
    erase: Annotated[
        float | None,
        _option("Probability that a rectangle is painted over (random erasing).", USUAL.erase),
    ] = None,
    mixup: Annotated[
        float | None,
        _option("Blend images by pairs; alpha, such as 0.2.", "none"),
    ] = None,
    cutmix: Annotated[
        float | None,
        _option("Paste a piece of one image into another; alpha, such as 1.", "none"),
    ] = None,
    mix_prob: Annotated[
        float | None, _option("Probability that a step mixes.", USUAL.mix_prob)
    ] = None,
    mix_switch: Annotated[
        float | None,
        _option("Where both are asked for, probability of cutmix.", USUAL.mix_switch),
    ] = None,
) -> None:
    """The options that `takes_augment_options` adds to a command; never called."""


def takes_augment_options(command: Callable[..., None]) -> Callable[..., None]:
    """Give a command the options of augmentation, which it receives as `asked`, an Augment."""
    return add_options(command, options_of(augmentation), "asked", _gather)


def _gather(taken: dict[str, Any]) -> Augment:
    given = {name: taken[field] for name, field in AUGMENT_FIELDS.items()}
    return make_augment({name: value for name, value in given.items() if value is not None})
