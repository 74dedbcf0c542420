"""Damaged JPEGs through the kernels that decode: `python tests/support/fuzz_jpeg.py 1000000`.

Each lies where nothing may be read before it, or behind it: pages that end a process lie there.
So does what is written. A process that dies names its input. Beside that, what is cut out of a
sound file must show what the file shows, and what a file shows that has no damage is what Pillow
shows, if it takes the file.
"""

from __future__ import annotations

import ctypes
import io
import mmap
import os
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from random import Random
from typing import Any, NamedTuple

import numpy as np
from PIL import Image

ROOT = Path(__file__).resolve().parents[2]
PAGE = mmap.PAGESIZE
#: A file's bytes at most, and what kernels write of one.
MOST_BYTES = 1 << 14
SIZE = 16
_LIBC = ctypes.CDLL(None, use_errno=True)
#: Bytes that are copied over others: markers, lengths, tables' first bytes, ones.
_TOKENS = [bytes([0xFF, each]) for each in (0, 1, 0xC0, 0xC2, 0xC4, 0xD0, 0xD8, 0xD9, 0xDA, 0xDB)]
_TOKENS += [bytes([0xFF, 0xDD, 0, 4, 0, 1]), b"\x00", b"\xff", b"\xff\xff", b"\x7f\xff", b"\x11"]


class Fence:
    """Bytes between two pages that nobody may touch."""

    def __init__(self, bytes_: int) -> None:
        """Take as many pages as they need."""
        self._room = -(-max(bytes_, 1) // PAGE) * PAGE
        self._pages = mmap.mmap(-1, self._room + 2 * PAGE)
        whole = np.frombuffer(self._pages, np.uint8)
        self._whole = whole[PAGE : PAGE + self._room]
        for at in (0, PAGE + self._room):
            if _LIBC.mprotect(ctypes.c_void_p(whole.ctypes.data + at), PAGE, 0):
                raise OSError(ctypes.get_errno(), "mprotect")

    def array(self, shape: tuple[int, ...], dtype: Any, last: bool = True) -> Any:
        """An array that ends where the fence is, or begins there."""
        dtype = np.dtype(dtype)
        bytes_ = int(np.prod(shape)) * dtype.itemsize
        begin = (self._room - bytes_) // dtype.itemsize * dtype.itemsize if last else 0
        return self._whole[begin : begin + bytes_].view(dtype).reshape(shape)

    def place(self, content: bytes, last: bool) -> Any:
        """Read-only, as a sample's bytes are to the kernels."""
        array = self.array((len(content),), np.uint8, last)
        array[:] = np.frombuffer(content, np.uint8)
        array.flags.writeable = False
        return array


def fenced(given: NamedTuple) -> Any:
    """The same with each array behind a fence of its own."""
    parts = {}
    for name, each in given._asdict().items():
        if isinstance(each, np.ndarray):
            parts[name] = Fence(each.nbytes).array(each.shape, each.dtype)
            parts[name][...] = each
    return given._replace(**parts)


def make_seeds() -> list[bytes]:
    """JPEGs of all kinds that the kernels take, of which each has some hundred bytes to some KB."""
    random = np.random.default_rng(0)
    ways: list[dict[str, Any]] = [{"subsampling": each} for each in (0, 1, 2, "4:1:1")]
    ways += [{"progressive": True}, {"optimize": True}, {"restart_marker_blocks": 1}]
    ways += [{"subsampling": 1, "restart_marker_rows": 1}, {"subsampling": 0, "progressive": True}]
    seeds = []
    for way in ways:
        for height, width in ((8, 8), (33, 47), (90, 5), (64, 130)):
            pixels = random.integers(0, 256, (height, width, 3), np.uint8)
            pixels[np.arange(height) // 7 % 2 == 0] //= 3
            for image in (pixels, pixels[..., 0]):
                target = io.BytesIO()
                Image.fromarray(image).save(target, "JPEG", quality=50, **way)
                seeds.append(target.getvalue())
    small = (ROOT / "tests" / "data" / "odd" / "jpegs").glob("*.jpg")
    seeds += [path.read_bytes() for path in sorted(small) if path.stat().st_size < MOST_BYTES // 2]
    return seeds


def change(content: bytes, random: Random, seeds: list[bytes]) -> bytes:
    """A JPEG with one to four places changed."""
    changed = bytearray(content)
    for _ in range(random.choice((1, 1, 2, 4))):
        at = random.randrange(len(changed) + 1)
        kind = random.randrange(7)
        if kind == 0 and at < len(changed):
            changed[at] ^= 1 << random.randrange(8)
        elif kind == 1 and at < len(changed):
            changed[at] = random.randrange(256)
        elif kind == 2:
            token = random.choice(_TOKENS)
            changed[at : at + len(token)] = token
        elif kind == 3:
            changed[at:at] = random.choice(_TOKENS)
        elif kind == 4:
            del changed[at : at + random.choice((1, 2, 16, 300))]
        elif kind == 5:
            other = random.choice(seeds)
            begin = random.randrange(len(other))
            changed[at:at] = other[begin : begin + random.choice((2, 20, 400))]
        else:
            del changed[at:]
    return bytes(changed[: MOST_BYTES - 64])


def sides_of(content: bytes) -> Iterator[tuple[int, int]]:
    """Heights and widths that frames of it name, if they are small."""
    for at in range(len(content) - 9):
        if content[at] == 0xFF and content[at + 1] in (0xC0, 0xC1, 0xC2):
            height = content[at + 5] << 8 | content[at + 6]
            width = content[at + 7] << 8 | content[at + 8]
            if 0 < height <= 200 and 0 < width <= 200:
                yield height, width


class Kernels:
    """The kernels, with memory that is fenced in."""

    def __init__(self) -> None:
        """Load them."""
        from pipelines.kernels import cpu, entries, libjpeg, mcus, streaming
        from pipelines.preprocessing import MEAN, STD
        from pipelines.transfer import normalizing_factors

        self._cpu, self._mcus, self._entries = cpu, mcus, entries
        self._streaming, self._factors = streaming, normalizing_factors(SIZE, MEAN, STD)
        self._libjpeg, self._state = libjpeg.find_libjpeg(), libjpeg.make_state()
        self._file = Fence(MOST_BYTES)
        self._scratch: dict[tuple[int, ...], Any] = {}
        self._out = [Fence(SIZE * SIZE * 3).array((SIZE, SIZE * 3), np.uint8) for _ in range(2)]
        self._reading = fenced(entries.fit_reading(None, MOST_BYTES, MOST_BYTES // 64))

    def run(self, content: bytes, random: Random) -> str:
        """Have all of them read it; gives what is wrong with what they made of it."""
        height, width = sides = random.choice([*sides_of(content), (33, 47)])
        top, left = random.randrange(height), random.randrange(width)
        lines, columns = random.randint(1, height - top), random.randint(1, width - left)
        geometry = np.array([[top, lines, SIZE, 0], [left, columns, SIZE, 0]], np.int32)
        data = self._file.place(content, random.random() < 0.9)
        whole, straight = self._out
        result = self._render(data, sides, geometry, whole, hears=True)
        if result == self._streaming.DONE and random.random() < 0.02:
            box = slice(top, top + lines), slice(left, left + columns)
            if not self._is_pillows(content, box, whole):
                return "another image than Pillow's"
        if wrong := self._run_whole(data, sides, geometry, result):
            return wrong
        most = len(content) // 64 + 2
        step, count = self._entries.find_entries(data, sides, min(most, 256), self._reading)
        if not count:
            return ""
        if result == self._streaming.WARNED and self._is_damaged(content):
            return "codes are called sound of which libjpeg warns"
        points = self._reading.points[:count].copy()
        bottom, end = min(height, top + lines + 3), min(width, left + columns + 19)
        region = max(0, top - 3), max(0, left - 19), bottom, end
        size, down, right, *rest = self._mcus.begin_part(
            data, sides, region, step, points, self._reading
        )
        if not size:
            return ""
        header = self._reading.header[:size]
        header.flags.writeable = False
        part = geometry - np.array([[down, 0, 0, 0], [right, 0, 0, 0]], np.int32)
        if self._read(header, tuple(rest), part, straight, hears=False) != self._streaming.DONE:
            return ""
        if result != self._streaming.DONE:
            return "what is cut out is shown of a file that libjpeg gives up"
        return "" if np.array_equal(whole, straight) else "what is cut out shows something else"

    def _run_whole(self, data: Any, sides: tuple[int, int], geometry: Any, result: int) -> str:
        """Have all MCUs read in a row; gives what is wrong with them."""
        whole, straight = self._out
        size = self._mcus.begin_whole(data, sides, self._reading)
        if not size:
            return ""
        found = self._read(data[:size], sides, geometry, straight, hears=True)
        if found != self._streaming.DONE:
            return ""
        if result == self._streaming.WARNED:
            return "MCUs are called sound of which libjpeg warns"
        if result != self._streaming.DONE:
            return "MCUs are shown of a file that libjpeg gives up"
        return "" if np.array_equal(whole, straight) else "MCUs in a row show something else"

    def _read(self, *given: Any, hears: bool) -> int:
        """Have libjpeg's MCUs read by `mcus`."""
        self._state[self._mcus.SCAN] = self._reading.scan.ctypes.data
        try:
            return self._render(*given, hears=hears)
        finally:
            self._state[self._mcus.SCAN] = 0

    def _is_pillows(self, content: bytes, box: tuple[slice, slice], shown: Any) -> bool:
        """Whether Pillow shows the same, or nothing, or no decoder but it would be asked."""
        from pipelines.images.scans import is_incomplete

        try:
            with Image.open(io.BytesIO(content)) as image:
                pixels = np.asarray(image.convert("RGB"))[box]
        except OSError:  # a marker that libjpeg passes over
            return True
        out = self._out[1]
        self._draw(
            pixels, np.array([[0, side, SIZE, 0] for side in pixels.shape[:2]], np.int32), out
        )
        return is_incomplete(content) or np.array_equal(shown, out)

    @staticmethod
    def _is_damaged(content: bytes) -> bool:
        """Whether it is more than a header's version that libjpeg warns of."""
        from pipelines.images.damage import Checker
        from pipelines.images.jpeg import read_header

        header = read_header(content)
        return header is None or bool(Checker().check(content, header).broken)

    def _render(
        self, data: Any, sides: tuple[int, int], geometry: Any, out: Any, *, hears: bool
    ) -> int:
        scratch = self._fit(geometry, True)
        how = geometry, 1, False, False, hears, *self._factors
        return int(
            self._streaming.render_jpeg(self._libjpeg, self._state, data, sides, *how, scratch, out)
        )

    def _draw(self, pixels: Any, geometry: Any, out: Any) -> None:
        height, width, _ = pixels.shape
        room = np.zeros(pixels.size + self._cpu.READ_PAST, np.uint8)
        room[: pixels.size] = pixels.reshape(-1)
        pitch, sides = np.array([[width * 3, 0]]), np.array([[height, width]])
        frames = self._cpu.Frames(room, np.zeros((1, 3), np.int64), pitch, sides)
        one, no = np.ones(1, np.int32), np.zeros(1, np.bool_)
        scratch = self._cpu.fit_scratch(None, geometry[None], SIZE)
        self._cpu.render_rows(
            frames, False, geometry[None], one, no, no, *self._factors, scratch, out[None]
        )

    def _fit(self, geometry: Any, streamed: bool) -> Any:
        """Scratch of exactly what a crop of these lengths takes."""
        lengths = tuple(geometry[:, 1].tolist())
        if lengths not in self._scratch:
            if len(self._scratch) > 300:
                self._scratch.clear()
            made = self._cpu.fit_scratch(None, geometry[None], SIZE, streamed=streamed)
            self._scratch[lengths] = fenced(made)
        return self._scratch[lengths]


def fuzz(inputs: int, seed: int, keep: Path) -> int:
    """Give the kernels so many inputs, in processes that may die; gives the number of findings."""
    shared = mmap.mmap(-1, MOST_BYTES + 16)  # how many are done, and the one under way
    begun, findings = time.monotonic(), 0
    while (done := int.from_bytes(shared[:8], "little")) < inputs:
        child = os.fork()
        if child == 0:
            status = 1
            try:
                status = _work(inputs, seed + done, keep, shared)
            finally:
                os._exit(status)
        status = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
        if status:
            findings += 1
            length = int.from_bytes(shared[8:16], "little")
            (keep / f"{seed}-{findings}.jpg").write_bytes(shared[16 : 16 + length])
            print(f"an input ended its process by {status}", flush=True)
            if int.from_bytes(shared[:8], "little") == done:
                break
    findings += len(list(keep.glob("*.txt")))
    print(f"{done:,} inputs in {time.monotonic() - begun:.0f} s, {findings} findings", flush=True)
    return findings


def _work(inputs: int, seed: int, keep: Path, shared: mmap.mmap) -> int:
    kernels, random, seeds = Kernels(), Random(seed), make_seeds()
    done = int.from_bytes(shared[:8], "little")
    while done < inputs:
        content = change(random.choice(seeds), random, seeds)
        shared[8:16] = len(content).to_bytes(8, "little")
        shared[16 : 16 + len(content)] = content
        done += 1
        shared[:8] = done.to_bytes(8, "little")
        if wrong := kernels.run(content, random):
            (keep / f"{seed}-{done}.jpg").write_bytes(content)
            (keep / f"{seed}-{done}.txt").write_text(wrong)
    return 0


if __name__ == "__main__":
    sys.path.insert(0, str(ROOT))
    asked = int(sys.argv[1])
    folder = Path(sys.argv[2]) if len(sys.argv) > 2 else Path("fuzz")
    folder.mkdir(parents=True, exist_ok=True)
    sys.exit(fuzz(asked, int(sys.argv[3]) if len(sys.argv) > 3 else 1, folder) > 0)
