"""Small files that stand for gigabytes, read with little memory to be had: what became of them.

A program of its own, as the limit is one of the process: `python hostile_bombs.py FOLDER`.
"""

import gzip
import io
import json
import os
import resource
import struct
import sys
import tarfile
import warnings
import zlib
from collections.abc import Callable, Iterator
from pathlib import Path

import torch
from hostile_beton import image_of
from hostile_files import read_image
from odd_states import content_of, write
from records import MAGIC, frame, pack
from zips import write_zip

from fastft.config.recipes import read_plain
from fastft.datasets.unpack import open_archive as open_fetched
from fastft.model.classifier import restore_model
from fastft.runs.checkpoint import load_checkpoint, read_file
from pipelines.errors import FastftError
from pipelines.formats.archive import open_archive
from pipelines.formats.encode import EncodePolicy, Encoder
from pipelines.formats.folder import read_folder
from pipelines.formats.recordio import open_records
from pipelines.formats.source import open_source

#: What a reader may take beside what the process has already: less than any of these unpacked.
ROOM_BYTES = 300 << 20
#: What a file is said to hold, or does, as a hole on the disk.
LARGE, HUGE = 1 << 30, 1 << 40


def zeros(size: int) -> bytes:
    """That many zeros, deflated, 16 MB at a time."""
    deflater = zlib.compressobj(wbits=-15)
    block = deflater.compress(bytes(16 << 20)) + deflater.flush(zlib.Z_FULL_FLUSH)
    return block * (size >> 24) + deflater.flush()


def zip_of_zeros(path: Path, size: int) -> Path:
    """A zip of `a/1.jpg`, whose bytes are zeros, all as declared but for the checksum."""
    write_zip(path, ["a/1.jpg"])
    content, packed = path.read_bytes(), zeros(size)
    local, central = bytearray(content[:37]), bytearray(content[44:])
    for part, at in ((local, 8), (central, 10)):
        struct.pack_into("<H", part, at, 8)
        struct.pack_into("<2I", part, at + 10, len(packed), size)
    struct.pack_into("<I", central, central.index(b"PK\5\6") + 16, len(local) + len(packed))
    path.write_bytes(local + packed + central)
    return path


def zip_of_a_hole(path: Path, size: int) -> Path:
    """A zip of `a/1.jpg`, three bytes by its own words, which takes that much of the zip."""
    write_zip(path, {"a/1.jpg": b"one"})
    content = path.read_bytes()
    local, central = bytearray(content[:37]), bytearray(content[40:])
    struct.pack_into("<I", local, 18, size)
    struct.pack_into("<I", central, 20, size)
    struct.pack_into("<I", central, central.index(b"PK\5\6") + 16, len(local) + size)
    whole = len(local) + size + len(central)
    return hole(path, whole, (0, bytes(local)), (len(local) + size, bytes(central)))


def hole(path: Path, size: int, *pieces: tuple[int, bytes]) -> Path:
    """A file of zeros that take no room, with something here and there."""
    with path.open("wb") as file:
        file.truncate(size)
        for at, piece in pieces:
            file.seek(at)
            file.write(piece)
    return path


def resized(kind: str, side: int) -> bytes:
    """An image that says it has `side` pixels on each side."""
    data = bytearray(image_of(kind))
    if kind == "JPEG":
        struct.pack_into(">2H", data, data.index(b"\xff\xc0") + 5, side, side)
    else:
        struct.pack_into(">2I", data, 16, side, side)
        struct.pack_into(">I", data, 29, zlib.crc32(data[12:29]))
    return bytes(data)


def photos(root: Path) -> Path:
    """A class folder of one file, which may be a link."""
    (root / "a").mkdir(parents=True)
    return root / "a" / "1.jpg"


def read_zip(path: Path) -> object:
    with open_archive(path) as listings:
        return listings[""].read(0)


def read_record(path: Path) -> object:
    with open_records(path) as records:
        return records.read(0)


def read_fetched(path: Path) -> object:
    with open_fetched(path, path) as archive:
        return archive


def bombs(folder: Path) -> Iterator[tuple[str, Callable[[], object]]]:
    """What each is, and what reads it."""
    for kind in ("JPEG", "PNG"):
        data = resized(kind, 60_000)
        yield f"{kind} of 60000x60000", lambda data=data: read_stored(data, folder)
        path = photos(folder / kind)
        path.write_bytes(data)
        yield f"{kind} of 60000x60000 in a folder", lambda path=path: open_source(path.parents[1])
    path = zip_of_zeros(folder / "1.zip", LARGE)
    yield "zip of zeros", lambda: read_zip(path)
    holey = zip_of_a_hole(folder / "2.zip", LARGE * 3 // 2)
    yield "zip of a hole", lambda: read_zip(holey)
    giant = photos(folder / "hole")
    hole(giant, HUGE)
    yield "photo of a terabyte", lambda: read_folder(giant.parents[1]).read(0)
    yield "photo of a terabyte as a source", lambda: open_source(giant.parents[1])
    pipe = photos(folder / "pipe")
    os.mkfifo(pipe)
    yield "pipe as a photo", lambda: read_folder(pipe.parents[1]).read(0)
    yield "pipe as a source", lambda: open_source(pipe.parents[1])
    device = photos(folder / "device")
    device.symlink_to("/dev/zero")
    yield "device as a photo", lambda: read_folder(device.parents[1]).read(0)
    yield "device as a source", lambda: open_source(device.parents[1])
    half = (1 << 29) - 4
    flags = (1, 2, 2, 3)
    parts = [
        (i * (half + 8), struct.pack("<2I", MAGIC, flag << 29 | half))
        for i, flag in enumerate(flags)
    ]
    records = hole(folder / "1.rec", 4 * (half + 8), *parts)
    yield "record of 2 gigabytes", lambda: read_record(records)
    short = folder / "2.rec"
    short.write_bytes(frame(pack(image_of("JPEG"))))
    hole(short.with_suffix(".idx"), HUGE, (0, b"0\t0\n"))
    yield "index of a terabyte", lambda: read_record(short)
    settings = hole(folder / "1.toml", HUGE)
    yield "settings of a terabyte", lambda: read_plain(settings)
    saved = io.BytesIO()
    torch.save({"a": torch.zeros(9)}, saved)
    content = bytearray(saved.getvalue())
    at = content.index(b"PK\1\2")
    struct.pack_into("<H", content, at + 10, 8)
    struct.pack_into("<2I", content, at + 20, 100, 1 << 31)
    weights = folder / "1.pt"
    weights.write_bytes(content)
    yield "weights that inflate", lambda: read_file(weights)
    greedy = folder / "2.pt"
    greedy.write_bytes(pickle_that_clears(LARGE))
    yield "weights that clear a gigabyte", lambda: read_file(greedy)
    for name, parts in (
        ("a network of gigabytes", {"arch": "regnet_y_128gf"}),
        ("a million classes", {"classes": ["x"] * 1_000_000}),
        ("images of 100,000 px", {"arch": "vit_b_16", "size": 100_000}),
    ):
        last = write(folder / name, {**content_of("sgd"), **parts})
        yield f"checkpoint of {name}", lambda last=last: restore_model(load_checkpoint(last), last)
    packed = folder / "1.tar.gz"
    packed.write_bytes(gzip_of_a_tar())
    yield "tar of a terabyte", lambda: read_fetched(packed)


def pickle_that_clears(size: int) -> bytes:
    """A file as torch wrote them long ago, which asks for so many zeros."""
    target = io.BytesIO()
    torch.save({"a": 7}, target, _use_new_zipfile_serialization=False)
    call = b"cbuiltins\nbytearray\n\x8a\x08" + struct.pack("<q", size) + b"\x85R"
    return target.getvalue().replace(b"K\x07", call)


def read_stored(data: bytes, folder: Path) -> object:
    """As convert does; what it leaves out it names."""
    encoded = Encoder(EncodePolicy()).encode(data, 0)
    if encoded.stored is None:
        raise FastftError(folder, encoded.reason)
    return encoded


def gzip_of_a_tar() -> bytes:
    """The header of a file of a terabyte, and a gigabyte of it."""
    info = tarfile.TarInfo("set/1.jpg")
    info.size = HUGE
    head = gzip.compress(info.tobuf(tarfile.GNU_FORMAT))
    return head + gzip.compress(bytes(1 << 20)) * 1024


def main() -> None:
    """Let readers have all of them."""
    folder = Path(sys.argv[1])
    warnings.simplefilter("ignore")  # Pillow's and torch's
    made = list(bombs(folder))
    read_image(write_file(folder / "warm" / "x.bin", image_of("JPEG")))  # loads what it takes
    used = int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
    resource.setrlimit(resource.RLIMIT_AS, (used + ROOM_BYTES, used + ROOM_BYTES))
    before_kb = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    said = {}
    for name, read in made:
        try:
            said[name] = f"read: {type(read()).__name__}"
        except FastftError as error:
            said[name] = str(error)
        except Exception as error:
            said[name] = f"{type(error).__name__}: {error}"
    taken_kb = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before_kb
    print(json.dumps({"said": said, "taken_bytes": taken_kb * 1024}))


def write_file(path: Path, content: bytes) -> Path:
    """A file in a folder that is made."""
    path.parent.mkdir()
    path.write_bytes(content)
    return path


if __name__ == "__main__":
    main()
