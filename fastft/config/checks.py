"""Checks of values that configs share; an error names the command line's option."""

from __future__ import annotations

from dataclasses import MISSING, fields
from types import SimpleNamespace
from typing import Any

from pipelines.errors import UsageError


def defaults(config: type[Any]) -> Any:
    """The default of each optional field of a config class, as attributes."""
    return SimpleNamespace(
        **{f.name: f.default for f in fields(config) if f.default is not MISSING}
    )


def choose(option: str, value: str, choices: tuple[str, ...]) -> None:
    """Refuse what is none of `choices`.

    Raises:
        UsageError: it is not.
    """
    if value not in choices:
        raise UsageError(option, repr(value), f"one of {', '.join(choices)}")


def require(option: str, value: float, least: float, most: float) -> None:
    """Refuse what does not lie between `least` and `most`.

    Raises:
        UsageError: it does not.
    """
    if not least <= value <= most:  # also catches NaN
        raise UsageError(option, str(value), f"{least:g} to {most:g}")
