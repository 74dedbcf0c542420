"""The description of an exported model, as the metadata of its file, whatever its format.

Under `fastft` lies what a checkpoint says of itself, under `fastft-export` what to give the model
and what it answers.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass, replace
from pathlib import PurePath
from typing import Annotated, Any, ClassVar, Literal

from pydantic import Field

from fastft import __version__
from fastft.runs.checked import STRICT, checked
from fastft.runs.checkpoint import Checkpoint, describe, read_description

#: Keys of the metadata.
MODEL, INTERFACE = "fastft", "fastft-export"
#: The name of the one input.
IMAGES = "images"
#: Names of the outputs: what the network gives, and what that stands for.
LOGITS, PROBABILITIES, NUMBERS = "logits", "probabilities", "numbers"
#: What a model takes: images that are cut and normalized, or photos as they are.
Takes = Literal["normalized images", "whole photos"]
ExportFormat = Literal["onnx", "torch", "safetensors"]

#: Letters of either part; an export holds no more than a run's settings and class names.
_MOST_LETTERS = 1 << 24
#: Settings that are places on the machine that trained: of these the last name is kept, or nothing.
_PLACES, _LEFT_OUT = ("data", "weights"), ("out", "store_file", "overwrite")


@dataclass(frozen=True, kw_only=True, slots=True)
class Interface:
    """What an exported model takes and gives.

    Attributes:
        version: of this description.
        fastft: the version that wrote it.
        format: of the file.
        takes: one of `Takes`; of safetensors, what the network in it takes.
        outputs: their names in order; of safetensors none.
    """

    __pydantic_config__: ClassVar[Any] = STRICT
    version: Literal[1] = 1
    fastft: Annotated[str, Field(max_length=99)] = __version__
    format: ExportFormat
    takes: Takes
    outputs: Annotated[
        tuple[Annotated[str, Field(max_length=99)], ...], Field(strict=False, max_length=9)
    ]


def to_metadata(checkpoint: Checkpoint, interface: Interface) -> dict[str, str]:
    """The description of a model as the metadata of a file."""
    return {MODEL: describe(checkpoint), INTERFACE: json.dumps(asdict(interface))}


def read_metadata(metadata: Mapping[str, str]) -> tuple[Checkpoint, Interface]:
    """The description in a file's metadata; the checkpoint is without tensors.

    Raises:
        TypeError, ValueError, RecursionError: it is missing, damaged or of another version.
    """
    for key in (MODEL, INTERFACE):
        if not isinstance(metadata.get(key), str):
            raise ValueError(f"no {key} in its metadata")
        if len(metadata[key]) > _MOST_LETTERS:
            raise ValueError("more metadata than any model's")
    values: Any = json.loads(metadata[INTERFACE])
    if not isinstance(values, dict):
        raise ValueError(f"no object under {INTERFACE}")
    return read_description(metadata[MODEL]), checked(Interface, values)


def for_others(checkpoint: Checkpoint) -> Checkpoint:
    """A checkpoint as others are to have it: the evaluated weights, and no paths of this machine.

    Preprocessing, preparation and meaning are written out, also where they are the usual ones.
    """
    config = {key: value for key, value in checkpoint.config.items() if key not in _LEFT_OUT}
    for key in _PLACES:
        if isinstance(config.get(key), str):
            config[key] = PurePath(config[key]).name
    form, meaning = checkpoint.preprocessed, checkpoint.outputs
    return replace(
        checkpoint,
        model=checkpoint.evaluated,
        ema=None,
        optimizer={},
        scaler={},
        progress=None,
        config=config,
        preparation=asdict(checkpoint.prepared),
        preprocessing={**asdict(form), "mean": list(form.mean), "std": list(form.std)},
        meaning={
            **asdict(meaning),
            "thresholds": list(meaning.thresholds),
            "score": checkpoint.score,
        },
    )
