"""`fuzz.py` for a while: each target in a process of its own, what it tries counted."""

import re
from collections.abc import Callable
from pathlib import Path

import pytest
from effort import choose, scale
from hostile_targets import TARGETS
from processes import run_program
from soak import how_fuzzed

FUZZ = Path(__file__).parents[1] / "support" / "fuzz.py"
#: The same, but the process that fuzzes is forked from one that has imported what takes seconds.
_FORKS = """
import os, subprocess, sys
import fuzz
def run(command, **_):
    if not (child := os.fork()):
        sys.argv = command[command.index(fuzz.__file__):]
        os._exit(fuzz.main())
    status = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
    return subprocess.CompletedProcess(command, status, b"", b"")
fuzz.subprocess.run = run
sys.exit(fuzz.main())
"""
#: Fuzzes in this process, with a reader that fails where it should look at each value.
_UNGUARDED = """
import pathlib, sys
import fuzz
from fastft.config import recipes
recipes._as = lambda kind, value, where: value // 0
fuzz._work("config", 1.0, 3, pathlib.Path(sys.argv[1]), False)
"""


@pytest.mark.parametrize("target", choose(["zip"], [*TARGETS]))
def test_nothing_is_found(target: str, tmp_path: Path, tried: Callable[..., None]) -> None:
    seconds, keep = scale(1, 60), tmp_path / "keep"
    forks = tmp_path / "forks.py"
    forks.write_text(_FORKS)
    program, asked = choose(forks, FUZZ), (target, "--seconds", seconds, "--keep", keep)
    ended = run_program(program, *asked, folder=tmp_path, within_s=600 + seconds)
    assert ended.returncode == 0, ended.stdout + ended.stderr
    said = re.match(rf"{target}: ([\d,]+) inputs in .* \((.+)\), 0 findings\n", ended.stdout)
    assert said is not None, ended.stdout
    assert said[2] == how_fuzzed()
    inputs = int(said[1].replace(",", ""))
    assert inputs
    tried(TARGETS[target].fuzzed, inputs)


def test_fuzzing_finds_an_unguarded_reader(tmp_path: Path) -> None:
    program, keep = tmp_path / "unguarded.py", tmp_path / "keep"
    program.write_text(_UNGUARDED)
    keep.mkdir()
    ended = run_program(program, keep, folder=tmp_path, within_s=600)
    assert ended.returncode == 0, ended.stderr
    found = [path.read_text() for path in keep.glob("*.txt")]
    assert any(text.startswith(("TypeError: ", "ZeroDiv")) for text in found), found
    # What was found is kept beside what is said of it.
    assert all(path.with_suffix("").is_file() for path in keep.glob("*.txt"))
