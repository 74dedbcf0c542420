"""Names a file that is no image to us by its first bytes, and says what its owner can do.

Nothing is parsed: `explain` compares bytes at known places, and asks Pillow's other readers only
whether they know the first sixteen. So a hostile file gets no further than here.
"""

from __future__ import annotations

import re
from contextlib import suppress

from PIL import Image

from pipelines.images.pillow import IMAGE_FORMATS

#: So many bytes tell what a file is.
HEAD_BYTES = 4096
_PICTURE = "save it as JPEG or PNG"
#: First bytes -> what it is.
_SIGNATURES = (
    (b"PK\x03\x04", "a zip archive (unpack it)"),
    (b"PK\x05\x06", "an empty zip archive (download it again)"),
    (b"Rar!\x1a\x07", "a RAR archive (unpack it)"),
    (b"7z\xbc\xaf\x27\x1c", "a 7z archive (unpack it)"),
    (b"\x1f\x8b", "packed by gzip (unpack it)"),
    (b"BZh", "packed by bzip2 (unpack it)"),
    (b"\xfd7zXZ\0", "packed by xz (unpack it)"),
    (b"\x28\xb5\x2f\xfd", "packed by Zstandard (unpack it)"),
    (b"%PDF-", f"a PDF document ({_PICTURE})"),
    (b"%!PS", f"a PostScript drawing, such as EPS ({_PICTURE})"),
    (b"\xc5\xd0\xd3\xc6", f"an EPS drawing ({_PICTURE})"),
    (b"\xff\x0a", f"a JPEG XL image, which fastft does not read ({_PICTURE})"),
    (b"\0\0\0\x0cJXL \r\n\x87\n", f"a JPEG XL image, which fastft does not read ({_PICTURE})"),
    (b"\xff\xd8\xff\xf7", f"a JPEG-LS image, which fastft does not read ({_PICTURE})"),
    (b"II\xbc\x01", f"a JPEG XR image, which fastft does not read ({_PICTURE})"),
    (b"v/1\x01", f"an OpenEXR image ({_PICTURE})"),
    (b"#?RADIANCE", f"a Radiance HDR image ({_PICTURE})"),
    (b"gimp xcf", "a GIMP project (export it as PNG)"),
    (b"FUJIFILMCCD-RAW", "a camera's raw photo (develop it to JPEG)"),
    (b"IIU\0", "a camera's raw photo (develop it to JPEG)"),
    (b"IIRO", "a camera's raw photo (develop it to JPEG)"),
    (b"IIRS", "a camera's raw photo (develop it to JPEG)"),
    (b"FOVb", "a camera's raw photo (develop it to JPEG)"),
    (b"\x1a\x45\xdf\xa3", "a Matroska or WebM video (extract frames as JPEG)"),
    (b"\0\0\x01\xba", "an MPEG video (extract frames as JPEG)"),
    (b"\0\0\x01\xb3", "an MPEG video (extract frames as JPEG)"),
    (b"FLV\x01", "a Flash video (extract frames as JPEG)"),
    (b"\x30\x26\xb2\x75\x8e\x66\xcf\x11", "a Windows Media video (extract frames as JPEG)"),
    (b"ID3", "an MP3 sound"),
    (b"OggS", "an Ogg sound or video"),
    (b"\x93NUMPY", "a NumPy array (save its images as PNG)"),
    (b"\xd0\xcf\x11\xe0\xa1\xb1\x1a\xe1", "an OLE document, such as Thumbs.db"),
    (b"\0\x05\x16\x07", "macOS's notes on a file, not the file itself"),
    (b"SQLite format 3\0", "an SQLite database"),
    (b"version https://git-lfs", "a Git LFS pointer, not the image itself (run git lfs pull)"),
)
#: Brands of ISO media files, by what they stand for.
_HEIF = frozenset(b"heic heix heim heis hevc hevx hevm hevs mif1 msf1".split())
_AVIF = frozenset(b"avif avis".split())
_VIDEO_ATOMS = frozenset((b"moov", b"mdat", b"wide", b"free", b"skip", b"pnot"))
#: Formats that Pillow names otherwise than everybody.
_NAMES = {"JPEG2000": "JPEG 2000", "DIB": "BMP without its file header"}
_HTML = re.compile(rb"<(!doctype html|html|head|body|script|title|meta)\b", re.IGNORECASE)
#: Such as what a server says instead of a picture.
_QUOTED_BYTES = 40


def explain(data: bytes) -> str:
    """Name a file that is none of `IMAGE_FORMATS`, such as `is a text`; '' if nobody can tell.

    Args:
        data: its bytes, or the first `HEAD_BYTES` of them or more.
    """
    head = data[:HEAD_BYTES]
    found = (
        _by_signature(head)
        or _in_iso_media(head)
        or _in_riff(head)
        or _by_place(head)
        or _as_targa(data)
        or _by_pillow(head)
        or _as_text(head)
    )
    return f"is {found}" if found else ""


def _by_signature(head: bytes) -> str:
    if not head:
        return "empty"
    if not head.strip(b"\0"):
        return "nothing but zeros, as an interrupted copy leaves it (copy or download it again)"
    return next((found for start, found in _SIGNATURES if head.startswith(start)), "")


def _in_iso_media(head: bytes) -> str:
    """HEIF, AVIF, MP4 and their kin. Source: ISO/IEC 14496-12, 4.3 (file type box)."""
    if head[4:8] in _VIDEO_ATOMS:
        return "a QuickTime video (extract frames as JPEG)"
    if head[4:8] != b"ftyp":
        return ""
    brand, end = head[8:12], min(int.from_bytes(head[:4], "big"), len(head))
    brands = {brand, *(head[at : at + 4] for at in range(16, end, 4))}
    if brands & _AVIF:
        return ""  # one of ours, whatever is wrong with it
    if brands & _HEIF:
        return (
            "a HEIC photo, as iPhones make them, which fastft does not read (convert it to JPEG, "
            "or export the photos as JPEG)"
        )
    if brand in (b"jp2 ", b"jpx ", b"jpm ", b"mjp2"):
        return _of_format("JPEG 2000")
    if brand == b"crx ":
        return "a camera's raw photo (develop it to JPEG)"
    kind = "QuickTime" if brand == b"qt  " else "MP4"
    return f"a video ({kind}; extract frames as JPEG)"


def _in_riff(head: bytes) -> str:
    kinds = {b"AVI ": "an AVI video (extract frames as JPEG)", b"WAVE": "a WAV sound"}
    return kinds.get(head[8:12], "") if head.startswith(b"RIFF") else ""


def _by_place(head: bytes) -> str:
    if head[128:132] == b"DICM":
        return "a DICOM image (export it as PNG)"
    return "a tar archive (unpack it)" if head[257:262] == b"ustar" else ""


def _by_pillow(head: bytes) -> str:
    """Ask Pillow's other readers what it is; they look at the first bytes alone.

    None of them is let read it: some are programs, and most have been read by few.
    """
    Image.init()
    for name, (factory, _) in list(Image.OPEN.items()):
        if name not in IMAGE_FORMATS and _accepts(name, head):
            short, long = _NAMES.get(name, name), getattr(factory, "format_description", "")
            return _of_format(short, "" if short in long else long)
    return ""


def _accepts(name: str, head: bytes) -> bool:
    """Whether one of Pillow's readers knows the first bytes."""
    _, accept = Image.OPEN.get(name, (None, None))
    with suppress(Exception):  # whatever an accepting function makes of a short file
        return accept is not None and bool(accept(head[:16]))
    return False


def _of_format(name: str, description: str = "") -> str:
    said = f"{name}, {description}," if description else f"{name},"
    return f"an image of format {said} which fastft does not read ({_PICTURE})"


def _as_text(head: bytes) -> str:
    if any(_accepts(name, head) for name in IMAGE_FORMATS):
        return ""
    text = head.removeprefix(b"\xef\xbb\xbf").lstrip()
    if _HTML.match(text) or (text.startswith(b"<") and _HTML.search(text[:1024])):
        return "an HTML page, not an image (its address leads to a page; download it again)"
    if b"<svg" in text[:2048]:
        return "an SVG drawing (export it as PNG)"
    if any(byte < 32 and byte not in b"\t\n\r\f" for byte in text[:512]):
        return ""
    if text.startswith(b"<?xml"):
        return "an XML text, not an image (a server's error message?)"
    try:
        start = text[:_QUOTED_BYTES].decode("ascii")
    except UnicodeDecodeError:
        return ""
    return f"a text, not an image: {' '.join(start.split())!r}" if len(text) > 3 else ""


def _as_targa(data: bytes) -> str:
    """Targa has no signature at its beginning. Source: Truevision TGA 2.0, developer's manual."""
    is_new = data[-18:] == b"TRUEVISION-XFILE.\0"
    if not is_new:
        if len(data) < 18 or data[1] > 1 or data[2] not in (1, 2, 3, 9, 10, 11):
            return ""
        if not data[1] and any(data[3:8]):  # where there is no palette, it has no size
            return ""
        sides = data[12:14], data[14:16]
        if b"\0\0" in sides or data[16] not in (8, 15, 16, 24, 32) or data[17] & 0xC0:
            return ""
    return _of_format("TGA", "Targa")
