"""Resizes by the vectors of another processor, and compares with Pillow, to the bit.

    python tests/support/other_vectors.py FEATURE,...

FEATURE is what this processor is not to have, in LLVM's words; one that it has not changes nothing.
"""

import sys
from typing import Any

import llvmlite.binding
import numpy as np
from PIL import Image

SHAPES = ((1, 1, 7), (9, 40, 16), (100, 71, 24), (31, 300, 11), (500, 333, 17))


def hide(features: list[str]) -> None:
    real = llvmlite.binding.get_host_cpu_features

    def fewer() -> Any:
        found = real()
        found.update(dict.fromkeys(features, False))
        return found

    llvmlite.binding.get_host_cpu_features = fewer


def resize(cpu: Any, pixels: np.ndarray, size: int, cubic: bool) -> np.ndarray:
    """By the kernel: uint8[S, S, 3]."""
    height, width, _ = pixels.shape
    data = np.concatenate([pixels.reshape(-1), np.zeros(cpu.READ_PAST, np.uint8)])
    sides = np.array([[height, width]], np.int64)
    frames = cpu.Frames(data, np.zeros((1, 3), np.int64), sides[:, ::-1] * 3, sides)
    geometry = np.array([[[0, height, size, 0], [0, width, size, 0]]], np.int32)
    scratch = cpu.fit_scratch(None, geometry, size, cubic=cubic)
    one, none = np.ones(1, np.int32), np.zeros(1, np.bool_)
    factors = np.ones(3 * size, np.float32), np.zeros(3 * size, np.float32)
    out = np.empty((1, size, 3 * size), np.uint8)
    cpu.render_rows(frames, False, geometry, one, none, none, *factors, scratch, out)
    return out.reshape(size, size, 3)


def main() -> None:
    hide(sys.argv[1].split(","))
    from pipelines.kernels import across, cpu

    random = np.random.default_rng(0)
    for height, width, size in SHAPES:
        pixels = random.integers(0, 2, (height, width, 3), np.uint8) * 255
        for cubic in (False, True):
            how = Image.Resampling.BICUBIC if cubic else Image.Resampling.BILINEAR
            wanted = np.asarray(Image.fromarray(pixels).resize((size, size), how))
            assert np.array_equal(resize(cpu, pixels, size, cubic), wanted), (height, width, size)
    print(across.AT_ONCE, across.WEIGHT_ROWS)


if __name__ == "__main__":
    main()
