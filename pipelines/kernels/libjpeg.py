"""libjpeg for compiled code: Pillow's own library, its structures, and calls that may fail.

Pillow's wheels bring libjpeg-turbo; a Pillow that was built elsewhere uses the system's. Taken is
the one that this process's Pillow is linked with. It is the reference's decoder: it cannot round,
smooth or complain in another way.

libjpeg leaves a failed call through a handler that must not return. Each call is therefore made by
a function that holds a place to come back to (`setjmp`). It is written in LLVM's language, as numba
knows no such thing. Nothing but that function's own frame is left behind.

Source: jpeglib.h of libjpeg-turbo, whose structures are alike in all versions with the interface of
libjpeg 6b (62), from 1.0 to 3.2; the library itself refuses structures of another size.
"""

from __future__ import annotations

import ctypes
import functools
import sys
from typing import Any

import numpy as np
from llvmlite import ir
from numba import types
from numba.core import cgutils
from numba.extending import intrinsic
from numpy.typing import NDArray
from PIL import _imaging

#: Functions that compiled code calls, in the order of `find_libjpeg`.
FUNCTIONS = (
    "jpeg_std_error",
    "jpeg_CreateDecompress",
    "jpeg_mem_src",
    "jpeg_read_header",
    "jpeg_start_decompress",
    "jpeg_crop_scanline",
    "jpeg_skip_scanlines",
    "jpeg_read_scanlines",
    "jpeg_finish_decompress",
    "jpeg_destroy_decompress",
)
(
    STD_ERROR,
    CREATE,
    MEM_SRC,
    READ_HEADER,
    START_DECOMPRESS,
    CROP,
    SKIP,
    READ,
    FINISH,
    DESTROY,
) = range(len(FUNCTIONS))

#: JPEG_LIB_VERSION and sizeof(struct jpeg_decompress_struct), 64-bit.
VERSION, CINFO_BYTES = 62, 632
#: A function of libraries with the interface of libjpeg 8, whose structures are longer.
_LATER_INTERFACE = "jpeg_core_output_dimensions"
# Words of a thread's state: whether a call has failed, somewhere to pass values by their address,
# the address of the scan whose MCUs `mcus` reads in libjpeg's stead (0: none), the place to come
# back to (jmp_buf: 200 bytes for glibc on x86-64, 312 on arm64), then libjpeg's jpeg_error_mgr (168
# bytes) and jpeg_decompress_struct.
FAILED, FIRST, SECOND, SCAN, BACK, MANAGER, CINFO = 0, 1, 2, 3, 8, 72, 104
STATE_WORDS = CINFO + 96
# Places in jpeg_decompress_struct, in words of 8 bytes, or of 4.
ERR_64, CLIENT_DATA_64, ENTROPY_64 = 0, 3, 74
#: Places in jpeg_entropy_decoder, which is where ENTROPY_64 leads.
START_PASS_64, DECODE_MCU_64 = 0, 1
#: The functions of one library lie no further apart, in bytes.
LIBRARY_BYTES = 1 << 26
WIDTH_32, HEIGHT_32, OUT_COLOR_SPACE_32, SCALE_NUM_32, SCALE_DENOM_32 = 12, 13, 16, 17, 18
#: Places in jpeg_error_mgr.
ERROR_EXIT_64, EMIT_MESSAGE_64, FORMAT_MESSAGE_64, WARNINGS_32 = 0, 1, 3, 32
#: JMSG_LENGTH_MAX, and a zero.
_MESSAGE_BYTES = 201
_FORMAT = ctypes.CFUNCTYPE(None, ctypes.c_void_p, ctypes.c_void_p)
_CLIENT_DATA_AT, _WARNINGS_AT = 8 * CLIENT_DATA_64, 4 * WARNINGS_32
#: JCS_RGB.
RGB = 2

_INT, _WORD, _BYTE = ir.IntType(32), ir.IntType(64), ir.IntType(8)
_Constant: Any = ir.Constant
_function: Any = cgutils.get_or_insert_function


def make_state() -> NDArray[np.int64]:
    """A thread's state, int64[STATE_WORDS]; the place to come back to is aligned as C wants it."""
    words = np.zeros(STATE_WORDS + 2, np.int64)
    return words[words.ctypes.data % 16 // 8 :][:STATE_WORDS]


def words_of(state: NDArray[np.int64]) -> str:
    """The words for the last thing that libjpeg said to a thread whose call has failed."""
    words = ctypes.create_string_buffer(_MESSAGE_BYTES)
    format_message = _FORMAT(int(state[MANAGER + FORMAT_MESSAGE_64]))
    format_message(int(state.ctypes.data) + 8 * CINFO, ctypes.addressof(words))
    return words.value.decode(errors="replace")


@functools.lru_cache(maxsize=1)
def find_libjpeg() -> NDArray[np.int64] | None:
    """Addresses of FUNCTIONS in the libjpeg that Pillow is linked with.

    Returns:
        int64[functions]; None if that is none of those whose structures are known here.
    """
    if sys.platform == "win32" or ctypes.sizeof(ctypes.c_void_p) != 8:
        return None
    pillow = ctypes.CDLL(_imaging.__file__)  # and all that it needs, but nobody else's libjpeg
    if hasattr(pillow, _LATER_INTERFACE):
        return None
    try:
        found = [ctypes.cast(getattr(pillow, name), ctypes.c_void_p) for name in FUNCTIONS]
    except AttributeError:  # built into Pillow, or without cropping (before libjpeg-turbo 1.5)
        return None
    return np.array([each.value for each in found], np.int64)


def _at(builder: Any, address: Any, bytes_: int, type_: Any) -> Any:
    """A pointer so many bytes behind an address."""
    where = builder.add(address, _Constant(_WORD, bytes_))
    return builder.inttoptr(where, type_.as_pointer())


def _define(module: Any, name: str, type_: Any) -> tuple[Any, Any]:
    """A function of this module and a builder for it, or None if it is there already."""
    existing = module.globals.get(name)
    if existing is not None:
        return existing, None
    function = ir.Function(module, type_, name)
    function.linkage = "internal"
    function.attributes.add("noinline")
    return function, ir.IRBuilder(function.append_basic_block())


def _guarded(module: Any) -> Any:
    """int64 guarded(function, state, first, second, third): calls it; state[FAILED] tells how."""
    type_ = ir.FunctionType(_WORD, [_WORD] * 5)
    function, builder = _define(module, "fastft_guarded", type_)
    if builder is None:
        return function
    target, state, *arguments = function.args
    setjmp = _function(module, ir.FunctionType(_INT, [_BYTE.as_pointer()]), "_setjmp")
    setjmp.attributes.add("returns_twice")
    again = builder.call(setjmp, [_at(builder, state, 8 * BACK, _BYTE)])
    with builder.if_then(builder.icmp_unsigned("!=", again, _Constant(_INT, 0))):
        builder.store(_Constant(_WORD, 1), _at(builder, state, 8 * FAILED, _WORD))
        builder.ret(_Constant(_WORD, 0))
    callee = builder.inttoptr(target, ir.FunctionType(_WORD, [_WORD] * 3).as_pointer())
    builder.ret(builder.call(callee, arguments))
    return function


def _leave(module: Any) -> Any:
    """error_exit: back to the guarded call."""
    function, builder = _define(module, "fastft_leave", ir.FunctionType(ir.VoidType(), [_WORD]))
    if builder is not None:
        state = builder.load(_at(builder, function.args[0], _CLIENT_DATA_AT, _WORD))
        longjmp = _function(
            module, ir.FunctionType(ir.VoidType(), [_BYTE.as_pointer(), _INT]), "longjmp"
        )
        builder.call(longjmp, [_at(builder, state, 8 * BACK, _BYTE), _Constant(_INT, 1)])
        builder.unreachable()
    return function


def define_called(context: Any, builder: Any, name: str, function: Any) -> Any:
    """A function for libjpeg to call, of two addresses, that returns a boolean; gives its address.

    Args:
        context, builder: of an intrinsic's instructions.
        name: of the function.
        function: compiled by `compiled.inner`; takes two int64, gives one, raises nothing.
    """
    type_ = ir.FunctionType(_INT, [_WORD, _WORD])
    called, own = _define(builder.module, name, type_)
    if own is not None:
        signature = types.int64(types.int64, types.int64)
        function.compile(signature.args)
        compiled = function.overloads[signature.args]
        context.active_code_library.add_linking_library(compiled.library)
        arguments = compiled.fndesc, compiled.signature, list(called.args)
        _, result = context.call_internal_no_propagate(own, *arguments)
        own.ret(own.trunc(result, _INT))
    return builder.ptrtoint(called, _WORD)


def _count_warning(module: Any) -> Any:
    """emit_message: counts warnings, and prints nothing."""
    type_ = ir.FunctionType(ir.VoidType(), [_WORD, _INT])
    function, builder = _define(module, "fastft_count_warning", type_)
    if builder is not None:
        image, level = function.args
        with builder.if_then(builder.icmp_signed("<", level, _Constant(_INT, 0))):
            manager = builder.load(_at(builder, image, 8 * ERR_64, _WORD))
            warnings = _at(builder, manager, _WARNINGS_AT, _INT)
            builder.store(builder.add(builder.load(warnings), _Constant(_INT, 1)), warnings)
        builder.ret_void()
    return function


_compiled: Any = intrinsic  # whose annotations hide what numba adds to the arguments


@_compiled
def call(  # type: ignore[no-untyped-def]
    typing_context, function, state, first, second, third
):
    """Call a function of libjpeg; state[FAILED] is 1 afterwards if it gave up.

    Args:
        typing_context: numba's.
        function: its address.
        state: address of the thread's state.
        first, second, third: its arguments, as int64; what it does not take is ignored.

    Returns:
        int64, of which the lower half counts if it returns an int.
    """

    def instructions(context, builder, signature, arguments):  # type: ignore[no-untyped-def]
        words = [
            context.cast(builder, each, type_, types.int64)
            for each, type_ in zip(arguments, signature.args, strict=True)
        ]
        return builder.call(_guarded(builder.module), words)

    return types.int64(function, state, first, second, third), instructions


@_compiled
def error_handlers(typing_context):  # type: ignore[no-untyped-def]
    """Addresses of what libjpeg is to call for an error, and for a warning."""

    def instructions(context, builder, signature, arguments):  # type: ignore[no-untyped-def]
        handlers = [_leave(builder.module), _count_warning(builder.module)]
        words = [builder.ptrtoint(each, _WORD) for each in handlers]
        return context.make_tuple(builder, signature.return_type, words)

    return types.UniTuple(types.int64, 2)(), instructions  # type: ignore[no-untyped-call]
