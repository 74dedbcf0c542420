"""The count of what tests try, and README's table of it."""

import json
from pathlib import Path

import soak
from processes import run_program

ROOT = Path(__file__).resolve().parents[2]

#: The suite's own count and mark, without what else a session of it loads.
CONFTEST = f"""
import sys
sys.path.insert(0, {str(ROOT / "tests" / "support")!r})
from effort import pytest_itemcollected, tried
"""

#: Without plugins, which take seconds to load.
PROGRAM = """
import os, sys
import soak
os.environ["PYTEST_DISABLE_PLUGIN_AUTOLOAD"] = "1"
sys.exit(soak.main())
"""

TESTS = """
import pytest

@pytest.mark.parametrize("number", [2, 3])
def test_one(number, tried):
    tried("disks pulled out", number)

def test_another(tried):
    tried("disks pulled out")
    tried("plugs pulled out", 1000)

def test_that_fails(tried):
    tried("cables cut", 4)
    assert not tried

def test_that_is_skipped(tried):
    pytest.skip("no saw")

def test_that_tries_nothing():
    pass
"""


def test_what_is_tried_is_counted_over_all_processes(tmp_path: Path) -> None:
    (tmp_path / "test_faults.py").write_text(TESTS)
    (tmp_path / "conftest.py").write_text(CONFTEST)
    out = tmp_path / "toll.json"
    program = tmp_path / "program.py"
    program.write_text(PROGRAM)
    asked = ("--hours", "0.5", "--out", out, "--", tmp_path)
    places = ("-c", ROOT / "pyproject.toml", "--rootdir", tmp_path)
    plugins = ("-p", "no:cacheprovider", "-p", "xdist.plugin")
    ended = run_program(program, *asked, *places, *plugins, folder=tmp_path, within_s=200)
    assert ended.returncode == 1, ended.stdout + ended.stderr
    results = json.loads(out.read_text())
    assert {what: each["times"] for what, each in results["tried"].items()} == {
        "cables cut": 4,
        "disks pulled out": 6,
        "plugs pulled out": 1000,
    }
    assert results["passed"] == 3
    assert [name.rpartition("::")[2] for name in results["failed"]] == ["test_that_fails (call)"]
    assert "no saw" in results["skipped"][0]
    text = soak.render(results)
    assert "| plugs pulled out | 1,000 |" in text
    assert "| **failures** | **1** | |" in text
    assert text in ended.stdout


def test_readmes_table_is_what_its_file_says() -> None:
    text = (ROOT / "tests" / "README.md").read_text()
    within = text.partition(soak.BEGIN)[2].partition(soak.END)[0]
    first, _, rest = within.strip().partition("\n")
    name = first.removeprefix(soak.OF).removesuffix("-->").strip()
    results = json.loads((ROOT / name).read_text())
    sums = soak.sum_up(results)
    assert rest.strip() == soak.render(sums).strip()
    assert soak.OTHERS not in sums["tried"]
    assert sum(each["times"] for each in sums["tried"].values()) == sum(
        each["times"] for each in results["tried"].values()
    )
    assert not results["failed"]
