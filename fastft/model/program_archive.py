"""The archive of torch.export, `.pt2`: a zip of JSON and of tensors as they lie in memory.

`torch.export.load` is not what reads a stranger's: it unpickles what the archive says is pickled,
evaluates its expressions as Python, calls whatever below `torch` its graph names, and loads
libraries that lie in it. Here nothing but JSON and plain numbers is read, and what asks for more is
refused; tensors by `torch.save`, as earlier versions of torch keep them, are read as weights only.
"""

from __future__ import annotations

import io
import json
import math
import zipfile
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from fastft.runs.sound import find_odd_tensor

#: Bytes of a graph as JSON: that of the deepest network here (MaxViT, 1,670 nodes) takes 3 MB.
_MOST_GRAPH_BYTES = 1 << 27
_MOST_RECORDS = 1 << 16
_MODEL, _EXTRA = "models/model.json", "extra/"
_WEIGHTS, _CONSTANTS = "data/weights/", "data/constants/"
#: Folders and files of what is compiled, or of custom classes.
_PROGRAMS = ("data/aotinductor/", "data/executorch/", "data/constants/custom_obj", "data/xl_")
#: torch.export's numbers of dtypes.
DTYPES = {
    1: torch.uint8,
    2: torch.int8,
    3: torch.int16,
    4: torch.int32,
    5: torch.int64,
    6: torch.float16,
    7: torch.float32,
    8: torch.float64,
    12: torch.bool,
    13: torch.bfloat16,
}


@dataclass(frozen=True, slots=True)
class Archive:
    """What an archive holds.

    Attributes:
        metadata: its extra files, texts.
        program: the graph and its signature, as JSON values.
        tensors: weights, buffers and constants by their full names.
    """

    metadata: Mapping[str, str]
    program: Mapping[str, Any]
    tensors: Mapping[str, torch.Tensor]


def read_archive(path: Path) -> Archive:
    """Read an archive; nothing of it is executed.

    Raises:
        ValueError, or what else zipfile, json and torch find wrong: it is damaged, none, or holds
            what is not read.
        OSError: it cannot be read.
    """
    with open(path, "rb") as file, zipfile.ZipFile(file) as archive:
        records = _list_records(archive, path.stat().st_size)
        if damaged := archive.testzip():
            raise ValueError(f"{damaged} is damaged")
        for name in records:
            if name.startswith(_PROGRAMS):
                raise ValueError(f"{name:.80}, a program, in it")
        if "byteorder" in records and archive.read(records["byteorder"]) != b"little":
            raise ValueError("numbers of another byte order")
        metadata = {
            name.removeprefix(_EXTRA): archive.read(record).decode()
            for name, record in records.items()
            if name.startswith(_EXTRA) and record.file_size <= _MOST_GRAPH_BYTES
        }
        program = _read_json(archive, records, _MODEL)
        tensors = _read_tensors(archive, records, _WEIGHTS, "weights")
        tensors |= _read_tensors(archive, records, _CONSTANTS, "constants")
    if odd := find_odd_tensor(tensors):
        raise ValueError(odd)
    return Archive(metadata, program, tensors)


def _list_records(archive: zipfile.ZipFile, size: int) -> dict[str, zipfile.ZipInfo]:
    """Records by name without the folder that all lie in."""
    infos = archive.infolist()
    if not infos or len(infos) > _MOST_RECORDS:
        raise ValueError(f"{len(infos):,} records")
    if any(
        (info.compress_type, info.compress_size) != (zipfile.ZIP_STORED, info.file_size)
        for info in infos
    ):
        raise ValueError("compressed records")
    if sum(info.file_size for info in infos) > size:
        raise ValueError("records that overlap")
    roots = {info.filename.partition("/")[0] for info in infos}
    records = {info.filename.partition("/")[2]: info for info in infos}
    if len(roots) != 1 or len(records) != len(infos):
        raise ValueError("records of one name")
    return records


def _read_json(
    archive: zipfile.ZipFile, records: Mapping[str, zipfile.ZipInfo], name: str
) -> Mapping[str, Any]:
    if name not in records:
        raise ValueError(f"no {name}")
    if records[name].file_size > _MOST_GRAPH_BYTES:
        raise ValueError(f"a {name} of {records[name].file_size:,} bytes")
    values: Any = json.loads(archive.read(records[name]))
    if not isinstance(values, dict):
        raise TypeError(f"a {type(values).__name__} in {name}")
    return values


def _read_tensors(
    archive: zipfile.ZipFile, records: Mapping[str, zipfile.ZipInfo], folder: str, what: str
) -> dict[str, torch.Tensor]:
    """The tensors that a folder of the archive lists."""
    if f"{folder}model.pt" in records:  # as earlier versions of torch keep them
        content = io.BytesIO(archive.read(records[f"{folder}model.pt"]))
        loaded = torch.load(content, map_location="cpu", weights_only=True)
        if not isinstance(loaded, dict) or not all(type(name) is str for name in loaded):
            raise TypeError(f"a {type(loaded).__name__} of {what}")
        return dict(dict.items(loaded))
    listed = _read_json(archive, records, f"{folder}model_{what}_config.json")["config"]
    tensors, payloads = {}, dict[str, torch.Tensor]()
    for name, entry in dict.items(listed):
        if entry["use_pickle"] is not False:
            raise ValueError(f"{name!r:.80} as a pickle")
        record, meta = entry["path_name"], entry["tensor_meta"]
        dtype = DTYPES[meta["dtype"]]
        if record not in payloads:
            stored = bytearray(archive.read(records[f"{folder}{record}"]))
            empty = torch.empty(0, dtype=torch.uint8)
            payloads[record] = torch.frombuffer(stored, dtype=torch.uint8) if stored else empty
        tensors[name] = _shape(payloads[record], dtype, meta, name)
    return tensors


def _shape(
    payload: torch.Tensor, dtype: torch.dtype, meta: Mapping[str, Any], name: str
) -> torch.Tensor:
    """A tensor of a payload's bytes, which hold as many numbers as it shows."""
    sizes, strides = ([each["as_int"] for each in meta[key]] for key in ("sizes", "strides"))
    offset = meta["storage_offset"]["as_int"]
    numbers = (*sizes, *strides, offset)
    if not all(type(each) is int and 0 <= each < 1 << 48 for each in numbers):
        raise ValueError(f"a wrong shape of {name!r:.80}")
    if len(sizes) != len(strides) or len(sizes) > 16 or payload.numel() % dtype.itemsize:
        raise ValueError(f"a wrong shape of {name!r:.80}")
    flat = payload.view(dtype)
    count = math.prod(sizes)
    last = offset + sum((size - 1) * step for size, step in zip(sizes, strides, strict=True))
    if count and not (count <= flat.numel() and last < flat.numel()):
        raise ValueError(f"{name!r:.80}, larger than what is stored of it")
    if not count:
        return torch.empty(sizes, dtype=dtype)
    return flat.as_strided(sizes, strides, offset)
