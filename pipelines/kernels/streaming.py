"""The kernel that decodes: a JPEG's bytes in, a row of a batch out, line by line.

Only the lines and columns are decoded that the crop's taps touch, with the margin that smooth
chroma upsampling needs. Each line is resized while it is in the cache. A thread's memory grows with
the crop's width, not with the image. Pixels are those of `cpu.render_rows` on the whole image, to
the bit.

B, S, K as in `cpu`. Lines count from the first that the taps touch.
"""

from __future__ import annotations

import numpy as np

from pipelines.kernels.across import across, pack_weights
from pipelines.kernels.bits import copy_bytes, load_word, store_word
from pipelines.kernels.compiled import entry, inner
from pipelines.kernels.cpu import (
    BESIDE,
    COLUMN_SLACK,
    READ_PAST,
    START,
    VECTOR,
    fill_taps,
    find_span,
)
from pipelines.kernels.libjpeg import (
    CINFO,
    CINFO_BYTES,
    CLIENT_DATA_64,
    CREATE,
    CROP,
    DECODE_MCU_64,
    DESTROY,
    EMIT_MESSAGE_64,
    ENTROPY_64,
    ERR_64,
    ERROR_EXIT_64,
    FAILED,
    FINISH,
    FIRST,
    HEIGHT_32,
    LIBRARY_BYTES,
    MANAGER,
    MEM_SRC,
    OUT_COLOR_SPACE_32,
    READ,
    READ_HEADER,
    RGB,
    SCALE_DENOM_32,
    SCALE_NUM_32,
    SCAN,
    SECOND,
    SKIP,
    START_DECOMPRESS,
    START_PASS_64,
    STD_ERROR,
    VERSION,
    WARNINGS_32,
    WIDTH_32,
    call,
    error_handlers,
)
from pipelines.kernels.mcus import is_sound, mcu_decoder, need
from pipelines.kernels.vectors import down, fence, finish

#: Results of a kernel: all is written and well; it is written, and libjpeg has warned; nothing of
#: use is written, as libjpeg gave up, or the image is of another size.
DONE, WARNED, GAVE_UP, OTHER_SIZE = range(4)
#: Columns left and right of the taps', as smooth chroma upsampling looks at one neighbour.
#: Source: libjpeg-turbo, jdsample.c (`h2v2_fancy_upsample`).
_MARGIN = 1
#: Columns that are decoded at least: fewer than three of chroma, each at most four times as wide,
#: are not upsampled smoothly. Source: jdsample.c, `jinit_upsampler`; jdapistd.c.
NARROWEST = 16


@entry
def render_jpeg(  # type: ignore[no-untyped-def]
    functions,
    state,
    data,
    sides,
    geometry,
    shrink,
    flip,
    down_first,
    whole,
    scale,
    bias,
    scratch,
    out,
):
    """Decode what a row of a plan shows of a JPEG; cut, resize, flip and normalize it.

    Args:
        functions: int64[functions], see `libjpeg.find_libjpeg`.
        state: int64[STATE_WORDS] of this thread; its SCAN is that of `mcus.begin_part` or
            `begin_whole`, or 0.
        data: uint8[...], the JPEG, or as much of it as those say.
        sides: height and width of the image as the plan knows it, px; geometry lies within.
        geometry: int32[2, 4], see `cpu.START`.
        shrink: 1, or 2, 4 or 8: the part of its size at which the image is decoded, by the inverse
            DCT; the geometry is in pixels of the whole size.
        flip: whether to mirror.
        down_first: see `cpu.render_rows`.
        whole: read the data to their end, to hear all that libjpeg has to say of them.
        scale, bias: float32[S * 3].
        scratch: a Scratch that fits, made for `streamed`.
        out: uint8[S, bytes of a line], see `cpu.render_rows`.

    Returns:
        DONE, WARNED, GAVE_UP or OTHER_SIZE.
    """
    vertical, horizontal = geometry
    fill_taps(vertical, shrink, False, scratch, 0)
    taps = fill_taps(horizontal, shrink, flip, scratch, 1)
    top, lines = find_span(scratch, 0)
    left, columns = find_span(scratch, 1)
    blocks = pack_weights(scratch, taps, left, columns)
    top += vertical[START] // shrink
    region = top, horizontal[START] // shrink + left, lines, columns
    result, begin, _ = _begin(functions, state, data, sides, shrink, region)
    sound = result == DONE and _resize(
        functions, state, begin, columns, blocks, down_first, scale, bias, scratch, out
    )
    fence()
    return _end(functions, state, sides, shrink, region, result, sound, whole, scratch.pixels)


@entry
def decode_region(  # type: ignore[no-untyped-def]
    functions, state, data, sides, shrink, region, whole, line, out, pitch
):
    """Decode some lines and columns of a JPEG.

    Args:
        functions, state, data, sides, shrink, whole: as in `render_jpeg`.
        region: top, left, height and width of what is wanted of the image at its shrunk size, px.
        line: uint8[`line_bytes` or more], scratch.
        out: uint8[...], the region's lines, and what lies between them, which is left as it is.
        pitch: bytes from one line to the next.

    Returns:
        DONE, WARNED, GAVE_UP or OTHER_SIZE.
    """
    result, begin, columns = _begin(functions, state, data, sides, shrink, region)
    height, width = region[2], region[3]
    sound, target = result == DONE, out.ctypes.data
    # Bytes beside the region must stay as they are, and the first and last columns that are decoded
    # are not the image's.
    apart, line_at = begin > 0 or columns != width, beside(line.ctypes.data)
    for row in range(height):
        at = line_at if apart else target + row * pitch
        sound = sound and _read(functions, state, at)
        if not sound:
            break
        if apart:
            copy_bytes(target + row * pitch, at + 3 * begin, 3 * width)
    return _end(functions, state, sides, shrink, region, result, sound, whole, line)


def line_bytes(columns: int) -> int:
    """Bytes that a line of so many pixels takes with what libjpeg decodes beside them."""
    return (columns + COLUMN_SLACK) * 3 + VECTOR + BESIDE


@inner
def beside(address):  # type: ignore[no-untyped-def]
    """The next address where a line may begin that is read as soon as it is decoded.

    A line that begins with a vector libjpeg writes past the cache, and whoever reads it waits for
    memory: crops of 300 px took 0.60 instead of 0.45 ms, those of 12.9 megapixels 22 instead of 17.
    Source: libjpeg-turbo, simd/x86_64/jdcolext-avx2.asm and -sse2.asm (`vmovntdq`, `movntdq`).
    """
    return (address + VECTOR - 1) // VECTOR * VECTOR + BESIDE


@inner
def _pitch_of(columns):  # type: ignore[no-untyped-def]
    """As `cpu.pitch_of`."""
    return ((columns + COLUMN_SLACK) * 3 + READ_PAST + VECTOR - 1) // VECTOR * VECTOR


@inner
def _call(functions, state, which, second, third):  # type: ignore[no-untyped-def]
    """Call a function of libjpeg on the thread's decompressor; whether it came back."""
    address = state.ctypes.data
    state[FAILED] = 0
    call(functions[which], address, address + 8 * CINFO, second, third)
    return state[FAILED] == 0


@inner
def _begin(  # type: ignore[no-untyped-def]
    functions, state, data, sides, shrink, region
):
    """Make a decompressor for one image, with no table of another one, and go to a region's lines.

    Args:
        functions, state, data, sides, shrink, region: as in `decode_region`.

    Returns:
        DONE, GAVE_UP or OTHER_SIZE; where the region's columns begin in a line that is then read,
        and how many it has, px.
    """
    address, words = state.ctypes.data, state.view(np.int32)
    state[FAILED] = 0
    call(functions[STD_ERROR], address, address + 8 * MANAGER, 0, 0)
    leave, count_warning = error_handlers()
    state[MANAGER + ERROR_EXIT_64] = leave
    state[MANAGER + EMIT_MESSAGE_64] = count_warning
    state[CINFO + ERR_64] = address + 8 * MANAGER
    state[CINFO + CLIENT_DATA_64] = address
    if (
        not _call(functions, state, CREATE, VERSION, CINFO_BYTES)
        or not _call(functions, state, MEM_SRC, data.ctypes.data, len(data))
        or not _call(functions, state, READ_HEADER, 1, 0)
    ):
        return GAVE_UP, 0, 0
    height, width = sides
    if words[2 * CINFO + HEIGHT_32] != height or words[2 * CINFO + WIDTH_32] != width:
        return OTHER_SIZE, 0, 0
    words[2 * CINFO + OUT_COLOR_SPACE_32] = RGB
    words[2 * CINFO + SCALE_NUM_32], words[2 * CINFO + SCALE_DENOM_32] = 1, shrink
    width = (width + shrink - 1) // shrink
    if not _call(functions, state, START_DECOMPRESS, 0, 0):
        return GAVE_UP, 0, 0
    top, left, _, columns = region
    low = max(min(left - _MARGIN, width - NARROWEST), 0)
    high = min(max(left + columns + _MARGIN, low + NARROWEST), width)
    state[FIRST], state[SECOND] = low, high - low  # read as 32 bits
    first, second = address + 8 * FIRST, address + 8 * SECOND
    if high - low < width and not _call(functions, state, CROP, first, second):
        return GAVE_UP, 0, 0
    low, high = state[FIRST], state[FIRST] + state[SECOND]
    if state[SCAN] and not _read_mcus(functions, state, low * shrink, high * shrink):
        return GAVE_UP, 0, 0
    if top and not _call(functions, state, SKIP, top, 0):
        return GAVE_UP, 0, 0
    return DONE, left - low, high - low


@inner
def _read_mcus(functions, state, low, high):  # type: ignore[no-untyped-def]
    """Have libjpeg's MCUs read by `mcus`; whether libjpeg is of the known kind.

    Args:
        functions, state: as in `decode_region`.
        low, high: the first column of pixels that is decoded, and the one behind the last.
    """
    decoder = state[CINFO + ENTROPY_64]
    for place in (START_PASS_64, DECODE_MCU_64):
        if abs(load_word(decoder, place) - functions[READ]) > LIBRARY_BYTES:
            return False
    need(state[SCAN], low, high)
    store_word(decoder, DECODE_MCU_64, mcu_decoder())
    return True


@inner
def _end(  # type: ignore[no-untyped-def]
    functions, state, sides, shrink, region, result, sound, whole, line
):
    """End a decompressor behind its last line.

    Args:
        functions, state, sides, shrink, region, whole: as in `decode_region`.
        result: of `_begin`.
        sound: whether all lines have been read.
        line: uint8[...], scratch for one.

    Returns:
        DONE, WARNED, GAVE_UP or OTHER_SIZE.
    """
    if sound and state[SCAN]:
        sound = is_sound(state[SCAN], whole)
    elif sound and whole:
        rest = (sides[0] + shrink - 1) // shrink - region[0] - region[2]
        # Lines that are skipped are read but for the last.
        sound = (
            (rest < 2 or _call(functions, state, SKIP, rest - 1, 0))
            and (rest < 1 or _read(functions, state, line.ctypes.data))
            and _call(functions, state, FINISH, 0, 0)
        )
    if sound:
        result = WARNED if state.view(np.int32)[2 * MANAGER + WARNINGS_32] else DONE
    elif result == DONE:
        result = GAVE_UP
    _call(functions, state, DESTROY, 0, 0)
    return result


@inner
def _read(functions, state, target):  # type: ignore[no-untyped-def]
    """Read the next line to an address; whether it was read."""
    address = state.ctypes.data
    state[FIRST], state[FAILED] = target, 0
    count = call(functions[READ], address, address + 8 * CINFO, address + 8 * FIRST, 1)
    return state[FAILED] == 0 and count & 0xFFFFFFFF == 1


@inner
def _resize(  # type: ignore[no-untyped-def]
    functions, state, begin, columns, blocks, down_first, scale, bias, scratch, out
):
    """Read the lines that the taps touch, and resize them.

    Each line is resized across as it comes, and as many are held as a row's taps touch, which are
    then summed down; or lines are held as they come, and what they are summed to is resized across.

    Args:
        functions, state: of libjpeg.
        begin, columns: where the columns begin in a line that is read, and how many they are.
        blocks: see `across.pack_weights`.
        down_first, scale, bias, scratch, out: as in `render_jpeg`.

    Returns:
        Whether nothing failed.
    """
    top, _ = find_span(scratch, 0)
    first, counts, weights = scratch.first[0], scratch.counts[0], scratch.weights[0]
    room, source, line = len(weights) // len(out), beside(scratch.pixels.ctypes.data), scratch.line
    if down_first:
        lines, pitch, shift = source, _pitch_of(columns), begin * 3
        held = (scratch.pixels.ctypes.data + len(scratch.pixels) - READ_PAST - source) // pitch
        summed, width = scratch.lines, columns * 3
    else:
        lines, pitch, shift = scratch.lines.ctypes.data, len(line), 0
        held = (len(scratch.lines) - READ_PAST) // pitch
        summed, width = line, len(scale)
    base = done = 0  # the first line that is held, and the next one to read
    for row in range(len(out)):
        need = first[row] - top
        while done < need + counts[row]:
            if done - base == held:
                base = _move(lines, pitch, base, min(need, done), done)
            target = lines + (done - base) * pitch
            if not _read(functions, state, target if down_first else source):
                return False
            if not down_first:
                at = source + begin * 3
                across(at, scratch.offsets, scratch.packed, blocks, target, scratch.cubic)
            done += 1
        at = lines + (need - base) * pitch + shift
        down(at, pitch, weights, row * room, counts[row], width, summed, scratch.cubic)
        if down_first:
            at = summed.ctypes.data
            target = line.ctypes.data
            across(at, scratch.offsets, scratch.packed, blocks, target, scratch.cubic)
        finish(line, scale, bias, out[row])
    return True


@inner
def _move(lines, pitch, base, need, done):  # type: ignore[no-untyped-def]
    """Move the lines from `need` to `done` to where `base` was; gives the new base.

    Args:
        lines: address of the first that is held.
        pitch, base, need, done: as in `_resize`.
    """
    for line in range(done - need):  # each to where other lines were
        copy_bytes(lines + line * pitch, lines + (need - base + line) * pitch, pitch)
    return need
