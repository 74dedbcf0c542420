"""The pass across: a line of source pixels to a line of output pixels, in vectors.

Each output pixel is a weighted sum of neighbouring source pixels, by weights of 22 bits. No
processor multiplies so wide numbers fast; so weights are split, and each part has a sum of its own:
two of 16 bits, or three of 8 where the processor sums four products of bytes in one go. The sums
are exact, so the parts make no difference to a pixel.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from llvmlite import ir
from numba.core import cgutils

from pipelines.kernels.compiled import inner
from pipelines.kernels.vectors import AT_ONCE, FEATURES, HALF, vectorized

#: Source pixels of one load.
TAPS = 4
#: Whether the processor sums four products of bytes in one go.
SUMS_BYTES = AT_ONCE == 4 and bool(FEATURES.get("avx512vnni"))
#: How many parts a weight has, and how many of its bits the lower ones.
_PARTS, _PART_BITS = (3, 8) if SUMS_BYTES else (2, 11)
#: Vectors of a block's weights: a part's holds four taps of 8 bits for each lane, or two of 16.
WEIGHT_ROWS = _PARTS if SUMS_BYTES else 2 * _PARTS
_BYTE_MASK, _HALF_BYTE = 0xFF, 0x80
_LOW_MASK, _HALF_WORD = (1 << _PART_BITS) - 1, (1 << 16) - 1

_BYTE, _INT16, _INT32, _ADDRESS = (ir.IntType(bits) for bits in (8, 16, 32, 64))
_function: Any = cgutils.get_or_insert_function
_repeat: Any = cgutils.for_range
_Vector: Any = ir.VectorType


@inner
def pack_weights(scratch, taps, left, columns):  # type: ignore[no-untyped-def]
    """Lay the columns' weights out for `across`: int32[groups, blocks, WEIGHT_ROWS, AT_ONCE, 4].

    A block is four taps of a group's columns. Its vectors hold the highest parts of the taps, those
    below, and so on; of 16 bits first those of the taps 0 and 1, then those of 2 and 3. They hold
    them for each channel alike.

    Args:
        scratch: its axis 1 is filled.
        taps: the most of any column.
        left, columns: the source pixels that the taps touch.

    Returns:
        How many blocks a group has.
    """
    first, count, weights = scratch.first[1], scratch.counts[1], scratch.weights[1]
    size, blocks = len(first), (taps + TAPS - 1) // TAPS
    room, stride = len(weights) // size, 4 * AT_ONCE
    for at in range(len(scratch.offsets)):
        pixel = min(at, size - 1)  # the last group is filled up
        # Every column loads whole blocks; where they would pass the end, they begin earlier.
        begin = max(min(first[pixel], left + columns - blocks * TAPS), left)
        scratch.offsets[at] = (begin - left) * 3
        lead = first[pixel] - begin
        for block in range(blocks):
            row = (at // AT_ONCE * blocks + block) * WEIGHT_ROWS
            entry = row * stride + at % AT_ONCE * 4
            given = weights, pixel * room, count[pixel], block * TAPS - lead
            if SUMS_BYTES:
                _pack_bytes(*given, scratch.packed, entry, stride)
            else:
                _pack_words(*given, scratch.packed, entry, stride)
    return blocks


@inner
def _pack_bytes(weights, begin, count, first, packed, entry, stride):  # type: ignore[no-untyped-def]
    """Write a block of one column's weights in parts of 8 bits.

    Args:
        weights: int32[...], of which the `count` from `begin` on are the column's.
        begin, count: see there.
        first: the block's first tap; those that are none have the weight 0.
        packed: where to.
        entry, stride: of the column's first number, and from one vector to the next.
    """
    high = middle = low = np.int64(0)
    for tap in range(TAPS):
        if 0 <= first + tap < count:  # parts are signed: each lower one is what is left
            weight = np.int64(weights[begin + first + tap])
            above = (weight + _HALF_BYTE) >> _PART_BITS
            low |= (weight & _BYTE_MASK) << 8 * tap
            middle |= (above & _BYTE_MASK) << 8 * tap
            high |= (((above + _HALF_BYTE) >> _PART_BITS) & _BYTE_MASK) << 8 * tap
    for channel in range(4):
        packed[entry + channel] = high
        packed[entry + stride + channel] = middle
        packed[entry + 2 * stride + channel] = low


@inner
def _pack_words(weights, begin, count, first, packed, entry, stride):  # type: ignore[no-untyped-def]
    """Write a block of one column's weights in parts of 16 bits, see `_pack_bytes`."""
    for pair in range(TAPS // 2):
        upper = lower = np.int64(0)
        for i in range(2):
            tap = first + 2 * pair + i
            if 0 <= tap < count:
                weight = np.int64(weights[begin + tap])
                upper |= ((weight >> _PART_BITS) & _HALF_WORD) << 16 * i
                lower |= (weight & _LOW_MASK) << 16 * i
        for channel in range(4):
            packed[entry + 2 * pair * stride + channel] = upper
            packed[entry + (2 * pair + 1) * stride + channel] = lower


@vectorized
def across(
    code: Any, source: Any, offsets: Any, packed: Any, blocks: Any, target: Any, cubic: Any
) -> None:
    """Resize one RGB line.

    Args:
        code: what the instructions are written to.
        source: address of the line.
        offsets: int64[groups * AT_ONCE], byte of each output pixel's first load.
        packed: int32[groups, blocks, WEIGHT_ROWS, AT_ONCE, 4] weights, flat; see `pack_weights`.
        blocks: loads of TAPS source pixels for an output pixel.
        target: address of the output line; up to AT_ONCE bytes behind it are written, too.
        cubic: 0 where no weight is negative.
    """
    for clips in code.either(cubic):
        _across(code, source, offsets, packed, blocks, target, clips)


def _across(
    code: Any, source: Any, offsets: Any, packed: Any, blocks: Any, target: Any, clips: bool
) -> None:
    builder = code.builder
    taken_of, sums = _Vector(_BYTE, 4 * TAPS), _Vector(_INT32, 4 * AT_ONCE)
    row_bytes = 4 * sums.count
    block_bytes = WEIGHT_ROWS * row_bytes
    with _repeat(builder, code.steps(offsets.length, AT_ONCE)) as group:
        offset_at = code.at(offsets.address, group.index, 8 * AT_ONCE)
        starts = [
            builder.add(source, code.load(code.at(offset_at, 8 * lane), _ADDRESS))
            for lane in range(AT_ONCE)
        ]
        parts = [code.accumulator(sums, 0) for _ in range(_PARTS - 1)]
        parts.append(code.accumulator(sums, HALF))
        first_block = code.at(packed.address, builder.mul(group.index, blocks), block_bytes)
        with _repeat(builder, blocks) as block:
            loads = [code.load(code.at(at, block.index, 3 * TAPS), taken_of) for at in starts]
            weights = code.at(first_block, block.index, block_bytes)
            add = _add_bytes if SUMS_BYTES else _add_words
            add(code, code.join(loads), weights, parts, sums)
        total = builder.load(parts[0])
        for part in parts[1:]:
            shifted = builder.shl(total, code.every(_PART_BITS, sums))
            total = builder.add(shifted, builder.load(part))
        narrow = code.to_bytes(total, clips)
        rgb = [4 * pixel + channel for pixel in range(AT_ONCE) for channel in range(3)]
        rgb += [0] * AT_ONCE  # which the next group overwrites
        code.store(code.pick(narrow, narrow, rgb), code.at(target, group.index, 3 * AT_ONCE))


def _add_bytes(code: Any, taken: Any, weights: Any, parts: list[Any], sums: Any) -> None:
    """Add a block's products, four of uint8 and int8 for each lane at once: vpdpbusd.

    Args:
        code: what the instructions are written to.
        taken: uint8[AT_ONCE * 4 * TAPS], TAPS pixels, and what follows them, for each output pixel.
        weights: address of the block's.
        parts: variables with the sums of each part.
        sums: their type.
    """
    builder = code.builder
    pixels = builder.bitcast(code.pick(taken, taken, _lanes_of_block()), sums)
    type_ = ir.FunctionType(sums, [sums] * 3)
    function = _function(builder.module, type_, "llvm.x86.avx512.vpdpbusd.512")
    for part, total in enumerate(parts):
        row = code.load(code.at(weights, part, 4 * sums.count), sums)
        builder.store(builder.call(function, [builder.load(total), pixels, row]), total)


def _add_words(code: Any, taken: Any, weights: Any, parts: list[Any], sums: Any) -> None:
    """Add a block's products, two of int16 for each lane at once, see `_add_bytes`."""
    pairs, zero = _Vector(_INT16, 2 * sums.count), code.every(0, taken.type)
    for pair in range(TAPS // 2):
        both = code.pick(taken, zero, _lanes_of_pair(pair, taken.type.count))
        both = code.builder.bitcast(both, pairs)
        for part, total in enumerate(parts):
            row = code.load(code.at(weights, 2 * pair + part, 4 * sums.count), pairs)
            code.add_to(total, _sum_pairs(code, both, row))


def _sum_pairs(code: Any, pixels: Any, weights: Any) -> Any:
    """int32 sums of each two neighbouring products of int16: pmaddwd."""
    builder, sums = code.builder, _Vector(_INT32, pixels.type.count // 2)
    if AT_ONCE == 4:
        type_ = ir.FunctionType(sums, [pixels.type] * 2)
        name = "llvm.x86.avx512.pmaddw.d.512"
        return builder.call(_function(builder.module, type_, name), [pixels, weights])
    products = []
    for i in range(2):  # LLVM knows this pattern where the processor does
        own = range(i, pixels.type.count, 2)
        wide = [builder.sext(code.pick(v, v, own), sums) for v in (pixels, weights)]
        products.append(builder.mul(*wide))
    return builder.add(*products)


def _lanes_of_block() -> list[int]:
    """For each pixel and channel, the bytes of a load's taps."""
    return [
        4 * TAPS * pixel + 3 * tap + channel
        for pixel in range(AT_ONCE)
        for channel in (0, 1, 2, 2)  # the fourth is not used
        for tap in range(TAPS)
    ]


def _lanes_of_pair(pair: int, zero: int) -> list[int]:
    """For each pixel and channel, the bytes of two neighbouring taps, as 16-bit numbers.

    Args:
        pair: 0 or 1, of a load's.
        zero: a lane that holds 0.
    """
    lanes = []
    for pixel in range(AT_ONCE):
        for channel in (0, 1, 2, 2):  # the fourth is not used
            tap = 4 * TAPS * pixel + 6 * pair + channel
            lanes += [tap, zero, tap + 3, zero]
    return lanes
