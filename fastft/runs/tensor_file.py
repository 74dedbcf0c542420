"""Tensors by name and one text in a safetensors file, every bit of which is covered by a CRC-32.

Reading is the library's. Writing is not: its `save_file` makes a temporary file of its own, which a
killed process would leave, holds all tensors in the order of the file at once, and puts metadata in
a random order. Here they are written one by one, and the checksum stands where it can be found.
"""

from __future__ import annotations

import json
import os
import struct
from collections.abc import Mapping
from pathlib import Path

import numpy as np
import torch
from safetensors import SafetensorError, safe_open

from fastft.runs.sound import DTYPES
from pipelines.atomic import AtomicFile
from pipelines.formats.crc import crc32

#: A file of ours begins so behind its header's length; the CRC-32 of the file with zeros in its
#: place follows.
_SEAL, _SEAL_AT = b'{"__metadata__":{"fastft-crc32":"', 8
_CRC_AT, _NO_CRC = _SEAL_AT + len(_SEAL), b"0" * 8
_CHUNK_BYTES = 1 << 20


def write_tensors(
    target: AtomicFile,
    tensors: Mapping[str, torch.Tensor],
    text: str,
    more: Mapping[str, str] | None = None,
) -> None:
    """Write a whole file; of tensors in another order of memory one at a time is copied.

    Args:
        target: an empty file.
        tensors: on the CPU, of DTYPES.
        text: what else to keep.
        more: further metadata by their keys.

    Raises:
        OSError: as the system says.
    """
    # The widest first, so that each lies at a multiple of its width; else in the order given.
    names = sorted(tensors, key=lambda name: -tensors[name].element_size())
    metadata = {"fastft-crc32": _NO_CRC.decode(), "format": "pt", "fastft": text, **(more or {})}
    header: dict[str, object] = {"__metadata__": metadata}
    end = 0
    for name in names:
        tensor = tensors[name]
        begin, end = end, end + tensor.numel() * tensor.element_size()
        header[name] = {
            "dtype": DTYPES[tensor.dtype],
            "shape": list(tensor.shape),
            "data_offsets": [begin, end],
        }
    packed = json.dumps(header, separators=(",", ":")).encode()
    packed += b" " * (-len(packed) % 8)
    packed = struct.pack("<Q", len(packed)) + packed
    crc = crc32(packed)
    target.write(packed)
    for name in names:
        content = _bytes_of(tensors[name])
        crc = crc32(content, crc)
        target.write(content)
    os.pwrite(target.descriptor, b"%08x" % crc, _CRC_AT)


def read_tensors(path: Path) -> tuple[dict[str, torch.Tensor], str | None]:
    """Tensors on the CPU, and the text; None in a file of others.

    Raises:
        SafetensorError, or what else safetensors and torch find wrong: it is damaged, or none.
        OSError: it cannot be read.
    """
    is_sealed = _check_seal(path)
    # Read by position: a file that is mapped and then cut short would end the process.
    with safe_open(path, framework="pt", backend="pread") as file:
        text = (file.metadata() or {}).get("fastft")
        tensors = {name: file.get_tensor(name) for name in file.offset_keys()}
    if text is not None and not is_sealed:
        raise SafetensorError("its beginning is damaged")
    return tensors, text


def _check_seal(path: Path) -> bool:
    """Whether a file has a CRC-32 of ours, which then is right.

    Raises:
        SafetensorError: it is wrong.
        OSError: the file cannot be read.
    """
    with open(path, "rb") as file:
        head = file.read(_CRC_AT + len(_NO_CRC))
        if head[_SEAL_AT:_CRC_AT] != _SEAL:
            return False
        crc = crc32(_NO_CRC, crc32(head[:_CRC_AT]))
        while chunk := file.read(_CHUNK_BYTES):
            crc = crc32(chunk, crc)
    if head[_CRC_AT:] != b"%08x" % crc:
        raise SafetensorError("it is damaged or cut short")
    return True


def _bytes_of(tensor: torch.Tensor) -> memoryview:
    """A tensor's numbers in the order of its dimensions.

    By NumPy: torch would take several threads, which training needs, to copy.
    """
    plain = tensor.detach()
    if plain.dtype == torch.bfloat16:  # which NumPy does not have
        plain = plain.view(torch.int16)
    return memoryview(plain.numpy().reshape(-1).view(np.uint8))
