"""Checkpoint files: written whole or not at all, read without executing anything.

A file is safetensors: the model's tensors by the names of its state dict, so that anybody's
`load_file` serves, all else under `ema/` and `optimizer/`; what is no tensor is JSON in its
metadata. Files by `torch.save`, as earlier versions wrote them, are read all the same.
"""

from __future__ import annotations

import json
import os
import zipfile
from collections.abc import Callable, Mapping
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Annotated, Any, ClassVar

import torch
from pydantic import Field
from safetensors import SafetensorError

from fastft.config.train import MODEL_PX, EvalView
from fastft.runs.checked import STRICT, Count, checked
from fastft.runs.folder import find_lasts, remove_leavings
from fastft.runs.meaning import Meaning, read_meaning
from fastft.runs.preprocessing import read_preprocessing
from fastft.runs.sound import find_odd_tensor
from fastft.runs.tensor_file import read_tensors, write_tensors
from fastft.runs.torch_file import FORMAT, MOST_LETTERS, convert_checkpoint, read_torch_file
from pipelines.atomic import AtomicFile
from pipelines.errors import DataError, FormatError, is_no_memory, one_line
from pipelines.formats.layout import Preparation
from pipelines.memory import require_room
from pipelines.plan import Decode
from pipelines.preprocessing import Preprocessing

#: Versions that are read; the last is written, and 1 was by `torch.save`.
_VERSIONS = (1, 2)
#: Parts that are tensors, by what goes before their names in a file.
_PREFIXES = {"ema": "ema/", "optimizer": "optimizer/", "model": ""}


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
        accuracy: of the evaluation split after that epoch, 0 to 1; of other tasks 0, see `score`.
        config: the run's settings, as JSON values.
        optimizer: what it remembers, see `pack_optimizer`; empty in one that is not meant to be
            continued, as is `scaler`.
        scaler: the loss scaler's state dict.
        ema: the state dict of the weights' average, if one was kept; evaluation is of it.
        progress: where the run stands, as JSON values; None in one that is not to be continued.
        preparation: how images are prepared for it, `Preparation`'s values by field; None in one of
            an older version, or for the default.
        meaning: what its outputs mean, `Meaning`'s values by field; None in one of classes.
        preprocessing: the form of its images, `Preprocessing`'s values by field; None in one of an
            older version, or for torchvision's.
    """

    __pydantic_config__: ClassVar[Any] = STRICT
    model: Mapping[str, torch.Tensor]
    arch: Annotated[str, Field(max_length=99)]
    classes: Annotated[tuple[str, ...], Field(min_length=1, strict=False, fail_fast=True)]
    size: Annotated[int, Field(ge=MODEL_PX[0], le=MODEL_PX[1])]
    view: EvalView
    epoch: Count
    accuracy: Annotated[float, Field(ge=0, le=1)]
    optimizer: Mapping[str, torch.Tensor]
    scaler: Mapping[str, Any]
    config: Mapping[str, Any]
    ema: Mapping[str, torch.Tensor] | None = None
    progress: Mapping[str, Any] | None = None
    preparation: Mapping[str, Any] | None = None
    meaning: Mapping[str, Any] | None = None
    preprocessing: Mapping[str, Any] | None = None

    @property
    def preprocessed(self) -> Preprocessing:
        """The form of its images."""
        return read_preprocessing(self.preprocessing)

    @property
    def prepared(self) -> Preparation:
        """The preparation that images need for it."""
        return Preparation(**(self.preparation or {}))

    @property
    def outputs(self) -> Meaning:
        """The meaning of its outputs."""
        return read_meaning(self.meaning, len(self.classes))

    @property
    def score(self) -> float:
        """The score of the evaluation split after its last epoch, see `measures`."""
        return self.accuracy if self.meaning is None else self.outputs.score

    @property
    def decode(self) -> Decode:
        """The way in which it has seen JPEGs decoded."""
        return "scaled" if self.config.get("decode") == "scaled" else "exact"

    @property
    def evaluated(self) -> Mapping[str, torch.Tensor]:
        """The weights that evaluation is of: the average, if one was kept."""
        return self.ema or self.model


def save_checkpoint(
    path: Path, checkpoint: Checkpoint, before: Callable[[], None] | None = None
) -> None:
    """Write a checkpoint; `path` is the old one or the new one, whenever the process ends.

    Args:
        path: the file.
        checkpoint: what to write.
        before: called when the new file is whole and on disk, before it takes the old one's place.

    Raises:
        DataError: the disk is full or the folder cannot be written.
    """
    tensors = {
        f"{prefix}{name}": tensor
        for part, prefix in _PREFIXES.items()
        for name, tensor in (getattr(checkpoint, part) or {}).items()
    }
    text = describe(checkpoint)
    try:
        with AtomicFile(path) as target:
            write_tensors(target, tensors, text)
            if before is not None:
                os.fsync(target.descriptor)  # a full disk shows now, not after `before`
                before()
            target.publish()
    except OSError as error:
        found = f"cannot be written: {error.strerror or error}"
        raise DataError(path, found, "", "see its disk and folder") from error


def describe(checkpoint: Checkpoint) -> str:
    """All of a checkpoint but its tensors, as JSON."""
    names = [each.name for each in fields(Checkpoint) if each.name not in _PREFIXES]
    parts = {name: getattr(checkpoint, name) for name in names}
    for name in ("meaning", "preprocessing"):
        if parts[name] is None:  # there is nothing to say
            del parts[name]
    return json.dumps({"version": _VERSIONS[-1], **parts})


def read_description(text: str) -> Checkpoint:
    """The checkpoint that `describe` tells of, without tensors.

    Raises:
        TypeError, ValueError, RecursionError: it is of another version, or lacks something.
    """
    return _unpack({}, text)


def load_checkpoint(path: Path) -> Checkpoint:
    """Read a checkpoint of ours onto the CPU.

    Raises:
        FormatError: the file is none, or of another version.
        DataError: it cannot be read.
    """
    found = read_file(path)
    if not isinstance(found, Checkpoint):
        raise FormatError(path, "no fastft checkpoint", "one written by fastft train", "")
    return found


def read_file(path: Path) -> Checkpoint | dict[str, Any]:
    """A checkpoint of ours, or what else lies in a safetensors file or one by `torch.save`.

    Raises:
        FormatError: it is neither, or a checkpoint that is damaged or of another version.
        DataError: it cannot be read.
    """
    text: str | None = None
    content: dict[str, Any] = {}
    try:
        with open(path, "rb") as file:
            is_tensor_file = file.read(9)[8:] == b"{"  # behind its length a header begins
        if is_tensor_file:
            content, text = read_tensors(path)
        else:
            content = read_torch_file(path)
    except FileNotFoundError:
        raise DataError(path, "no such file", "a checkpoint", "check the path") from None
    except OSError as error:
        raise DataError(path, error.strerror or "cannot be read", "a checkpoint") from error
    except Exception as error:  # whatever a hostile file makes the libraries raise
        if is_no_memory(error):  # of the machine, or is it asked for more than the file holds?
            require_room(4 * path.stat().st_size, str(path))
        # torch's own words are long, and give advice that nobody should take.
        is_brief = isinstance(error, (SafetensorError, zipfile.BadZipFile))
        reason = f": {error!s:.200}".rstrip(".") if is_brief else ""
        found = f"not readable as a checkpoint{reason}"
        raise FormatError(path, found, "a safetensors file, or one by torch.save", "") from error
    try:
        if text is None and content.get("format") == FORMAT:
            content, text = convert_checkpoint(content)
        return content if text is None else _unpack(content, text)
    except (TypeError, ValueError, RecursionError) as error:
        found = f"holds {error!s:.200}"
        raise FormatError(path, found, "a whole checkpoint", "train again") from error


def load_last(folder: Path) -> tuple[Checkpoint, Path, str]:
    """The checkpoint to continue a run from, after whatever ended it.

    What a killed process left half written is removed from the folder.

    Returns:
        The last one, or the one before it if that cannot be used; its path; and a remark on that,
        '' if all is well.

    Raises:
        DataError: neither can be used.
    """
    remove_leavings(folder)
    faults: list[str] = []
    for name in find_lasts(folder):
        try:
            checkpoint = load_checkpoint(folder / name)
        except DataError as error:
            faults.append(f"{name}: {error.found}")
            continue
        used = f"; {name}, the checkpoint before it, is used instead"
        remark = one_line(f"{folder}/{faults[0]}{used}") if faults else ""
        return checkpoint, folder / name, remark
    raise DataError(folder, "; ".join(faults), "a checkpoint to continue from", "train again")


def _unpack(tensors: Mapping[str, torch.Tensor], text: str) -> Checkpoint:
    """The checkpoint in a file of ours, each part of the type that it should have.

    Raises:
        TypeError, ValueError, RecursionError: it is of another version, or lacks something.
    """
    parts = _parse(text)
    if odd := find_odd_tensor(tensors):
        raise ValueError(odd)
    parts |= {"model": {}, "ema": {}, "optimizer": {}}
    for name, tensor in tensors.items():
        part = next(each for each, prefix in _PREFIXES.items() if name.startswith(prefix))
        parts[part][name.removeprefix(_PREFIXES[part])] = tensor
    checkpoint = checked(Checkpoint, {**parts, "ema": parts["ema"] or None})
    Preparation(**(checkpoint.preparation or {}))
    read_meaning(checkpoint.meaning, len(checkpoint.classes))
    read_preprocessing(checkpoint.preprocessing)
    return checkpoint


def _parse(text: str) -> dict[str, Any]:
    """The parts of a checkpoint that are JSON values.

    Raises:
        ValueError: they are none, or of another version.
        RecursionError: they lie too deep within each other.
    """
    if len(text) > MOST_LETTERS:
        raise ValueError("more text than any run's")
    parts: Any = json.loads(text, parse_int=_read_int)
    version = parts.pop("version", None) if isinstance(parts, dict) else None
    if version not in _VERSIONS or type(version) is not int:
        raise ValueError(f"a checkpoint of version {version!r:.80}")
    return dict(parts)


def _read_int(digits: str) -> int:
    """A number of at most 63 bits: of one of many digits Python makes neither a float nor a text.

    Raises:
        ValueError: it is none.
    """
    if len(digits) > 20 or not -(1 << 63) <= int(digits) < 1 << 63:
        raise ValueError("a number of many digits")
    return int(digits)
