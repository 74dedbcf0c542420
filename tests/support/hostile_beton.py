"""Hostile `.beton` files: valid small ones, whole and sharded, their integers and checksums."""

from __future__ import annotations

import functools
import io
import json
import struct
import tempfile
import zlib
from pathlib import Path
from typing import Any

import numpy as np
from hostile import Number, Target, numbers_of
from PIL import Image

from pipelines.conversion.entry_points import EntryFinder
from pipelines.conversion.merge import merge
from pipelines.decoder import Decoder
from pipelines.errors import DataError
from pipelines.formats.beton import Index, read_index
from pipelines.formats.beton_extra import pack_points
from pipelines.formats.beton_writer import BetonWriter
from pipelines.formats.encode import decode
from pipelines.formats.layout import (
    ALLOCATION,
    DESCRIPTOR,
    EXTRA,
    HEADER,
    MAGIC,
    METADATA,
    METADATA_START,
    MODE_JPG,
    MODE_RAW,
    POINTS,
    About,
    Stored,
    most_points,
)
from pipelines.formats.shards import Quarantined, Shard
from pipelines.kernels.entries import fit_reading
from pipelines.kernels.streaming import line_bytes
from pipelines.regions import RegionDecoder, are_decoded

#: More pixels of a hostile image than this are not decoded: their size is what is tested.
MOST_PIXELS = 1 << 20
_EXTRA_AT = HEADER.itemsize + DESCRIPTOR.itemsize - 1024


@functools.cache
def image_of(kind: str, width: int = 24, height: int = 17, mode: str = "RGB", **how: Any) -> bytes:
    """A small image file."""
    pixels = np.random.default_rng(7).integers(0, 256, (height, width, 3), np.uint8)
    target = io.BytesIO()
    Image.fromarray(pixels).convert(mode).save(target, kind, **how)
    return target.getvalue()


#: EXIF that says nothing but orientation 6.
_TURNED = b"Exif\0\0II*\0\x08\0\0\0\1\0\x12\1\3\0\1\0\0\0\6" + bytes(7)


def jpegs() -> list[bytes]:
    return [
        image_of("JPEG"),
        image_of("JPEG", progressive=True),
        image_of("JPEG", mode="L"),
        image_of("JPEG", subsampling=0, restart_marker_blocks=2),
        image_of("JPEG", mode="CMYK"),
        image_of("JPEG", exif=_TURNED),
    ]


def beton_of(
    samples: int = 3, classes: tuple[str, ...] = ("a", "b"), shard: Shard | None = None
) -> bytes:
    """A `.beton` of JPEGs and raw pixels."""
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "x.beton"
        with BetonWriter(path, samples) as writer:
            for i in range(samples):
                stored = Stored(MODE_JPG, 24, 17, jpegs()[i % 4])
                if i % 3 == 1:
                    stored = Stored(MODE_RAW, 5, 2 + i, bytes(range(5 * (2 + i) * 3)))
                name = f"{classes[i % len(classes)]}/{i}.jpg"
                checksum, points = zlib.crc32(stored.data), find_points(stored)
                writer.append(stored, i % len(classes), name, checksum, points)
            writer.finish(About(classes=classes, shard=shard and shard.to_json()))
            writer.publish()
        return path.read_bytes()


@functools.cache
def find_points(stored: Stored) -> bytes:
    """Entry points of a JPEG that may have some."""
    return EntryFinder().find(stored) if stored.mode == MODE_JPG and are_decoded() else b""


def without_extra(content: bytes) -> bytes:
    """As stock FFCV would have written it: no checksum covers its tables."""
    return content[:_EXTRA_AT] + bytes(8) + content[_EXTRA_AT + 8 :]


def with_json(content: bytes, text: bytes) -> bytes:
    """A `.beton` that says this where its class names are."""
    extra = np.frombuffer(content, EXTRA, 1, _EXTRA_AT).copy()
    header = np.frombuffer(content, HEADER, 1).copy()
    table = int(header["table"][0])
    block = content[: table - int(extra["about_bytes"][0])] + text
    header["table"], extra["about_bytes"] = len(block), len(text)
    whole = bytearray(block + content[table:])
    whole[: HEADER.itemsize] = header.tobytes()
    whole[_EXTRA_AT : _EXTRA_AT + EXTRA.itemsize] = extra.tobytes()
    return mend_beton(bytes(whole))


def shard_of(index: int) -> Shard:
    return Shard(
        index=index,
        of=2,
        split="",
        splits=("",),
        start=4 * index - 4,
        stop=4 * index,
        samples=8,
        listing="ab",
        policy={"mode": "passthrough"},
        quarantined=(Quarantined("a/9.jpg", "broken"),),
    )


def beton_numbers(content: bytes) -> list[Number]:
    found = [*numbers_of(HEADER, 0), *numbers_of(EXTRA, _EXTRA_AT)]
    found += [Number(HEADER.itemsize, 1), Number(HEADER.itemsize + DESCRIPTOR.itemsize, 1)]
    header = np.frombuffer(content, HEADER, 1)[0]
    samples, table = min(int(header["samples"]), 9), int(header["table"])  # it may lie
    found += numbers_of(METADATA, METADATA_START, samples)
    found += numbers_of(ALLOCATION, table, samples)
    extra = np.frombuffer(content, EXTRA, 1, _EXTRA_AT)[0]
    if extra["magic"] == MAGIC:
        ends = int(extra["pointer"]) + 4 * int(header["samples"])
        found += [Number(ends + 8 * i, 8) for i in range(samples)]
        if at := points_at(content, extra):
            found += numbers_of(POINTS, at, samples)
            found += [Number(each, 8) for each in places_of_points(content, at, samples)]
    return found


def points_at(content: bytes, extra: Any) -> int:
    """Where the table of entry points lies, if it lies in the file."""
    begin = int(extra["pointer"]) + 12 * int(np.frombuffer(content, HEADER, 1)["samples"][0])
    begin += int(extra["names_bytes"])
    try:
        at = json.loads(content[begin : begin + int(extra["about_bytes"])])["points_at"]
    except (ValueError, KeyError, TypeError, RecursionError):
        return 0
    return at if type(at) is int and METADATA_START <= at < len(content) else 0


def places_of_points(content: bytes, table: int, samples: int) -> list[int]:
    """The places of all numbers of entry points."""
    metadata = content[METADATA_START : METADATA_START + 24 * samples]
    header = np.frombuffer(content, HEADER, 1)[0]
    sizes = {at: size for _, at, size in struct.iter_unpack("<3Q", _allocation(content, header))}
    found = []
    rows = struct.iter_unpack("<II", content[table : table + 8 * samples])
    for row, (bytes_, _) in zip(np.frombuffer(metadata, METADATA), rows, strict=False):
        begin = int(row["pointer"]) + sizes.get(int(row["pointer"]), 0)
        if bytes_ <= 4096 and begin + bytes_ <= len(content):
            found += range(begin, begin + bytes_, 8)
    return found


def _allocation(content: bytes, header: Any) -> bytes:
    rows = content[min(int(header["table"]), len(content)) :]
    return rows[: len(rows) // 24 * 24]


def mend_beton(content: bytes) -> bytes:
    """Let the checksums of tables, names and samples be those of what is there."""
    mended = bytearray(content)
    if len(content) < METADATA_START or content[_EXTRA_AT : _EXTRA_AT + 8] != MAGIC:
        return content
    header = np.frombuffer(content, HEADER, 1)[0]
    extra = np.frombuffer(content, EXTRA, 1, _EXTRA_AT).copy()
    samples, table = int(header["samples"]), int(header["table"])
    pointer = int(extra["pointer"][0])
    if samples > 1000 or max(table, pointer) > len(content):
        return content
    metadata = np.frombuffer(content[METADATA_START : METADATA_START + 24 * samples], "u1")
    rows = content[table:]
    if metadata.size == 24 * samples and len(rows) >= 24 * samples:
        sizes = {}
        for _, at, size in struct.iter_unpack("<3Q", rows[: len(rows) // 24 * 24]):
            sizes[at] = size
        for i, at in enumerate(metadata.view(METADATA)["pointer"].tolist()):
            data = content[at : at + sizes.get(at, 0)] if at < len(content) else b""
            struct.pack_into("<I", mended, min(pointer + 4 * i, len(mended) - 4), zlib.crc32(data))
            _mend_points(mended, content, points_at(content, extra[0]), i, at + sizes.get(at, 0))
    extra["tables_crc32"] = zlib.crc32(rows, zlib.crc32(metadata))
    end = pointer + 12 * samples + int(extra["names_bytes"][0]) + int(extra["about_bytes"][0])
    extra["block_crc32"] = zlib.crc32(bytes(mended[pointer : min(end, len(mended))]))
    mended[_EXTRA_AT : _EXTRA_AT + EXTRA.itemsize] = extra.tobytes()
    return bytes(mended)


def _mend_points(mended: bytearray, content: bytes, table: int, i: int, begin: int) -> None:
    """Let the checksum of a sample's entry points be that of what is there."""
    if table and table + 8 * i + 8 <= len(content):
        (bytes_,) = struct.unpack_from("<I", content, table + 8 * i)
        data = content[begin : begin + bytes_] if begin < len(content) else b""
        struct.pack_into("<I", mended, table + 8 * i + 4, zlib.crc32(data) if bytes_ else 0)


def read_beton(path: Path) -> Index:
    """All that is ever read of a `.beton`, and every sample decoded by both decoders."""
    index = read_index(path)
    first = None
    for sample in range(min(len(index), 50)):
        try:
            assert isinstance(index.name(sample), str)
            decode_both(index, sample)
        except DataError as error:  # one sample's
            first = first or error
    for _ in index.damaged() if index.checksums is not None else ():
        pass
    index.fingerprint()
    if first is not None:
        raise first
    return index


def decode_both(index: Index, sample: int) -> None:
    """Decode a sample by libjpeg-turbo and Pillow: what one takes for whole is as large as said.

    Raises:
        DataError: it is broken.
    """
    height, width = int(index.heights[sample]), int(index.widths[sample])
    stored = index.stored(sample)
    if height * width > MOST_PIXELS:
        return
    decoder = Decoder(index)
    guarded = np.full(height * width * 3 + 4096, 113, np.uint8)
    planes = np.full((height + 1) * (width + 1) * 2 + 4096, 113, np.uint8)
    try:
        decoder.to_rgb(sample, guarded)
        decoder.to_planes(sample, planes)
    finally:
        assert (guarded[height * width * 3 :] == 113).all(), "written behind the pixels"
        even = (height + height % 2) * (width + width % 2)
        assert (planes[even * 3 // 2 :] == 113).all(), "written behind the planes"
    assert decode(stored, f"{index.path}: a sample").size == (width, height)
    decode_region(index, sample, guarded[: height * width * 3].reshape(height, width, 3))


def decode_region(index: Index, sample: int, whole: np.ndarray) -> None:
    """Decode the middle of a sample, twice: the second time by its entry points, if it has any.

    Raises:
        DataError: it is broken.
    """
    height, width, _ = whole.shape
    box = (height // 3, width // 4, (height + 2) // 3, (width + 1) // 2)
    top, left, lines, columns = box
    regions = RegionDecoder(index)
    taken, line = lines * columns * 3, line_bytes(columns)
    regions._pixels = np.full(taken + 4096, 113, np.uint8)
    regions._line = np.full(line + 4096, 113, np.uint8)
    stored = index.stored(sample)
    bytes_, points = len(stored.data), index.entry_points(sample)
    # Others lead to other pixels, as bytes that have been changed together with their checksum do.
    is_honest = points is None or pack_points(*points) == find_points(stored)
    reading = fit_reading(None, bytes_, most_points(bytes_))
    regions._reading, behind = guarded_arrays(reading, "data stuffed points header nothing")
    for _ in range(2):
        found = regions.crop(sample, stored, box)
        assert (regions._pixels[taken:] == 113).all(), "written behind the region"
        assert (regions._line[line:] == 113).all(), "written behind a line"
        for guard in behind:
            assert (guard == 113).all(), "written behind what entry points take"
        if found is not None and is_honest:
            assert np.array_equal(found, whole[top : top + lines, left : left + columns])


def guarded_arrays(scratch: Any, names: str) -> tuple[Any, list[np.ndarray]]:
    """A named tuple, some of whose arrays end where others begin that nobody may write to."""
    guards, replaced = [], {}
    for name in names.split():
        array = getattr(scratch, name)
        longer = np.full((len(array) + 1024, *array.shape[1:]), 113, array.dtype)
        replaced[name], guard = longer[: len(array)], longer[len(array) :]
        guards.append(guard)
    return scratch._replace(**replaced), guards


def read_shards(path: Path) -> object:
    """Merge a shard with another one."""
    path.with_name("x.2-of-2.beton").write_bytes(second_shard())
    try:
        return merge(path.with_name("x.beton"))
    finally:
        for name in ("x.beton", "x.2-of-2.beton", "x.quarantine.json"):
            path.with_name(name).unlink(missing_ok=True)


@functools.cache
def second_shard() -> bytes:
    return beton_of(3, shard=shard_of(2))


def odd_jsons() -> list[bytes]:
    """What may stand where class names and a shard's words belong."""
    plain: dict[str, Any] = {"classes": ["a", "b"], "shard": shard_of(1).to_json(), "points_at": 0}
    odd: list[Any] = [
        None,
        True,
        0,
        -1,
        1,
        2**31,
        2**63 - 1,
        2**63,
        2**64,
        10**400,
        0.5,
        float("nan"),
        "",
        "x",
        "../..",
        "/",
        "a\0b",
        "\ud800",
        [],
        [None],
        [[]],
        ["a"],
        {},
        {"a": 1},
        [{}],
        {"": {"": []}},
        "x" * 5000,
        [3] * 999,
    ]
    texts = [json.dumps(value).encode() for value in odd]
    for value in odd:
        for key in plain:
            texts.append(json.dumps({**plain, key: value}).encode())
        for key in plain["shard"]:
            changed = {**plain["shard"], key: value}
            texts.append(json.dumps({**plain, "shard": changed}).encode())
        for key in ("name", "reason", "more"):
            changed = {**plain["shard"], "quarantined": [{"name": "a", "reason": "b", key: value}]}
            texts.append(json.dumps({**plain, "shard": changed}).encode())
    texts += [b"[" * 100_000, b'{"classes":' * 20_000, b"\xff\xfe[\0", b"9" * 5000, b"", b"{"]
    return texts


_TOKENS = (b"\0" * 8, b"\xff" * 8, MAGIC, b"\xff\xd8\xff", b"\xff\xd9")
BETONS = (
    Target(
        name="beton",
        group=".beton",
        file="x.beton",
        read=read_beton,
        numbers=beton_numbers,
        tokens=_TOKENS,
        seeds=lambda: [beton_of(), beton_of(1, ("x",)), beton_of(5, shard=shard_of(1))],
        mend=mend_beton,
    ),
    Target(
        name="beton-of-ffcv",
        group=".beton",
        file="x.beton",
        read=read_beton,
        numbers=beton_numbers,
        seeds=lambda: [without_extra(beton_of()), without_extra(beton_of(1))],
        tokens=_TOKENS,
    ),
    Target(
        name="beton-shard",
        group=".beton",
        file="x.1-of-2.beton",
        read=read_shards,
        numbers=beton_numbers,
        seeds=lambda: [beton_of(3, shard=shard_of(1))],
        mend=mend_beton,
        tokens=(*_TOKENS, b'"', b"[", b"null", b"1e999", b"9" * 30, b"\\ud800", b"../"),
    ),
)
