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
    from pipelines.changing.on_cpu import Changer
    from pipelines.compiling import compiling
    from pipelines.loaders.image_files import FileRenderer

    renderer = FileRenderer([], view="eval", size=8, batch=1, workers=1)
    renderer._compiled.result()
    renderer.close()
    with compiling():
        Changer().load()


if __name__ == "__main__":
    main()
