"""Orientation found and obeyed: against Pillow, in every format, and when it cannot be read."""

import io
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from lying import EXIF, lying, photo, pixels_of, saved, segment, tiff, with_segments
from odd_images import picture
from PIL import Image, ImageOps, features
from spoiled import scans_kept

from pipelines.formats.encode import EncodePolicy, Encoder, decode
from pipelines.formats.layout import MODE_JPG, MODE_RAW, Note, Stored
from pipelines.images.jpeg import read_header
from pipelines.images.turbojpeg import load_turbojpeg
from pipelines.images.turning import UPRIGHT, read_orientation, turn_jpeg, turn_pixels

PLAIN = photo()
XMP = b"http://ns.adobe.com/xap/1.0/\0<x:xmpmeta><rdf:Description "
#: What JPEGs may be like that are turned without loss.
JPEGS: dict[str, Callable[[], bytes]] = {
    "4:4:4": lambda: photo(subsampling=0),
    "4:2:2": lambda: photo(subsampling=1),
    "4:2:0": lambda: photo(subsampling=2),
    "gray": lambda: saved(picture(96, 64).convert("L"), "JPEG", quality=90),
    "RGB by Adobe": lambda: saved(picture(96, 64), "JPEG", quality=90, keep_rgb=True),
    "progressive": lambda: photo(progressive=True),
    "own tables": lambda: photo(optimize=True, quality=60),
    "restarts": lambda: photo(restart_marker_rows=1),
    "all segments": lambda: photo(comment=b"hello", icc_profile=b"no profile", dpi=(300, 300)),
}

needs_turbojpeg = pytest.mark.skipif(load_turbojpeg() is None, reason="needs libturbojpeg")


def upright(data: bytes, **options: object) -> tuple[Stored, Note]:
    policy = EncodePolicy(apply_exif=True, **options)  # type: ignore[arg-type]
    encoded = Encoder(policy).encode(data, 0)
    assert encoded.stored is not None, encoded.reason
    return encoded.stored, encoded.note


@pytest.mark.parametrize("orientation", range(1, 9))
def test_orientation_is_found_wherever_exif_stands(orientation: int) -> None:
    for order in "<>":
        for kind in (3, 4):
            exif = segment(EXIF + tiff(orientation, order, kind))
            for data in (
                with_segments(PLAIN, exif),
                with_segments(PLAIN, exif, behind_jfif=True),
                with_segments(PLAIN, segment(b"ICC_PROFILE\0", 0xE2), b"\xff\xff" + exif),
                with_segments(PLAIN, segment(b"http://ns.adobe.com/xap/1.0/\0"), exif),
                with_segments(PLAIN, exif, segment(EXIF + tiff(1 + orientation % 8))),
                with_segments(PLAIN, segment(EXIF + EXIF + tiff(orientation, order, kind))),
            ):
                assert read_orientation(data) == orientation
    with Image.open(io.BytesIO(lying(orientation))) as image:
        assert image.getexif()[0x0112] == orientation


def test_xmp_counts_where_exif_is_silent() -> None:
    told = segment(XMP + b'tiff:Orientation="8"/>')
    assert read_orientation(with_segments(PLAIN, told)) == 8
    assert read_orientation(with_segments(PLAIN, told, segment(EXIF + tiff(3)))) == 3
    assert read_orientation(with_segments(PLAIN, segment(XMP + b'tiff:Orientation="0"'))) == 1


#: EXIF that cannot be read.
ODD_EXIF = {
    "nothing": b"",
    "no TIFF": b"hello, world",
    "a head alone": tiff(6)[:8],
    "another magic": b"II+\0" + tiff(6)[4:],
    "mixed order": b"MM\0*" + tiff(6)[4:],
    "far away": tiff(6, at=1 << 20),
    "at the end of the world": tiff(6, at=(1 << 32) - 1),
    "no tags": tiff(6)[:8] + bytes(6),
    "tags cut short": tiff(6)[:30],
    "text": tiff(6, kind=2),
    "bytes": tiff(6, kind=1),
    "many": tiff(6, count=9),
    "none": tiff(6, count=0),
    "0": tiff(0),
    "9": tiff(9),
    "60000": tiff(60000),
}


@pytest.mark.parametrize("name", ODD_EXIF)
def test_exif_that_cannot_be_read_counts_as_none(name: str) -> None:
    exif = EXIF + ODD_EXIF[name]
    data = with_segments(PLAIN, segment(exif))
    assert read_orientation(data) == UPRIGHT
    stored, note = upright(data)
    assert (bytes(stored.data), note) == (data, Note(0))
    for kind in ("PNG", "WEBP"):
        stored, note = upright(saved(picture(30, 20), kind, exif=exif, lossless=True))
        assert (stored.width, stored.height, note) == (30, 20, Note.REENCODED), kind


def test_damaged_exif_never_fails() -> None:
    whole, rng = with_segments(PLAIN, segment(EXIF + tiff(6, ">"))), np.random.default_rng(2)
    for end in range(120):
        assert read_orientation(whole[:end]) in (1, 6)
    for _ in range(2000):
        odd = bytearray(whole[:120])
        for at in rng.integers(0, len(odd), 3):
            odd[at] = rng.integers(256)
        assert 1 <= read_orientation(bytes(odd)) <= 8


@pytest.mark.parametrize("kind", ["PNG", "WEBP", "AVIF", "TIFF"])
@pytest.mark.parametrize("orientation", range(1, 9))
def test_other_formats_stand_as_pillow_turns_them(kind: str, orientation: int) -> None:
    if kind == "AVIF" and not features.check("avif"):
        pytest.skip("this Pillow reads no AVIF")
    exif = Image.Exif()
    exif[0x0112] = orientation
    data = saved(picture(30, 20), kind, exif=exif)
    with Image.open(io.BytesIO(data)) as image:
        wanted = ImageOps.exif_transpose(image).convert("RGB")
        as_it_lies = image.convert("RGB")
    stored, note = upright(data)
    assert decode(stored).tobytes() == wanted.tobytes()
    # Pillow turns a TIFF itself, asked or not.
    is_turned = orientation > 1 and kind != "TIFF"
    assert note == Note.REENCODED | (Note.TURNED if is_turned else Note(0))
    lies = Encoder(EncodePolicy()).encode(data, 0)
    assert lies.note == Note.REENCODED | (Note.LYING if is_turned else Note(0))
    assert lies.stored is not None
    assert decode(lies.stored).tobytes() == as_it_lies.tobytes()


def test_exif_behind_a_pngs_pixels_counts() -> None:
    exif = Image.Exif()
    exif[0x0112] = 6
    data = saved(picture(30, 20), "PNG", exif=exif)
    at = data.index(b"eXIf") - 4
    length = 12 + int.from_bytes(data[at : at + 4], "big")
    end = data.index(b"IEND") - 4
    moved = data[:at] + data[at + length : end] + data[at : at + length] + data[end:]
    stored, note = upright(moved)
    assert Note.TURNED in note
    assert (stored.width, stored.height) == (20, 30)


@needs_turbojpeg
@pytest.mark.parametrize("name", JPEGS)
def test_whole_blocks_are_turned_without_loss(name: str) -> None:
    """Measured on 60 photos in 3 subsamplings: at most 4 levels and 0.37 in the mean.

    Turned blocks go through the inverse DCT in the other order, and through the smoothing of
    chroma from the other side: both round.
    """
    plain = JPEGS[name]()
    before = pixels_of(plain)
    for orientation in range(2, 9):
        data = with_segments(plain, segment(EXIF + tiff(orientation)))
        stored, note = upright(data)
        assert (stored.mode, note) == (MODE_JPG, Note.TURNED)
        wanted = np.asarray(turn_pixels(Image.fromarray(before), orientation))
        distance = np.abs(np.asarray(decode(stored)).astype(int) - wanted)
        assert distance.max() <= 4
        assert distance.mean() <= 0.5
        assert len(stored.data) < 1.5 * len(data)
        # Nobody turns it again, whoever reads it.
        turned = bytes(stored.data)
        assert read_orientation(turned) == UPRIGHT
        assert b"Exif" not in turned
        header = read_header(turned)
        assert header is not None
        assert header.is_common
        assert (header.width, header.height) == (stored.width, stored.height)
        # As it lies, it is kept byte for byte.
        lies = Encoder(EncodePolicy()).encode(data, 0)
        assert lies.stored is not None
        assert (lies.stored.data, lies.note) == (data, Note.LYING)


@needs_turbojpeg
def test_turning_twice_loses_nothing() -> None:
    plain = photo(subsampling=2)
    once = turn_jpeg(plain, 6)
    assert once is not None
    back = turn_jpeg(once, 8)
    assert back is not None
    assert (pixels_of(back) == pixels_of(plain)).all()


def test_blocks_that_do_not_fit_become_pixels() -> None:
    for orientation, size in ((6, (96, 61)), (8, (97, 64)), (3, (97, 64)), (7, (97, 61))):
        width, height = size
        data = lying(orientation, width=width, height=height)
        stored, note = upright(data)
        assert (stored.mode, note) == (MODE_RAW, Note.REENCODED | Note.TURNED | Note.GROWN)
        with Image.open(io.BytesIO(data)) as image:
            wanted = ImageOps.exif_transpose(image).convert("RGB")
        assert bytes(stored.data) == wanted.tobytes()
        # Pixels that were asked for are no growth, and a JPEG is none.
        assert upright(data, mode="raw")[1] == Note.REENCODED | Note.TURNED
        stored, note = upright(data, mode="jpg")
        assert (stored.mode, note) == (MODE_JPG, Note.REENCODED | Note.TURNED)


def test_incomplete_photos_become_the_references_pixels() -> None:
    plain = scans_kept(photo(progressive=True), 4)
    data = with_segments(plain, segment(EXIF + tiff(6)))
    stored, note = upright(data)
    assert (stored.mode, note) == (MODE_RAW, Note.REENCODED | Note.TURNED | Note.GROWN)
    wanted = turn_pixels(Image.fromarray(pixels_of(plain)), 6)
    assert bytes(stored.data) == wanted.tobytes()


@needs_turbojpeg
def test_edges_that_stay_edges_may_be_cut() -> None:
    assert upright(lying(6, width=97, height=64))[0].mode == MODE_JPG
    assert upright(lying(8, width=96, height=61))[0].mode == MODE_JPG
    assert upright(lying(5, width=97, height=61))[0].mode == MODE_JPG


@pytest.mark.parametrize("verify", [True, False])
def test_damage_is_found_in_photos_that_lie(verify: bool) -> None:
    encoder = Encoder(EncodePolicy(apply_exif=True, verify=verify))
    for width in (96, 97):
        whole = lying(8, width=width)
        encoded = encoder.encode(whole[: len(whole) // 2], 0)
        assert encoded.stored is None
        assert encoded.reason


@needs_turbojpeg
def test_turning_uses_the_photos_own_tables() -> None:
    good, other = lying(6, quality=20, subsampling=0), lying(6, quality=95, subsampling=0)
    at = other.index(b"\xff\xdb")
    bare = other[:at] + other[other.index(b"\xff\xc0") :]  # no quantization tables
    for _ in range(2):
        assert turn_jpeg(good, 6) is not None
        assert turn_jpeg(bare, 6) is None


def test_without_the_library_pixels_are_turned(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("pipelines.images.turning._load_transformer", lambda: None)
    data = lying(6)
    stored, note = upright(data)
    assert (stored.mode, note) == (MODE_RAW, Note.REENCODED | Note.TURNED | Note.GROWN)
    wanted = np.asarray(turn_pixels(Image.fromarray(pixels_of(data)), 6))
    assert bytes(stored.data) == wanted.tobytes()


def test_real_photos_are_upright(hymenoptera: Path) -> None:
    for file in sorted((hymenoptera / "val").rglob("*.jpg")):
        assert read_orientation(file.read_bytes()) == UPRIGHT
