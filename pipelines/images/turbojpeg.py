"""libjpeg-turbo by its TurboJPEG interface: one decompressor an image, and all that it says of it.

A decompressor keeps the Huffman and quantization tables of the image before, and a JPEG that has
none is then decoded by another's. Each image has one of its own here, which takes 1 us.

Of its warnings TurboJPEG keeps the first alone. `hear` listens to libjpeg itself and gives all of
them, in order.
"""

from __future__ import annotations

import ctypes
import functools
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import numpy as np

from pipelines.images.jpeg import JpegHeader

#: The library that `load_turbojpeg` loads.
TURBOJPEG = "libturbojpeg.so.0"
#: Give up on a progressive image of more than 500 scans: each may cost as much as decoding all of
#: another one, and takes a hundred bytes.
LIMIT_SCANS = 32768
#: TJPF_RGB, TJPF_CMYK.
RGB, CMYK = 0, 11
_WARNING = 0  # TJERR_WARNING

# The heads of libjpeg's structures, which are alike in all its versions since 6b (1998).
# Source: jpeglib.h and jerror.h of libjpeg-turbo 2.1.
_POINTER = ctypes.sizeof(ctypes.c_void_p)
_CINFO_SRC = 40  # of jpeg_decompress_struct: err, mem, progress, client_data, two ints, src
_EMIT_MESSAGE, _FORMAT_MESSAGE = _POINTER, 3 * _POINTER  # of jpeg_error_mgr
_MESSAGE_BYTES = 200  # JMSG_LENGTH_MAX
#: TurboJPEG's own structure begins with a compressor and a decompressor, then has what hears of
#: errors; all of it takes less than this.
_INSTANCE_BYTES = 2048
#: More warnings than a whole image of the largest size has lines of blocks: the rest is not heard.
_MOST_WARNINGS = 1 << 14
_EMIT = ctypes.CFUNCTYPE(None, ctypes.c_void_p, ctypes.c_int)
_FORMAT = ctypes.CFUNCTYPE(None, ctypes.c_void_p, ctypes.c_void_p)


@dataclass(frozen=True, slots=True)
class Warned:
    """One warning of libjpeg's.

    Attributes:
        text: its words.
        at: how far into the data the decoder had read by then, bytes.
    """

    text: str
    at: int


@dataclass(frozen=True, slots=True)
class Heard:
    """All that libjpeg said of an image.

    Attributes:
        warnings: in order.
        error: why it gave up; '' if it came to the end.
    """

    warnings: tuple[Warned, ...]
    error: str


@contextmanager
def decompressor(library: Any) -> Iterator[Any]:
    """A decompressor for one image.

    Raises:
        MemoryError: there is no room for it.
    """
    handle = library.tjInitDecompress()
    if not handle:
        raise MemoryError("tjInitDecompress")
    try:
        yield handle
    finally:
        library.tjDestroy(handle)


def complaint(library: Any, handle: Any) -> str:
    """The last words of a decompressor."""
    text: bytes = library.tjGetErrorStr2(handle)
    return text.decode(errors="replace")


def has_warned(library: Any, handle: Any) -> bool:
    """Whether a decompressor's last complaint was of an image that it decoded to the end."""
    return bool(library.tjGetErrorCode(handle) == _WARNING)


def decode_eighth(library: Any, handle: Any, data: bytes, header: JpegHeader, target: Any) -> int:
    """Decode an image at 1/8 of its size: every code word is read, and most of the rest saved.

    Args:
        library: TurboJPEG.
        handle: a decompressor.
        data: the JPEG.
        header: of it.
        target: uint8[eighth_bytes(header) or more].

    Returns:
        TurboJPEG's status: 0 if there is nothing to complain of.
    """
    status: int = library.tjDecompress2(
        handle,
        data,
        len(data),
        target.ctypes.data,
        -(-header.width // 8),
        0,
        -(-header.height // 8),
        CMYK if header.components == 4 else RGB,
        LIMIT_SCANS,
    )
    return status


def eighth_bytes(header: JpegHeader) -> int:
    """The bytes that an image takes at 1/8 of its size."""
    return -(-header.width // 8) * -(-header.height // 8) * max(3, header.components)


def hear(library: Any, data: bytes, header: JpegHeader) -> Heard | None:
    """All warnings of an image, for the few that have any: 0.1 ms beside decoding it.

    Returns:
        None where this TurboJPEG's structures are not those that are known here.

    Raises:
        MemoryError: there is no room for a decompressor.
    """
    # One that also transforms has two parts that point to its handler of errors, which tells a
    # known structure from others.
    handle = library.tjInitTransform()
    if not handle:
        raise MemoryError("tjInitTransform")
    try:
        manager = _find_manager(handle)
        if manager is None:
            return None
        start = ctypes.cast(ctypes.c_char_p(data), ctypes.c_void_p).value or 0
        warnings: list[Warned] = []
        before = _read_pointer(manager + _EMIT_MESSAGE)
        words = ctypes.create_string_buffer(_MESSAGE_BYTES + 1)
        format_message = _FORMAT(_read_pointer(manager + _FORMAT_MESSAGE))

        def emit(image: int, level: int) -> None:
            if level >= 0:  # what a debugger might want to know
                return
            format_message(image, ctypes.addressof(words))
            at = _read_pointer(_read_pointer(image + _CINFO_SRC)) - start
            warnings.append(Warned(words.value.decode(errors="replace"), at))
            if len(warnings) == _MOST_WARNINGS:
                warnings.append(Warned(f"more than {_MOST_WARNINGS:,} warnings", at))
                emit_message.value = before

        listener = _EMIT(emit)
        emit_message = ctypes.c_void_p.from_address(manager + _EMIT_MESSAGE)
        emit_message.value = ctypes.cast(listener, ctypes.c_void_p).value
        room = np.empty(eighth_bytes(header), np.uint8)
        status = decode_eighth(library, handle, data, header, room)
        failed = status != 0 and not has_warned(library, handle)
        return Heard(tuple(warnings), complaint(library, handle) if failed else "")
    finally:
        library.tjDestroy(handle)


def _find_manager(handle: int) -> int | None:
    """The address of the `jpeg_error_mgr` in a TurboJPEG instance; None if it is not to be found.

    Its first part begins with a pointer to it, which lies behind the second, which does, too.
    """
    manager = _read_pointer(handle)
    if not handle < manager < handle + _INSTANCE_BYTES or manager % _POINTER:
        return None
    between = range(handle + _POINTER, manager, _POINTER)
    return manager if any(_read_pointer(at) == manager for at in between) else None


def _read_pointer(address: int) -> int:
    return ctypes.c_void_p.from_address(address).value or 0


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
        "tjInitTransform": (pointer, []),
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
