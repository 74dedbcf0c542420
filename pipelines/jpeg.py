"""What can be said of a JPEG without decoding it for real: its header, and whether it is whole.

`read_header` walks the marker segments of ITU-T T.81 in Python and stops at the frame header.
`Checker` runs libjpeg-turbo over the entropy-coded data at 1/8 scale, which reads every code word
(so it reports the same damage as a full decode, message for message) at 1.5 to 2 times the speed.
Without the library, Pillow does the same by its draft mode.
"""

from __future__ import annotations

import ctypes
import functools
import io
import threading
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
from PIL import Image, UnidentifiedImageError

#: Start-of-frame markers of what libjpeg, nvJPEG and DALI all decode: baseline, extended Huffman,
#: progressive Huffman. Others (lossless, arithmetic) exist and are left to Pillow.
COMMON_FRAMES = frozenset((0xC0, 0xC1, 0xC2))
FRAMES = frozenset(range(0xC0, 0xD0)) - {0xC4, 0xC8, 0xCC}
#: Markers without a length: TEM, RST0-7, SOI.
ALONE = frozenset((0x01, *range(0xD0, 0xD9)))
_END_OF_IMAGE, _START_OF_SCAN = 0xD9, 0xDA

_PIXEL_FORMAT_RGB = 0
_WARNING = 0
_STOP_ON_WARNING = 8192
#: Give up on a progressive image of more than 500 scans: each may cost as much as decoding all of
#: another one, and takes a hundred bytes.
LIMIT_SCANS = 32768
#: libjpeg's one complaint that loses no pixel: bytes between a scan's end and the next marker.
_HARMLESS = "extraneous bytes before marker"
#: What `load_turbojpeg` loads.
TURBOJPEG = "libturbojpeg.so.0"


@dataclass(frozen=True, slots=True)
class JpegHeader:
    """A frame header: `frame` is its marker (0xC0 baseline, 0xC2 progressive, ...)."""

    width: int
    height: int
    components: int
    bits: int
    frame: int

    @property
    def is_common(self) -> bool:
        """Whether every JPEG decoder that fastft feeds reads it: 8-bit grayscale or RGB."""
        return (
            self.frame in COMMON_FRAMES
            and self.bits == 8
            and self.components in (1, 3)
            and self.width > 0
            and self.height > 0
        )


def read_header(data: bytes) -> JpegHeader | None:
    """The frame header of the JPEG in `data`, or None where there is no well-formed one.

    Source: ITU-T T.81 annex B (marker syntax), B.2.2 (frame header).
    """
    if data[:3] != b"\xff\xd8\xff":
        return None
    at, end = 2, len(data)
    while at + 4 <= end:
        if data[at] != 0xFF:
            return None
        marker = data[at + 1]
        if marker == 0xFF:  # fill byte
            at += 1
            continue
        if marker in ALONE:
            at += 2
            continue
        if marker in (_START_OF_SCAN, _END_OF_IMAGE):
            return None
        length = data[at + 2] << 8 | data[at + 3]
        if marker in FRAMES:
            if length < 8 or at + 10 > end:
                return None
            height, width = data[at + 5] << 8 | data[at + 6], data[at + 7] << 8 | data[at + 8]
            return JpegHeader(width, height, data[at + 9], data[at + 4], marker)
        if length < 2:
            return None
        at += 2 + length
    return None


@dataclass(frozen=True, slots=True)
class Verdict:
    """What a check found: `broken` says why the image must not be used, `warning` what is odd."""

    broken: str = ""
    warning: str = ""


class Checker:
    """Finds damage in JPEGs; safe to share between threads, each gets a decoder of its own."""

    def __init__(self) -> None:
        self._library = load_turbojpeg()
        self._local = threading.local()

    def check(self, data: bytes, header: JpegHeader) -> Verdict:
        """Decode `data` far enough to meet all of its damage."""
        if self._library is None:
            return _check_by_pillow(data)
        try:
            decoder = self._local.decoder
        except AttributeError:
            decoder = self._local.decoder = _EighthDecoder(self._library)
        return decoder.check(data, header)  # type: ignore[no-any-return]


class _EighthDecoder:
    """One libjpeg-turbo decompressor and its output buffer, which grows to the largest image."""

    def __init__(self, library: Any) -> None:
        self._library = library
        self._handle = library.tjInitDecompress()
        if not self._handle:
            raise MemoryError("tjInitDecompress")
        self._buffer = np.empty(1 << 16, np.uint8)

    def __del__(self) -> None:
        self._library.tjDestroy(self._handle)

    def check(self, data: bytes, header: JpegHeader) -> Verdict:
        width, height = -(-header.width // 8), -(-header.height // 8)
        if self._buffer.size < width * height * 3:
            self._buffer = np.empty(width * height * 3, np.uint8)
        verdict = Verdict()
        # The last complaint is the one that is kept: behind a harmless one, look at the first, too.
        for flags in (LIMIT_SCANS, LIMIT_SCANS | _STOP_ON_WARNING):
            status = self._library.tjDecompress2(
                self._handle, data, len(data), self._buffer.ctypes.data,
                width, 0, height, _PIXEL_FORMAT_RGB, flags,
            )  # fmt: skip
            if status == 0:
                return verdict
            verdict = last_complaint(self._library, self._handle)
            if verdict.broken:
                break
        return verdict


def last_complaint(library: Any, handle: int) -> Verdict:
    """What a TurboJPEG decompressor said of the image that it has just failed on or warned of."""
    message = library.tjGetErrorStr2(handle).decode(errors="replace")
    if has_warned(library, handle) and _HARMLESS in message:
        return Verdict(warning=message)
    return Verdict(broken=message)


def has_warned(library: Any, handle: int) -> bool:
    """Whether a TurboJPEG decompressor's last complaint was of an image that it decoded."""
    return bool(library.tjGetErrorCode(handle) == _WARNING)


def _check_by_pillow(data: bytes) -> Verdict:
    try:
        with Image.open(io.BytesIO(data), formats=("JPEG",)) as image:
            image.draft(None, (max(1, image.width // 8), max(1, image.height // 8)))
            image.load()
    except MemoryError:
        raise
    except Exception as error:  # whatever a hostile file makes a third-party parser raise
        return Verdict(broken=describe(error))
    return Verdict()


def describe(error: Exception) -> str:
    """An exception of an image library, in words fit for a report."""
    text = str(error).split("\n")[0]
    if isinstance(error, Image.DecompressionBombError):  # of a frame or a tile; see `pillow`
        return "has more pixels in one part than Pillow decodes"
    if isinstance(error, UnidentifiedImageError) and (
        not text or "cannot identify image file" in text
    ):
        return "is not an image that Pillow knows"
    return text or type(error).__name__


@functools.lru_cache(maxsize=1)
def load_turbojpeg() -> Any | None:
    """Libturbojpeg with its argument types set, or None where it is not installed."""
    try:
        library = ctypes.CDLL(TURBOJPEG)
    except OSError:
        return None
    pointer, number = ctypes.c_void_p, ctypes.c_int
    signatures: dict[str, tuple[Any, list[Any]]] = {
        "tjInitDecompress": (pointer, []),
        "tjDestroy": (number, [pointer]),
        "tjGetErrorStr2": (ctypes.c_char_p, [pointer]),
        "tjGetErrorCode": (number, [pointer]),
        "tjDecompress2": (
            number,
            [pointer, pointer, ctypes.c_ulong, pointer, *[number] * 5],
        ),
        "tjDecompressHeader3": (number, [pointer, pointer, ctypes.c_ulong, *[pointer] * 4]),
        "tjDecompressToYUVPlanes": (
            number,
            [pointer, pointer, ctypes.c_ulong, pointer, number, pointer, number, number],
        ),
    }
    for name, (result, arguments) in signatures.items():
        function: Callable[..., Any] = getattr(library, name)
        function.restype, function.argtypes = result, arguments  # type: ignore[attr-defined]
    return library
