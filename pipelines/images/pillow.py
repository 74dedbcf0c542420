"""Reads images by Pillow: which formats, how large, and who hears its complaints.

Every image that this project reads by Pillow goes through `open_image`. Pillow's own limit on
pixels, its warnings and libtiff's lines on standard error belong to the process, which may be
somebody else's: here the limit is the caller's, and what is said in his thread goes to him.
"""

from __future__ import annotations

import ctypes
import io
import logging
import platform
import struct
import threading
import warnings
import zlib
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from typing import Any, BinaryIO

import numpy as np
from PIL import Image, PngImagePlugin, UnidentifiedImageError, _imaging

from pipelines.images.limits import MOST_PIXELS

#: Pillow's names of what `folder.IMAGE_SUFFIXES` are. Of the others that it reads some are programs
#: (EPS, which it hands to Ghostscript), and most have been read by few.
IMAGE_FORMATS = ("JPEG", "PNG", "BMP", "GIF", "WEBP", "TIFF", "PPM", "AVIF")
_PNG = b"\x89PNG\r\n\x1a\n"
#: PNG's chunks of metadata that Pillow inflates: what they hold, and where the deflated bytes are.
_TEXTS = (b"tEXt", b"zTXt", b"iTXt", b"iCCP")
#: Warnings of nothing that is wrong with an image: its size, which is checked here, and a
#: transparency that `convert("RGB")` leaves out.
_NO_REMARKS = ("Image size (", "Palette images with Transparency")
#: A damaged file may complain of each of its lines.
_MOST_REMARKS = 3
#: Where C's `va_list` is handed over as a pointer.
_MACHINES = ("x86_64", "AMD64", "aarch64", "arm64")
_local = threading.local()
_lock = threading.Lock()
#: The handler that libtiff calls, which must live as long as the process; one at most.
_libtiff: list[Any] = []


class TooManyPixels(ValueError):
    """An image that says it is larger than the caller takes."""


@contextmanager
def open_image(
    source: bytes | memoryview | BinaryIO,
    formats: Sequence[str] = IMAGE_FORMATS,
    *,
    max_pixels: int = MOST_PIXELS,
    remarks: list[str] | None = None,
) -> Iterator[Image.Image]:
    """Open an image as `Image.open` does; nothing is decoded before the caller does it.

    Nothing said of it in this thread within the block is printed. Of a PNG's texts and profiles
    those are left out for which Pillow would refuse it.

    Args:
        source: the bytes, or a file to read from its beginning.
        formats: Pillow's names of those that are taken.
        max_pixels: how many the image may say that it has.
        remarks: takes what Pillow and libtiff remark on, up to three lines.

    Raises:
        UnidentifiedImageError: it is of no such format; empty if its first bytes are of none.
        TooManyPixels: it says that it is larger.
        Exception: whatever a damaged file makes Pillow raise.
    """
    with _hearing([] if remarks is None else remarks):
        try:
            image = _identify(source, formats)
        except ValueError:
            if isinstance(source, bytes | memoryview):
                raise
            source.seek(0)
            image = _identify(source.read(), formats)
        with image:
            if image.width * image.height > max_pixels:
                raise TooManyPixels(too_large(image.width, image.height, max_pixels))
            yield image


def too_large(width: int, height: int, max_pixels: int) -> str:
    """The reason why an image of more than `max_pixels` is not decoded, and what admits it."""
    pixels = width * height
    remedy = f"{MOST_PIXELS:,} are the most that can be admitted"
    if pixels <= MOST_PIXELS:
        remedy = f"fastft convert --max-pixels {pixels} admits it"
    return f"{width} x {height} px is more than {max_pixels:,} pixels ({remedy})"


def admit_large_images() -> None:
    """Let Pillow handle what `open_image` admits, in a process that is this program's alone.

    Its check looks at crops, too, and where the image is large warns or refuses.
    """
    Image.MAX_IMAGE_PIXELS = MOST_PIXELS


def crop(image: Image.Image, left: int, top: int, width: int, height: int) -> Image.Image:
    """A part within an image; also one that `Image.crop` would warn of or refuse as too large."""
    if width * height <= (Image.MAX_IMAGE_PIXELS or MOST_PIXELS):
        return image.crop((left, top, left + width, top + height))
    return Image.fromarray(np.asarray(image)[top : top + height, left : left + width])


def _identify(source: bytes | memoryview | BinaryIO, formats: Sequence[str]) -> Image.Image:
    """`Image.open`, but for its check of the size, which goes by a global limit."""
    if isinstance(source, bytes):
        source = _without_refused_texts(source)
    file = io.BytesIO(source) if isinstance(source, bytes | memoryview) else source
    file.seek(0)
    start = file.read(16)
    why = ""
    for name in formats:
        if name not in Image.OPEN:
            Image.init()
        factory, accept = Image.OPEN.get(name, (None, None))
        accepted = factory is not None and (accept is None or accept(start))
        if isinstance(accepted, str):  # it would be read if Pillow had been built for it
            why = accepted
        elif accepted and factory is not None:
            if name == "TIFF":
                _hear_libtiff()
            file.seek(0)
            try:
                return factory(file, "")
            except (SyntaxError, IndexError, TypeError, struct.error) as error:
                why = f"damaged {name} ({error})"
    raise UnidentifiedImageError(why)


def _without_refused_texts(data: bytes) -> bytes:
    """A PNG without the texts and profiles that are too large for Pillow; other data as they are.

    Source: PNG, third edition, 5.3 (chunks), 11.3.3 (texts); `PngImagePlugin.PngStream`.
    """
    if not data.startswith(_PNG):
        return data
    parts, kept_from, room = [], 0, PngImagePlugin.MAX_TEXT_MEMORY
    at = len(_PNG)
    while at + 12 <= len(data):
        end = at + 12 + int.from_bytes(data[at : at + 4], "big")
        kind = data[at + 4 : at + 8]
        if end > len(data) or kind == b"IEND":
            break
        if kind in _TEXTS:
            # A text that is left out takes of the room, too: else inflating them might have no end.
            size = _text_bytes(kind, data[at + 8 : end - 4]) if room > 0 else 1
            room -= size or PngImagePlugin.MAX_TEXT_CHUNK
            if not size or room < 0:
                parts.append(data[kept_from:at])
                kept_from = end
        at = end
    return b"".join((*parts, data[kept_from:])) if parts else data


def _text_bytes(kind: bytes, content: bytes) -> int:
    """The inflated length of a text or profile; 0 if longer than Pillow takes."""
    _, _, packed = content.partition(b"\0")  # a keyword or a name
    if kind == b"iTXt":
        packs, packed = packed[:1] == b"\1", packed[2:].split(b"\0", 2)[-1]
        if not packs:
            return len(content)
    elif kind == b"tEXt":
        return len(content)
    else:
        packed = packed[1:]
    inflater = zlib.decompressobj()
    try:
        size = len(inflater.decompress(packed, PngImagePlugin.MAX_TEXT_CHUNK))
    except zlib.error:  # of which Pillow takes no more notice than this
        return len(content)
    return 0 if inflater.unconsumed_tail else size + len(content)


@contextmanager
def _hearing(remarks: list[str]) -> Iterator[None]:
    """Let `remarks` have what Pillow and libtiff say in this thread.

    Python's filters of warnings belong to all threads, and `catch_warnings` may put back old ones
    under another thread's feet; a filter of ours that matches in this thread alone disturbs nobody.
    """
    if warnings.filters[:2] != _FILTERS:  # somebody has put others before them
        warnings.filters[:0] = _FILTERS  # type: ignore[index]
    if not _LOG.handlers:  # else Python prints what nobody has a handler for
        _LOG.addHandler(logging.NullHandler())
    before = getattr(_local, "remarks", None)
    _local.remarks = remarks
    try:
        yield
    finally:
        _local.remarks = before


def _hear(text: str) -> bool:
    """Whether what is said in this thread is said to `open_image`, which then has it."""
    remarks: list[str] | None = getattr(_local, "remarks", None)
    if remarks is None:
        return False
    line = " ".join(text.split())
    if len(remarks) < _MOST_REMARKS and line not in remarks and not line.startswith(_NO_REMARKS):
        remarks.append(line)
    return True


class _Heard:
    """Stands for a pattern in a filter of warnings."""

    match = staticmethod(_hear)


_LOG = logging.getLogger("PIL")
_FILTERS: list[Any] = [
    ("ignore", _Heard(), kind, None, 0) for kind in (UserWarning, RuntimeWarning)
]


def _hear_libtiff() -> None:
    """Have libtiff's errors brought to `_hear` instead of standard error.

    Pillow has turned its warnings off. What other threads provoke goes where it went before.
    """
    with _lock:
        if _libtiff:
            return
        _libtiff.append(None)
        if platform.machine() not in _MACHINES:
            return
        with suppress(OSError, AttributeError):  # a Pillow without libtiff, or built into it
            _libtiff.append(_make_handler(ctypes.CDLL(_imaging.__file__)))


def _make_handler(library: Any) -> Any:
    """Set a handler of libtiff's errors; it must be kept.

    Source: TIFFError(3tiff): `void handler(const char *module, const char *format, va_list)`.
    """
    handler = ctypes.CFUNCTYPE(None, ctypes.c_char_p, ctypes.c_char_p, ctypes.c_void_p)
    write = ctypes.CDLL(None).vsnprintf
    write.argtypes = [ctypes.c_char_p, ctypes.c_size_t, ctypes.c_char_p, ctypes.c_void_p]
    set_handler = library.TIFFSetErrorHandler
    set_handler.argtypes, set_handler.restype = [handler], handler
    before: list[Any] = []

    def say(module: bytes | None, form: bytes, values: int) -> None:
        if getattr(_local, "remarks", None) is None:
            if before and before[0]:
                before[0](module, form, values)
            return
        line = ctypes.create_string_buffer(300)
        write(line, len(line), form, values)
        where = (module or b"libtiff").decode(errors="replace")
        _hear(f"{where}: {line.value.decode(errors='replace')}")

    made = handler(say)
    before.append(set_handler(made))
    return made
