"""Checkpoint files: written whole or not at all, read without executing anything.

A file of ours is the zip that `torch.save` writes, and in its comment, where `torch.load` does not
look, a seal. Each record has a CRC-32, which `torch.load` does not compare; the seal is the CRC-32
of everything between them, headers and directory. Together they cover every bit.
"""

from __future__ import annotations

import io
import mmap
import os
import struct
import warnings
import zipfile
import zlib
from collections import OrderedDict
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any, get_args

import torch

from fastft.config.train import MODEL_PX, EvalView
from fastft.runs.folder import LAST, PREVIOUS, remove_leavings
from fastft.runs.sound import as_state, find_odd, find_odd_tensor
from pipelines.atomic import AtomicFile
from pipelines.errors import DataError, FormatError, is_no_memory, one_line
from pipelines.formats.layout import Preparation
from pipelines.memory import require_room

_FORMAT, _VERSION = "fastft-checkpoint", 1
#: What a seal begins with; eight hexadecimal digits follow.
_SEAL = b"fastft crc32 "
_SEAL_BYTES = len(_SEAL) + 8
#: A zip's last record without its comment, and where its parts lie. Source: PKWARE's APPNOTE, 4.3.
_ZIP, _ZIP_END, _ZIP_END_BYTES = b"PK\x03\x04", b"PK\x05\x06", 22
_HEADER_BYTES, _HEADER_LENGTHS = 30, 26
_CHUNK_BYTES = 1 << 20
#: How a pickle names what takes it; no tensor needs that.
_TAKES_MEMORY = b"\nbytearray\n"
_EMPTY = type(None)
#: What the parts of a checkpoint are in a file; a module's state dict is an ordered one.
_KINDS: dict[str, tuple[type, ...]] = {
    "model": (dict, OrderedDict), "arch": (str,), "classes": (list,), "size": (int,),
    "view": (str,), "epoch": (int,), "accuracy": (int, float), "optimizer": (dict,),
    "scaler": (dict,), "config": (dict,), "ema": (dict, OrderedDict, _EMPTY),
    "progress": (dict, _EMPTY), "preparation": (dict, _EMPTY),
}  # fmt: skip
#: What the values of some of them are, beside their kind.
_BOUNDS: dict[str, Callable[[Any], bool]] = {
    "arch": lambda arch: len(arch) < 100,
    "classes": lambda classes: bool(classes) and all(type(name) is str for name in classes),
    "size": lambda size: MODEL_PX[0] <= size <= MODEL_PX[1],
    "view": lambda view: view in get_args(EvalView),
    "epoch": lambda epoch: epoch >= 0,
    "accuracy": lambda accuracy: 0 <= accuracy <= 1,
    "preparation": lambda values: _is_preparation(values or {}),
}


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
        progress: where the run stands, as JSON values; None in one that is not to be continued.
        preparation: how images are prepared for it, `Preparation`'s values by field; None in one of
            an older version, or for the default.
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
    progress: Mapping[str, Any] | None = None
    preparation: Mapping[str, Any] | None = None

    @property
    def prepared(self) -> Preparation:
        """How images must be prepared for it."""
        return Preparation(**(self.preparation or {}))


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
    content = {name: getattr(checkpoint, name) for name in Checkpoint.__slots__}
    content |= {"format": _FORMAT, "version": _VERSION, "classes": list(checkpoint.classes)}
    try:
        with AtomicFile(path) as target:
            with os.fdopen(os.dup(target.descriptor), "w+b") as file:
                torch.save(content, file)
                _seal(file)
            if before is not None:
                os.fsync(target.descriptor)  # a full disk shows now, not after `before`
                before()
            target.publish()
    except (OSError, RuntimeError) as error:
        # Where a write fails, torch raises an error of its own about its archive.
        said = next((e for e in (error, error.__context__) if isinstance(e, OSError)), error)
        reason = getattr(said, "strerror", None) or said
        raise DataError(
            path, f"cannot be written: {reason}", "", "see its disk and folder"
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


def load_last(folder: Path) -> tuple[Checkpoint, str]:
    """The checkpoint to continue a run from, after whatever ended it.

    What a killed process left half written is removed from the folder.

    Returns:
        last.pt, or the one before it if that cannot be used; and a remark on that, '' if all is
        well.

    Raises:
        DataError: neither can be used.
    """
    remove_leavings(folder)
    try:
        return load_checkpoint(folder / LAST), ""
    except DataError as error:
        fault = error
    try:
        checkpoint = load_checkpoint(folder / PREVIOUS)
    except DataError as error:
        found = f"{LAST}: {fault.found}; {PREVIOUS}: {error.found}"
        raise DataError(folder, found, "a checkpoint to continue from", "train again") from error
    remark = f"{fault.where}: {fault.found}; {PREVIOUS}, the checkpoint before it, is used instead"
    return checkpoint, one_line(remark)


def is_checkpoint(content: Mapping[str, Any]) -> bool:
    """Whether what was read is a checkpoint of ours."""
    return content.get("format") == _FORMAT


def unpack_checkpoint(content: Mapping[str, Any], path: Path) -> Checkpoint:
    """What a file of ours holds, each part of the type that it should have.

    Raises:
        FormatError: it is of another version, or lacks something.
    """
    version = content.get("version")
    if type(version) is not int or version != _VERSION:
        found = f"checkpoint version {version if type(version) is int else type(version).__name__}"
        raise FormatError(path, found, f"version {_VERSION}", "train again")
    parts = {name: content[name] for name in Checkpoint.__slots__ if name in content}
    for name, kinds in _KINDS.items():
        if name not in parts and _EMPTY not in kinds:
            raise FormatError(path, f"lacks {name!r}", "a whole checkpoint", "train again")
        value = parts.setdefault(name, None)
        if type(value) not in kinds:
            odd = f"a {type(value).__name__}"
        elif name in ("model", "ema") and value is not None:
            odd, parts[name] = find_odd_tensor(value), as_state(value)
        else:
            odd = find_odd(value, tensors=name in ("optimizer", "scaler"))
        if not odd and name in _BOUNDS and not _BOUNDS[name](value):
            odd = f"{value!r:.80}"
        if odd:
            found = f"holds a wrong {name!r}: {odd}"
            raise FormatError(path, found, "a whole checkpoint", "train again")
    return Checkpoint(**{**parts, "classes": tuple(parts["classes"])})


def read_torch_file(path: Path) -> dict[str, Any]:
    """A dictionary that `torch.save` wrote, tensors on the CPU; no code in it is executed.

    Raises:
        FormatError: it is no such file.
        DataError: it cannot be read.
    """
    try:
        is_zip = _check_whole(path)
        _require_modest(path)
        # In a file of the old kind lengths stand that torch makes room for before it reads; of what
        # is in memory it gets no more than there is. It also takes a tar there, and believes it.
        source = path if is_zip else io.BytesIO(path.read_bytes())
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of what is refused below
            content = torch.load(source, map_location="cpu", weights_only=True)
    except FileNotFoundError:
        raise DataError(path, "no such file", "a checkpoint", "check the path") from None
    except OSError as error:
        raise DataError(path, error.strerror or "cannot be read", "a checkpoint") from error
    except zipfile.BadZipFile as error:
        found = f"not readable as a checkpoint: {str(error)[:200].rstrip('.')}"
        raise FormatError(path, found, "a file by torch.save", "") from error
    except Exception as error:  # whatever a hostile file makes the restricted unpickler raise
        if is_no_memory(error):  # of the machine, or is it asked for more than the file holds?
            require_room(4 * path.stat().st_size, str(path))
        raise FormatError(
            path, "not readable as a checkpoint", "a file by torch.save", ""
        ) from error
    if type(content) not in (dict, OrderedDict):
        raise FormatError(path, f"holds a {type(content).__name__}", "a state dict", "")
    return dict(dict.items(content))  # of a hostile one all other methods may be anything


def _is_preparation(values: Mapping[str, Any]) -> bool:
    try:
        Preparation(**values)
    except (TypeError, ValueError):
        return False
    return True


def _seal(file: IO[bytes]) -> None:
    """Write what covers the bytes that have no CRC-32 yet into the comment of a zip without one."""
    end = file.seek(0, os.SEEK_END) - 2  # the comment's length comes last
    with zipfile.ZipFile(file) as archive:
        seal = _SEAL + b"%08x" % _frame_crc(file, archive, end)
    file.seek(end)
    file.write(struct.pack("<H", len(seal)) + seal)


def _check_whole(path: Path) -> bool:
    """Compare all CRC-32 of a zip; what is none is left to `torch.load`.

    Returns:
        Whether it is a zip.

    Raises:
        zipfile.BadZipFile, or what else zipfile finds wrong: the file is damaged.
        OSError: it cannot be read.
    """
    with open(path, "rb") as file:
        if file.read(len(_ZIP)) != _ZIP:
            return False
        end = file.seek(0, os.SEEK_END) - _SEAL_BYTES - 2
        file.seek(max(0, end))
        tail = file.read()
        with zipfile.ZipFile(file) as archive:
            # Nobody compresses weights, and torch would make room for any size that is declared.
            for info in archive.infolist():
                packed = info.compress_type, info.compress_size
                if packed != (zipfile.ZIP_STORED, info.file_size):
                    raise zipfile.BadZipFile(f"{info.filename} is compressed")
            if tail.startswith(struct.pack("<H", _SEAL_BYTES) + _SEAL):
                if tail[-8:] != b"%08x" % _frame_crc(file, archive, end, records=True):
                    raise zipfile.BadZipFile("headers or directory are damaged")
            elif not tail[-_ZIP_END_BYTES:].startswith(_ZIP_END) or tail[-2:] != b"\0\0":
                raise zipfile.BadZipFile("its end is damaged")
            # A file without a seal is of an older version or of others, who may have told torch to
            # compute nothing: it writes zeros then.
            elif any(info.CRC for info in archive.infolist()):
                damaged = archive.testzip()
                if damaged is not None:
                    raise zipfile.BadZipFile(f"{damaged} is damaged")
    return True


def _require_modest(path: Path) -> None:
    """Refuse the one call that `torch.load` lets a file make which clears all memory it names.

    Raises:
        zipfile.BadZipFile: it does.
        OSError: it cannot be read.
    """
    with (
        open(path, "rb") as file,
        mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as mapped,
    ):
        if mapped.find(_TAKES_MEMORY) >= 0:
            raise zipfile.BadZipFile("it asks for memory of its own")


def _frame_crc(
    file: IO[bytes], archive: zipfile.ZipFile, end: int, *, records: bool = False
) -> int:
    """CRC-32 of what lies between the records of a zip, up to `end`.

    Args:
        file: the open zip.
        archive: its directory; the records are stored as they are.
        end: where to stop, bytes.
        records: compare the records' own CRC-32, too.

    Raises:
        zipfile.BadZipFile: a record is damaged, or not where it should be.
    """
    crc = position = 0
    for info in sorted(archive.infolist(), key=lambda info: info.header_offset):
        if not 0 <= info.header_offset <= end:
            raise zipfile.BadZipFile("its directory is damaged")
        file.seek(info.header_offset + _HEADER_LENGTHS)
        name_bytes, extra_bytes = struct.unpack("<HH", file.read(4))
        start = info.header_offset + _HEADER_BYTES + name_bytes + extra_bytes
        crc = _crc(file, position, start, crc)
        position = start + info.compress_size
        if records and _crc(file, start, position) != info.CRC:
            raise zipfile.BadZipFile(f"{info.filename} is damaged")
    return _crc(file, position, end, crc)


def _crc(file: IO[bytes], start: int, end: int, crc: int = 0) -> int:
    """CRC-32 of some bytes, going on from `crc`."""
    if start > end:
        raise zipfile.BadZipFile("its records overlap")
    file.seek(start)
    while start < end:
        chunk = file.read(min(_CHUNK_BYTES, end - start))
        if not chunk:
            raise zipfile.BadZipFile("it is cut short")
        crc = zlib.crc32(chunk, crc)
        start += len(chunk)
    return crc
