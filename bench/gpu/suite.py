"""The tests that a GPU decides: those marked `gpu`, and the kernels', elsewhere interpreted.

All of them, from all files, in one pytest, whose results are counted as they come: a run that is
ended says what had passed, what had failed and in which test it was.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

from bench.gpu.suite_report import FILE
from bench.gpu.task import Found, Task, answer

#: The tests that are run; a rehearsal only shows that all are found, and skipped for want of a GPU.
ON_GPU, REHEARSED = "gpu or kernel", "gpu"
#: Between looks at what has come.
_LOOK_S = 1.0
#: pytest's own exit statuses: all passed, some failed.
_ENDED = (0, 1)
_SLOWEST, _SAID = 5, 300

Event = Mapping[str, Any]


def main(arguments: list[str]) -> None:
    """See `task.answer`."""
    answer(measure, arguments)


def measure(task: Task) -> Iterator[Found]:
    """Run them; what they have come to so far, see `count`."""
    with tempfile.TemporaryDirectory(prefix="fastft-suite-") as folder:
        report, said = Path(folder) / "report.jsonl", Path(folder) / "said"
        report.touch()
        command = [
            sys.executable,
            "-m",
            "pytest",
            "-q",
            "-p",
            "bench.gpu.suite_report",
            "-p",
            "no:cacheprovider",
            "--continue-on-collection-errors",
            "-m",
            ON_GPU if task.on_gpu else REHEARSED,
            str(Path(task.root) / "tests"),
        ]
        environment = {**os.environ, "PYTHONPATH": _python_path(task), FILE: str(report)}
        with said.open("wb") as output:
            process = subprocess.Popen(
                command,
                cwd=task.root,
                env=environment,
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=subprocess.STDOUT,
            )
        seen = 0
        while process.poll() is None:
            lines = report.read_text().splitlines()
            if len(lines) > seen:
                seen = len(lines)
                yield count(read_events(lines))
            time.sleep(_LOOK_S)
        found = count(read_events(report.read_text().splitlines()))
        if process.returncode not in _ENDED:
            last = said.read_text(errors="replace").strip().splitlines()[-1:]
            found["failed"] = f"pytest: status {process.returncode}: {''.join(last)[:_SAID]}"
        elif found["failures"]:
            found["failed"] = f"{len(found['failures'])} tests failed"
        yield found


def read_events(lines: Iterable[str]) -> list[Event]:
    """The events of a report; its last line may be half written."""
    found = []
    for line in lines:
        try:
            found.append(json.loads(line))
        except ValueError:
            continue
    return found


def count(events: Iterable[Event]) -> dict[str, Any]:
    """Sums up the events of pytest so far.

    Returns:
        `tests` that are to run, `passed`, `skipped`; `failures` and `not_collected`, each with what
        was said; `running`: the test that has begun and not ended; `slowest` with their seconds.
    """
    outcomes: dict[str, str] = {}
    said: dict[str, str] = {}
    seconds: dict[str, float] = {}
    not_collected: dict[str, str] = {}
    running, tests = "", 0
    for each in events:
        name, what = str(each.get("test", "")), each["what"]
        if what == "collected":
            tests = int(each["tests"])
        elif what == "not collected":
            not_collected[name] = str(each["said"])[:_SAID]
        elif what == "began":
            running = name
        elif what == "ended":
            running = ""
        else:  # a phase of a test: it has failed if any of them has
            seconds[name] = seconds.get(name, 0.0) + float(each["seconds"])
            if outcomes.get(name) != "failed" and (what != "passed" or each["when"] == "call"):
                outcomes[name] = what
            if what == "failed":
                said[name] = str(each["said"])[:_SAID]
    slowest = sorted(seconds.items(), key=lambda item: item[1], reverse=True)[:_SLOWEST]
    of = list(outcomes.values())
    return {
        "tests": tests,
        "passed": of.count("passed"),
        "skipped": of.count("skipped"),
        "failures": said,
        "not_collected": not_collected,
        "running": running,
        "slowest": dict(slowest),
    }


def _python_path(task: Task) -> str:
    return os.pathsep.join(filter(None, (task.root, os.environ.get("PYTHONPATH", ""))))
