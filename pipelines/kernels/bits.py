"""Bits and bytes at an address, in LLVM's language: what numba has no words for.

An address is an integer; nothing is checked here.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from llvmlite import ir
from numba import types
from numba.core import cgutils
from numba.extending import intrinsic

_BYTE, _SHORT, _INT, _WORD = (ir.IntType(bits) for bits in (8, 16, 32, 64))
_POINTER = _BYTE.as_pointer()
_Constant: Any = ir.Constant
_function: Any = cgutils.get_or_insert_function
_compiled: Any = intrinsic  # whose annotations hide what numba adds to the arguments


def _words(result: Any, count: int, generate: Callable[..., Any]) -> Any:
    """A signature and instructions, for `intrinsic`, of a function of so many words.

    Args:
        result: numba's type of what it returns.
        count: its arguments, as int64.
        generate: called with the builder and the arguments.
    """

    def instructions(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        given = zip(arguments, signature.args, strict=True)
        values = [context.cast(builder, each, type_, types.int64) for each, type_ in given]
        made = generate(builder, *values)
        return context.get_dummy_value() if result is types.void else made

    return result(*[types.int64] * count), instructions


@_compiled
def load_bits(typing_context, address):  # type: ignore[no-untyped-def]
    """uint64: eight bytes, the first of which is the highest."""

    def generate(builder: Any, address: Any) -> Any:
        word = builder.load(builder.inttoptr(address, _WORD.as_pointer()), align=1)
        return builder.bswap(word)

    return _words(types.uint64, 1, generate)


@_compiled
def load_int(typing_context, address, index):  # type: ignore[no-untyped-def]
    """int64: an element of an int32[...] that begins at an address.

    Views of arrays are counted, which takes longer than a block of a JPEG.
    """

    def generate(builder: Any, address: Any, index: Any) -> Any:
        first = builder.inttoptr(address, _INT.as_pointer())
        return builder.sext(builder.load(builder.gep(first, [index])), _WORD)

    return _words(types.int64, 2, generate)


@_compiled
def load_word(typing_context, address, index):  # type: ignore[no-untyped-def]
    """int64: an element of an int64[...] that begins at an address."""

    def generate(builder: Any, address: Any, index: Any) -> Any:
        first = builder.inttoptr(address, _WORD.as_pointer())
        return builder.load(builder.gep(first, [index]))

    return _words(types.int64, 2, generate)


@_compiled
def store_word(typing_context, address, index, word):  # type: ignore[no-untyped-def]
    """Write an element of an int64[...] that begins at an address."""

    def generate(builder: Any, address: Any, index: Any, word: Any) -> None:
        first = builder.inttoptr(address, _WORD.as_pointer())
        builder.store(word, builder.gep(first, [index]))

    return _words(types.void, 3, generate)


@_compiled
def store_short(typing_context, address, index, word):  # type: ignore[no-untyped-def]
    """Write the lower 16 bits of a word to an element of an int16[...] at an address."""

    def generate(builder: Any, address: Any, index: Any, word: Any) -> None:
        first = builder.inttoptr(address, _SHORT.as_pointer())
        builder.store(builder.trunc(word, _SHORT), builder.gep(first, [index]))

    return _words(types.void, 3, generate)


@_compiled
def store_bits(typing_context, address, word):  # type: ignore[no-untyped-def]
    """Write eight bytes, the highest first."""

    def generate(builder: Any, address: Any, word: Any) -> None:
        pointer = builder.inttoptr(address, _WORD.as_pointer())
        builder.store(builder.bswap(word), pointer, align=1)

    return _words(types.void, 2, generate)


@_compiled
def find_byte(typing_context, address, byte, count):  # type: ignore[no-untyped-def]
    """The first of `count` bytes that is `byte`, as an address; 0 if none is."""

    def generate(builder: Any, address: Any, byte: Any, count: Any) -> Any:
        type_ = ir.FunctionType(_POINTER, [_POINTER, _INT, _WORD])
        arguments = [builder.inttoptr(address, _POINTER), builder.trunc(byte, _INT), count]
        return builder.ptrtoint(
            builder.call(_function(builder.module, type_, "memchr"), arguments), _WORD
        )

    return _words(types.int64, 3, generate)


@_compiled
def copy_bytes(typing_context, target, source, count):  # type: ignore[no-untyped-def]
    """Copy `count` bytes to an address from another that does not overlap."""

    def generate(builder: Any, target: Any, source: Any, count: Any) -> None:
        type_ = ir.FunctionType(_POINTER, [_POINTER, _POINTER, _WORD])
        pointers = [builder.inttoptr(each, _POINTER) for each in (target, source)]
        builder.call(_function(builder.module, type_, "memcpy"), [*pointers, count])

    return _words(types.void, 3, generate)
