"""Vector loops of the numba kernel, in LLVM's language: numba has no vectors.

Times are of one photo, a crop of 300 x 300 px on average from 470 x 400, to 224 px, on one core
at 2.6 GHz with AVX-512. An address is an integer; nothing is checked here, `cpu` says what is
touched.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterable, Iterator
from typing import Any, NamedTuple

import llvmlite.binding
from llvmlite import ir
from numba import types
from numba.core import cgutils
from numba.extending import intrinsic

#: Fractional bits of a weight, and what rounds a sum of products to the nearest.
BITS = 22
HALF = 1 << (BITS - 1)
FEATURES = llvmlite.binding.get_host_cpu_features()
#: Pixels that are computed at once: four, of four numbers each, are a register of AVX-512.
AT_ONCE = 4 if FEATURES.get("avx512bw") else 2
#: Bytes of a line that the pass down computes at once.
COLUMNS = 64
CACHE_LINE = 64
_LANES = 16

_FLOAT, _BYTE, _INT16, _INT32 = ir.FloatType(), ir.IntType(8), ir.IntType(16), ir.IntType(32)
_ADDRESS = ir.IntType(64)
_Vector: Any = ir.VectorType
_Constant: Any = ir.Constant
_variable: Any = cgutils.alloca_once_value
_repeat: Any = cgutils.for_range
_function: Any = cgutils.get_or_insert_function


class _Row(NamedTuple):
    """A one-dimensional array: where it begins, its length."""

    address: Any
    length: Any


def vectorized(generate: Callable[..., None]) -> Any:
    """A function for compiled code that returns nothing, whose instructions `generate` writes.

    It is given a _Code for the first argument, then a _Row for each array, a number for a number.
    """

    def typed(typing_context: Any, *arguments: Any) -> Any:
        def instructions(context: Any, builder: Any, signature: Any, values: Any) -> Any:
            code = _Code(context, builder)
            generate(code, *map(code.argument, signature.args, values))
            return context.get_dummy_value()

        return types.void(*arguments), instructions

    typed.__name__ = generate.__name__
    typed.__signature__ = inspect.signature(generate)  # type: ignore[attr-defined]
    return intrinsic(typed)


class _Code:
    """LLVM's builder, in the few words that are needed here."""

    def __init__(self, context: Any, builder: Any) -> None:
        self.context, self.builder = context, builder

    def argument(self, type_: Any, value: Any) -> Any:
        if not isinstance(type_, types.Array):
            return self.context.cast(self.builder, value, type_, types.intp)
        array = self.context.make_array(type_)(self.context, self.builder, value=value)
        length = self.builder.extract_value(array.shape, 0)
        return _Row(self.builder.ptrtoint(array.data, _ADDRESS), length)

    def either(self, condition: Any) -> Iterator[bool]:
        """Have what a loop over this writes twice: run where a number is not 0, and where it is."""
        is_met = self.builder.icmp_unsigned("!=", condition, _Constant(condition.type, 0))
        with self.builder.if_else(is_met) as branches:
            for branch, met in zip(branches, (True, False), strict=True):
                with branch:
                    yield met

    def at(self, address: Any, index: Any, stride: Any = 1) -> Any:
        index, stride = (
            _Constant(_ADDRESS, each) if isinstance(each, int) else each for each in (index, stride)
        )
        return self.builder.add(address, self.builder.mul(index, stride))

    def steps(self, length: Any, step: int) -> Any:
        """The number of steps that pass `length`."""
        return self.builder.udiv(self.at(length, step - 1), _Constant(_ADDRESS, step))

    def load(self, address: Any, type_: Any) -> Any:
        return self.builder.load(self.builder.inttoptr(address, type_.as_pointer()), align=1)

    def store(self, value: Any, address: Any, align: int = 1) -> Any:
        pointer = self.builder.inttoptr(address, value.type.as_pointer())
        return self.builder.store(value, pointer, align=align)

    def pick(self, one: Any, other: Any, lanes: Iterable[int]) -> Any:
        chosen = list(lanes)
        return self.builder.shuffle_vector(
            one, other, _Constant(_Vector(_INT32, len(chosen)), chosen)
        )

    def join(self, parts: list[Any]) -> Any:
        while len(parts) > 1:
            both = range(2 * parts[0].type.count)
            parts = [self.pick(a, b, both) for a, b in zip(parts[::2], parts[1::2], strict=True)]
        return parts[0]

    def splat(self, scalar: Any, lanes: int) -> Any:
        nothing = _Constant(_Vector(scalar.type, lanes), ir.Undefined)
        lone = self.builder.insert_element(nothing, scalar, _Constant(_INT32, 0))
        return self.pick(lone, nothing, [0] * lanes)

    def every(self, value: int, type_: Any) -> Any:
        return _Constant(type_, [value] * type_.count)

    def accumulator(self, type_: Any, start: int) -> Any:
        """A variable that begins with `start` whenever this place is reached."""
        variable = _variable(self.builder, self.every(0, type_))
        self.builder.store(self.every(start, type_), variable)
        return variable

    def add_to(self, variable: Any, value: Any) -> None:
        self.builder.store(self.builder.add(self.builder.load(variable), value), variable)

    def to_bytes(self, sums: Any, clips: bool) -> Any:
        """uint8 of sums that have begun with HALF, and may be out of range if they are clipped."""
        builder, type_ = self.builder, sums.type
        shift = builder.ashr if clips else builder.lshr
        shifted = shift(sums, self.every(BITS, type_))
        if clips:
            for sign, end in (("<", 255), (">", 0)):
                limit = self.every(end, type_)
                inside = builder.icmp_signed(sign, shifted, limit)
                shifted = builder.select(inside, shifted, limit)
        return builder.trunc(shifted, _Vector(_BYTE, type_.count))


@vectorized
def down(
    code: Any,
    source: Any,
    pitch: Any,
    weights: Any,
    at: Any,
    count: Any,
    width: Any,
    target: Any,
    cubic: Any,
) -> None:
    """Sum some lines, each with its weight, to one. Takes 24 us.

    Args:
        code: what the instructions are written to.
        source: address of the first line.
        pitch: bytes between lines.
        weights: int32[...], of which the `count` from `at` on are the lines'.
        at, count: see there.
        width: bytes of a line; up to COLUMNS behind it are read and written, too.
        target: uint8[width + COLUMNS or more].
        cubic: 0 where no weight is negative.
    """
    for clips in code.either(cubic):
        _down(code, source, pitch, code.at(weights.address, at, 4), count, width, target, clips)


def _down(
    code: _Code,
    source: Any,
    pitch: Any,
    first_weight: Any,
    count: Any,
    width: Any,
    target: _Row,
    clips: bool,
) -> None:
    builder = code.builder
    bytes_, sums = _Vector(_BYTE, _LANES), _Vector(_INT32, _LANES)
    with _repeat(builder, code.steps(width, COLUMNS)) as step:
        begin = code.at(source, step.index, COLUMNS)
        totals = [code.accumulator(sums, HALF) for _ in range(COLUMNS // _LANES)]
        with _repeat(builder, count) as tap:
            weight = code.splat(code.load(code.at(first_weight, tap.index, 4), _INT32), _LANES)
            line = code.at(begin, tap.index, pitch)
            for part, total in enumerate(totals):
                pixels = code.load(code.at(line, part, _LANES), bytes_)
                code.add_to(total, builder.mul(builder.zext(pixels, sums), weight))
        end = code.at(target.address, step.index, COLUMNS)
        for part, total in enumerate(totals):
            narrow = code.to_bytes(builder.load(total), clips)
            code.store(narrow, code.at(end, part, _LANES))


@vectorized
def finish(code: Any, line: Any, scale: Any, bias: Any, target: Any) -> None:
    """Write a line of a batch: pixel * scale + bias, rounded once, or pixels as they are.

    Goes past the cache where the target's address allows it, which spares reading what is about to
    be overwritten: 28 us instead of 57 for float32.

    Args:
        code: what the instructions are written to.
        line: uint8[S * 3 or more].
        scale, bias: float32[S * 3].
        target: uint8[S * 3 * (4, 2 or 1)], of float32, bfloat16 or uint8.
    """
    builder = code.builder
    for as_they_are in code.either(builder.icmp_unsigned("==", target.length, scale.length)):
        if as_they_are:
            _finish(code, line, scale, bias, target.address, 1)
            continue
        for short in code.either(
            builder.icmp_unsigned("==", target.length, code.at(scale.length, scale.length))
        ):
            _finish(code, line, scale, bias, target.address, 2 if short else 4)


def _finish(code: _Code, line: _Row, scale: _Row, bias: _Row, target: Any, bytes_: int) -> None:
    """Write values of so many bytes each."""
    builder, count = code.builder, scale.length
    aligned = builder.urem(target, _Constant(_ADDRESS, _LANES * bytes_))
    is_aligned = builder.icmp_unsigned("==", aligned, _Constant(_ADDRESS, 0))
    whole = builder.udiv(count, _Constant(_ADDRESS, _LANES))

    def write(index: Any, lanes: int, streaming: bool = False) -> None:
        value = code.load(code.at(line.address, index), _Vector(_BYTE, lanes))
        if bytes_ > 1:
            scales, biases = (
                code.load(code.at(each.address, index, 4), _Vector(_FLOAT, lanes))
                for each in (scale, bias)
            )
            value = _fused(builder, builder.uitofp(value, scales.type), scales, biases)
        if bytes_ == 2:
            value = _to_bfloat16(code, value)
        address = code.at(target, index, bytes_)
        stored = code.store(value, address, align=_LANES * bytes_ if streaming else 1)
        if streaming:
            once = builder.module.add_metadata([_Constant(_INT32, 1)])
            stored.set_metadata("nontemporal", once)

    with builder.if_else(is_aligned) as (past_cache, through_cache):
        for branch, streaming in ((past_cache, True), (through_cache, False)):
            with branch, _repeat(builder, whole) as step:
                write(builder.mul(step.index, _Constant(_ADDRESS, _LANES)), _LANES, streaming)
    done = builder.mul(whole, _Constant(_ADDRESS, _LANES))
    with _repeat(builder, builder.sub(count, done)) as rest:
        write(builder.add(done, rest.index), 1)


def _fused(builder: Any, factor: Any, scale: Any, bias: Any) -> Any:
    """Give factor * scale + bias, rounded once where the processor can."""
    type_ = factor.type
    name = f"llvm.fmuladd.v{type_.count}f32"
    function = _function(builder.module, ir.FunctionType(type_, [type_] * 3), name)
    return builder.call(function, [factor, scale, bias])


def _to_bfloat16(code: Any, floats: Any) -> Any:
    """The bits of the nearest bfloat16, halves to even; there is no NaN here."""
    builder, words = code.builder, _Vector(_INT32, floats.type.count)
    bits = builder.bitcast(floats, words)
    odd = builder.and_(builder.lshr(bits, code.every(16, words)), code.every(1, words))
    rounded = builder.add(builder.add(bits, odd), code.every(0x7FFF, words))
    upper = builder.lshr(rounded, code.every(16, words))
    return builder.trunc(upper, _Vector(_INT16, floats.type.count))


@vectorized
def prefetch(code: Any, address: Any, length: Any) -> None:
    """Ask for `length` bytes to be brought into the cache; any address will do."""
    byte = _BYTE.as_pointer()
    type_ = ir.FunctionType(ir.VoidType(), [byte, _INT32, _INT32, _INT32])
    function = _function(code.builder.module, type_, "llvm.prefetch.p0")
    read, keep, data = (_Constant(_INT32, number) for number in (0, 3, 1))
    with _repeat(code.builder, code.steps(length, CACHE_LINE)) as step:
        where = code.builder.inttoptr(code.at(address, step.index, CACHE_LINE), byte)
        code.builder.call(function, [where, read, keep, data])


@vectorized
def fence(code: Any) -> None:
    """Wait until all that went past the cache can be seen by other threads."""
    code.builder.fence("seq_cst")
