"""Every image by one door: whose limit holds, who hears the complaints, what metadata may cost."""

import io
import struct
import sys
import threading
import warnings
import zlib
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from effort import rest
from PIL import Image, PngImagePlugin, UnidentifiedImageError

from pipelines.conversion.run import ConvertConfig, convert
from pipelines.errors import DataError, UsageError
from pipelines.formats.beton import read_index
from pipelines.formats.encode import EncodePolicy, Encoder, decode
from pipelines.formats.source import open_source
from pipelines.images.limits import MAX_PIXELS, MOST_PIXELS
from pipelines.images.pillow import TooManyPixels, crop, open_image, too_large
from pipelines.loaders import make_loader

PIXELS = np.random.default_rng(5).integers(0, 256, (60, 80, 3), np.uint8)


def saved(kind: str, mode: str = "RGB", **how: Any) -> bytes:
    target = io.BytesIO()
    Image.fromarray(PIXELS).convert(mode).save(target, kind, **how)
    return target.getvalue()


def chunk(kind: bytes, content: bytes) -> bytes:
    """One of PNG's chunks."""
    return (
        struct.pack(">I", len(content))
        + kind
        + content
        + struct.pack(">I", zlib.crc32(kind + content))
    )


def encode(data: bytes, **policy: Any) -> Any:
    return Encoder(EncodePolicy(**policy)).encode(data, 0)


# Metadata.

PACKED = zlib.compress(bytes(3 << 20))
LARGE = {
    "zTXt": chunk(b"zTXt", b"Comment\0\0" + PACKED),
    "iTXt": chunk(b"iTXt", b"XML:com.adobe.xmp\0\1\0en\0\0" + PACKED),
    "iCCP": chunk(b"iCCP", b"profile\0\0" + PACKED),
    "many": chunk(b"tEXt", b"Comment\0" + b"x" * (9 << 20)) * 8,
    "both": chunk(b"zTXt", b"a\0\0" + zlib.compress(bytes(1 << 20))) * 70,
}


@pytest.mark.parametrize(
    ("name", "place"),
    [
        *((name, "before") for name in LARGE if name != "both"),
        *(("zTXt", "behind"), ("iCCP", "behind")),
        *rest(("both", "before")),
    ],
)
def test_a_png_with_large_metadata_is_read(name: str, place: str, tmp_path: Path) -> None:
    plain = saved("PNG")
    at = 33 if place == "before" else len(plain) - 12
    data = plain[:at] + LARGE[name] + plain[at:]
    if name != "iCCP" or place == "before":
        with (
            pytest.raises(ValueError, match=r"too large|Too much"),
            Image.open(io.BytesIO(data)) as im,
        ):
            im.load()
    encoded = encode(data)
    assert encoded.stored is not None, encoded.reason
    assert (encoded.reason, encoded.source_bytes) == ("", len(data))
    assert encoded.stored.data == PIXELS.tobytes()
    (tmp_path / "a").mkdir()
    (tmp_path / "a" / "1.png").write_bytes(data)
    source = open_source(tmp_path)
    assert source.stored(0).data == PIXELS.tobytes()


def test_metadata_of_usual_size_stay(monkeypatch: pytest.MonkeyPatch) -> None:
    plain, texts = saved("PNG"), PngImagePlugin.PngInfo()
    texts.add_text("a", "x" * 9000, zip=True)
    texts.add_itxt("b", "y" * 9000, zip=True)
    with open_image(saved("PNG", pnginfo=texts, exif=b"Exif\0\0MM\0*\0\0\0\x08\0\0")) as image:
        assert isinstance(image, PngImagePlugin.PngImageFile)
        assert {name: len(text) for name, text in image.text.items()} == {"a": 9000, "b": 9000}
    # Only what is too large goes.
    data = plain[:33] + chunk(b"tEXt", b"kept\0this") + LARGE["zTXt"] + plain[33:]
    with open_image(data) as image:
        assert isinstance(image, PngImagePlugin.PngImageFile)
        assert image.text == {"kept": "this"}


def test_metadata_without_end_take_no_time() -> None:
    """Each inflates to a megabyte that Pillow would take; after 64 no more is inflated."""
    plain, inflated = saved("PNG"), []
    real = zlib.decompressobj

    class Counting:
        def __init__(self) -> None:
            self._real = real()
            self.unconsumed_tail = b""

        def decompress(self, data: bytes, most: int) -> bytes:
            inflated.append(most)
            return self._real.decompress(data, most)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("pipelines.images.pillow.zlib.decompressobj", Counting)
        from pipelines.images.pillow import _without_refused_texts

        _without_refused_texts(plain[:33] + LARGE["both"] * 3 + plain[33:])
    assert 60 <= len(inflated) <= 65


# Limits.


@pytest.mark.parametrize("kind", ["JPEG", "PNG", "TIFF", "WEBP", "GIF"])
def test_pillows_own_limit_is_never_met(
    kind: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As if it had 200 megapixels; warnings are errors here.

    WebP's and TIFF's readers ask for themselves, too: as if it had 108.
    """
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 3000 if kind in ("TIFF", "WEBP") else 2000)
    data = saved(kind)
    encoded = encode(data)
    assert encoded.stored is not None, encoded.reason
    assert decode(encoded.stored).size == (80, 60)
    (tmp_path / "a").mkdir()
    (tmp_path / "a" / f"1.{kind}").write_bytes(data)
    (tmp_path / "a" / f"1.{kind}").rename(tmp_path / "a" / "1.png")
    for loader in ("torchvision", "resident"):
        with make_loader(loader, tmp_path, size=64, batch_size=1, workers=1) as batches:
            assert len(list(batches)) == 1


@pytest.mark.parametrize("limit", [100, 2000, 4000, None])
def test_large_crops_pass_silently(limit: int | None, monkeypatch: pytest.MonkeyPatch) -> None:
    """As in a process that is not ours, whose limit stays what it is."""
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", limit)
    cropped = crop(Image.fromarray(PIXELS), 3, 5, 70, 50)
    assert np.array_equal(np.asarray(cropped), PIXELS[5:55, 3:73])


def test_the_option_admits_a_large_photo(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    large = too_large(16384, 12288, MAX_PIXELS)
    assert large.endswith(
        "px is more than 178,956,970 pixels (fastft convert --max-pixels 201326592 admits it)"
    )
    assert "268,435,456 are the most" in too_large(20000, 20000, MAX_PIXELS)
    photos = tmp_path / "photos"
    (photos / "a").mkdir(parents=True)
    for name, kind in (("1.jpg", "JPEG"), ("2.png", "PNG")):
        (photos / "a" / name).write_bytes(saved(kind))
    out = tmp_path / "out.beton"
    said = r"a/1\.jpg: 80 x 60 px is more than 4,799 pixels \(fastft convert --max-pixels 4800 adm"
    with pytest.raises(DataError, match=said):
        convert(ConvertConfig(src=photos, out=out, max_pixels=4799, max_bad="0"))
    convert(ConvertConfig(src=photos, out=out, max_pixels=4800))
    assert len(read_index(out)) == 2
    for wrong in (0, MOST_PIXELS + 1):
        with pytest.raises(UsageError, match=r"--max-pixels: .*, expected 1 to 268435456"):
            ConvertConfig(src=photos, out=out, max_pixels=wrong)
    # Read without a conversion, the default holds, and the remedy is named.
    monkeypatch.setattr("pipelines.formats.source.MAX_PIXELS", 4799)
    with pytest.raises(DataError, match=r"--max-pixels 4800 admits it\), expected a smaller image"):
        open_source(photos)


def test_larger_images_are_refused_before_decoding() -> None:
    with (
        pytest.raises(TooManyPixels, match="80 x 60 px is more than 99 pixels"),
        open_image(saved("PNG")[:60], max_pixels=99),
    ):
        pass
    with pytest.raises(UnidentifiedImageError), open_image(saved("BMP"), ("JPEG",)):
        pass


# Complaints.


def damaged_fax() -> bytes:
    """A TIFF whose lines libtiff complains of and fills up."""
    data = bytearray(saved("TIFF", "1", compression="group4"))
    for at in range(12, 180, 30):
        data[at] ^= 0x5A
    return bytes(data)


def damaged_zip() -> bytes:
    data = bytearray(saved("TIFF", compression="tiff_adobe_deflate"))
    data[300] ^= 255
    return bytes(data)


#: Pillow's warning of such a tag; before 13 it leaves out the tags behind it, too.
TOO_LONG = (
    "Tag data larger than file. Skipping tag 33432"
    if int(Image.__version__.partition(".")[0]) >= 13
    else "Truncated File Read"
)


def with_a_tag_too_long() -> bytes:
    """A TIFF with a copyright, its last tag, that would end behind the file."""
    data = bytearray(saved("TIFF", tiffinfo={33432: "x" * 99}))
    at = data.index(struct.pack("<HHI", 33432, 2, 100))
    struct.pack_into("<I", data, at + 4, 1 << 28)
    return bytes(data)


def test_nothing_is_printed_of_an_image(capfd: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    transparent = Image.fromarray(PIXELS).convert("P")
    target = io.BytesIO()
    transparent.save(target, "PNG", transparency=bytes(range(256)))
    images = {
        "fax": (damaged_fax(), "Bad code word"),
        "zip": (damaged_zip(), None),
        "tag": (with_a_tag_too_long(), TOO_LONG),
        "palette": (target.getvalue(), ""),
    }
    with warnings.catch_warnings():
        warnings.simplefilter("always")
        for name, (data, remark) in images.items():
            encoded = encode(data)
            assert (encoded.stored is None) == (remark is None), (name, encoded.reason)
            if remark is None:
                assert encoded.reason.startswith("decoder error -2 (ZIPDecode: Decoding error")
            else:
                assert remark in encoded.reason
                assert bool(remark) == bool(encoded.reason), (name, encoded.reason)
        (tmp_path / "a").mkdir()
        for name in ("fax", "tag", "palette"):
            (tmp_path / "a" / f"{name}.png").write_bytes(images[name][0])
        with make_loader("torchvision", tmp_path, size=64, batch_size=2, workers=1) as batches:
            assert len(list(batches)) == 2
    assert capfd.readouterr() == ("", "")


def test_what_others_provoke_is_left_to_them(capfd: pytest.CaptureFixture[str]) -> None:
    data, inside, go_on = damaged_fax(), threading.Event(), threading.Event()

    def read() -> None:
        with open_image(saved("PNG")):
            inside.set()
            go_on.wait(60)

    encode(data)  # sets libtiff's handler
    reader = threading.Thread(target=read)
    reader.start()
    assert inside.wait(60)
    try:
        with Image.open(io.BytesIO(data)) as image:
            image.load()
        with (
            pytest.warns(UserWarning, match=TOO_LONG),
            Image.open(io.BytesIO(with_a_tag_too_long())) as image,
        ):
            image.load()
    finally:
        go_on.set()
        reader.join()
    assert "Bad code word" in capfd.readouterr().err
    assert sys.stderr is not None
