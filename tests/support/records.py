"""Writes MXNet RecordIO as its documentation describes it, apart from the code that reads it."""

import struct
from collections.abc import Iterable, Sequence
from pathlib import Path

MAGIC = 0xCED7230A
MAGIC_BYTES = MAGIC.to_bytes(4, "little")


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
