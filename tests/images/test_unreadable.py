"""What is no image is called what it is, wherever it is met."""

import io
import json
import struct
from collections.abc import Callable
from pathlib import Path

import pytest
from PIL import Image

from pipelines.errors import DataError
from pipelines.formats.encode import EncodePolicy, Encoder, decode
from pipelines.formats.source import open_source
from pipelines.images.unreadable import explain

Command = Callable[..., tuple[int, str, str]]


def saved(kind: str, **how: object) -> bytes:
    target = io.BytesIO()
    Image.new("RGB", (40, 30), (9, 200, 40)).save(target, kind, **how)
    return target.getvalue()


def media(brand: bytes, *compatible: bytes) -> bytes:
    """The first box of an ISO media file, and some of the next."""
    content = b"ftyp" + brand + bytes(4) + b"".join(compatible)
    return struct.pack(">I", len(content) + 4) + content + bytes(80)


#: File -> how its first bytes are made, what is said of it.
STRANGE: dict[str, tuple[Callable[[], bytes], str]] = {
    "ico": (lambda: saved("ICO"), "is an image of format ICO, Windows Icon, which fastft does not"),
    "jp2": (lambda: saved("JPEG2000"), "is an image of format JPEG 2000, which fastft does not re"),
    "j2k": (lambda: saved("JPEG2000", no_jp2=True), "is an image of format JPEG 2000, which"),
    "tga": (lambda: saved("TGA"), "is an image of format TGA, Targa, which fastft does not read"),
    "packed tga": (lambda: saved("TGA", compression="tga_rle"), "is an image of format TGA"),
    "old tga": (lambda: saved("TGA")[:-26], "is an image of format TGA, Targa"),
    "pcx": (lambda: saved("PCX"), "is an image of format PCX, Paintbrush, which fastft does not"),
    "psd": (lambda: b"8BPS\0\1" + bytes(30), "is an image of format PSD, Adobe Photoshop, which"),
    "dds": (lambda: saved("DDS"), "is an image of format DDS"),
    "eps": (lambda: saved("EPS"), "is a PostScript drawing, such as EPS (save it as JPEG or PNG)"),
    "heic": (lambda: media(b"heic", b"mif1"), "is a HEIC photo, as iPhones make them, which"),
    "heif": (lambda: media(b"mif1", b"mif1", b"heic"), "convert it to JPEG, or export the photos"),
    "mp4": (lambda: media(b"isom", b"avc1"), "is a video (MP4; extract frames as JPEG)"),
    "mov": (lambda: media(b"qt  "), "is a video (QuickTime; extract frames as JPEG)"),
    "old mov": (lambda: b"\0\0\1\0moov" + bytes(90), "is a QuickTime video"),
    "avi": (lambda: b"RIFF\0\1\0\0AVI LIST", "is an AVI video"),
    "html": (lambda: b"\r\n<!DOCTYPE HTML>\n<html><head><title>404", "is an HTML page, not an ima"),
    "bare html": (lambda: b"\xef\xbb\xbf<!-- x -->\n<HTML>", "is an HTML page"),
    "lfs": (
        lambda: b"version https://git-lfs.github.com/spec/v1\noid sha256:4d\nsize 12345\n",
        "is a Git LFS pointer, not the image itself (run git lfs pull)",
    ),
    "svg": (lambda: b'<?xml version="1.0"?>\n<!-- --><svg xmlns="', "is an SVG drawing (export it"),
    "xml": (lambda: b'<?xml version="1.0"?><Error><Code>Acc', "is an XML text, not an image"),
    "json": (lambda: b'{"error":\n "rate limit"}', 'is a text, not an image: \'{"error"'),
    "zip": (lambda: b"PK\3\4" + bytes(40), "is a zip archive (unpack it)"),
    "tar": (lambda: b"a.jpg".ljust(257, b"\0") + b"ustar", "is a tar archive (unpack it)"),
    "pdf": (lambda: b"%PDF-1.7\n", "is a PDF document"),
    "dicom": (lambda: bytes(128) + b"DICM\2\0", "is a DICOM image (export it as PNG)"),
    "zeros": (lambda: bytes(9000), "is nothing but zeros, as an interrupted copy leaves it (copy"),
}


@pytest.mark.parametrize("name", STRANGE)
def test_a_strange_file_is_called_what_it_is(name: str, tmp_path: Path) -> None:
    make, said = STRANGE[name]
    data = make()
    encoded = Encoder(EncodePolicy()).encode(data, 0)
    assert encoded.stored is None
    assert said in encoded.reason
    assert encoded.reason.isprintable()
    photo = tmp_path / "a" / "1.jpg"
    photo.parent.mkdir()
    photo.write_bytes(data)
    with pytest.raises(DataError) as caught:
        open_source(tmp_path)
    assert caught.value.where == str(photo)
    assert said in caught.value.found


@pytest.mark.parametrize("kind", ["JPEG", "PNG", "BMP", "GIF", "WEBP", "TIFF", "PPM"])
def test_an_image_is_never_called_something_else(kind: str) -> None:
    data = saved(kind)
    assert [explain(data[:length]) for length in (*range(16, 72, 7), len(data))] == [""] * 9


def test_what_nobody_knows_is_said_to_be_unknown() -> None:
    reason = Encoder(EncodePolicy()).encode(bytes(range(128, 256)) * 9, 0).reason
    assert reason == "is not an image that Pillow knows"


def test_a_damaged_beginning_is_called_that() -> None:
    data = bytearray(saved("PNG"))
    data[20] ^= 1
    reason = Encoder(EncodePolicy()).encode(bytes(data), 0).reason
    assert reason.startswith("damaged PNG (broken PNG file (bad header checksum")


def test_damage_as_stored_is_sent_to_convert() -> None:
    """`inspect --verify` would find each byte as it was written."""
    stored = Encoder(EncodePolicy(verify=False)).encode(saved("JPEG")[:-300], 0).stored
    assert stored is not None
    with pytest.raises(DataError, match=r"expected a whole JPEG; run fastft convert with --verify"):
        decode(stored, "data.beton: a/1.jpg")


def test_convert_names_it_in_lines_and_list(tmp_path: Path, fastft: Command) -> None:
    folder = tmp_path / "photos" / "a"
    folder.mkdir(parents=True)
    (folder / "0.jpg").write_bytes(saved("JPEG"))
    for name in ("heic", "html", "ico", "lfs"):
        (folder / f"{name}.jpg").write_bytes(STRANGE[name][0]())
    status, out, err = fastft("convert", folder.parent, tmp_path / "out.beton", "--max-bad", 4)
    assert (status, err) == (0, "")
    listed = json.loads((tmp_path / "out.quarantine.json").read_text())
    assert [each["name"] for each in listed] == [
        f"a/{n}.jpg" for n in ("heic", "html", "ico", "lfs")
    ]
    text = " ".join(out.split())
    for each in listed:
        assert STRANGE[Path(each["name"]).stem][1] in each["reason"]
        assert f"left out: {each['name']}: {each['reason']}" in text
