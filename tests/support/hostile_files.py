"""Hostile images and archives of them: valid small ones, where their integers are, readers."""

from __future__ import annotations

import io
import itertools
import shutil
import struct
import tarfile
import warnings
import zipfile
from pathlib import Path

from hostile import Number, Target
from hostile_beton import MOST_PIXELS, image_of, jpegs
from PIL import Image
from records import MAGIC_BYTES, frame, pack
from zips import DEFLATED, STORED

from fastft.datasets import unpack
from pipelines.conversion.inputs import Listing
from pipelines.errors import DataError
from pipelines.formats.archive import open_archive
from pipelines.formats.encode import EncodePolicy, Encoder
from pipelines.formats.layout import Note
from pipelines.formats.recordio import open_records
from pipelines.formats.source import open_source
from pipelines.images.damage import Checker
from pipelines.images.jpeg import read_header

# RecordIO, zip, images: what convert takes


def read_listing(listing: Listing) -> None:
    """Every sample's bytes, and what becomes of them; errors of single samples are fine."""
    encoder = Encoder(EncodePolicy())
    for sample, name in enumerate(listing.names):
        listing.size_bytes(sample)
        try:
            data = listing.read(sample)
        except DataError as error:
            if error.where != listing.where(name):
                raise
            continue
        if not _is_large(data):
            encoder.encode(data, sample)


def _is_large(data: bytes) -> bool:
    """Whether it is many pixels, which Pillow may count by another header than we do."""
    header = read_header(data)
    pixels = header.width * header.height if header is not None else 0
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            with Image.open(io.BytesIO(data)) as image:
                pixels = max(pixels, image.width * image.height)
    except Exception:  # it does not open it
        pass
    return pixels > MOST_PIXELS


def records_of(labels: tuple[int, ...] = (0, 1, 0)) -> bytes:
    images = [*jpegs()[:2], b"1234" + MAGIC_BYTES + b"5678"]
    return b"".join(
        frame(pack(image, label, key, [label] if key == 1 else []))
        for key, (label, image) in enumerate(zip(labels, images, strict=False))
    )


def record_numbers(content: bytes) -> list[Number]:
    found = []
    for at in places(content, MAGIC_BYTES):
        found += [Number(at + offset, 4) for offset in (0, 4, 8, 12)] + [Number(at + 16, 8)]
    return [number for number in found if number.at + number.width <= len(content)]


def places(content: bytes, signature: bytes) -> list[int]:
    found, at = [], content.find(signature)
    while at >= 0:
        found.append(at)
        at = content.find(signature, at + 4)
    return found


def read_records(path: Path) -> None:
    with open_records(path) as records:
        read_listing(records)


def read_by_index(path: Path) -> None:
    """Read a `.rec` by the `.idx` that is hostile."""
    path.with_suffix(".rec").write_bytes(records_of())
    read_records(path.with_suffix(".rec"))


def zip_of(names: tuple[str, ...], method: int = STORED) -> bytes:
    target = io.BytesIO()
    with zipfile.ZipFile(target, "w", method) as archive:
        for name, image in zip(names, itertools.cycle(jpegs())):  # without end
            archive.writestr(name, image)
    return target.getvalue()


def zip64_of() -> bytes:
    """A zip of two small files with all that belongs to large ones."""
    target = io.BytesIO()
    with zipfile.ZipFile(target, "w") as archive:
        for name in ("a/1.jpg", "b/1.jpg"):
            with archive.open(name, "w", force_zip64=True) as file:
                file.write(image_of("JPEG"))
    content = target.getvalue()
    end = content.rindex(b"PK\5\6")
    count, size, at = struct.unpack_from("<HII", content, end + 10)
    record = struct.pack("<4sQ2H2I4Q", b"PK\6\6", 44, 45, 45, 0, 0, count, count, size, at)
    locator = struct.pack("<4sIQI", b"PK\6\7", 0, end, 1)
    last = struct.pack("<4s4H2IH", b"PK\5\6", 0, 0, 65535, 65535, 2**32 - 1, 2**32 - 1, 0)
    return content[:end] + record + locator + last


_FOLDERS = ("train/a", "train/b", "test/a", "test/b")
ZIP_SEEDS = (
    lambda: zip_of(("a/1.jpg", "a/2.jpg", "b/3.jpg")),
    lambda: zip_of(tuple(f"set/{name}/1.jpg" for name in _FOLDERS), DEFLATED),
    zip64_of,
)
#: Signature of a zip's parts -> (offset, width) of their integers.
_ZIP_FIELDS = {
    b"PK\3\4": ((4, 2), (6, 2), (8, 2), (14, 4), (18, 4), (22, 4), (26, 2), (28, 2)),
    b"PK\1\2": (
        (4, 2),
        (6, 2),
        (8, 2),
        (10, 2),
        (16, 4),
        (20, 4),
        (24, 4),
        (28, 2),
        (30, 2),
        (32, 2),
        (34, 2),
        (36, 2),
        (38, 4),
        (42, 4),
    ),
    b"PK\5\6": ((4, 2), (6, 2), (8, 2), (10, 2), (12, 4), (16, 4), (20, 2)),
    b"PK\6\6": ((4, 8), (12, 2), (14, 2), (16, 4), (20, 4), (24, 8), (32, 8), (40, 8), (48, 8)),
    b"PK\6\7": ((4, 4), (8, 8), (16, 4)),
}
_ZIP_TOKENS = (*_ZIP_FIELDS, b"\0", b"/", b"../", b"\\", b"\n", b"\1\0\x10\0" + b"\xff" * 16)


def zip_numbers(content: bytes) -> list[Number]:
    found = []
    for signature, fields in _ZIP_FIELDS.items():
        for at in places(content, signature):
            found += [Number(at + offset, width) for offset, width in fields]
    return [number for number in found if number.at + number.width <= len(content)]


def read_zip(path: Path) -> None:
    with open_archive(path) as listings:
        for listing in listings.values():
            read_listing(listing)


def jpeg_numbers(content: bytes) -> list[Number]:
    """Lengths of segments, what a frame header says, and what a scan's does."""
    found, at = [], 2
    while at + 20 < len(content) and content[:2] == b"\xff\xd8" and content[at] == 0xFF:
        found.append(Number(at + 2, 2, "big"))
        if 0xC0 <= content[at + 1] <= 0xC2:
            found += [Number(at + 4, 1), Number(at + 5, 2, "big"), Number(at + 7, 2, "big")]
            found += [Number(at + offset, 1) for offset in range(9, 19)]
        if content[at + 1] == 0xDA:
            return [*found, *(Number(at + offset, 1) for offset in range(4, 14))]
        at += 2 + int.from_bytes(content[at + 2 : at + 4], "big")
    return found


def read_image(path: Path) -> None:
    """An image file as convert takes it, checked by both libraries, and as loaders open it."""
    photo = path.parent / "a" / "1.jpg"
    photo.parent.mkdir(exist_ok=True)
    shutil.copy(path, photo)
    data = photo.read_bytes()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # Pillow's
        if not _is_large(data):
            encoded = Encoder(EncodePolicy()).encode(data, 0)
            again = Encoder(EncodePolicy(mode="jpg", max_side=9, apply_exif=True)).encode(data, 0)
            turned = Encoder(EncodePolicy(apply_exif=True, depth="scale")).encode(data, 0)
            assert all(each.stored is not None or each.reason for each in (encoded, again, turned))
            if (
                (header := read_header(data))
                and encoded.stored
                and Note.REENCODED not in encoded.note
            ):
                assert not Checker().check(data, header).broken
        source = open_source(path.parent)
        if not _is_large(data):
            source.stored(0)


def image_seeds() -> list[bytes]:
    others = [image_of(kind) for kind in ("PNG", "GIF", "BMP", "WEBP", "TIFF", "PPM")]
    return [*jpegs(), *others, image_of("PNG", mode="P"), image_of("PNG", mode="L")]


# Archives that fetch unpacks


def tar_of(*names: str, kind: int = tarfile.PAX_FORMAT, mode: str = "w:") -> bytes:
    target = io.BytesIO()
    with tarfile.open(fileobj=target, mode=mode, format=kind) as archive:  # type: ignore[call-overload]
        for name in names:
            info = tarfile.TarInfo(name)
            info.size = len(image_of("JPEG"))
            archive.addfile(info, io.BytesIO(image_of("JPEG")))
    return target.getvalue()


def mend_tar(content: bytes) -> bytes:
    """Let the checksums of a tar's headers be right."""
    mended = bytearray(content)
    for at in range(0, len(content) - 511, 512):
        if content[at + 257 : at + 262] == b"ustar":
            mended[at + 148 : at + 156] = b" " * 8
            mended[at + 148 : at + 156] = b"%06o\0 " % sum(mended[at : at + 512])
    return bytes(mended)


def tar_numbers(content: bytes) -> list[Number]:
    """A tar's sizes: digits by their last eight, and as binary numbers; and the types."""
    headers = range(0, len(content) - 511, 512)
    headers = [at for at in headers if content[at + 257 : at + 262] == b"ustar"]
    places = ((124, 1), (124, 8), (128, 8), (156, 1), (345, 8))
    return [Number(at + offset, width, "big") for at in headers for offset, width in places]


def unpack_all(path: Path) -> None:
    target = path.parent / "unpacked"
    shutil.rmtree(target, ignore_errors=True)
    with unpack.open_archive(path, path) as archive:
        if archive is not None:
            assert archive.files + (archive.top is not None)
            archive.write(target, lambda stage, done, total: None)


_PACKED = ("gz", "bz2", "xz")
_LONG = "set/" + "n" * 120 + "/1.jpg"
_TAR_TOKENS = (
    b"\0",
    b"../",
    b"/",
    b"\n",
    b"11 path=/x\n",
    b"9 size=-1\n",
    b"22 GNU.sparse.major=1\n",
    b"x",
    b"L",
    b"S",
    b"2",
    b"\x80" + bytes(7) + b"\1",
    b"\xff" * 8,
    b"0" * 12,
)


FILES = (
    Target(
        name="recordio",
        group="RecordIO",
        file="x.rec",
        read=read_records,
        numbers=record_numbers,
        seeds=lambda: [records_of(), records_of((1, 0))],
        tokens=(MAGIC_BYTES, bytes(4), MAGIC_BYTES + bytes(4)),
    ),
    Target(
        name="recordio-index",
        group="RecordIO",
        file="x.idx",
        read=read_by_index,
        seeds=lambda: [b"0\t0\n1\t%d\n" % len(records_of((0,))), b"0\t0\n"],
        tokens=(b"\t", b"\n", b"0", b"-", b"9" * 20, b" 8", b"\x0b"),
    ),
    Target(
        name="zip",
        group="zip and tar",
        file="x.zip",
        read=read_zip,
        numbers=zip_numbers,
        tokens=_ZIP_TOKENS,
        seeds=lambda: [make() for make in ZIP_SEEDS],
    ),
    Target(
        name="image",
        group="images",
        file="x.bin",
        read=read_image,
        numbers=jpeg_numbers,
        seeds=image_seeds,
        tokens=(*(bytes((0xFF, marker)) for marker in (0xD8, 0xD9, 0xDA, 0xC4, 0xC2, 0xDB, 0xFF)),),
    ),
    Target(
        name="fetched-zip",
        group="zip and tar",
        file="x.zip",
        read=unpack_all,
        numbers=zip_numbers,
        tokens=_ZIP_TOKENS,
        seeds=lambda: [make() for make in ZIP_SEEDS],
    ),
    Target(
        name="fetched-tar",
        group="zip and tar",
        file="x.tar",
        read=unpack_all,
        numbers=tar_numbers,
        mend=mend_tar,
        seeds=lambda: [tar_of("set/1.jpg", _LONG, kind=kind) for kind in (1, 2)],
        tokens=_TAR_TOKENS,
    ),
    Target(
        name="fetched-packed-tar",
        group="zip and tar",
        file="x.tar.gz",
        read=unpack_all,
        seeds=lambda: [tar_of("set/1.jpg", "set/2.jpg", mode=f"w:{how}") for how in _PACKED],
    ),
)
