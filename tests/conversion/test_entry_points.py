"""Entry points that a conversion finds: where they lead, who gets them, what becomes of them."""

import io
from collections.abc import Iterator
from itertools import count
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image
from shard_jobs import contents, run, run_shards
from spoiled import (
    HUFFMAN,
    QUANTIZATION,
    doubled,
    overwritten,
    padded,
    scan_of,
    with_bytes_before,
    without,
)

from pipelines import regions
from pipelines.conversion import run as module
from pipelines.conversion.entry_points import EntryFinder
from pipelines.conversion.merge import merge
from pipelines.formats.beton import Index, read_index
from pipelines.formats.beton_writer import BetonWriter
from pipelines.formats.encode import EncodePolicy, Encoder
from pipelines.formats.layout import MODE_JPG, Stored
from pipelines.kernels.libjpeg import find_libjpeg
from pipelines.regions import RegionDecoder

pytestmark = pytest.mark.skipif(find_libjpeg() is None, reason="Pillow has loaded no libjpeg")
RANDOM = np.random.default_rng(11)


def photo(**options: Any) -> bytes:
    """A JPEG of 150 x 110 px in which everything changes from block to block."""
    small = RANDOM.integers(0, 256, (14, 19, 3), np.uint8)
    target = io.BytesIO()
    Image.fromarray(small).resize((150, 110), Image.Resampling.BICUBIC).save(
        target, "JPEG", **{"quality": 90, **options}
    )
    return target.getvalue()


WHOLE, OTHER, PROGRESSIVE = photo(), photo(), photo(progressive=True)


@pytest.fixture
def always(monkeypatch: pytest.MonkeyPatch) -> None:
    """However small a set is."""
    monkeypatch.setattr(module, "_POINTS_FROM_BYTES", 0)


@pytest.fixture
def src(tmp_path: Path) -> Path:
    """JPEGs of several kinds, what is none, what is broken."""
    files = {
        "a/0.jpg": WHOLE,
        "a/1.jpg": PROGRESSIVE,
        "a/2.jpg": photo(subsampling=0),
        "b/3.jpg": OTHER[:-500],
        "b/4.jpg": photo(quality=40, optimize=True),
        "b/5.jpg": padded(OTHER, bytes(9)),
        "b/6.jpg": photo(subsampling=1),
    }
    for name, content in files.items():
        path = tmp_path / "src" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(content)
    Image.new("RGB", (9, 7), (1, 2, 3)).save(tmp_path / "src/a/7.png")
    return tmp_path / "src"


def points_by_name(index: Index) -> dict[str, tuple[int, list[int]]]:
    found = {}
    for sample in range(len(index)):
        if (points := index.entry_points(sample)) is not None:
            found[index.name(sample)] = points[0], points[1].tolist()
    return found


@pytest.mark.usefixtures("always")
def test_points_are_those_a_loader_finds(src: Path, tmp_path: Path) -> None:
    run(src, tmp_path / "a.beton")
    run(src, tmp_path / "b.beton", verify=False, max_bad="0")
    index, plain = read_index(tmp_path / "a.beton"), read_index(tmp_path / "b.beton")
    found = points_by_name(index)
    assert sorted(found) == ["a/0.jpg", "a/2.jpg", "b/4.jpg", "b/6.jpg"]
    assert plain.points is None
    decoder = RegionDecoder(plain)
    for sample in range(len(plain)):
        if (name := plain.name(sample)) in found:
            decoder.crop(sample, plain.stored(sample), (0, 0, 8, 8))
            step, points = decoder.known.entries[sample]
            assert (step, points.tolist()) == found[name]


@pytest.mark.usefixtures("always")
def test_crops_begin_there_unasked(
    src: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Nobody reads the codes for them, whether there is room to keep them or not."""
    run(src, tmp_path / "a.beton")
    index = read_index(tmp_path / "a.beton")
    monkeypatch.setattr(regions, "find_entries", None)
    for share in ("1", str(1 << 40)):
        monkeypatch.setenv("LOCAL_WORLD_SIZE", share)
        decoder = RegionDecoder(index)
        for sample in range(len(index)):
            if index.entry_points(sample) is not None:
                stored = index.stored(sample)
                with Image.open(io.BytesIO(stored.data)) as image:
                    pixels = np.asarray(image.convert("RGB"))
                for top, left in ((0, 0), (50, 70), (90, 10)):
                    found = decoder.crop(sample, stored, (top, left, 20, 31))
                    assert np.array_equal(found, pixels[top : top + 20, left : left + 31])
        assert bool(decoder.known.entries) == (share == "1")


@pytest.mark.usefixtures("always")
@pytest.mark.parametrize("options", [{}, {"mode": "proportion"}, {"max_side": 100}])
def test_same_bytes_whoever_converts(src: Path, tmp_path: Path, options: dict[str, Any]) -> None:
    run(src, tmp_path / "one", workers=1, **options)
    run(src, tmp_path / "two", workers=2, **options)
    run_shards(src, tmp_path / "parts", 2, **options)
    merge(tmp_path / "parts.beton", remove_shards=True)
    one, two, parts = (tmp_path / f"{name}.beton" for name in ("one", "two", "parts"))
    assert one.read_bytes() == two.read_bytes() == parts.read_bytes()
    index = read_index(one)
    assert index.points is not None
    assert set(index.damaged()) == {None}


@pytest.mark.usefixtures("always")
def test_resumed_has_the_same_bytes(
    src: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run(src, tmp_path / "whole" / "a.beton")
    monkeypatch.setattr(module, "_TASK_IMAGES", 2)
    real = BetonWriter.append
    for number in (3, 2):
        calls = count(1)

        def append(*arguments: Any, calls: Iterator[int] = calls, last: int = number) -> None:
            if next(calls) > last:
                raise SystemExit  # as when a process is told to end
            real(*arguments)

        monkeypatch.setattr(BetonWriter, "append", append)
        with pytest.raises(SystemExit):
            run(src, tmp_path / "out" / "a.beton", resume=True)
    monkeypatch.setattr(BetonWriter, "append", real)
    (report,) = run(src, tmp_path / "out" / "a.beton", resume=True)
    assert report.resumed > 3
    assert contents(tmp_path / "out") == contents(tmp_path / "whole")


@pytest.mark.usefixtures("always")
def test_changed_points_are_not_taken_over(
    src: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run(src, tmp_path / "whole" / "a.beton")
    monkeypatch.setattr(module, "_TASK_IMAGES", 2)

    def stop(*arguments: Any) -> None:
        raise SystemExit

    real = BetonWriter.finish
    monkeypatch.setattr(BetonWriter, "finish", stop)
    with pytest.raises(SystemExit):
        run(src, tmp_path / "out" / "a.beton")
    monkeypatch.setattr(BetonWriter, "finish", real)
    index = read_index(tmp_path / "whole" / "a.beton")
    (left,) = (file for file in (tmp_path / "out").iterdir() if file.suffix != ".journal")
    content = bytearray(left.read_bytes())
    content[int(index.pointers[2] + index.sizes[2]) + 9] ^= 1
    left.write_bytes(content)
    (report,) = run(src, tmp_path / "out" / "a.beton", resume=True)
    assert report.resumed == 2
    assert contents(tmp_path / "out") == contents(tmp_path / "whole")


def test_few_bytes_are_not_worth_it(
    src: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """All shards of a set go by all of its bytes."""
    total = sum(file.stat().st_size for file in src.rglob("*.*"))
    for least, expected in ((total, True), (total + 1, False)):
        monkeypatch.setattr(module, "_POINTS_FROM_BYTES", least)
        run(src, tmp_path / "a.beton")
        assert (read_index(tmp_path / "a.beton").points is not None) == expected
        run(src, tmp_path / "b", shard="1/2")
        assert (read_index(tmp_path / "b.1-of-2.beton").points is not None) == expected


@pytest.mark.usefixtures("always")
def test_without_libjpeg_there_are_none(
    src: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("pipelines.kernels.libjpeg.find_libjpeg", lambda: None)
    run(src, tmp_path / "a.beton")
    assert read_index(tmp_path / "a.beton").points is None


@pytest.mark.usefixtures("always")
def test_stock_ffcv_reads_what_has_points(
    src: Path, tmp_path: Path, read_by_stock_ffcv: Any
) -> None:
    path = tmp_path / "a.beton"
    run(src, path, mode="jpg")
    index = read_index(path)
    assert len(points_by_name(index)) == 5
    for images, labels in read_by_stock_ffcv((path, True), (path, False), side=32):
        assert labels.reshape(-1).tolist() == index.labels.tolist()
        assert len(images) == len(index)


def odd_files(odd: Path) -> Iterator[tuple[str, bytes]]:
    for file in sorted(odd.rglob("*.*")):
        yield file.name, file.read_bytes()
    size = sum(np.diff(scan_of(WHOLE)))
    yield "whole", WHOLE
    yield "a block twice", doubled(WHOLE, 700)
    yield "another photo's bytes", overwritten(WHOLE, 700, OTHER[1500:2012])
    yield "zeros", overwritten(WHOLE, 700, bytes(600))
    yield "zeros to the end", overwritten(WHOLE, 1000, bytes(size - 1000))
    yield "padding", padded(WHOLE, bytes(40))
    yield "bytes behind the scan", padded(WHOLE, OTHER[700:790])
    yield "bytes before tables", with_bytes_before(WHOLE, HUFFMAN)
    yield "no quantization", without(WHOLE, QUANTIZATION)
    yield "no codes", without(WHOLE, HUFFMAN)
    yield "JFIF 9", WHOLE[:11] + b"\x09" + WHOLE[12:]
    yield "Adobe 9", WHOLE[:2] + b"\xff\xee\0\x0eAdobe\0\x64\0\0\0\0\x09" + WHOLE[2:]
    yield "more behind the end", WHOLE + OTHER
    for cut in RANDOM.integers(2, len(WHOLE), 20).tolist():
        yield f"{cut} bytes", WHOLE[:cut]
    for bit in RANDOM.integers(0, 8 * len(WHOLE), 300).tolist():
        flipped = bytearray(WHOLE)
        flipped[bit // 8] ^= 1 << bit % 8
        yield f"bit {bit}", bytes(flipped)


@pytest.mark.parametrize("policy", [{}, {"strict": True}, {"max_side": 64}])
def test_verdicts_are_the_same_with_points(odd: Path, policy: dict[str, Any]) -> None:
    """A verdict does not depend on who has read the file."""
    plain = Encoder(EncodePolicy(**policy))
    finding = Encoder(EncodePolicy(**policy), EntryFinder())
    found = 0
    for name, data in odd_files(odd):
        expected, encoded = plain.encode(data, 0), finding.encode(data, 0)
        assert encoded.stored == expected.stored, name
        assert (encoded.note, encoded.reason) == (expected.note, expected.reason), name
        found += bool(encoded.points)
    assert found > 20


def test_who_warns_has_no_points() -> None:
    finder, sides = EntryFinder(), (150, 110)
    named = dict(few_files())
    assert finder.find(Stored(MODE_JPG, *sides, named.pop("whole")))
    for name, data in named.items():
        assert not finder.find(Stored(MODE_JPG, *sides, data)), name
    assert not finder.find(Stored(MODE_JPG, 149, 110, WHOLE))


def few_files() -> Iterator[tuple[str, bytes]]:
    kept = ("whole", "no quantization", "no codes", "JFIF 9", "bytes behind the scan", "padding")
    for name, data in odd_files(Path("nowhere")):
        if name in kept:
            yield name, data
