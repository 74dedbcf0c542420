"""Damaged JPEGs: every warning counts, and what no decoder complains of is doubted."""

import io
import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from effort import choose
from PIL import Image
from spoiled import (
    HUFFMAN,
    QUANTIZATION,
    doubled,
    overwritten,
    padded,
    scan_of,
    scans_kept,
    with_bytes_before,
    without,
)

from pipelines.conversion.merge import merge
from pipelines.conversion.run import ConvertConfig, convert
from pipelines.decoder import Decoder
from pipelines.formats.beton import read_index
from pipelines.formats.source import open_source
from pipelines.images import damage, turbojpeg
from pipelines.images.damage import Checker, Verdict
from pipelines.images.jpeg import read_header
from pipelines.images.scans import is_incomplete

pytestmark = pytest.mark.skipif(
    turbojpeg.load_turbojpeg() is None, reason="libturbojpeg is not installed"
)


def photo(seed: int = 0, **options: object) -> bytes:
    """A JPEG of 240 x 160 px in which everything changes from block to block."""
    rng = np.random.default_rng(seed)
    small = rng.integers(0, 256, (20, 30, 3), np.uint8)
    image = np.asarray(Image.fromarray(small).resize((240, 160), Image.Resampling.BICUBIC))
    noisy = (image + rng.normal(0, 9, image.shape)).clip(0, 255).astype(np.uint8)
    target = io.BytesIO()
    Image.fromarray(noisy).save(target, "JPEG", **{"quality": 88, **options})
    return target.getvalue()


def check(data: bytes, checker: Checker | None = None) -> Verdict:
    header = read_header(data)
    assert header is not None
    return (checker or Checker()).check(data, header)


WHOLE, OTHER, PROGRESSIVE = photo(), photo(1), photo(progressive=True)
WITH_RESTARTS = photo(restart_marker_rows=1)


@pytest.mark.parametrize(
    ("data", "said"),
    [
        (with_bytes_before(WHOLE, HUFFMAN)[: len(WHOLE) // 2], "Premature end"),
        (with_bytes_before(WHOLE, QUANTIZATION)[: len(WHOLE) // 2], "Premature end"),
        (with_bytes_before(PROGRESSIVE, HUFFMAN)[: len(PROGRESSIVE) // 2], "Premature end"),
        (with_bytes_before(overwritten(WHOLE, 900, b"\xff\xd0"), HUFFMAN), "Corrupt JPEG data"),
        (WHOLE[:11] + b"\x09" + WHOLE[12 : len(WHOLE) // 2], "Premature end"),
        (padded(PROGRESSIVE, b"\0" * 9)[:-400] + b"\xff\xd9", "Corrupt JPEG data"),
    ],
    ids=["before DHT", "before DQT", "progressive", "marker in a scan", "JFIF", "end of a scan"],
)
def test_damage_behind_a_harmless_warning_counts(data: bytes, said: str) -> None:
    verdict = check(data)
    assert said in verdict.broken
    assert "extraneous" not in verdict.broken


def test_warnings_are_heard_in_order() -> None:
    library = turbojpeg.load_turbojpeg()
    data = with_bytes_before(WHOLE, HUFFMAN)[: len(WHOLE) // 2]
    header = read_header(data)
    assert header is not None
    heard = turbojpeg.hear(library, data, header)
    assert heard is not None
    assert heard.error == ""
    assert "2 extraneous bytes" in heard.warnings[0].text
    assert data[heard.warnings[0].at - 2 :][:2] == b"\x12\x34"
    assert any("Premature end" in warned.text for warned in heard.warnings[1:])


def test_an_unknown_turbojpeg_is_not_listened_to(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(turbojpeg, "_find_manager", lambda handle: None)
    assert check(WHOLE) == Verdict()
    assert check(WHOLE[: len(WHOLE) // 2]).broken
    assert check(padded(WHOLE, bytes(40))).odd


SIGNS = {
    "a block twice": doubled(WHOLE, 2000),
    "a block twice, restarts": doubled(WITH_RESTARTS, 2000, 60),
    "another photo's bytes": overwritten(WHOLE, 1500, OTHER[3000:5048]),
    "zeros": overwritten(WHOLE, 1500, bytes(1024)),
    "zeros up to the end": overwritten(WHOLE, 4000, bytes(sum(np.diff(scan_of(WHOLE))) - 4000)),
    "bytes of a scan behind it": padded(WHOLE, OTHER[3000:3100]),
    "bytes of a scan behind one of several": padded(PROGRESSIVE, b"\x12\x34\x56" * 9),
    "a table's bytes between segments": with_bytes_before(WHOLE, HUFFMAN, OTHER[200:260]),
}


@pytest.mark.parametrize("kind", SIGNS)
def test_a_desynchronized_scan_is_not_whole(kind: str) -> None:
    verdict = check(SIGNS[kind])
    assert verdict.broken or verdict.doubtful
    assert not verdict.odd


def blank(**options: object) -> bytes:
    """A large picture with much of one colour, whose codes are runs of zeros."""
    pixels = np.full((1024, 1024, 3), 255, np.uint8)
    pixels[:64, :64] = np.random.default_rng(0).integers(0, 256, (64, 64, 3))
    target = io.BytesIO()
    Image.fromarray(pixels).save(target, "JPEG", quality=60, **options)
    return target.getvalue()


@pytest.mark.parametrize(
    "data",
    [
        padded(WHOLE, bytes(500)),
        padded(WHOLE, b"\x20" * 500),
        padded(WHOLE, b"\xff" * 500),
        padded(WHOLE, b"\r\n"),
        WHOLE + bytes(500) + b"\xff\xd9",  # behind the end, as phones put films there
        with_bytes_before(WHOLE, HUFFMAN, b"\0" * 200),
        blank(optimize=True),
        blank(),
        blank(progressive=True),
    ],
)
def test_padding_is_no_damage(data: bytes) -> None:
    verdict = check(data)
    assert verdict.broken == verdict.doubtful == ""


def test_runs_of_zeros_are_in_blank_pictures() -> None:
    """Else the test above would show nothing."""
    assert bytes(64) in blank(optimize=True)


def test_verdicts_ignore_the_photo_before() -> None:
    """Tables of its own are what the one before has; the standard's are meant where none are."""
    before = photo(2, optimize=True, quality=30)
    special = {
        "no Huffman tables": (without(WHOLE, HUFFMAN), True),
        "half of them": (without(WHOLE, HUFFMAN, 2), True),
        "no quantization tables": (without(WHOLE, QUANTIZATION), False),
        "half of those": (without(WHOLE, QUANTIZATION, 1), False),
        "optimized, none": (without(before, HUFFMAN), False),
    }
    checker = Checker()
    for name, (data, is_whole) in special.items():
        alone = check(data)
        check(before, checker)
        assert check(data, checker) == alone, name
        assert (not alone.broken) == is_whole, name


def test_pixels_ignore_the_photo_before(tmp_path: Path) -> None:
    files = [
        photo(2, optimize=True, quality=30),
        without(WHOLE, HUFFMAN),
        without(WHOLE, HUFFMAN, 2),
    ]
    (tmp_path / "photos" / "a").mkdir(parents=True)
    for number, data in enumerate(files):
        (tmp_path / "photos" / "a" / f"{number}.jpg").write_bytes(data)
    source = open_source(tmp_path / "photos")
    decoder, pixels = Decoder(source), np.empty(240 * 160 * 3, np.uint8)
    for sample in (0, 1, 0, 2, 1):
        decoder.to_rgb(sample, pixels)
        with Image.open(io.BytesIO(files[sample])) as image:
            assert pixels.tobytes() == image.convert("RGB").tobytes()


def test_missing_progressive_scans_are_found() -> None:
    assert not is_incomplete(WHOLE)
    assert not is_incomplete(PROGRESSIVE)
    assert not is_incomplete(photo(progressive=True, subsampling=0))
    scans = PROGRESSIVE.count(b"\xff\xda")
    assert scans > 5
    for count in range(1, scans):
        assert is_incomplete(scans_kept(PROGRESSIVE, count)), count
    for end in range(0, len(PROGRESSIVE), 97):
        is_incomplete(PROGRESSIVE[:end])


@pytest.fixture
def photos(tmp_path: Path) -> Path:
    """Two whole photos, a doubtful and an odd one, in two classes."""
    files = {
        "a/0": WHOLE,
        "a/1": doubled(WHOLE, 2000),
        "b/2": OTHER,
        "b/3": padded(OTHER, bytes(40)),
    }
    for name, data in files.items():
        file = tmp_path / "photos" / f"{name}.jpg"
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_bytes(data)
    return tmp_path / "photos"


def test_what_is_doubtful_is_named_everywhere(photos: Path, tmp_path: Path) -> None:
    (report,) = convert(ConvertConfig(src=photos, out=tmp_path / "all.beton"))
    (doubtful,) = report.doubtful
    assert doubtful.name == "a/1.jpg"
    assert "no padding" in doubtful.reason
    assert [odd.name for odd in report.warnings] == ["b/3.jpg"]
    listed = json.loads((tmp_path / "all.quarantine.json").read_text())
    assert listed == [{"name": "a/1.jpg", "reason": doubtful.reason, "kept": True}]
    index = read_index(tmp_path / "all.beton")
    assert index.doubtful == {1: doubtful.reason}
    assert list(index.odd) == [3]


def test_strict_leaves_out_what_is_doubtful(photos: Path, tmp_path: Path) -> None:
    config = ConvertConfig(src=photos, out=tmp_path / "all.beton", strict=True, max_bad="1")
    (report,) = convert(config)
    assert [bad.name for bad in report.quarantined] == ["a/1.jpg"]
    assert report.images == 3
    assert not read_index(tmp_path / "all.beton").doubtful


def test_pixels_that_are_stored_anew_are_checked_too(photos: Path, tmp_path: Path) -> None:
    (photos / "b" / "4.jpg").write_bytes(overwritten(OTHER, 900, b"\xff\xd0"))
    for options in ({"mode": "raw"}, {"max_side": 64}):
        out = tmp_path / "all.beton"
        (report,) = convert(ConvertConfig(src=photos, out=out, max_bad="1", **options))
        assert [bad.name for bad in report.quarantined] == ["b/4.jpg"]
        assert [bad.name for bad in report.doubtful] == ["a/1.jpg"]


def test_merging_keeps_what_is_doubtful(photos: Path, tmp_path: Path) -> None:
    whole, merged = tmp_path / "whole.beton", tmp_path / "all.beton"
    convert(ConvertConfig(src=photos, out=whole))
    for shard in ("1/2", "2/2"):
        convert(ConvertConfig(src=photos, out=merged, shard=shard))
    (report,) = merge(merged)
    assert [each.name for each in report.doubtful] == ["a/1.jpg"]
    assert merged.read_bytes() == whole.read_bytes()
    quarantines = [path.with_suffix(".quarantine.json").read_text() for path in (whole, merged)]
    assert quarantines[0] == quarantines[1]


def test_what_pillow_refuses_is_broken() -> None:
    """libjpeg passes over a marker that stands alone; the reference decoder's parser does not."""
    data = with_bytes_before(WHOLE, HUFFMAN, b"\xff\x01")
    assert check(data).broken == damage.refused_by_pillow(data) != ""
    assert check(with_bytes_before(WHOLE, HUFFMAN, b"\xff\xd0")).broken == ""


def test_what_pillow_alone_decodes_is_whole(monkeypatch: pytest.MonkeyPatch) -> None:
    """By Pillow's newer libjpeg; here TurboJPEG is told to refuse."""
    monkeypatch.setattr(damage, "hear", lambda *_: turbojpeg.Heard((), "Unsupported something"))
    monkeypatch.setattr(damage, "decode_eighth", lambda *_: -1)
    monkeypatch.setattr(damage, "complaint", lambda *_: "Unsupported something")
    verdict = check(WHOLE)
    assert verdict.broken == ""
    assert "Unsupported something" in verdict.odd
    assert check(without(WHOLE, QUANTIZATION)).broken == "Unsupported something"


#: How the scan of a photo is damaged from a place on -> the photo, given that and other bytes.
DAMAGE: dict[str, Callable[[bytes, int, bytes], bytes]] = {
    "512 bytes twice": lambda data, at, other: data[:at] + data[at - 512 : at] + data[at:],
    "512 bytes lost": lambda data, at, other: data[:at] + data[at + 512 :],
    "4 KB of another photo": lambda data, at, other: data[:at] + other + data[at + 4096 :],
    "4 KB of another photo put in": lambda data, at, other: data[:at] + other + data[at:],
    "1 KB of zeros": lambda data, at, other: data[:at] + bytes(1024) + data[at + 1024 :],
    "4 KB of zeros": lambda data, at, other: data[:at] + bytes(4096) + data[at + 4096 :],
}


def test_damage_to_real_photos_is_not_called_whole(
    hymenoptera: Path, tried: Callable[..., None]
) -> None:
    """All photos under ./dev soak; a whole one is never doubted."""
    files = sorted(hymenoptera.rglob("*.jpg"))
    other = files[7].read_bytes()
    rng, checker = np.random.default_rng(0), Checker()
    damaged, missed = 0, list[tuple[str, str]]()
    for file in files[:: choose(16, 1)]:
        data = file.read_bytes()
        header = read_header(data)
        if header is None:  # a GIF by another name
            continue
        assert check(data, checker) == Verdict(), file
        start, end = scan_of(data)
        if end - start < 8000:
            continue
        at, begin = int(rng.integers(start + 600, end - 5400)), int(rng.integers(3000, 9000))
        for kind, spoil in DAMAGE.items():
            verdict = check(spoil(data, at, other[begin : begin + 4096]), checker)
            damaged += 1
            if not (verdict.broken or verdict.doubtful):
                missed.append((file.name, kind))
    assert damaged > 100
    # By chance a scan may end where its data do: 4 of 2,364 did.
    assert len(missed) <= damaged // 200, missed
    tried("real photos damaged, to be told from whole images", damaged)
