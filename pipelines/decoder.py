"""A source's samples to pixels in memory that the caller brings: libjpeg-turbo without Pillow.

Bit-exact with the reference decoder: accurate DCT, smooth chroma upsampling. Where libjpeg-turbo's
own library is not installed, the reference decoder itself does it.
"""

from __future__ import annotations

import ctypes
from typing import Any, NoReturn

import numpy as np
from numpy.typing import NDArray

from pipelines.encode import decode
from pipelines.errors import DataError
from pipelines.jpeg import (
    LIMIT_SCANS,
    Checker,
    has_warned,
    last_complaint,
    load_turbojpeg,
    read_header,
)
from pipelines.layout import MODE_RAW, Stored
from pipelines.source import Source

_RGB = 0  # TJPF_RGB
_ACCURATE = LIMIT_SCANS  # no other TJFLAG: accurate DCT, fancy upsampling, as in Pillow
_GRAY = 3  # TJSAMP_GRAY
_HALVED = 2  # TJSAMP_420
_YCBCR, _GRAYSCALE = 1, 2  # TJCS_YCbCr, TJCS_GRAY


class Decoder:
    """Decodes samples of one source; for one thread at a time.

    Calls cost some microseconds beside a photo's 0.7 ms, and nobody is locked out meanwhile.
    """

    def __init__(self, source: Source) -> None:
        """Make a decompressor, where there is the library for it."""
        self._source = source
        self._library: Any = load_turbojpeg()
        self._handle: Any = self._library and self._library.tjInitDecompress()
        if self._library and not self._handle:
            raise MemoryError("tjInitDecompress")
        # width, height, subsampling and colour space of the last header that was read
        self._header = (ctypes.c_int * 4)()
        self._fields = [ctypes.addressof(self._header) + 4 * at for at in range(4)]

    def __del__(self) -> None:
        if getattr(self, "_handle", None):
            self._library.tjDestroy(self._handle)

    def to_rgb(self, sample: int, target: NDArray[np.uint8]) -> None:
        """Write a sample's pixels.

        Args:
            sample: its number.
            target: uint8[height * width * 3 or more], contiguous.

        Raises:
            DataError: the sample is broken, or of another size than stored.
        """
        stored = self._source.stored(sample)  # of the size that the source says
        if stored.mode == MODE_RAW:
            target[: len(stored.data)] = np.frombuffer(stored.data, np.uint8)
        elif self._library is None:
            pixels = np.asarray(decode(stored, self._name(sample)))
            target[: pixels.size] = pixels.reshape(-1)
        else:
            self._read_header(sample, stored)
            status = self._library.tjDecompress2(
                self._handle, stored.data, len(stored.data), target.ctypes.data, stored.width,
                stored.width * 3, stored.height, _RGB, _ACCURATE,
            )  # fmt: skip
            if status != 0:
                self._judge(sample, stored)

    def to_planes(self, sample: int, target: NDArray[np.uint8]) -> bool:
        """Write a sample's luma and chroma as its JPEG holds them, if they are 4:2:0 or gray.

        Args:
            sample: its number.
            target: uint8[...], contiguous: luma, lines of an even number of bytes, an even number
                of them; then Cb, then Cr, half as wide and half as high.

        Returns:
            Whether that is what the sample is; else nothing was written.

        Raises:
            DataError: the sample is broken, or of another size than stored.
        """
        stored = self._source.stored(sample)  # of the size that the source says
        if stored.mode == MODE_RAW or self._library is None:
            return False
        self._read_header(sample, stored)
        _, _, subsampling, colours = self._header
        gray = (subsampling, colours) == (_GRAY, _GRAYSCALE)
        if not gray and (subsampling, colours) != (_HALVED, _YCBCR):
            return False
        pitch, lines = stored.width + stored.width % 2, stored.height + stored.height % 2
        luma, chroma = pitch * lines, pitch * lines // 4
        first = target.ctypes.data
        planes = (ctypes.c_void_p * 3)(first, first + luma, first + luma + chroma)
        strides = (ctypes.c_int * 3)(pitch, pitch // 2, pitch // 2)
        if gray:
            target[luma : luma + 2 * chroma] = 128
        status = self._library.tjDecompressToYUVPlanes(
            self._handle, stored.data, len(stored.data), planes, stored.width, strides,
            stored.height, _ACCURATE,
        )  # fmt: skip
        if status != 0:
            self._judge(sample, stored)
        return True

    def _read_header(self, sample: int, stored: Stored) -> None:
        """Check a JPEG's size against what is stored of it."""
        data = stored.data
        self._header[0] = self._header[1] = 0
        self._library.tjDecompressHeader3(self._handle, data, len(stored.data), *self._fields)
        width, height = self._header[0], self._header[1]
        # A header that is only warned of gives its size, and the decoder warns again.
        if not width:
            verdict = last_complaint(self._library, self._handle)
            self._refuse(sample, verdict.broken or verdict.warning)
        if (width, height) != (stored.width, stored.height):
            found, expected = "of another size than stored", f"{stored.width} x {stored.height} px"
            raise DataError(self._name(sample), found, expected, "rerun fastft convert")

    def _judge(self, sample: int, stored: Stored) -> None:
        """Raise unless what the library has just complained of is harmless."""
        verdict = last_complaint(self._library, self._handle)
        broken = verdict.broken
        if not has_warned(self._library, self._handle):  # it failed, whatever was said last
            broken = broken or verdict.warning
        elif not broken:
            header = read_header(stored.data)
            # There may be more to complain of than what was said last.
            broken = Checker().check(stored.data, header).broken if header else "no JPEG header"
        if broken:
            self._refuse(sample, broken)

    def _refuse(self, sample: int, broken: str) -> NoReturn:
        remedy = "see fastft inspect --verify"
        raise DataError(self._name(sample), broken, "a whole JPEG", remedy)

    def _name(self, sample: int) -> str:
        return f"{self._source.path}: {self._source.name(sample)}"
