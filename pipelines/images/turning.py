"""Photos that lie on a side: what their EXIF says of it, and turning them upright.

`read_orientation` finds the number in a JPEG's first segments without decoding anything: a few
microseconds. What cannot be read counts as upright, in every format. A JPEG is turned without loss
by moving its DCT coefficients where its blocks fit; otherwise its pixels are.
"""

from __future__ import annotations

import ctypes
import functools
import re
import struct
from typing import Any

from PIL import Image

from pipelines.images.jpeg import FRAMES, START_OF_SCAN, segments
from pipelines.images.turbojpeg import load_turbojpeg

UPRIGHT = 1
#: EXIF orientation -> what turns such pixels upright, and the same as a `TJXOP` of TurboJPEG.
_TURNS = {
    2: (Image.Transpose.FLIP_LEFT_RIGHT, 1),
    3: (Image.Transpose.ROTATE_180, 6),
    4: (Image.Transpose.FLIP_TOP_BOTTOM, 2),
    5: (Image.Transpose.TRANSPOSE, 3),
    6: (Image.Transpose.ROTATE_270, 5),
    7: (Image.Transpose.TRANSVERSE, 4),
    8: (Image.Transpose.ROTATE_90, 7),
}
_APP1 = 0xE1
_EXIF, _XMP = b"Exif\0\0", b"http://ns.adobe.com/xap/1.0/\0"
_ORIENTATION, _SHORT, _LONG = 0x0112, 3, 4
_ENTRY_BYTES = 12
#: How XMP tells it, which Pillow asks where EXIF is silent.
_TOLD_IN_XMP = re.compile(rb'tiff:Orientation(?:="|>)([0-9])')
#: Fail where blocks at an edge do not fit, and write no marker of the source but those that its
#: colours need: an EXIF that stayed would say that the turned photo lies on a side.
_PERFECT, _COPY_NONE = 1, 64
_ORDERS = {b"II": "<", b"MM": ">"}


def read_orientation(data: bytes) -> int:
    """The EXIF orientation of the JPEG in `data`, 1 to 8.

    Source: CIPA DC-008 (Exif), 4.5.2 and 4.6.4 A; ITU-T T.81 annex B for the segments. They are
    read as far as the frame header.
    """
    exif = xmp = b""
    for marker, at, end in segments(data):
        if marker in FRAMES or marker == START_OF_SCAN:
            break
        if marker == _APP1:
            if not exif and data.startswith(_EXIF, at):
                exif = data[at:end]
            elif not xmp and data.startswith(_XMP, at):
                xmp = data[at:end]
    return _orientation(exif, xmp) if exif or xmp else UPRIGHT


def orientation_of(image: Image.Image) -> int:
    """The EXIF orientation of an image that Pillow has opened, 1 to 8.

    A TIFF counts as upright: Pillow itself turns it when it decodes it. A PNG is decoded, as its
    EXIF may come behind its pixels.
    """
    if image.format == "TIFF":
        return UPRIGHT
    if image.format == "PNG":
        image.load()
    exif, xmp = image.info.get("exif"), image.info.get("xmp")
    profile = image.info.get("Raw profile type exif")  # ImageMagick's, before PNG had EXIF
    if exif is None and isinstance(profile, str):
        try:
            exif = bytes.fromhex("".join(profile.split("\n")[3:]))
        except ValueError:
            exif = None
    if xmp is None:
        xmp = image.info.get("XML:com.adobe.xmp")
    if isinstance(xmp, str):
        xmp = xmp.encode("utf-8", "replace")
    return _orientation(*(part if isinstance(part, bytes) else b"" for part in (exif, xmp)))


def turn_pixels(image: Image.Image, orientation: int) -> Image.Image:
    """Turn an image upright."""
    return image.transpose(_TURNS[orientation][0])


def turned_size(width: int, height: int, orientation: int) -> tuple[int, int]:
    """Width and height of an image that has been turned upright."""
    return (height, width) if orientation >= 5 else (width, height)


def turn_jpeg(data: bytes, orientation: int) -> bytes | None:
    """Turn a JPEG upright without loss, as a baseline JPEG without EXIF and the like.

    Returns:
        None where that cannot be: blocks at an edge do not fit, libjpeg-turbo complains of the
        file, or is not installed.
    """
    library = _load_transformer()
    if library is None:
        return None
    # One of its own for each photo: it would keep the tables of the one before.
    handle = library.tjInitTransform()
    if not handle:
        raise MemoryError("tjInitTransform")
    result, size = ctypes.c_void_p(), ctypes.c_ulong()
    transform = _Transform(op=_TURNS[orientation][1], options=_PERFECT | _COPY_NONE)
    try:
        status = library.tjTransform(
            handle,
            data,
            len(data),
            1,
            ctypes.byref(result),
            ctypes.byref(size),
            ctypes.byref(transform),
            0,
        )
        if status or not result:
            return None
        return ctypes.string_at(result, size.value)
    finally:
        library.tjFree(result)
        library.tjDestroy(handle)


class _Transform(ctypes.Structure):
    """`tjtransform` of turbojpeg.h."""

    _fields_ = (
        ("x", ctypes.c_int),
        ("y", ctypes.c_int),
        ("width", ctypes.c_int),
        ("height", ctypes.c_int),
        ("op", ctypes.c_int),
        ("options", ctypes.c_int),
        ("data", ctypes.c_void_p),
        ("filter", ctypes.c_void_p),
    )


@functools.lru_cache(maxsize=1)
def _load_transformer() -> Any | None:
    """Libturbojpeg with the argument types of what is used here."""
    library = load_turbojpeg()
    if library is not None:
        pointer, number = ctypes.c_void_p, ctypes.c_int
        library.tjInitTransform.restype, library.tjInitTransform.argtypes = pointer, []
        library.tjFree.restype, library.tjFree.argtypes = None, [pointer]
        library.tjTransform.restype = number
        library.tjTransform.argtypes = [
            pointer,
            pointer,
            ctypes.c_ulong,
            number,
            pointer,
            pointer,
            pointer,
            number,
        ]
    return library


def _orientation(exif: bytes, xmp: bytes) -> int:
    """The orientation by EXIF, or by XMP where EXIF has none."""
    found = _read_tag(exif.removeprefix(_EXIF).removeprefix(_EXIF))  # some have it twice
    if found is None and (told := _TOLD_IN_XMP.search(xmp)):
        found = int(told[1])
    return found if found in _TURNS else UPRIGHT


def _read_tag(tiff: bytes) -> int | None:
    """The orientation in the first directory of a TIFF; None if it is not there to be read."""
    order = _ORDERS.get(tiff[:2])
    if order is None or len(tiff) < 10 or b"*" not in tiff[2:4]:
        return None
    (at,) = struct.unpack_from(f"{order}I", tiff, 4)
    if at + 2 > len(tiff):
        return None
    (count,) = struct.unpack_from(f"{order}H", tiff, at)
    entry = struct.Struct(f"{order}HHI")
    for start in range(at + 2, min(at + 2 + count * _ENTRY_BYTES, len(tiff) - 11), _ENTRY_BYTES):
        tag, kind, values = entry.unpack_from(tiff, start)
        if tag == _ORIENTATION:
            if values != 1 or kind not in (_SHORT, _LONG):
                return None
            width = "H" if kind == _SHORT else "I"
            return int(struct.unpack_from(order + width, tiff, start + 8)[0])
    return None
