"""The form of a model's images, as JSON values of a checkpoint or an exported model."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict
from typing import Any

from pydantic import TypeAdapter, ValidationError

from pipelines.errors import UsageError
from pipelines.preprocessing import IMAGENET, Preprocessing


def pack_preprocessing(form: Preprocessing) -> dict[str, Any] | None:
    """A form as JSON values; None for torchvision's, of which there is nothing to say."""
    if form == IMAGENET:
        return None
    return {**asdict(form), "mean": list(form.mean), "std": list(form.std)}


def read_preprocessing(packed: Mapping[str, Any] | None) -> Preprocessing:
    """The form that was packed.

    Raises:
        ValueError: a value of another name or type, or out of range.
    """
    if packed is None:
        return IMAGENET
    adapter = TypeAdapter(Preprocessing)
    try:
        form = adapter.validate_json(json.dumps(dict(packed)), strict=True)
    except (ValidationError, UsageError) as error:
        raise ValueError(f"a wrong preprocessing: {packed!s:.80}") from error
    if unknown := set(packed) - set(asdict(form)):
        raise ValueError(f"a wrong preprocessing: {min(unknown):.80}")
    return form
