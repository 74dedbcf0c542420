"""The tests that a GPU decides: those marked `gpu`, and the kernels', elsewhere interpreted."""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
import xml.etree.ElementTree as ElementTree
from pathlib import Path
from typing import Any

from bench.gpu.task import Task, answer

_LIMIT_S = 200
#: Names in a test file that say that it has such tests.
_SIGNS = ("mark.gpu", "triton_kernels", "gpu: ModuleType")


def main(arguments: list[str]) -> None:
    """See `task.answer`."""
    answer(measure, arguments)


def measure(task: Task) -> dict[str, Any]:
    """Run them; gives how many passed, skipped and failed, and the names of the latter."""
    tests = Path(task.root) / "tests"
    files = [file for file in sorted(tests.glob("test_*.py")) if _is_for_a_gpu(file)]
    if not task.on_gpu:  # elsewhere they have been run already
        files = files[:1]
    with tempfile.TemporaryDirectory() as folder:
        report = Path(folder) / "report.xml"
        ended = subprocess.run(
            [sys.executable, "-m", "pytest", "-q", "-m", "gpu or kernel", "-p", "no:cacheprovider",
             f"--junitxml={report}", *map(str, files)],
            cwd=task.root, env={**os.environ, "PYTHONPATH": _python_path(task)},
            capture_output=True, text=True, timeout=_LIMIT_S, check=False,
        )  # fmt: skip
        if not report.exists():
            return {"failed": (ended.stdout + ended.stderr).strip().splitlines()[-1:]}
        return read_report(report.read_text())


def read_report(text: str) -> dict[str, Any]:
    """What a JUnit report says."""
    cases = list(ElementTree.fromstring(text).iter("testcase"))
    failed = {
        f"{case.get('classname')}::{case.get('name')}": (each.get("message") or "")[:300]
        for case in cases
        for each in case
        if each.tag in ("failure", "error")
    }
    skipped = [case for case in cases if case.find("skipped") is not None]
    return {
        "tests": len(cases), "passed": len(cases) - len(skipped) - len(failed),
        "skipped": len(skipped), "failures": failed,
    }  # fmt: skip


def _is_for_a_gpu(file: Path) -> bool:
    text = file.read_text()
    return any(sign in text for sign in _SIGNS)


def _python_path(task: Task) -> str:
    return os.pathsep.join(filter(None, (task.root, os.environ.get("PYTHONPATH", ""))))
