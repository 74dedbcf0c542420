"""The pass across in each of its forms: which one is taken depends on the processor."""

import os
import subprocess
import sys
from pathlib import Path

import llvmlite.binding
import pytest
from effort import rest

SCRIPT = Path(__file__).parents[1] / "support" / "other_vectors.py"
FEATURES = llvmlite.binding.get_host_cpu_features()


def form_without(hidden: str) -> tuple[int, int]:
    """Pixels at once, and vectors of weights, of a processor without these features."""
    wide = bool(FEATURES.get("avx512bw")) and "avx512bw" not in hidden
    in_bytes = wide and bool(FEATURES.get("avx512vnni")) and "avx512vnni" not in hidden
    return 4 if wide else 2, 3 if in_bytes else 4


@pytest.mark.parametrize("hidden", ["avx512vnni", *rest("avx512bw")])
def test_every_form_gives_pillows_pixels(hidden: str, tmp_path: Path) -> None:
    """Rows may go down first in Pillow, but not in shapes such as these."""
    found = subprocess.run(
        [sys.executable, SCRIPT, hidden],
        env={**os.environ, "NUMBA_CACHE_DIR": str(tmp_path)},
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
    )
    assert found.returncode == 0, found.stderr
    assert tuple(map(int, found.stdout.split())) == form_without(hidden)
