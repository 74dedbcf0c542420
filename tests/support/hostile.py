"""Hostile files: how one is made of a valid file, and what may come of reading it.

Which files, and who reads them, is `hostile_targets`.
"""

from __future__ import annotations

import re
import shutil
import signal
import tracemalloc
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from random import Random
from types import FrameType

import numpy as np

from pipelines.errors import FastftError

#: Processor time and traced memory that no reader needs for files of some KB: 10 and 2 times what
#: the slowest and the largest take.
MOST_CPU_S, MOST_BYTES = 20, 128 << 20
#: What lengths, offsets and counts are wrong by.
BOUNDARIES = (
    0,
    1,
    2,
    3,
    7,
    127,
    128,
    255,
    256,
    32767,
    32768,
    65535,
    65536,
    2**24,
    2**29 - 1,
    2**29,
    2**31 - 1,
    2**31,
    2**32 - 2,
    2**32 - 1,
    2**40,
    2**62,
    2**63 - 1,
    2**63,
    2**64 - 8,
    2**64 - 1,
)
#: What means something to readers of JSON and TOML.
TEXT_TOKENS = (
    b"[",
    b"{",
    b'"',
    b"null",
    b"nan",
    b"1e999",
    b"9" * 400,
    b"-1",
    b"\\u0000",
    b"\\ud800",
    b"a.",
    b"[[a]]\n",
    b"\xff",
    b"true",
    b"lr = ",
    b"lr.a = ",
    b"2020-01-01",
    b"=",
    b"\n",
    b"../",
    b"0x" + b"f" * 4000,
    b"[" * 100_000,
)


@dataclass(frozen=True, slots=True)
class Number:
    """An integer in a file: `width` bytes from byte `at` on."""

    at: int
    width: int
    order: str = "little"

    def read(self, content: bytes) -> int:
        return int.from_bytes(content[self.at : self.at + self.width], self.order)  # type: ignore[arg-type]

    def write(self, content: bytearray, value: int) -> None:
        value %= 1 << 8 * self.width
        content[self.at : self.at + self.width] = value.to_bytes(self.width, self.order)  # type: ignore[arg-type]


def numbers_of(dtype: np.dtype, at: int, count: int = 1) -> list[Number]:
    """The integers of `count` structs of this type that begin at byte `at`."""
    assert dtype.fields is not None
    return [
        Number(at + row * dtype.itemsize + offset, kind.itemsize)
        for row in range(count)
        for kind, offset, *_ in dtype.fields.values()
        if kind.kind in "iu"
    ]


def no_numbers(content: bytes) -> list[Number]:
    return []


def as_it_is(content: bytes) -> bytes:
    return content


@dataclass(frozen=True, kw_only=True)
class Target:
    """A reader and what it reads.

    Attributes:
        name: what to call it.
        group: what it belongs to, as the count of inputs names it.
        file: the file's name.
        read: reads a file through and through.
        seeds: valid files; None of what cannot be had here.
        numbers: where the integers of a valid file are.
        tokens: bytes that mean something to the reader.
        mend: makes checksums right again, lest all else be hidden behind them.
        heals: whether what is wrong is made anew or passed over, and nothing need be refused.
    """

    name: str
    group: str
    file: str
    read: Callable[[Path], object]
    seeds: Callable[[], list[bytes]]
    numbers: Callable[[bytes], list[Number]] = no_numbers
    tokens: tuple[bytes, ...] = (b"\0", b"\xff")
    mend: Callable[[bytes], bytes] = as_it_is
    heals: bool = False

    @property
    def fuzzed(self) -> str:
        """What the inputs are counted as."""
        return f"inputs fuzzed: {self.group}"


class Found(AssertionError):  # what was looked for
    """A file that a reader does not cope with."""


class _Hang(BaseException):
    pass


def attempt(target: Target, content: bytes, folder: Path) -> FastftError | None:
    """Let a reader have a file; gives the error that it is refused with, if it is.

    Raises:
        Found: another error, a message that does not name the file, far too much time or memory.
    """
    path = folder / target.file
    path.write_bytes(content)
    before = sorted(folder.parent.iterdir())
    signal.signal(signal.SIGVTALRM, _hang)
    signal.setitimer(signal.ITIMER_VIRTUAL, MOST_CPU_S)
    tracing = tracemalloc.is_tracing()
    if not tracing:
        tracemalloc.start()
    tracemalloc.reset_peak()
    held = tracemalloc.get_traced_memory()[0]
    error: FastftError | None = None
    try:
        target.read(path)
    except FastftError as refused:
        error = refused
    except _Hang as hang:
        raise Found(f"more than {MOST_CPU_S} s") from hang
    except Exception as other:
        raise Found(f"{type(other).__name__}: {str(other)[:300]}") from other
    finally:
        signal.setitimer(signal.ITIMER_VIRTUAL, 0)
        taken = tracemalloc.get_traced_memory()[1] - held
        if not tracing:
            tracemalloc.stop()
    if taken > MOST_BYTES + 100 * len(content):
        raise Found(f"{taken:,} bytes of memory for a file of {len(content):,}")
    if error is not None:
        require_plain(error, folder)
    if sorted(folder.parent.iterdir()) != before:
        raise Found("something beside the folder")
    return error


class Attempts:
    """Lets readers have files, each in a folder of its own, and counts them.

    Attributes:
        count, refused: how many there were, and of those that were refused.
    """

    def __init__(self, box: Path) -> None:
        self._box = box
        self.count = self.refused = 0

    def __call__(self, target: Target, content: bytes) -> FastftError | None:
        """See `attempt`."""
        shutil.rmtree(self._box, ignore_errors=True)
        (self._box / "in").mkdir(parents=True)
        error = attempt(target, content, self._box / "in")
        self.count += 1
        self.refused += error is not None
        return error


def require_plain(error: FastftError, folder: Path) -> None:
    """Raise Found unless a message is one line that begins with a file of this folder."""
    message = str(error)
    if not message.startswith(str(folder)) or len(message.splitlines()) != 1 or len(message) > 9999:
        raise Found(f"a message that no one can use: {message[:300]}") from error


def _hang(number: int, frame: FrameType | None) -> None:
    raise _Hang


def edit(
    content: bytes,
    random: Random,
    numbers: Sequence[Number],
    tokens: Sequence[bytes],
    others: Sequence[bytes] = (),
) -> bytes:
    """A valid file, changed in one to four places.

    Args:
        content: the file.
        random: decides on everything.
        numbers: where its integers are.
        tokens: bytes worth putting in.
        others: files to take pieces from.
    """
    changed = bytearray(content)
    for _ in range(random.choice((1, 1, 1, 2, 2, 3, 4))):
        kinds = [_flip, _set, _token, _cut, _remove, _repeat, _splice, _grow]
        if numbers and random.random() < 0.6:
            _change_number(changed, random, numbers)
        else:
            random.choice(kinds)(changed, random, tokens, others)
    return bytes(changed)


def boundaries(number: Number, content: bytes, numbers: Sequence[Number]) -> list[int]:
    """The values that a number of a file is likeliest to be wrong by, its own left out."""
    own, size = number.read(content), len(content)
    values = {*BOUNDARIES, own - 1, own + 1, own + 4, own * 2, size - 1, size, size + 1}
    values |= {size - own, *(other.read(content) for other in numbers[:12])}
    limit = 1 << 8 * number.width
    return sorted({value % limit for value in values} - {own})


def _change_number(changed: bytearray, random: Random, numbers: Sequence[Number]) -> None:
    number = random.choice(numbers)
    if number.at + number.width <= len(changed):
        if random.random() < 0.8:
            value = random.choice(boundaries(number, bytes(changed), numbers))
        else:
            value = random.getrandbits(8 * number.width)
        number.write(changed, value)


def _place(changed: bytearray, random: Random) -> int:
    """A byte of the file; oftener near its ends, where the tables are."""
    at = random.randrange(len(changed) + 1)
    if random.random() < 0.5:
        at = min(at, random.randrange(min(256, len(changed) + 1)))
        return len(changed) - at if random.random() < 0.5 else at
    return at


_Bytes = Sequence[bytes]


def _flip(changed: bytearray, random: Random, tokens: _Bytes, others: _Bytes) -> None:
    if changed:
        changed[min(_place(changed, random), len(changed) - 1)] ^= 1 << random.randrange(8)


def _set(changed: bytearray, random: Random, tokens: _Bytes, others: _Bytes) -> None:
    if changed:
        changed[min(_place(changed, random), len(changed) - 1)] = random.randrange(256)


def _token(changed: bytearray, random: Random, tokens: _Bytes, others: _Bytes) -> None:
    at, token = _place(changed, random), random.choice(tokens)
    changed[at : at + random.choice((0, len(token)))] = token


def _cut(changed: bytearray, random: Random, tokens: _Bytes, others: _Bytes) -> None:
    del changed[_place(changed, random) :]


def _remove(changed: bytearray, random: Random, tokens: _Bytes, others: _Bytes) -> None:
    at = _place(changed, random)
    del changed[at : at + random.choice((1, 2, 3, 4, 8, 24, 100))]


def _repeat(changed: bytearray, random: Random, tokens: _Bytes, others: _Bytes) -> None:
    at = _place(changed, random)
    piece = changed[at : at + random.choice((1, 4, 24, 200))]
    changed[at:at] = piece * random.choice((1, 1, 2, 50))


def _splice(changed: bytearray, random: Random, tokens: _Bytes, others: _Bytes) -> None:
    if others:
        other, at = random.choice(others), _place(changed, random)
        begin = random.randrange(len(other) + 1)
        piece = other[begin : begin + random.choice((8, 64, 1000))]
        changed[at : at + random.choice((0, len(piece)))] = piece


def _grow(changed: bytearray, random: Random, tokens: _Bytes, others: _Bytes) -> None:
    changed += random.choice((b"\0", b"\xff", b" ")) * random.choice((1, 3, 24, 5000))


def trace_of(error: BaseException) -> str:
    """Where an error was raised, for telling findings apart: the last line of ours."""
    place, traceback = "", error.__traceback__
    while traceback is not None:
        code = traceback.tb_frame.f_code
        if re.search(r"/(pipelines|fastft)/", code.co_filename):
            place = f"{Path(code.co_filename).name}:{traceback.tb_lineno}"
        traceback = traceback.tb_next
    return place
