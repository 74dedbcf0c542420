"""A baseline JPEG's header and codes: tables, blocks, places, coefficients.

Taken are common files alone: Huffman codes of 8-bit samples in a single scan of all components,
without restart markers. Anything else says so, and is decoded without this.

Codes are looked up by the bits that come next, where two coefficients often stand at once, with
their values; libjpeg looks each up, then reads its bits. A loop of lookups waits for memory and
for shifts alone: 1.6 times as fast as libjpeg on 100 photos of 207,000 px and 115 KB (0.84 instead
of 1.39 ms, one core of an Intel Xeon).
Source: ITU-T T.81, annexes B, C and F.
"""

from __future__ import annotations

import numpy as np

from pipelines.kernels.bits import load_bits, load_int, load_word, store_short
from pipelines.kernels.compiled import inner

#: Words of a Huffman table: for each length of codes, from 1 to 16 bits, how many there are (before
#: them, how many in all), the largest one (-1: none), and what to add to one for the place of its
#: value; then the values. Here and beside loops stand for slices, which take seconds to compile.
COUNTS, LARGEST, BEHIND, VALUES, TABLE_WORDS = 0, 17, 34, 51, 51 + 256
#: Bytes of it.
TABLE_BYTES = 4 * TABLE_WORDS
#: Tables of a file: DC 0 to 3, AC 0 to 3.
TABLES = 8
#: Blocks of an MCU at most, and words of each: component, DC table, AC table.
MOST_BLOCKS, COMPONENT, DC, AC = 10, 0, 1, 2
#: Words of a frame: height and width of the image, px; MCUs in each direction, and their height and
#: width, px; blocks of an MCU; the byte of the frame header, of the scan header, and the first of
#: the data.
(
    HEIGHT,
    WIDTH,
    MCUS_HIGH,
    MCUS_WIDE,
    MCU_HEIGHT,
    MCU_WIDTH,
    BLOCKS,
    FRAME_AT,
    SCAN_AT,
    DATA_AT,
    FRAME_WORDS,
) = range(11)
#: Bits that a table's lookups take, of AC and of DC codes. Of 10, 11 and 12 none was measurably
#: faster than another; tables of 16 KB fit a core's first cache.
WINDOW, DC_WINDOW = 11, 9
LOOKUP_BYTES = 8 << WINDOW
#: A lookup of AC codes: 0 where the code is longer than the window or there is none; negative where
#: its bits reach beyond it, then the code's length, the size of what follows it, and its run, from
#: bits 0, `_SIZE` and `_RUN` on, as of a DC code. Else of one or two codes: bits that they take, by
#: how many coefficients they go on, where the first and the second one lie from here, their values.
_SIZE, _RUN = 8, 16
_GOES_ON, _FIRST, _SECOND, _VALUE, _SECOND_VALUE = 6, 14, 20, 26, 42
_BEYOND = -1 << 32
#: The run of the code that ends a block: more than any other's.
_END = 128
#: Lookups between two readings of 8 bytes, of which up to 7 bits have been used, and 20 more where
#: a DC coefficient comes first.
_LOOKUPS, _FIRST_LOOKUPS = (64 - 7) // WINDOW, (64 - 7 - 20) // WINDOW
#: Where in a block the coefficients lie, by their order in the data; and so far that no two codes
#: lead beyond.
_NATURAL = np.array(
    [0, 1, 8, 16, 9, 2, 3, 10, 17, 24, 32, 25, 18, 11, 4, 5]
    + [12, 19, 26, 33, 40, 48, 41, 34, 27, 20, 13, 6, 7, 14, 21, 28]
    + [35, 42, 49, 56, 57, 50, 43, 36, 29, 22, 15, 23, 30, 37, 44, 51]
    + [58, 59, 52, 45, 38, 31, 39, 46, 53, 60, 61, 54, 47, 55, 62, 63]
    + [63] * 32,
    np.uint8,
)
#: A DC coefficient differs by so many bits at most.
_DC_BITS = 11
#: Bytes that may be read, and are ignored, behind the data: an MCU of the longest codes.
READ_PAST = MOST_BLOCKS * 64 * 4 + 8
_SOF0, _SOF1, _DHT, _SOS, _DQT, _DRI, _COM = 0xC0, 0xC1, 0xC4, 0xDA, 0xDB, 0xDD, 0xFE
_APP0, _APP15 = 0xE0, 0xEF


@inner
def read_frame(data, tables, blocks, frame):  # type: ignore[no-untyped-def]
    """Read a JPEG's header.

    Args:
        data: uint8[...], the file.
        tables: int32[TABLES, TABLE_WORDS], to be written.
        blocks: int32[MOST_BLOCKS, 3], to be written.
        frame: int64[FRAME_WORDS], to be written.

    Returns:
        Whether it is of the common kind.
    """
    size, at = len(data), 2
    for word in range(FRAME_WORDS):
        frame[word] = 0
    for table in range(TABLES):
        for length in range(17):
            tables[table, COUNTS + length], tables[table, LARGEST + length] = 0, -1
    if size < 4 or data[0] != 0xFF or data[1] != 0xD8:
        return False
    while at + 4 <= size and data[at] == 0xFF:
        marker = data[at + 1]
        length = (np.int64(data[at + 2]) << 8) + data[at + 3]
        if length < 2 or at + 2 + length > size:
            return False
        if marker == _DHT:
            if not _read_tables(data, at + 4, at + 2 + length, tables):
                return False
        elif marker == _SOF0 or marker == _SOF1:
            if frame[FRAME_AT]:
                return False
            frame[FRAME_AT] = at
        elif marker == _DRI:
            if length != 4 or data[at + 4] or data[at + 5]:
                return False
        elif marker == _SOS:
            frame[SCAN_AT], frame[DATA_AT] = at, at + 2 + length
            return frame[FRAME_AT] > 0 and _read_scan(data, tables, blocks, frame)
        elif not (marker == _DQT or marker == _COM or _APP0 <= marker <= _APP15):
            return False
        at += 2 + length
    return False


@inner
def _read_tables(data, at, end, tables):  # type: ignore[no-untyped-def]
    """Read the Huffman tables of a segment; whether they are sound."""
    while at < end:
        which = data[at]
        if at + 17 > end or which & 0xEF > 3:
            return False
        table, at = (which >> 4) * 4 + (which & 3), at + 1
        code = known = np.int64(0)
        for length in range(1, 17):
            count = np.int64(data[at + length - 1])
            tables[table, COUNTS + length], tables[table, BEHIND + length] = count, known - code
            code += count
            known += count
            if code > 1 << length or known > 256:
                return False
            tables[table, LARGEST + length] = code - 1 if count else -1
            code <<= 1
        at += 16
        if at + known > end:
            return False
        for value in range(known):
            tables[table, VALUES + value] = data[at + value]
        tables[table, COUNTS] = known
        at += known
    return True


@inner
def _read_scan(data, tables, blocks, frame):  # type: ignore[no-untyped-def]
    """Fit the frame header and the scan header together; whether both are of the common kind."""
    at, scan = frame[FRAME_AT] + 4, frame[SCAN_AT] + 4
    lengths = data[at - 1], data[scan - 1]
    if data[at - 2] or data[scan - 2] or not (lengths == (11, 8) or lengths == (17, 12)):
        return False
    count = np.int64(1 if lengths[0] == 11 else 3)
    if data[at] != 8 or data[at + 5] != count or data[scan] != count:
        return False
    frame[HEIGHT] = (np.int64(data[at + 1]) << 8) + data[at + 2]
    frame[WIDTH] = (np.int64(data[at + 3]) << 8) + data[at + 4]
    high = wide = np.int64(1)
    written = 0
    for component in range(count):
        own, chosen = at + 6 + 3 * component, scan + 1 + 2 * component
        across, down = data[own + 1] >> 4, data[own + 1] & 15
        dc, ac = data[chosen + 1] >> 4, data[chosen + 1] & 15
        if data[own] != data[chosen] or not (1 <= across <= 4 and 1 <= down <= 4):
            return False
        if dc > 3 or ac > 3 or (count == 1 and across * down > 1):
            return False
        if written + across * down > MOST_BLOCKS:
            return False
        if tables[dc, COUNTS] == 0 or tables[4 + ac, COUNTS] == 0:
            return False
        for _ in range(across * down):
            blocks[written, COMPONENT] = component
            blocks[written, DC], blocks[written, AC] = dc, 4 + ac
            written += 1
        high, wide = max(high, np.int64(down)), max(wide, np.int64(across))
    last = scan + 1 + 2 * count
    if data[last] != 0 or data[last + 1] != 63 or data[last + 2] != 0:
        return False
    if not (frame[HEIGHT] and frame[WIDTH]):
        return False
    frame[BLOCKS] = written
    frame[MCU_HEIGHT], frame[MCU_WIDTH] = 8 * high, 8 * wide
    frame[MCUS_HIGH] = -(-frame[HEIGHT] // (8 * high))
    frame[MCUS_WIDE] = -(-frame[WIDTH] // (8 * wide))
    return True


@inner
def fill_lookups(tables, which, singles, lookups):  # type: ignore[no-untyped-def]
    """Find what each window of bits stands for in one table.

    Args:
        tables: int32[TABLES, TABLE_WORDS].
        which: the table.
        singles: int32[1 << WINDOW], scratch.
        lookups: int64[TABLES, 1 << WINDOW], of which that table's are written, see `_SIZE`.
    """
    bits = np.int64(DC_WINDOW if which < 4 else WINDOW)
    for window in range(1 << bits):
        singles[window] = 0
    code = known = np.int64(0)
    for length in range(1, bits + 1):
        code <<= 1
        for _ in range(tables[which, COUNTS + length]):
            value = np.int64(tables[which, VALUES + known])
            run, size = (np.int64(0), value) if which < 4 else (value >> 4, value & 15)
            if which >= 4 and value == 0:
                run += _END
            if (which < 4 and size <= _DC_BITS) or (which >= 4 and (size or run >= 15)):
                first = code << (bits - length)
                for window in range(first, first + (1 << (bits - length))):
                    singles[window] = length | size << _SIZE | run << _RUN
            code, known = code + 1, known + 1
    for window in range(1 << bits):
        single = np.int64(singles[window])
        size, run = (single >> _SIZE) & 0xFF, single >> _RUN
        taken = (single & 0xFF) + size
        if which < 4 or single == 0:
            lookups[which, window] = single
        elif taken > bits:
            lookups[which, window] = single | _BEYOND
        else:
            lookups[which, window] = _pair(singles, window, taken, size, run)


@inner
def _pair(singles, window, taken, size, run):  # type: ignore[no-untyped-def]
    """A lookup of the code that a window begins with, and of the next, if that is within."""
    value, first, goes_on = _value(window >> (WINDOW - taken), size), run, run + 1
    second_value = np.int64(0)
    if run == _END:
        return taken | goes_on << _GOES_ON
    second = goes_on
    single = np.int64(singles[window << taken & ((1 << WINDOW) - 1)])
    length, size, run = single & 0xFF, (single >> _SIZE) & 0xFF, single >> _RUN
    if length and taken + length + size <= WINDOW:
        taken += length + size
        second_value = _value(window >> (WINDOW - taken), size)
        if run != _END:
            second = goes_on + run
        goes_on += run + 1
    found = taken | goes_on << _GOES_ON | first << _FIRST | second << _SECOND
    return found | (value & 0xFFFF) << _VALUE | (second_value & 0xFFFF) << _SECOND_VALUE


@inner
def _value(word, size):  # type: ignore[no-untyped-def]
    """The number that the lowest `size` bits of a word stand for."""
    full = np.int64(1) << size
    bits = word & (full - 1)
    return bits if bits + bits >= full else bits + 1 - full


@inner
def _read_code(window, table):  # type: ignore[no-untyped-def]
    """Read the code that 16 bits begin with.

    Args:
        window: the bits.
        table: address of an int32[TABLE_WORDS].

    Returns:
        Its length and value, or 17 and 0 for none.
    """
    length = 1
    while length <= 16 and (window >> (16 - length)) > load_int(table, LARGEST + length):
        length += 1
    if length > 16:
        return np.int64(17), np.int64(0)
    at = (window >> (16 - length)) + load_int(table, BEHIND + length)
    return np.int64(length), load_int(table, VALUES + at)


@inner
def read_block(source, place, lookups, tables, dc, ac, block):  # type: ignore[no-untyped-def]
    """Read a block's coefficients.

    Args:
        source: address of the data, without zeros behind bytes of ones.
        place: bit where the block begins.
        lookups: address of an int64[TABLES, 1 << WINDOW].
        tables: address of an int32[TABLES, TABLE_WORDS], for codes that are longer.
        dc, ac: which of them.
        block: address of an int16[64] of zeros, to which all but the first coefficient is written,
            as the data have it.

    Returns:
        The bit behind it, -1 where it is unsound; what is added to the first coefficient.
    """
    unsound = np.int64(-1), np.int64(0)
    word = load_bits(source + (place >> 3)) << np.uint64(place & 7)
    found = load_word(lookups + dc * LOOKUP_BYTES, np.int64(word >> np.uint64(64 - DC_WINDOW)))
    length, size = found & 0xFF, (found >> _SIZE) & 0xFF
    if not found:
        length, size = _read_code(np.int64(word >> np.uint64(48)), tables + dc * TABLE_BYTES)
        if length > 16 or size > _DC_BITS:
            return unsound
    taken = length + size
    difference = _value(np.int64(word >> np.uint64(64 - taken)), size)
    place, word = place + taken, word << np.uint64(taken)
    lookups += ac * LOOKUP_BYTES
    at = before = np.int64(1)
    count = _FIRST_LOOKUPS if taken <= 20 else 0
    while True:
        found = np.int64(1)
        for _ in range(count):
            found = load_word(lookups, np.int64(word >> np.uint64(64 - WINDOW)))
            if found <= 0:
                break
            # The second one first: where a block has ended before it, it lies upon the last.
            second, first = at + ((found >> _SECOND) & 63), at + ((found >> _FIRST) & 63)
            store_short(block, _NATURAL[np.uint64(second)], found >> _SECOND_VALUE)
            store_short(block, _NATURAL[np.uint64(first)], found >> _VALUE)
            before, at = at, at + ((found >> _GOES_ON) & 0xFF)
            if at >= 64:
                break
            place += found & 63
            word <<= np.uint64(found & 63)
        if at >= 64:
            if at == 64 or _END < at <= _END + 64:
                return place + (found & 63), difference
            at, found = before, np.int64(0)  # the block ends between two codes
        word, count = load_bits(source + (place >> 3)) << np.uint64(place & 7), _LOOKUPS
        if found > 0:
            continue
        length, size, run = found & 0xFF, (found >> _SIZE) & 0xFF, (found >> _RUN) & 0xFF
        if not found:
            length, value = _read_code(np.int64(word >> np.uint64(48)), tables + ac * TABLE_BYTES)
            size, run = value & 15, value >> 4
            if length > 16 or (size == 0 and 0 < run < 15):
                return unsound
            if value == 0:
                return place + length, difference
        place, at = place + length + size, at + run
        if at > 63:
            return unsound
        bits = np.int64(word >> np.uint64(64 - length - size))
        store_short(block, _NATURAL[np.uint64(at)], _value(bits, size))
        at += 1
        if at == 64:
            return place, difference
        word = load_bits(source + (place >> 3)) << np.uint64(place & 7)
