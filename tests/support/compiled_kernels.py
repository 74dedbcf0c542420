"""Compiles the kernels that many tests load, while pytest's processes collect: each would do it.

A program: python compiled_kernels.py
"""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
KERNELS = ROOT / "pipelines" / "kernels"


def begin() -> subprocess.Popen[bytes] | None:
    """Start this program if a kernel has changed since any was compiled; it ends by itself."""
    changed = max(path.stat().st_mtime for path in KERNELS.glob("*.py"))
    compiled = [path.stat().st_mtime for path in KERNELS.glob("__pycache__/*.nbc")]
    if compiled and max(compiled) > changed:
        return None
    quiet = subprocess.DEVNULL  # what is wrong with a kernel, its tests say
    program = [sys.executable, __file__]
    return subprocess.Popen(program, cwd=ROOT, stdin=quiet, stdout=quiet, stderr=quiet)


def main() -> None:
    sys.path.insert(0, str(ROOT))
    import numpy as np
    import torch

    from pipelines.changing.on_cpu import Changer
    from pipelines.compiling import compiling
    from pipelines.loaders.image_files import FileRenderer
    from pipelines.preprocessing import FILTERS, Preprocessing

    for dtype, written in (
        (torch.float32, np.float32),
        (None, np.uint8),
        (torch.bfloat16, np.uint16),
    ):
        for filter_ in FILTERS:
            form = Preprocessing(filter=filter_)
            how = {"view": "eval", "size": 8, "batch": 1, "workers": 1, "preprocessing": form}
            renderer = FileRenderer([], dtype=dtype, **how)
            renderer._compiled.result()
            renderer.close()
        with compiling():
            Changer().load(written)


if __name__ == "__main__":
    main()
