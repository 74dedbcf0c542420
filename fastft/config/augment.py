"""The settings of augmentation as options: their names, their numbers, their errors."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import fields
from typing import Any

from pipelines.augment import USUAL, Augment
from pipelines.errors import UsageError
from pipelines.plan import SHUFFLED

#: Field of Augment -> field of TrainConfig, whose option it is.
AUGMENT_FIELDS = {
    each.name: "augment" if each.name == "policy" else each.name for each in fields(Augment)
}


def make_augment(given: Mapping[str, Any]) -> Augment:
    """The settings that are asked for, by field of Augment.

    Raises:
        UsageError: settings out of range, by the name of their option.
    """
    try:
        return Augment(**given)
    except UsageError as error:
        raise UsageError(_option(error.where), error.found, error.expected) from None


def as_settings(augment: Augment) -> dict[str, Any]:
    """The same by field of TrainConfig."""
    return {field: getattr(augment, name) for name, field in AUGMENT_FIELDS.items()}


def read_augment(plain: Mapping[str, Any]) -> Augment:
    """The same from JSON, where numbers are in lists."""
    given: dict[str, Any] = {k: tuple(v) if isinstance(v, list) else v for k, v in plain.items()}
    return Augment(**given)


def check_view(augment: Augment, view: str) -> None:
    """Refuse settings that a view would not follow.

    Raises:
        UsageError: it is no training view, or its scale is its own.
    """
    if augment != USUAL and view not in SHUFFLED:
        options = ", ".join(name_options(augment))
        raise UsageError(options, f"--view {view}", f"--view {' or '.join(SHUFFLED)}")
    if view != "train" and (augment.scale, augment.ratio) != (USUAL.scale, USUAL.ratio):
        found = f"--view {view}, whose scale is its own"
        raise UsageError("--scale and --ratio", found, "--view train")


def name_options(augment: Augment) -> list[str]:
    """The options that say something else than usual."""
    names = (name for name in AUGMENT_FIELDS if getattr(augment, name) != getattr(USUAL, name))
    return [_option(AUGMENT_FIELDS[name]) for name in names]


def describe(augment: Augment) -> str:
    """The settings beyond the usual, in a few words; empty if there are none."""
    said = []
    for name in AUGMENT_FIELDS:
        value = getattr(augment, name)
        if value != getattr(USUAL, name):
            shown = "-".join(f"{each:g}" for each in value) if isinstance(value, tuple) else value
            said.append(str(shown) if name == "policy" else f"{name.replace('_', ' ')} {shown}")
    return ", ".join(said)


def _option(field: str) -> str:
    return f"--{field.replace('_', '-')}"
