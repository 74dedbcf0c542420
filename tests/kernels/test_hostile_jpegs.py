"""Damaged JPEGs, which the kernels are given where a byte too far ends the process."""

from collections.abc import Callable
from pathlib import Path

import fuzz_jpeg
import pytest
from effort import scale
from processes import run_program

from pipelines.kernels import libjpeg


@pytest.mark.skipif(libjpeg.find_libjpeg() is None, reason="Pillow has loaded no libjpeg")
def test_damaged_jpegs_are_read_within_their_bytes(
    tmp_path: Path, tried: Callable[..., None]
) -> None:
    inputs = scale(1000, 1_000_000)
    ended = run_program(
        Path(fuzz_jpeg.__file__), inputs, tmp_path / "found", folder=tmp_path, within_s=3000
    )
    assert ended.returncode == 0, ended.stdout + ended.stderr
    assert ended.stdout.endswith(" 0 findings\n")
    tried("damaged JPEGs decoded", inputs)


def test_a_byte_too_far_ends_the_process() -> None:
    """Else nothing would be found."""
    fence = fuzz_jpeg.Fence(100)
    array = fence.array((100,), "uint8")
    array[:] = 1
    assert array[99] == 1
    maps = Path("/proc/self/maps").read_text().splitlines()
    behind = array.ctypes.data + 100
    before = behind - fuzz_jpeg.PAGE
    for at in (behind, before - 1):
        (line,) = [each for each in maps if _covers(each, at)]
        assert line.split()[1].startswith("---")


def _covers(line: str, address: int) -> bool:
    begin, end = (int(each, 16) for each in line.split()[0].split("-"))
    return begin <= address < end
