"""Checkpoint files: written whole or not at all, read without executing anything."""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from pipelines.atomic import AtomicFile
from pipelines.errors import DataError, FormatError

_FORMAT, _VERSION = "fastft-checkpoint", 1
#: What the parts of a checkpoint are in a file.
_KINDS: dict[str, type | tuple[type, ...]] = {
    "model": Mapping, "arch": str, "classes": list, "size": int, "view": str, "epoch": int,
    "accuracy": (int, float), "optimizer": Mapping, "scaler": Mapping, "config": Mapping,
    "ema": (Mapping, type(None)),
}  # fmt: skip


@dataclass(frozen=True, kw_only=True, slots=True)
class Checkpoint:
    """A model, and all that is needed to use it or to continue.

    Attributes:
        model: its state dict.
        arch: the model's name in torchvision.
        classes: class names, by output row.
        size: side of the images it was trained on, px.
        view: how images are cut for evaluation, a view of `pipelines.plan`.
        epoch: epochs behind it.
        accuracy: of the evaluation split after that epoch, 0 to 1.
        optimizer, scaler: state dicts; empty in one that is not meant to be continued.
        config: the run's settings, as JSON values.
        ema: the state dict of the weights' average, if one was kept; evaluation is of it.
    """

    model: Mapping[str, torch.Tensor]
    arch: str
    classes: tuple[str, ...]
    size: int
    view: str
    epoch: int
    accuracy: float
    optimizer: Mapping[str, Any]
    scaler: Mapping[str, Any]
    config: Mapping[str, Any]
    ema: Mapping[str, torch.Tensor] | None = None


def save_checkpoint(path: Path, checkpoint: Checkpoint) -> None:
    """Write a checkpoint; `path` is the old one or the new one, whenever the process ends.

    Raises:
        DataError: the disk is full or the folder cannot be written.
    """
    content = {name: getattr(checkpoint, name) for name in Checkpoint.__slots__}
    content |= {"format": _FORMAT, "version": _VERSION, "classes": list(checkpoint.classes)}
    try:
        with AtomicFile(path) as target:
            with os.fdopen(os.dup(target.descriptor), "wb") as file:
                torch.save(content, file)
            target.publish()
    except (OSError, RuntimeError) as error:  # torch reports a failed write as a RuntimeError
        raise DataError(
            path, f"cannot be written: {error}", "", "see its disk and folder"
        ) from error


def load_checkpoint(path: Path) -> Checkpoint:
    """Read a checkpoint of ours onto the CPU.

    Raises:
        FormatError: the file is none, or of another version.
        DataError: it cannot be read.
    """
    content = read_torch_file(path)
    if not is_checkpoint(content):
        raise FormatError(path, "no fastft checkpoint", "one written by fastft train", "")
    return unpack_checkpoint(content, path)


def is_checkpoint(content: Mapping[str, Any]) -> bool:
    """Whether what was read is a checkpoint of ours."""
    return content.get("format") == _FORMAT


def unpack_checkpoint(content: Mapping[str, Any], path: Path) -> Checkpoint:
    """What a file of ours holds, each part of the type that it should have.

    Raises:
        FormatError: it is of another version, or lacks something.
    """
    if content.get("version") != _VERSION:
        found = f"checkpoint version {content.get('version')}"
        raise FormatError(path, found, f"version {_VERSION}", "train again")
    parts = {name: content[name] for name in Checkpoint.__slots__ if name in content}
    for name, kinds in _KINDS.items():
        if not isinstance(parts.get(name), kinds):
            found = f"lacks {name!r}" if name not in parts else f"holds a wrong {name!r}"
            raise FormatError(path, found, "a whole checkpoint", "train again")
    tensors = [*parts["model"].values(), *(parts.get("ema") or {}).values()]
    if not all(isinstance(value, torch.Tensor) for value in tensors):
        raise FormatError(path, "holds a wrong 'model'", "a whole checkpoint", "train again")
    if not parts["classes"] or not all(isinstance(name, str) for name in parts["classes"]):
        raise FormatError(path, "holds wrong class names", "a whole checkpoint", "train again")
    return Checkpoint(**{**parts, "classes": tuple(parts["classes"])})


def read_torch_file(path: Path) -> dict[str, Any]:
    """A dictionary that `torch.save` wrote, tensors on the CPU; no code in it is executed.

    Raises:
        FormatError: it is no such file.
        DataError: it cannot be read.
    """
    try:
        content = torch.load(path, map_location="cpu", weights_only=True)
    except FileNotFoundError:
        raise DataError(path, "no such file", "a checkpoint", "check the path") from None
    except OSError as error:
        raise DataError(path, error.strerror or "cannot be read", "a checkpoint") from error
    except MemoryError:
        raise
    except Exception as error:  # whatever a hostile file makes the restricted unpickler raise
        raise FormatError(
            path, "not readable as a checkpoint", "a file by torch.save", ""
        ) from error
    if not isinstance(content, dict):
        raise FormatError(path, f"holds a {type(content).__name__}", "a state dict", "")
    return content
