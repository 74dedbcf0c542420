"""Files by `torch.save`: state dicts of others, and checkpoints of fastft before safetensors.

Nothing in them is executed. What `torch.load` gives may be anything all the same: containers within
themselves or a thousand deep, dictionaries whose methods are numbers. Here a checkpoint becomes
what a file of today holds, tensors by name and JSON, before anything goes through it.
"""

from __future__ import annotations

import io
import json
import mmap
import warnings
import zipfile
from collections import OrderedDict
from collections.abc import Mapping
from pathlib import Path
from typing import IO, Any

import torch

#: Letters of a checkpoint's plain values as JSON; an epoch adds some 250.
MOST_LETTERS = 1 << 24
#: Letters that a piece of it counts for at least: a list in a million places is a million brackets.
_LEAST_LETTERS = 64
FORMAT = "fastft-checkpoint"
#: Parts of a checkpoint that do not go into its JSON.
_NO_JSON = ("format", "model", "ema", "optimizer")
#: An optimizer keeps at most so much of a parameter.
_MOST_KEPT = 3
_ZIP = b"PK\x03\x04"
#: MS-DOS's attribute; of a record that has it torch reads nothing, and uses memory as it is.
_IS_FOLDER = 0x10
#: How a pickle names the one call that torch lets it make which clears all memory it asks for.
_TAKES_MEMORY = b"\nbytearray\n"


def read_torch_file(path: Path) -> dict[str, Any]:
    """A dictionary that `torch.save` wrote, tensors on the CPU; no code in it is executed.

    Raises:
        zipfile.BadZipFile, or what else zipfile and torch find wrong: it is damaged, or none.
        OSError: it cannot be read.
    """
    with open(path, "rb") as file, warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of what is refused below
        is_zip = _check_records(file)
        # In a file of the old kind lengths stand that torch makes room for before it reads; of what
        # is in memory it gets no more than there is. It also takes a tar there, and believes it. Of
        # a path it goes by the suffix.
        source = file if is_zip else io.BytesIO(file.read())
        content = torch.load(source, map_location="cpu", weights_only=True)
    if type(content) not in (dict, OrderedDict):
        raise zipfile.BadZipFile(f"a {type(content).__name__} instead of a state dict")
    return dict(dict.items(content))  # of a hostile one all other methods may be anything


def convert_checkpoint(content: Mapping[str, Any]) -> tuple[dict[str, torch.Tensor], str]:
    """The content of a file of today: tensors by name, which may still be odd, and JSON.

    Raises:
        TypeError, ValueError, RecursionError: there is no such file.
    """
    text = _to_json({name: content[name] for name in content if name not in _NO_JSON})
    return _flatten(content), text


def as_state(found: object, what: str, names: type = str) -> dict[Any, Any]:
    """A dictionary with nothing about it but its items.

    `torch.load` also lets a file set what attributes it likes of an ordered dictionary.

    Raises:
        TypeError: it is none, or its keys are not of this type.
    """
    if not isinstance(found, dict):
        raise TypeError(f"a {type(found).__name__} for {what!r}")
    state = dict(dict.items(found))
    if odd := {type(name).__name__ for name in state if type(name) is not names}:
        raise TypeError(f"a name that is a {odd.pop()} in {what!r}")
    return state


def _flatten(content: Mapping[str, Any]) -> dict[str, Any]:
    """Model, average and optimizer by the names that they have in a file of today."""
    flat = as_state(content.get("model"), "model")
    if content.get("ema") is not None:
        average = as_state(content["ema"], "ema")
        flat |= {f"ema/{name}": each for name, each in average.items()}
    # Its settings are the run's, and are not read.
    states = as_state(content.get("optimizer"), "optimizer").get("state", {})
    for number, found in as_state(states, "optimizer.state", int).items():
        state = as_state(found, f"optimizer.state.{number}")
        if len(state) > _MOST_KEPT:
            raise ValueError(f"{len(state)} states of parameter {number}")
        kept = {name: each for name, each in state.items() if each is not None}
        flat |= {f"optimizer/{number}/{name}": each for name, each in kept.items()}
    return flat


def _to_json(values: Mapping[str, Any]) -> str:
    """JSON of plain values; of lists within each other no more than a run comes to."""
    pieces, left = list[str](), MOST_LETTERS
    for piece in json.JSONEncoder().iterencode(values):
        left -= max(len(piece), _LEAST_LETTERS)
        if left < 0:
            raise ValueError("more text than any run's")
        pieces.append(piece)
    return "".join(pieces)


def _check_records(file: IO[bytes]) -> bool:
    """Compare the CRC-32 of a zip's records; what is none is left to `torch.load`.

    Returns:
        Whether it is a zip.

    Raises:
        zipfile.BadZipFile, or what else zipfile finds wrong: the file is damaged.
        OSError: it cannot be read.
    """
    with mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as mapped:
        if mapped.find(_TAKES_MEMORY) >= 0:
            raise zipfile.BadZipFile("it asks for memory of its own")
        if mapped[: len(_ZIP)] != _ZIP:
            return False
        size = len(mapped)
    with zipfile.ZipFile(file) as archive:
        records = archive.infolist()
        for info in records:
            # Nobody compresses weights, and torch makes room for any size that is declared.
            packed = info.compress_type, info.compress_size
            if packed != (zipfile.ZIP_STORED, info.file_size):
                raise zipfile.BadZipFile(f"{info.filename} is compressed")
            if info.external_attr & _IS_FOLDER:
                raise zipfile.BadZipFile(f"{info.filename} is a folder")
        if sum(info.file_size for info in records) > size:
            raise zipfile.BadZipFile("its records overlap")
        # Others may have told torch to compute none: it writes zeros then.
        damaged = archive.testzip() if any(info.CRC for info in records) else None
        if damaged is not None:
            raise zipfile.BadZipFile(f"{damaged} is damaged")
    file.seek(0)
    return True
