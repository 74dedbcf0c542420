"""Rectangles of bytes, gathered from a store for a GPU."""

import numpy as np

from pipelines.kernels import cpu


def test_rectangles_are_gathered_line_by_line() -> None:
    data = np.random.default_rng(0).integers(0, 256, 4000, np.uint8)
    blocks = np.array([(100, 40, 9, 17, 5, 20), (3000, 7, 3, 7, 300, 7), (0, 1, 0, 9, 0, 9)])
    out, wanted = np.zeros(400, np.uint8), np.zeros(400, np.uint8)
    for source, pitch, lines, length, target, target_pitch in blocks.tolist():
        for line in range(lines):
            begin, at = source + line * pitch, target + line * target_pitch
            wanted[at : at + length] = data[begin : begin + length]
    cpu.copy_blocks(data, blocks, out)
    assert np.array_equal(out, wanted)
