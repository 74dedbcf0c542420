"""The settings of a division as options of commands."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from pipelines.formats.division import Division

#: Options by field of `TrainConfig`; the seed is another than that of training.
DIVISION_FIELDS = ("val_split", "folds", "fold", "group_by", "split_seed")


def make_division(given: Mapping[str, Any]) -> Division:
    """The division that options ask for; those that were not given are as usual.

    Args:
        given: field -> value; None: it was not given.

    Raises:
        UsageError: settings out of range, or that do not go together.
    """
    names = {"split_seed": "seed"}
    values = {names.get(name, name): given.get(name) for name in DIVISION_FIELDS}
    return Division(**{name: value for name, value in values.items() if value is not None})
