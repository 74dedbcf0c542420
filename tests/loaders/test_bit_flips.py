"""A bit that has flipped in a `.beton`: found by --verify, and never another picture in a batch."""

import shutil
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pytest
from effort import choose, scale
from hostile_beton import beton_of, points_at, without_extra
from loader_kinds import KINDS, alike, by_sample, make_kind
from rich.console import Console

from fastft.datasets.inspect import describe
from pipelines.errors import DataError, FastftError, FormatError
from pipelines.formats.beton import Index, read_index
from pipelines.formats.layout import (
    ALLOCATION,
    DESCRIPTOR,
    EXTRA,
    HEADER,
    MAGIC,
    METADATA,
    METADATA_START,
    MODE_JPG,
    POINTS,
)

Tried = Callable[..., None]
_QUIET = Console(quiet=True)


def padding(content: bytes, index: Index) -> np.ndarray:
    """bool[bytes]: those that nobody ever reads, and nobody need miss.

    Of a descriptor what follows its type, its name's end and our block in the first one's
    arguments; between samples what keeps them from crossing a page.
    """
    free = np.ones(len(content), bool)
    free[: HEADER.itemsize] = False
    for descriptor in range(2):
        at = HEADER.itemsize + descriptor * DESCRIPTOR.itemsize
        name_end = content.index(b"\0", at + 1)
        free[at : name_end + 1] = False  # with the zero that ends the name
    arguments = HEADER.itemsize + 17
    free[arguments : arguments + EXTRA.itemsize] = False
    free[METADATA_START : METADATA_START + len(index) * METADATA.itemsize] = False
    for at, size in zip(index.pointers.tolist(), held_bytes(index).tolist(), strict=True):
        free[at : at + size] = False
    extra = np.frombuffer(content, EXTRA, 1, arguments)[0]
    if at := points_at(content, extra):
        free[at : at + len(index) * POINTS.itemsize] = False
    free[int(extra["pointer"]) :] = False  # checksums, names, classes; the allocation table
    assert len(content) - int(extra["pointer"]) > len(index) * ALLOCATION.itemsize
    return free


def flipped(content: bytes, bit: int) -> bytes:
    changed = bytearray(content)
    changed[bit // 8] ^= 1 << bit % 8
    return bytes(changed)


def held_bytes(index: Index) -> np.ndarray:
    """int64[N]: bytes of each sample, and of its entry points, which lie behind them."""
    return index.sizes + (0 if index.points is None else index.points["bytes"].astype(np.int64))


def sample_at(index: Index, byte: int) -> int | None:
    """The sample that a byte is of."""
    for sample in range(len(index)):
        if 0 <= byte - int(index.pointers[sample]) < int(held_bytes(index)[sample]):
            return sample
    return None


def what_verify_says(path: Path) -> str:
    """As `fastft inspect --verify`: nothing, or the one line that it ends with."""
    try:
        describe(path, _QUIET, verify=True, on_progress=lambda done, total: None)
    except FastftError as error:
        return str(error)
    return ""


def test_verify_finds_every_flip_and_names_the_sample(tmp_path: Path, tried: Tried) -> None:
    """Of all bytes that are read; in an ordinary run one bit of each, of some samples' bytes."""
    path = tmp_path / "x.beton"
    content = beton_of(3)
    path.write_bytes(content)
    index = read_index(path)
    free, random = padding(content, index), np.random.default_rng(0)
    assert not what_verify_says(path)
    flips = 0
    for byte in range(len(content)):
        sample = sample_at(index, byte)
        if free[byte] and not choose(byte % 97 == 0, True):
            continue
        if sample is not None and not choose(byte % 16 == 0, True):
            continue
        for bit in choose([int(random.integers(8))], list(range(8))):
            path.write_bytes(flipped(content, 8 * byte + bit))
            said = what_verify_says(path)
            if free[byte]:
                assert not said, (byte, bit)
            else:
                assert said.startswith(f"{path}: "), (byte, bit)
                assert "\n" not in said
            if sample is not None:
                assert index.name(sample) in said, (byte, bit)
            flips += 1
    tried("a flipped bit against inspect --verify", flips)


def test_our_file_never_passes_for_stock(tmp_path: Path, tried: Tried) -> None:
    """That has no checksums: nothing would be held against them any more."""
    path, content = tmp_path / "x.beton", beton_of(1, ("x",))
    at = content.index(MAGIC)
    for bit in range(8 * at, 8 * (at + len(MAGIC))):
        path.write_bytes(flipped(content, bit))
        with pytest.raises(FormatError, match="its extra data are not marked as such"):
            read_index(path)
    tried("a flipped bit against inspect --verify", 8 * len(MAGIC))


def test_a_stock_file_never_passes_for_ours(tmp_path: Path, tried: Tried) -> None:
    """No checksum covers its tables: what is wrong in them is refused, or harms no other sample."""
    path = tmp_path / "x.beton"
    whole = without_extra(beton_of(3))
    path.write_bytes(whole)
    index = read_index(path)
    wanted = [index.stored(sample).data for sample in range(3)]
    random = np.random.default_rng(1)
    tables = [
        *range(METADATA_START + 3 * METADATA.itemsize),
        *range(len(whole) - 72, len(whole)),
    ]
    tables = [byte for byte in tables if byte < 30 or byte > METADATA_START - 8]
    flips = 0
    for byte in tables:
        for bit in choose([int(random.integers(8))], list(range(8))):
            path.write_bytes(flipped(whole, 8 * byte + bit))
            flips += 1
            try:
                found = read_index(path)
            except FastftError as error:
                assert str(error).startswith(f"{path}: ")  # noqa: PT017 - or it is read
                continue
            pairs = zip(range(len(found)), wanted, strict=False)  # it may say that it has fewer
            others = [found.stored(each).data != content for each, content in pairs]
            assert sum(others) <= 1, (byte, bit)
    tried("a flipped bit in a .beton of stock FFCV", flips)


def places(index: Index, content: bytes, count: int) -> Iterator[int]:
    """Bits to flip: some of every part, with the places that decoders stumble over among them."""
    random, free = np.random.default_rng(2), padding(content, index)
    read = np.flatnonzero(~free)
    tables = [int(byte) for byte in read if sample_at(index, int(byte)) is None]
    jpegs = np.flatnonzero(index.modes == MODE_JPG)
    jpegs = jpegs if len(jpegs) else np.arange(len(index))
    for turn in range(count):
        sample = int(random.choice(jpegs if turn % 2 else len(index)))
        start, size = int(index.pointers[sample]), int(index.sizes[sample])
        data = content[start : start + size]
        scan = max(0, data.find(b"\xff\xda"))
        byte = [
            start + int(random.integers(min(size, 24))),  # the first marker, JFIF
            start + int(random.integers(scan, size)),  # code words, or raw pixels
            start + size - 1 - int(random.integers(min(size, 3))),  # the end
            start + int(random.integers(scan + 1)),  # tables, the frame's size
            int(random.choice(tables)),
        ][turn % 5]
        yield 8 * byte + int(random.integers(8))


@pytest.mark.parametrize("stored", ["passthrough", "raw"])
@pytest.mark.parametrize("kind", KINDS)
def test_bit_flips_are_named_or_harmless(
    kind: str, stored: str, tmp_path: Path, tried: Tried
) -> None:
    """The sample with the flip is refused, by its name; all others are the very pixels."""
    path, whole = tmp_path / "x.beton", tmp_path / "whole.beton"
    content = beton_of(choose(4, 6)) if stored == "passthrough" else only_raw(tmp_path)
    whole.write_bytes(content)
    index = read_index(whole)
    with make_kind(kind, whole, tmp_path, batch_size=4) as loader:
        wanted = by_sample(loader)
    flips = scale(5, 300)
    for bit in places(index, content, flips):
        path.write_bytes(flipped(content, bit))
        (tmp_path / "pixels.store").unlink(missing_ok=True)
        sample = sample_at(index, bit // 8)
        try:
            loader = make_kind(kind, path, tmp_path, batch_size=4)
        except DataError as error:
            assert sample is None  # a table
            assert str(error).startswith(f"{path}: ")  # noqa: PT017 - or it is read
            continue
        with loader:
            broken = [sample] if sample is not None else list(bad_checksums(index, loader.source))
            for each in broken:
                name = read_index(path).name(each)
                with pytest.raises(DataError) as caught:
                    by_sample(loader)
                assert str(caught.value).startswith(f"{path}: {name}: "), bit
            others = np.setdiff1d(np.arange(len(index)), broken)
            loader.select(others)
            assert alike(by_sample(loader), {each: wanted[each] for each in others.tolist()}), bit
    tried("a flipped bit in a .beton, under each loader", flips)


def bad_checksums(index: Index, source: object) -> Iterator[int]:
    """Samples whose checksum it is that has flipped."""
    assert isinstance(source, Index)
    assert source.checksums is not None
    assert index.checksums is not None
    yield from np.flatnonzero(source.checksums != index.checksums).tolist()


def only_raw(folder: Path) -> bytes:
    """A small `.beton` of raw pixels, as `ffcv` reads them without a decoder."""
    from PIL import Image

    from pipelines.conversion.run import ConvertConfig, convert

    random = np.random.default_rng(3)
    (folder / "photos" / "a").mkdir(parents=True)
    for number in range(4):
        pixels = random.integers(0, 256, (20 + number, 30, 3), np.uint8)
        Image.fromarray(pixels).save(folder / "photos" / "a" / f"{number}.png")
    convert(ConvertConfig(src=folder / "photos", out=folder / "raw.beton"))
    shutil.rmtree(folder / "photos")
    return (folder / "raw.beton").read_bytes()
