"""Checks of bytes that no other test would miss: each was taken out once, to see."""

import io
import lzma
import struct
from dataclasses import replace
from pathlib import Path

import pytest
from hostile_beton import image_of
from hostile_files import tar_of
from PIL import EpsImagePlugin, Image
from zips import read_all, write_zip

from fastft.datasets.unpack import Archive, Member, open_archive
from pipelines.errors import DataError, FormatError
from pipelines.formats.encode import EncodePolicy, Encoder
from pipelines.formats.source import open_source
from pipelines.images import damage
from pipelines.images.damage import Checker
from pipelines.images.jpeg import JpegHeader, read_header

PHOTO = image_of("JPEG")
FRAME = PHOTO.index(b"\xff\xc0")
FOUND = JpegHeader(24, 17, 3, 8, 0xC0)


def put(at: int, piece: bytes, over: int = 0) -> bytes:
    """The photo with something else at a place."""
    return PHOTO[:at] + piece + PHOTO[at + over :]


@pytest.mark.parametrize(
    ("data", "header"),
    [
        (PHOTO, FOUND),
        (put(0, b"\0\0", over=2), None),
        (put(2, b"\0", over=1), None),
        (put(FRAME, b"\0"), FOUND),  # passed over, as libjpeg does
        (put(FRAME, b"\xff" * 5), FOUND),
        (put(FRAME, b"\xff\x01\xff\xd0\xff\xd7"), FOUND),
        (put(FRAME, b"\xff\xda\0\x02"), None),
        (put(FRAME, b"\xff\xd9\0\x02"), None),
        (put(FRAME, b"\xff\xe0\0\x02"), FOUND),
        (put(FRAME, b"\xff\xe0\0\x01"), None),
        (put(FRAME, b"\xff\xe0\0\0"), None),
        (put(FRAME + 2, b"\0\x07", over=2), None),
        (put(FRAME + 2, b"\0\x08", over=2), FOUND),
        (PHOTO[: FRAME + 9], None),
        (PHOTO[: FRAME + 10], FOUND),
        (b"\xff\xd8\xff" + b"\xff" * 1000, None),
        (b"\xff\xd8\xff\xe0\xff\xff", None),
    ],
)
def test_a_header_is_well_formed_or_none(data: bytes, header: JpegHeader | None) -> None:
    assert read_header(data) == header


def test_there_is_room_for_all_that_is_decoded(monkeypatch: pytest.MonkeyPatch) -> None:
    if damage.load_turbojpeg() is None:
        pytest.skip("libturbojpeg is not installed")
    checker, room = Checker(), []

    def decode(*arguments: object) -> int:
        room.append(checker._local.room.size)
        return 0

    # Instead of decoding: what is written behind a buffer may well go unnoticed.
    monkeypatch.setattr(checker._library, "tjDecompress2", decode)
    for side in (1200, 1201, 65535, 8):
        checker.check(PHOTO, JpegHeader(side, side, 3, 8, 0xC0))
        assert room[-1] >= (-(-side // 8)) ** 2 * 3


def test_scans_without_end_are_not_gone_through() -> None:
    if damage.load_turbojpeg() is None:
        pytest.skip("libturbojpeg is not installed")
    data = image_of("JPEG", progressive=True)
    scan = data[data.rindex(b"\xff\xda") : -2]
    many = data[:-2] + scan * 600 + data[-2:]
    header = read_header(many)
    assert header is not None
    assert "more than 500 scans" in Checker().check(many, header).broken


@pytest.mark.parametrize(
    ("at", "value", "said"),
    [
        (2, 0x0605, "is not where the zip's directory says"),  # the signature
        (26, 8, "is not where the zip's directory says"),  # the name's length
        (26, 6, "is not where the zip's directory says"),
        (28, 60000, "is cut short in the zip"),  # the extra field's length
    ],
)
def test_a_member_is_where_its_directory_says(
    at: int, value: int, said: str, tmp_path: Path
) -> None:
    path = write_zip(tmp_path / "x.zip", {"a/1.jpg": b"one"})
    content = bytearray(path.read_bytes())
    struct.pack_into("<H", content, at, value)
    path.write_bytes(content)
    assert read_all(path) == {"a/1.jpg": said}


def test_multi_stream_xz_is_read_twice(tmp_path: Path) -> None:
    whole = tar_of(*(f"set/{i}.jpg" for i in range(500)), mode="w:")
    path, padding = tmp_path / "x.tar.xz", bytes(4)
    path.write_bytes(lzma.compress(whole[:700]) + padding + lzma.compress(whole[700:]) + padding)
    with open_archive(path, path) as archive:
        assert archive is not None
        archive.write(tmp_path / "out", lambda stage, done, total: None)
    found = sorted((tmp_path / "out").rglob("*.jpg"))
    assert [file.read_bytes() for file in found] == [PHOTO] * 500
    path.write_bytes(path.read_bytes()[:-200])
    with pytest.raises(FormatError, match="damaged archive"), open_archive(path, path):
        pass


def test_no_member_is_written_over_another(tmp_path: Path) -> None:
    """On a disk that takes two names for one; here there are two of one name, which is refused."""
    member = Member(name="a.jpg", size_bytes=3, is_folder=False, open=lambda: io.BytesIO(b"one"))
    other = replace(member, open=lambda: io.BytesIO(b"two"))
    archive = Archive(label=tmp_path / "x.zip", members=[member, other])
    with pytest.raises(FormatError, match=r"x\.zip: a\.jpg: cannot be named here"):
        archive.write(tmp_path / "out", lambda stage, done, total: None)
    assert (tmp_path / "out" / "a.jpg").read_bytes() == b"one"


def test_no_program_is_started_for_a_picture(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Pillow would have Ghostscript draw PostScript."""
    started = []

    def draw(*arguments: object, **named: object) -> object:
        started.append(arguments)
        return Image.new("RGB", (24, 17)).im

    monkeypatch.setattr(EpsImagePlugin, "Ghostscript", draw)
    photo = tmp_path / "a" / "1.jpg"
    photo.parent.mkdir()
    Image.new("RGB", (24, 17)).save(photo, "EPS")
    with Image.open(photo) as image:
        image.load()
    assert started.pop()
    encoded = Encoder(EncodePolicy()).encode(photo.read_bytes(), 0)
    assert encoded.stored is None
    with pytest.raises(DataError, match=r"1\.jpg: is a PostScript drawing, such as EPS"):
        open_source(tmp_path)
    assert not started
