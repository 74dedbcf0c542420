import importlib
import re
import zlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from effort import choose

from pipelines.errors import DataError, FastftError, FormatError, UsageError
from pipelines.formats.beton import read_index
from pipelines.formats.beton_writer import BetonWriter
from pipelines.formats.layout import (
    DESCRIPTOR,
    HEADER,
    METADATA,
    METADATA_START,
    MODE_RAW,
    About,
    Stored,
)

RNG = np.random.default_rng(5)


def write(path: Path, sizes: list[int], names: list[str] | None = None) -> list[bytes]:
    """Raw samples of `3 * size` bytes, one row of pixels each."""
    contents = [RNG.integers(0, 256, 3 * size, np.uint8).tobytes() for size in sizes]
    with BetonWriter(path, len(sizes)) as writer:
        for i, data in enumerate(contents):
            name = names[i] if names else f"c/{i}.png"
            writer.append(Stored(MODE_RAW, sizes[i], 1, data), i % 2, name, zlib.crc32(data))
        writer.finish(About(classes=("c", "d")))
        writer.publish()
    return contents


@pytest.fixture
def fields() -> Any:
    """FFCV's; by our loader, as what its import compiles takes seconds elsewise."""
    reason = "ffcv is not installed"
    pytest.importorskip("pipelines.loaders.ffcv_loader", reason=reason, exc_type=UsageError)
    return importlib.import_module("ffcv.fields")


def test_tables_are_ffcvs_own(fields: Any) -> None:
    types = importlib.import_module("ffcv.types")
    theirs = types.get_metadata_type([fields.RGBImageField(), fields.IntField()])
    assert METADATA.itemsize == theirs.itemsize
    assert METADATA.fields is not None
    assert METADATA.fields["label"][1] == theirs.fields["f1"][1]
    image = theirs.fields["f0"][0]
    for ours, their in zip(("mode", "width", "height", "pointer"), image.names, strict=True):
        assert METADATA.fields[ours] == image.fields[their]
    assert HEADER.itemsize == types.HeaderType.itemsize
    assert DESCRIPTOR.itemsize == types.FieldDescType.itemsize


def test_what_is_written_is_read(tmp_path: Path) -> None:
    path = tmp_path / "a.beton"
    names = ["c/ä ö.png", "d/new\nline.png", "c/\udcff.png"]
    contents = write(path, [5, 1, 40000], names)
    index = read_index(path)
    assert index.classes == ("c", "d")
    assert index.labels.tolist() == [0, 1, 0]
    assert index.widths.tolist() == [5, 1, 40000]
    assert [index.name(i) for i in range(3)] == names
    assert [bytes(index.stored(i).data) for i in range(3)] == contents
    assert set(index.damaged()) == {None}


def test_stock_ffcv_reads_ours(tmp_path: Path, read_by_stock_ffcv: Callable[..., Any]) -> None:
    path = tmp_path / "a.beton"
    contents = write(path, [60] * 7)
    # By the system's cache of files, and by its own.
    for images, labels in read_by_stock_ffcv((path, True), (path, False)):
        assert labels.tolist() == [0, 1, 0, 1, 0, 1, 0]
        assert [image.tobytes() for image in images] == contents


def test_we_read_stock_ffcvs(tmp_path: Path, fields: Any) -> None:
    writer = importlib.import_module("ffcv.writer")
    images = [RNG.integers(0, 256, (8 + i, 5, 3), np.uint8) for i in range(4)]
    path = tmp_path / "stock.beton"
    columns = {"image": fields.RGBImageField(write_mode="raw"), "label": fields.IntField()}
    dataset = [(image, 3 - i) for i, image in enumerate(images)]
    writer.DatasetWriter(str(path), columns, num_workers=1).from_indexed_dataset(dataset)
    index = read_index(path)
    assert index.labels.tolist() == [3, 2, 1, 0]
    assert index.classes == ("0", "1", "2", "3")
    assert index.heights.tolist() == [8, 9, 10, 11]
    assert [bytes(index.stored(i).data) for i in range(4)] == [image.tobytes() for image in images]
    assert index.name(2) == "sample 2"
    with pytest.raises(DataError, match="carries no checksums"):
        next(index.damaged())


def test_samples_never_cross_pages_that_grow(tmp_path: Path) -> None:
    for page, sizes in ((8, (3, 4, 2, 8, 1, 7, 2)), (32, (3, 6, 17, 1, 9, 1, 8))):
        path = tmp_path / f"{page}.beton"
        with BetonWriter(path, len(sizes)) as writer:
            for size in sizes:
                writer.append(Stored(0, 1, 1, bytes(size << 20)), 0, "x", 0)
            writer.finish(About(classes=("x",)))
            writer.publish()
        index = read_index(path)
        assert index.page_bytes == page << 20
        last = index.pointers + index.sizes - 1
        assert (index.pointers // index.page_bytes == last // index.page_bytes).all()
        assert (index.pointers[1:] > last[:-1]).all()


def test_an_unpublished_file_leaves_nothing(tmp_path: Path) -> None:
    with pytest.raises(KeyError), BetonWriter(tmp_path / "a.beton", 1) as writer:  # noqa: PT012
        writer.append(Stored(0, 1, 1, b"x"), 0, "x", 0)
        raise KeyError
    assert list(tmp_path.iterdir()) == []


def check_refused(path: Path, pattern: str) -> None:
    with pytest.raises(FastftError) as caught:
        read_index(path)
    assert str(caught.value).startswith(f"{path}: ")
    assert re.search(pattern, str(caught.value)), str(caught.value)


def test_what_is_no_beton_is_named(tmp_path: Path) -> None:
    path = tmp_path / "a.beton"
    check_refused(path, "no such file")
    for size in (0, METADATA_START - 1):
        path.write_bytes(bytes(size))
        check_refused(path, f": {size:,} bytes long, expected a .beton file")
    path.write_bytes(b"PK\x03\x04" + bytes(5000))
    check_refused(path, "expected a .beton file")
    path.write_bytes(b"\x03\x00" + bytes(5000))
    check_refused(path, "format version 3, expected format version 2")
    path.unlink()
    path.mkdir()
    check_refused(path, "is a folder")


def test_a_file_cut_anywhere_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "a.beton"
    write(path, [30, 20, 10])
    whole = path.read_bytes()
    for end in [*range(0, len(whole), 97), len(whole) - 1, len(whole) - 24]:
        path.write_bytes(whole[:end])
        check_refused(path, "")


def test_a_changed_table_is_refused_or_harmless(tmp_path: Path, tried: Callable[..., None]) -> None:
    """Any byte of any table may change: a named error, or the very same index."""
    path = tmp_path / "a.beton"
    write(path, [30, 20, 10])
    whole = path.read_bytes()
    before = read_index(path)
    tables = [*range(METADATA_START + 3 * METADATA.itemsize), *range(len(whole) - 190, len(whole))]
    refused, stride = 0, choose(5, 1)
    for at in tables[::stride]:
        for bit in (0, 7):
            damaged = bytearray(whole)
            damaged[at] ^= 1 << bit
            path.write_bytes(damaged)
            try:
                index = read_index(path)
                list(index.damaged())
            except FastftError:
                refused += 1
                continue
            assert index.labels.tolist() == before.labels.tolist()
            assert index.pointers.tolist() == before.pointers.tolist()
    assert refused > 400 // stride
    tried("a flipped bit in a table of a .beton", 2 * len(tables[::stride]))


@pytest.mark.parametrize(
    ("field", "value", "message"),
    [
        ("pointer", 2**64 - 1, "not in the allocation table"),
        ("width", 0, "has no pixels"),
        ("mode", 7, "has a mode other than"),
        ("label", -4, "labels from -4"),
        ("label", 10**9, "labels from"),
        ("height", 2, "has a raw size"),
    ],
)
def test_a_table_that_lies_is_refused(tmp_path: Path, field: str, value: int, message: str) -> None:
    path = tmp_path / "a.beton"
    write(path, [30, 20, 10])
    data = bytearray(path.read_bytes())
    # Without our extra block's checksum, as in a file of stock FFCV.
    data[HEADER.itemsize + 17 : HEADER.itemsize + 25] = bytes(8)
    metadata = np.frombuffer(data, METADATA, 3, METADATA_START)
    metadata[field][1] = np.array(value).astype(METADATA[field])
    path.write_bytes(data)
    check_refused(path, message)


@pytest.mark.parametrize("names", [(b"image", b"image"), (b"\xff", b"label")])
def test_fields_that_ffcv_could_not_find_are_refused(tmp_path: Path, names: list[bytes]) -> None:
    path = tmp_path / "a.beton"
    write(path, [30, 20, 10])
    data = bytearray(path.read_bytes())
    descriptors = np.frombuffer(data, DESCRIPTOR, 2, HEADER.itemsize)
    for number, name in enumerate(names):
        descriptors["name"][number] = np.frombuffer(name.ljust(16, b"\0"), np.uint8)
    path.write_bytes(data)
    check_refused(path, re.escape(f"fields called {names[0]!r} and {names[1]!r}"))


def test_an_allocation_outside_the_file_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "a.beton"
    write(path, [30, 20])
    data = bytearray(path.read_bytes())
    data[HEADER.itemsize + 17 : HEADER.itemsize + 25] = bytes(8)
    for size in (2**64 - 1, 2**63, len(data)):
        data[-8:] = size.to_bytes(8, "little")
        path.write_bytes(data)
        check_refused(path, "sample 1 lies outside")


def test_a_changed_sample_is_found_by_its_checksum(tmp_path: Path) -> None:
    path = tmp_path / "a.beton"
    write(path, [30, 20, 10])
    index = read_index(path)
    data = bytearray(path.read_bytes())
    data[int(index.pointers[1]) + 4] ^= 1
    path.write_bytes(data)
    assert [bad for bad in read_index(path).damaged() if bad is not None] == [1]


def test_an_unknown_extra_version_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "a.beton"
    write(path, [30])
    data = bytearray(path.read_bytes())
    data[HEADER.itemsize + 25] = 9
    path.write_bytes(data)
    with pytest.raises(FormatError, match="extra data of version 9"):
        read_index(path)
