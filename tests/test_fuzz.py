"""`fuzz.py` for a while: each target in a process of its own, what it tries counted."""

import os
import re
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
from effort import choose, scale
from hostile_targets import TARGETS
from soak import how_fuzzed

FUZZ = Path(__file__).with_name("fuzz.py")
ROOT = FUZZ.parents[1]
#: Fuzzes in this process, with a reader that fails where it should look at each value.
_UNGUARDED = """
import pathlib, sys
import fuzz
from fastft import recipes
recipes._as = lambda kind, value, where: value // 0
fuzz._work("config", 1.0, 3, pathlib.Path(sys.argv[1]), False)
"""


def fuzz(target: str, keep: Path, seconds: float) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, FUZZ, target, "--seconds", str(seconds), "--keep", keep],
        env={**os.environ, "OMP_NUM_THREADS": "1"}, capture_output=True, text=True,
        timeout=600 + seconds, check=False,
    )  # fmt: skip


@pytest.mark.parametrize("target", choose(["config", "zip"], [*TARGETS]))
def test_nothing_is_found(target: str, tmp_path: Path, tried: Callable[..., None]) -> None:
    ended = fuzz(target, tmp_path, scale(2, 60))
    assert ended.returncode == 0, ended.stdout + ended.stderr
    said = re.match(rf"{target}: ([\d,]+) inputs in .* \((.+)\), 0 findings\n", ended.stdout)
    assert said is not None, ended.stdout
    assert said[2] == how_fuzzed()
    inputs = int(said[1].replace(",", ""))
    assert inputs
    tried(TARGETS[target].fuzzed, inputs)


def test_what_a_reader_does_not_cope_with_is_found(tmp_path: Path) -> None:
    ended = subprocess.run(
        [sys.executable, "-W", "ignore", "-c", _UNGUARDED, tmp_path],
        env={**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": f"{FUZZ.parent}:{ROOT}"},
        capture_output=True, text=True, timeout=600, check=False,
    )  # fmt: skip
    assert ended.returncode == 0, ended.stderr
    found = [path.read_text() for path in tmp_path.glob("*.txt")]
    assert any(text.startswith(("TypeError: ", "ZeroDiv")) for text in found), found
    # What was found is kept beside what is said of it.
    assert all(path.with_suffix("").is_file() for path in tmp_path.glob("*.txt"))
