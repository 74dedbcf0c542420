"""Vector loops in LLVM's language, as in `vectors`: pixels from between others.

Several pixels are computed at once, of each its three channels and the byte behind them.
"""

from __future__ import annotations

from typing import Any

from llvmlite import ir
from numba.core import cgutils

from pipelines.kernels.vectors import AT_ONCE, vectorized

#: Bits behind the point of a place, px; of them, those that weights are made of.
PLACE_BITS, _WEIGHT_BITS = 32, 24
_LANES = 4

_BYTE, _INT32, _FLOAT, _ADDRESS = ir.IntType(8), ir.IntType(32), ir.FloatType(), ir.IntType(64)
_function: Any = cgutils.get_or_insert_function
_Vector: Any = ir.VectorType
_Constant: Any = ir.Constant


@vectorized
def sample_line(
    code: Any,
    source: Any,
    pitch: Any,
    x: Any,
    y: Any,
    right: Any,
    down: Any,
    count: Any,
    target: Any,
) -> None:
    """Blend four neighbouring pixels to one, for some pixels of a line.

    Args:
        code: what the instructions are written to.
        source: address of an image's pixel (0, 0), RGB.
        pitch: bytes between its lines.
        x, y: where the first pixel lies, in units of 2**-PLACE_BITS px; all four neighbours of all
            pixels are there, and a byte behind them.
        right, down: from one pixel to the next, likewise.
        count: how many pixels.
        target: address of the first one; up to AT_ONCE bytes behind the last are written, too.
    """
    _sample(code, source, pitch, (x, y), (right, down), count, target, across=True)


@vectorized
def sample_columns(
    code: Any,
    source: Any,
    pitch: Any,
    x: Any,
    y: Any,
    right: Any,
    down: Any,
    count: Any,
    target: Any,
) -> None:
    """The same for places on whole columns: two pixels are blended, one below the other."""
    _sample(code, source, pitch, (x, y), (right, down), count, target, across=False)


def _sample(
    code: Any,
    source: Any,
    pitch: Any,
    start: tuple[Any, Any],
    step: tuple[Any, Any],
    count: Any,
    target: Any,
    *,
    across: bool,
) -> None:
    """Whole groups of AT_ONCE pixels, then what is left one by one."""
    builder = code.builder
    groups = builder.udiv(count, _Constant(_ADDRESS, AT_ONCE))
    done = builder.mul(groups, _Constant(_ADDRESS, AT_ONCE))

    def blend(first: Any, pixels: int) -> None:
        """Blend some pixels from the one that is numbered `first` on."""
        places = [
            [
                builder.add(begin, builder.mul(by, builder.add(first, _Constant(_ADDRESS, at))))
                for at in range(pixels)
            ]
            for begin, by in zip(start, step, strict=True)
        ]
        bits = _Constant(_ADDRESS, PLACE_BITS)
        corners = [
            code.at(
                builder.add(source, builder.mul(builder.ashr(y, bits), pitch)),
                builder.ashr(x, bits),
                3,
            )
            for x, y in zip(*places, strict=True)
        ]
        below = [builder.add(corner, pitch) for corner in corners]
        lines = []
        for corners_ in (corners, below):
            levels = _load(code, corners_)
            if across:
                beside = _load(code, [code.at(corner, 3) for corner in corners_])
                levels = _mix(code, levels, beside, _weights(code, places[0]))
            lines.append(levels)
        upper, lower = lines
        levels = _round(code, _mix(code, upper, lower, _weights(code, places[1])))
        rgb = [_LANES * pixel + channel for pixel in range(pixels) for channel in range(3)]
        rgb += [0] * pixels  # which the next ones overwrite
        code.store(code.pick(levels, levels, rgb), code.at(target, first, 3))

    with cgutils.for_range(builder, groups) as group:
        blend(builder.mul(group.index, _Constant(_ADDRESS, AT_ONCE)), AT_ONCE)
    with cgutils.for_range(builder, builder.sub(count, done)) as rest:
        blend(builder.add(done, rest.index), 1)


def _weights(code: Any, places: list[Any]) -> Any:
    """The parts of places behind the point, each for all channels of a pixel."""
    builder = code.builder
    shift = _Constant(_ADDRESS, PLACE_BITS - _WEIGHT_BITS)
    mask = _Constant(_ADDRESS, (1 << _WEIGHT_BITS) - 1)
    parts = []
    for place in places:
        part = builder.trunc(builder.and_(builder.lshr(place, shift), mask), _INT32)
        parts.append(code.splat(part, _LANES))
    whole = code.join(parts)
    floats = _Vector(_FLOAT, whole.type.count)
    step = _Constant(floats, [2.0**-_WEIGHT_BITS] * floats.count)
    return builder.fmul(builder.sitofp(whole, floats), step)


def _load(code: Any, addresses: list[Any]) -> Any:
    """The levels of pixels as floats."""
    builder = code.builder
    bytes_ = code.join([code.load(address, _Vector(_BYTE, _LANES)) for address in addresses])
    words, floats = (_Vector(kind, bytes_.type.count) for kind in (_INT32, _FLOAT))
    return builder.sitofp(builder.zext(bytes_, words), floats)


def _mix(code: Any, one: Any, other: Any, weight: Any) -> Any:
    builder = code.builder
    return builder.fadd(one, builder.fmul(builder.fsub(other, one), weight))


def _round(code: Any, levels: Any) -> Any:
    """uint8 of the nearest levels, halves to even."""
    builder, count = code.builder, levels.type.count
    function = _function(
        builder.module,
        ir.FunctionType(levels.type, [levels.type]),
        f"llvm.nearbyint.v{count}f32",
    )
    words = builder.fptosi(builder.call(function, [levels]), _Vector(_INT32, count))
    return builder.trunc(words, _Vector(_BYTE, count))
