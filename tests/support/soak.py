"""Puts fastft to the proof for hours, and counts: `./dev soak`, `python soak.py --hours 1`.

Runs every test that asks for the fixture `tried`, in its long form, and leaves what they tried as
JSON; `--write README.md` puts the sums there as a table, `--table FILE.json` prints all of it
again. What stands behind `--` goes to pytest: other files than all.
"""

from __future__ import annotations

import argparse
import json
import os
import re
import sys
import time
from collections import defaultdict
from collections.abc import Mapping, Sequence
from datetime import date
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import pytest

ROOT = Path(__file__).resolve().parents[2]
BEGIN, END = "<!-- soak -->", "<!-- /soak -->"
#: What the table is preceded by in a file: the name of its JSON.
OF = "<!-- of"
#: Rows of the sums, and what belongs to each; the first that fits counts.
GROUPS = (
    (
        "epochs of loaders and trainings, left at random or run to their end",
        r"under load|shared by processes",
    ),
    ("inputs fuzzed: each to a reader, changed by structure and by chance", r"^inputs fuzzed"),
    ("damaged JPEGs, decoded where a byte too far ends the process", r"^damaged JPEGs"),
    ("bits flipped in a `.beton`", r"flipped bit"),
    (
        "files cut, overwritten, replaced or gone while they are read",
        r"while a loader reads|while it is used|source changes|shard changes",
    ),
    ("processes killed by `kill -9`: commands, their children, a loader's", r"kill|parents"),
    (
        "Ctrl-C, SIGTERM, an error or the end of the program in the middle",
        r"told to end|Ctrl-C|SIG|signals|ended in the middle|loader open|error in a decoding",
    ),
    (
        "disks that are full, fail, vanish or may not be written to",
        r"disk|may be written|cannot be made|folder goes|/dev/shm",
    ),
    ("no memory", r"memory|gigabytes"),
    ("standard files that are closed, full or read by nobody", r"standard|nobody listens"),
    ("odd and broken images, each to every loader", r"images|many scans"),
    (
        "odd names, links, pipes and leftovers",
        r"names|links|pipes|folders too deep|systems leave|left behind|temporary",
    ),
    ("random crops and orders, held against their distribution", r"their distribution"),
    (
        "kernels, GPU ranks and other libraries' pipelines, compared",
        r"kernels|GPU ranks|stock pipelines",
    ),
    ("checkpoints with odd states, and files with programs in them", r"checkpoints|programs in"),
)
OTHERS = "others"


class Toll:
    """Hears of each test what it tried, however many processes run them."""

    def __init__(self) -> None:
        self.tried: dict[str, int] = defaultdict(int)
        self.seconds: dict[str, float] = defaultdict(float)
        self.failed: list[str] = []
        self.skipped: list[str] = []
        self.passed = 0

    def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
        if report.failed:
            self.failed.append(f"{report.nodeid} ({report.when})")
        elif report.skipped:
            reason = report.longrepr[2] if isinstance(report.longrepr, tuple) else "as expected"
            self.skipped.append(f"{report.nodeid}: {reason}")
        elif report.when == "call":
            self.passed += 1
        if report.when != "call":
            return
        counts = [value for name, value in report.user_properties if name == "tried"]
        for what, number in counts:
            self.tried[what] += number
            # A test that tries several things spends its time on all of them alike.
            self.seconds[what] += report.duration / len(counts)

    def results(self, hours: float, wall_s: float) -> dict[str, Any]:
        from fastft.system.environment import environment  # torch takes seconds to load

        return {
            "date": date.today().isoformat(),
            "hours": hours,
            "wall_s": round(wall_s),
            "machine": environment(),
            "fuzzed": how_fuzzed(),
            "passed": self.passed,
            "failed": sorted(self.failed),
            "skipped": sorted(self.skipped),
            "tried": {
                what: {"times": self.tried[what], "seconds": round(self.seconds[what], 1)}
                for what in sorted(self.tried)
            },
        }


def sum_up(results: Mapping[str, Any]) -> dict[str, Any]:
    """The same results, what was tried by GROUPS."""
    sums = {group: {"times": 0, "seconds": 0.0} for group, _ in (*GROUPS, (OTHERS, ""))}
    for what, each in results["tried"].items():
        group = next((name for name, pattern in GROUPS if re.search(pattern, what)), OTHERS)
        sums[group]["times"] += each["times"]
        sums[group]["seconds"] += each["seconds"]
    return {**results, "tried": {group: each for group, each in sums.items() if each["times"]}}


def render(results: Mapping[str, Any]) -> str:
    """The table of what was tried, as Markdown, and what it was tried on."""
    lines = ["| tried | times | time on it |", "| --- | ---: | ---: |"]
    for what, each in results["tried"].items():
        lines.append(f"| {what} | {each['times']:,} | {_duration(each['seconds'])} |")
    failed = results["failed"]
    lines.append(f"| **failures** | **{len(failed) or 'none'}** | |")
    lines += [f"| {name} | failed | |" for name in failed]
    machine = results["machine"]
    versions = ", ".join(
        f"{name} {machine[name]}" for name in ("torch", "nvidia-dali-cuda120", "ffcv", "pillow")
    )
    on = f"{machine['cpus']} cores of {machine['cpu']}, Python {machine['python']}, {versions}"
    took = f"{results['passed']} tests in {_duration(results['wall_s'])}"
    done = f"`./dev soak {results['hours']:g}` on {results['date']}"
    skipped = len(results["skipped"])
    fuzzed = f"inputs changed {results['fuzzed']}"
    lines += ["", f"Counted by {done}: {took}, {skipped} skipped; {fuzzed}; {on}."]
    return "\n".join(lines)


def how_fuzzed() -> str:
    """What leads `fuzz.py` to the next input."""
    return "guided by atheris" if find_spec("atheris") else "at random"


def _duration(seconds: float) -> str:
    if seconds < 99.5:
        return f"{seconds:.0f} s"
    return f"{seconds / 60:.0f} min" if seconds < 5940 else f"{seconds / 3600:.1f} h"


def main() -> int:
    """Run, count, tell; the status is pytest's."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--hours", type=float, default=1, help="that loaders are kept busy for")
    parser.add_argument("--out", type=Path, help="the JSON; default: tests/results/soak_...")
    parser.add_argument("--write", type=Path, metavar="README.md")
    parser.add_argument("--table", type=Path, metavar="FILE.json", help="run nothing, print this")
    parser.add_argument("pytest", nargs="*", help="arguments for pytest")
    asked = parser.parse_args()
    status, out = 0, asked.table
    if out is None:
        name = f"soak_cpu_{os.cpu_count()}core_{date.today()}.json"
        out = asked.out or ROOT / "tests" / "results" / name
        status = run(asked.hours, out, asked.pytest)
    results = json.loads(out.read_text())
    print(render(results))
    if asked.write is not None:
        sys.path.insert(0, str(ROOT))
        from bench.results_table import write_between

        name = out.resolve().relative_to(ROOT)
        text = f"{OF} {name} -->\n\n{render(sum_up(results))}"
        write_between(asked.write, text, BEGIN, END)
    return status


def run(hours: float, out: Path, arguments: Sequence[str]) -> int:
    """Run the tests in their long form, and write what they tried; gives pytest's status."""
    os.environ["FASTFT_SOAK"] = str(hours)  # for the test processes, see `effort`
    toll, started = Toll(), time.monotonic()
    limit = f"faulthandler_timeout={int(3600 * hours + 7200)}"
    arguments = arguments or [str(ROOT / "tests")]
    status = pytest.main(
        ["-m", "soak", "-n", "2", "--dist", "worksteal", "-o", limit, *arguments], plugins=[toll]
    )
    out.parent.mkdir(parents=True, exist_ok=True)
    results = toll.results(hours, time.monotonic() - started)
    out.write_text(json.dumps(results, indent=1) + "\n")
    return int(status)


if __name__ == "__main__":
    sys.exit(main())
