"""Writes MXNet RecordIO as its documentation describes it, apart from the code that reads it."""

import struct
from collections.abc import Iterable, Sequence
from pathlib import Path

MAGIC = 0xCED7230A
MAGIC_BYTES = MAGIC.to_bytes(4, "little")
#: No photo, but it begins like one.
JPEG = b"\xff\xd8\xff\xe0 a photo"


def pack(image: bytes, label: float = 0, key: int = 0, labels: Sequence[float] = ()) -> bytes:
    """An image record's data: the header, further labels, the image."""
    head = struct.pack("<IfQQ", len(labels), label, key, 0)
    return head + struct.pack(f"<{len(labels)}f", *labels) + image


def part(data: bytes, flag: int = 0) -> bytes:
    return struct.pack("<II", MAGIC, flag << 29 | len(data)) + data + bytes(-len(data) % 4)


def frame(data: bytes) -> bytes:
    """A record: one part, or several where the data hold the magic at a multiple of 4."""
    pieces, begin = [], 0
    for at in range(0, len(data) - 3, 4):
        if data[at : at + 4] == MAGIC_BYTES:
            pieces.append(data[begin:at])
            begin = at + 4
    pieces.append(data[begin:])
    if len(pieces) == 1:
        return part(data)
    flags = [1, *[2] * (len(pieces) - 2), 3]
    return b"".join(part(piece, flag) for piece, flag in zip(pieces, flags, strict=True))


def write_rec(path: Path, records: Iterable[bytes], keys: Sequence[int] | None = None) -> list[int]:
    """Write records of these data, and with `keys` a `.idx`; gives where each one starts."""
    content, starts = b"", []
    for data in records:
        starts.append(len(content))
        content += frame(data)
    path.write_bytes(content)
    if keys is not None:
        lines = [f"{key}\t{start}\n" for key, start in zip(keys, starts, strict=True)]
        path.with_suffix(".idx").write_text("".join(lines))
    return starts


def write_photos(folder: Path, rec: Path) -> list[Path]:
    """Every photo below a folder as a record, labels as of class folders; gives the files."""
    files = sorted(file for file in folder.rglob("*") if file.is_file())
    classes = sorted({file.parent.name for file in files})
    rec.parent.mkdir(exist_ok=True)
    rows = [pack(f.read_bytes(), classes.index(f.parent.name), i) for i, f in enumerate(files)]
    write_rec(rec, rows, range(len(files)))
    return files
