"""Entry points in a `.beton`: what is written is read, and nothing of what has changed is."""

import json
import struct
import zlib
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from hostile_beton import image_of, with_json

from pipelines.errors import DataError, FormatError
from pipelines.formats.beton import Index, read_index
from pipelines.formats.beton_extra import pack_points
from pipelines.formats.beton_writer import BetonWriter
from pipelines.formats.encode import decode
from pipelines.formats.layout import MODE_JPG, MODE_RAW, About, Stored, most_points
from pipelines.regions import RegionDecoder, are_decoded

SAMPLES = 4
JPEG = image_of("JPEG")
#: The entry points of each sample; the second has none.
POINTS = [np.arange(count, dtype=np.int64) << 40 for count in (3, 0, 2, 4)]


@pytest.fixture
def path(tmp_path: Path) -> Path:
    path = tmp_path / "a.beton"
    with BetonWriter(path, SAMPLES) as writer:
        for i, points in enumerate(POINTS):
            stored = Stored(MODE_JPG, 24, 17, JPEG)
            if not len(points):
                stored = Stored(MODE_RAW, 2, 1, b"abcdef")
            packed = pack_points(5 + i, points) if len(points) else b""
            writer.append(stored, i % 2, f"{i}", zlib.crc32(stored.data), packed)
        writer.finish(About(classes=("a", "b")))
        writer.publish()
    return path


def check_points(index: Index, samples: list[int]) -> None:
    for at, sample in enumerate(samples):
        found = index.entry_points(at)
        if found is None:
            assert not len(POINTS[sample])
            continue
        assert found[0] == 5 + sample
        assert np.array_equal(found[1], POINTS[sample])
        assert found[1].dtype == np.int64
        assert found[1].flags.writeable  # kernels are compiled for such


def test_written_points_are_read(path: Path) -> None:
    index = read_index(path)
    check_points(index, [0, 1, 2, 3])
    assert set(index.damaged()) == {None}
    taken = index.take(np.array([3, 1, 0]))
    check_points(taken, [3, 1, 0])
    check_points(taken.take(np.array([2, 0])), [0, 3])


def test_a_file_without_points_has_no_table(tmp_path: Path) -> None:
    with BetonWriter(tmp_path / "a.beton", 1) as writer:
        writer.append(Stored(MODE_RAW, 1, 1, b"abc"), 0, "c/1", zlib.crc32(b"abc"))
        writer.finish(About(classes=("c",)))
        writer.publish()
    index = read_index(tmp_path / "a.beton")
    assert index.points is None
    assert index.entry_points(0) is None
    assert b"points" not in (tmp_path / "a.beton").read_bytes()


def change(path: Path, at: int, content: bytes) -> Index:
    data = bytearray(path.read_bytes())
    data[at : at + len(content)] = content
    path.write_bytes(data)
    return read_index(path)


def points_at(path: Path) -> int:
    said = path.read_bytes()
    begin = said.index(b'{"classes"')
    return int(json.loads(said[begin : said.index(b"}", begin) + 1])["points_at"])


def test_changed_points_are_named(path: Path) -> None:
    index = read_index(path)
    index = change(path, int(index.pointers[2] + index.sizes[2]) + 3, b"\x77")
    check_points(index.take(np.array([0, 1, 3])), [0, 1, 3])
    with pytest.raises(DataError, match=r"a\.beton: 2: its entry points have changed"):
        index.entry_points(2)
    assert [bad for bad in index.damaged() if bad is not None] == [2]


@pytest.mark.parametrize("size", [1, 9, 8 * (2 + most_points(len(JPEG))), 2**31, 2**32 - 8])
def test_no_more_is_read_than_there_can_be(path: Path, size: int) -> None:
    index = change(path, points_at(path), struct.pack("<I", size))
    with pytest.raises(DataError, match=r"a\.beton: 0: its entry points have changed"):
        index.entry_points(0)


Place = Callable[[int, int], int]


@pytest.mark.parametrize(
    "place",
    [lambda at, end: 1, lambda at, end: end - 7, lambda at, end: 2**63, lambda at, end: -at],
    ids=["before the pages", "behind the pages", "beyond", "negative"],
)
def test_a_table_elsewhere_is_refused(path: Path, place: Place) -> None:
    content = path.read_bytes()
    at = place(points_at(path), len(content))
    path.write_bytes(with_json(content, json.dumps({"classes": ["a"], "points_at": at}).encode()))
    with pytest.raises(FormatError, match="its entry points lie outside the file"):
        read_index(path)


@pytest.mark.parametrize("points", [POINTS[0], np.full(11, 1 << 62), np.zeros(11, np.int64)])
@pytest.mark.parametrize("step", [1, 2, 1 << 59, 1 << 60, -1])
@pytest.mark.skipif(not are_decoded(), reason="Pillow has loaded no libjpeg")
def test_wrong_points_hide_no_damage(tmp_path: Path, step: int, points: np.ndarray) -> None:
    """A file whose checksums hold, and yet its points are none: they lead nowhere."""
    path, data = tmp_path / "a.beton", image_of("JPEG", width=16, height=160, quality=100)
    with BetonWriter(path, 2) as writer:
        for number, size in enumerate((len(data), len(data) * 2 // 3)):
            stored = Stored(MODE_JPG, 16, 160, data[:size])
            packed = pack_points(step, points)
            writer.append(stored, 0, f"{number}", zlib.crc32(stored.data), packed)
        writer.finish(About(classes=("a",)))
        writer.publish()
    index = read_index(path)
    decoder, stored = RegionDecoder(index), index.stored(0)
    found, pixels = decoder.crop(0, stored, (0, 0, 8, 9)), np.asarray(decode(stored))
    assert np.array_equal(found, pixels[:8, :9])
    with pytest.raises(DataError, match=r"a\.beton: 1: .*a whole JPEG"):
        decoder.crop(1, index.stored(1), (0, 0, 8, 9))
