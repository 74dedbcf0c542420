"""Checks of values that configs share; an error names the command line's option."""

from __future__ import annotations

from dataclasses import MISSING, asdict, fields
from pathlib import Path
from types import SimpleNamespace
from typing import Any

from pipelines.errors import UsageError


def defaults(config: type[Any]) -> Any:
    """The default of each optional field of a config class, as attributes."""
    return SimpleNamespace(
        **{f.name: f.default for f in fields(config) if f.default is not MISSING}
    )


def plain(config: Any) -> dict[str, Any]:
    """A config as JSON values."""
    return {name: _plain(value) for name, value in asdict(config).items()}


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


def _plain(value: Any) -> Any:
    if isinstance(value, Path):
        return str(value)
    return list(value) if isinstance(value, tuple) else value
