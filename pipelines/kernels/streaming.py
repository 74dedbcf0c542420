"""The kernel that decodes: a JPEG's bytes in, a row of a batch out, line by line.

Only the lines and columns are decoded that the crop's taps touch, with the margin that smooth
chroma upsampling needs. Each line is resized while it is in the cache. A thread's memory grows with
the crop's width, not with the image. Pixels are those of `cpu.render_rows` on the whole image, to
the bit.

B, S, K as in `cpu`. Lines count from the first that the taps touch.
"""

from __future__ import annotations

import numpy as np

from pipelines.kernels.compiled import entry, inner
from pipelines.kernels.cpu import (
    COLUMN_SLACK,
    READ_PAST,
    START,
    fill_taps,
    find_span,
    pack_weights,
)
from pipelines.kernels.libjpeg import (
    CINFO,
    CINFO_BYTES,
    CLIENT_DATA_64,
    CREATE,
    CROP,
    DESTROY,
    EMIT_MESSAGE_64,
    ERR_64,
    ERROR_EXIT_64,
    FAILED,
    FINISH,
    FIRST,
    HEIGHT_32,
    MANAGER,
    MEM_SRC,
    OUT_COLOR_SPACE_32,
    READ,
    READ_HEADER,
    RGB,
    SECOND,
    SKIP,
    STD_ERROR,
    VERSION,
    WARNINGS_32,
    WIDTH_32,
    call,
    error_handlers,
)
from pipelines.kernels.libjpeg import START as START_DECOMPRESS
from pipelines.kernels.vectors import across, down, fence, finish

#: What `render_jpeg` returns: the row is written and all is well; it is written, and libjpeg has
#: warned; nothing of use is written, as libjpeg gave up, or the image is of another size.
DONE, WARNED, GAVE_UP, OTHER_SIZE = range(4)
#: Columns left and right of the taps', as smooth chroma upsampling looks at one neighbour.
#: Source: libjpeg-turbo, jdsample.c (`h2v2_fancy_upsample`).
_MARGIN = 1
#: Columns that are decoded at least: fewer than three of chroma, each at most four times as wide,
#: are not upsampled smoothly. Source: jdsample.c, `jinit_upsampler`; jdapistd.c.
_NARROWEST = 16


@entry
def render_jpeg(  # type: ignore[no-untyped-def]
    functions, state, data, height, width, geometry, flip, down_first, whole, scale, bias, scratch,
    out
):  # fmt: skip
    """Decode what a row of a plan shows of a JPEG; cut, resize, flip and normalize it.

    Args:
        functions: int64[functions], see `libjpeg.find_libjpeg`.
        state: int64[STATE_WORDS] of this thread.
        data: uint8[...], the JPEG.
        height, width: of the image as the plan knows it, px; geometry lies within.
        geometry: int32[2, 4], see `cpu.START`.
        flip: whether to mirror.
        down_first: see `cpu.render_rows`.
        whole: read the data to their end, to hear all that libjpeg has to say of them.
        scale, bias: float32[S * 3].
        scratch: a Scratch that fits, made for `streamed`.
        out: [S, S * 3] float32, uint16 or uint8, see `cpu.render_rows`.

    Returns:
        DONE, WARNED, GAVE_UP or OTHER_SIZE.
    """
    words = state.view(np.int32)
    cinfo, manager = 2 * CINFO, 2 * MANAGER
    _begin(functions, state, data)
    result = GAVE_UP
    if not state[FAILED]:
        if words[cinfo + HEIGHT_32] != height or words[cinfo + WIDTH_32] != width:
            result = OTHER_SIZE
        elif _render(
            functions, state, height, width, geometry, flip, down_first, whole, scale, bias,
            scratch, out,
        ):  # fmt: skip
            result = WARNED if words[manager + WARNINGS_32] else DONE
    _call(functions, state, DESTROY, 0, 0)
    fence()
    return result


@inner
def _call(functions, state, which, second, third):  # type: ignore[no-untyped-def]
    """Call a function of libjpeg on the thread's decompressor; whether it came back."""
    address = state.ctypes.data
    state[FAILED] = 0
    call(functions[which], address, address + 8 * CINFO, second, third)
    return state[FAILED] == 0


@inner
def _begin(functions, state, data):  # type: ignore[no-untyped-def]
    """Make a decompressor for one image, with no table of another one, and read the header."""
    address = state.ctypes.data
    state[FAILED] = 0
    state[MANAGER:] = 0
    call(functions[STD_ERROR], address, address + 8 * MANAGER, 0, 0)
    leave, count_warning = error_handlers()
    state[MANAGER + ERROR_EXIT_64] = leave
    state[MANAGER + EMIT_MESSAGE_64] = count_warning
    state[CINFO + ERR_64] = address + 8 * MANAGER
    state[CINFO + CLIENT_DATA_64] = address
    if _call(functions, state, CREATE, VERSION, CINFO_BYTES) and _call(
        functions, state, MEM_SRC, data.ctypes.data, len(data)
    ):
        _call(functions, state, READ_HEADER, 1, 0)


@inner
def _render(  # type: ignore[no-untyped-def]
    functions, state, height, width, geometry, flip, down_first, whole, scale, bias, scratch, out
):
    """Decode and render behind the header; whether nothing failed."""
    vertical, horizontal = geometry
    fill_taps(vertical, False, scratch, 0)
    taps = fill_taps(horizontal, flip, scratch, 1)
    top, lines = find_span(scratch, 0)
    left, columns = find_span(scratch, 1)
    blocks = pack_weights(scratch, taps, left, columns)
    begin = _start(functions, state, width, horizontal[START] + left, columns)
    if begin < 0:
        return False
    first = vertical[START] + top
    if first and not _call(functions, state, SKIP, first, 0):
        return False
    sound = _resize(functions, state, begin, columns, blocks, down_first, scale, bias, scratch, out)
    if sound and whole:
        rest = height - first - lines
        # Lines that are skipped are read but for the last.
        if rest > 1 and not _call(functions, state, SKIP, rest - 1, 0):
            return False
        if rest and not _read(functions, state, scratch.pixels.ctypes.data):
            return False
        return _call(functions, state, FINISH, 0, 0)
    return sound


@inner
def _start(functions, state, width, left, columns):  # type: ignore[no-untyped-def]
    """Start to decode some columns.

    Returns:
        Where they begin in each line that is then read, px; -1 if libjpeg gave up.
    """
    words = state.view(np.int32)
    words[2 * CINFO + OUT_COLOR_SPACE_32] = RGB
    if not _call(functions, state, START_DECOMPRESS, 0, 0):
        return -1
    low = max(min(left - _MARGIN, width - _NARROWEST), 0)
    high = min(max(left + columns + _MARGIN, low + _NARROWEST), width)
    if low == 0 and high == width:
        return left
    state[FIRST], state[SECOND] = low, high - low  # read as 32 bits
    address = state.ctypes.data
    if not _call(functions, state, CROP, address + 8 * FIRST, address + 8 * SECOND):
        return -1
    return left - state[FIRST]


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
        blocks: see `cpu.pack_weights`.
        down_first, scale, bias, scratch, out: as in `render_jpeg`.

    Returns:
        Whether nothing failed.
    """
    top, _ = find_span(scratch, 0)
    first, counts, weights = scratch.first[0], scratch.counts[0], scratch.weights[0]
    room, source, line = len(weights) // len(out), scratch.pixels.ctypes.data, scratch.line
    if down_first:
        lines, pitch, shift = scratch.pixels, (columns + COLUMN_SLACK) * 3 + READ_PAST, begin * 3
        summed, width = scratch.lines, columns * 3
    else:
        lines, pitch, shift = scratch.lines, len(line), 0
        summed, width = line, out.shape[1]
    held = (len(lines) - READ_PAST) // pitch
    base = done = 0  # the first line that is held, and the next one to read
    for row in range(len(out)):
        need = first[row] - top
        while done < need + counts[row]:
            if done - base == held:
                base = _move(lines, pitch, base, min(need, done), done)
            target = lines.ctypes.data + (done - base) * pitch
            if not _read(functions, state, target if down_first else source):
                return False
            if not down_first:
                across(source + begin * 3, scratch.offsets, scratch.packed, blocks, target)
            done += 1
        at = lines.ctypes.data + (need - base) * pitch + shift
        down(at, pitch, weights, row * room, counts[row], width, summed)
        if down_first:
            at = summed.ctypes.data
            across(at, scratch.offsets, scratch.packed, blocks, line.ctypes.data)
        finish(line, scale, bias, out[row])
    return True


@inner
def _move(lines, pitch, base, need, done):  # type: ignore[no-untyped-def]
    """Move the lines from `need` to `done` to where `base` was; gives the new base."""
    for line in range(done - need):
        at = (need - base + line) * pitch
        lines[line * pitch : (line + 1) * pitch] = lines[at : at + pitch]
    return need
